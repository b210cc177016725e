"""How does a block of one array become one object, and how does an object become the block again?

Every array of a store is Zarr v3 with the ``sharding_indexed`` codec: an object (Zarr's shard) holds one block, cut
along one axis into inner chunks; each is compressed by Blosc (Zstandard after a byte or bit shuffle) and ends in its
crc32c. All codecs are in the Zarr specification, so any Zarr v3 reader opens them.

Blocks are encoded by Zarr itself, in memory, under the metadata that stands in the store. They are decoded here without
it: opening and scheduling cost Zarr a millisecond an array, ten times the decompression, and what is decoded is checked
before memory is given to it (the index, each chunk's place, and the size that its Blosc header declares), which Zarr
leaves to the codecs. This is the only module that imports Zarr.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import numcodecs.blosc
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from pipeline.durable import canonical
from pipeline.errors import StoreError

LARGEST_BLOCK = 1 << 30
"""Bytes of a block before compression: no metadata can make us allocate more at once"""

_BLOSC_HEADER = struct.Struct("<BBBBIII")
_CRC_BYTES = 4
_INDEX_ENTRY = 16
_COLUMNS_A_BLOCK = 4


class DamagedError(ValueError):
    """Bytes that are not an encoded block of the array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """One array: what it holds, how it is cut, how its blocks are packed."""

    path: str
    """In the store, for example ``index/classes``"""
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    block: tuple[int, ...]
    """Shape of what one object holds (Zarr's shard)"""
    rows: int
    """Rows of an inner chunk, along `axis`; the other axes are not cut"""
    axis: int
    names: tuple[str, ...]
    """Of the axes"""
    fill: int | str = 0
    """Stands for "nothing written"; as JSON has it"""
    level: int = 5
    shuffle: str = "shuffle"
    columns: bool = False
    """Is the last axis turned before the rows, and packed four columns a block? For small numbers of unlike columns"""
    attributes: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert len(self.shape) == len(self.block) == len(self.names)
        assert self.block[self.axis] % self.rows == 0 and math.prod(self.block[: self.axis]) == 1
        assert not self.columns or (len(self.shape) == 3 and self.axis == 1), "columns are those of [view, row, …]"
        size = math.prod(self.block) * self.dtype.itemsize
        if size > LARGEST_BLOCK:
            raise StoreError(
                f"{self.path}: a block of {' × '.join(map(str, self.block))} values has {size:,} bytes, at most "
                f"{LARGEST_BLOCK:,} are allowed. Give a smaller --unit-rows, or keep topk."
            )

    @property
    def chunk(self) -> tuple[int, ...]:
        """The shape of an inner chunk, which is compressed by itself within an object."""
        return self._along(self.rows)

    @property
    def chunk_bytes(self) -> int:
        """How many bytes an inner chunk has before compression."""
        return math.prod(self.chunk) * self.dtype.itemsize

    @property
    def chunks(self) -> int:
        """How many inner chunks one object holds."""
        return self.block[self.axis] // self.rows

    def key(self, *block: int) -> str:
        """The key of the object that holds this block; leading axes first, the ones not named are 0."""
        places = (*block, *([0] * (len(self.shape) - len(block))))
        return f"{self.path}/c." + ".".join(map(str, places))

    def object_keys(self) -> list[str]:
        """The keys of all objects of an array of which only `axis` is cut into several blocks."""
        return [self.key(*([0] * self.axis), number) for number in range(self.blocks)]

    @property
    def blocks(self) -> int:
        """How many blocks, an object each, the array is cut into along `axis`."""
        return -(-self.shape[self.axis] // self.block[self.axis])

    def metadata(self) -> dict[str, object]:
        """The array's ``zarr.json`` as JSON values."""
        little = {} if self.dtype.itemsize == 1 else {"configuration": {"endian": "little"}}
        blosc = {
            "cname": "zstd",
            "clevel": self.level,
            "shuffle": self.shuffle,
            "typesize": self.dtype.itemsize,
            "blocksize": _COLUMNS_A_BLOCK * self.rows * self.dtype.itemsize if self.columns else 0,
        }
        turned = [{"name": "transpose", "configuration": {"order": [0, 2, 1]}}] if self.columns else []
        sharding = {
            "chunk_shape": list(self.chunk),
            "codecs": [
                *turned,
                {"name": "bytes", **little},
                {"name": "blosc", "configuration": blosc},
                {"name": "crc32c"},
            ],
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "index_location": "end",
        }
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.block)}},
            # with "/" every object of three axes has a directory of its own, to be made, flushed, listed and hashed
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": self.fill,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "dimension_names": list(self.names),
            "attributes": dict(self.attributes),
        }

    def encode(self, block: NDArray[Any]) -> bytes:
        """The object of a block. One at the end of the array may be short along `axis`."""
        assert block.dtype == self.dtype and block.ndim == len(self.block)
        assert all(n <= most for n, most in zip(block.shape, self.block, strict=True))
        numcodecs.blosc.use_threads = False  # the bytes must not depend on a number of threads
        metadata = canonical.dump({**self.metadata(), "shape": list(block.shape)})
        store = MemoryStore({"zarr.json": cpu.Buffer.from_bytes(metadata)})
        # a chunk that happens to equal the fill value is written too: what is absent was never written
        array = zarr.open_array(store, mode="r+").with_config({"write_empty_chunks": True})
        array[...] = block
        encoded: bytes = store._store_dict["c" + ".0" * block.ndim].to_bytes()
        return encoded

    def decode(self, data: bytes, rows: int) -> NDArray[Any]:
        """The first `rows` rows of the block along `axis`, or DamagedError."""
        places = self._places(data, -(-rows // self.rows))
        values = np.empty(self._along(len(places) * self.rows), self.dtype)
        flat = values.reshape(-1).view(np.uint8)
        view = memoryview(data)
        for number, (offset, length) in enumerate(places):
            packed = view[offset : offset + length]
            self._require_chunk(packed, number)
            target = flat[number * self.chunk_bytes : (number + 1) * self.chunk_bytes]
            try:
                numcodecs.blosc.decompress(packed[:-_CRC_BYTES], target)
            except (RuntimeError, ValueError) as error:
                raise DamagedError(f"chunk {number} cannot be decompressed ({error})") from error
        if self.columns:
            columns, chunks = self.block[2], len(places)
            turned = values.reshape(chunks, columns, self.rows).transpose(0, 2, 1)
            values = turned.reshape(1, chunks * self.rows, columns)
        return values[(slice(None),) * self.axis + (slice(rows),)]

    def _along(self, rows: int) -> tuple[int, ...]:
        """The shape of a block with that many rows."""
        return (*self.block[: self.axis], rows, *self.block[self.axis + 1 :])

    def _places(self, data: bytes, count: int) -> list[tuple[int, int]]:
        """Offset and length of the first `count` chunks in the object."""
        size = _INDEX_ENTRY * self.chunks
        start = len(data) - size - _CRC_BYTES
        if start < 0:
            raise DamagedError(f"{len(data)} bytes cannot hold an index of {self.chunks} chunks")
        index = data[start : start + size]
        if google_crc32c.value(index).to_bytes(4, "little") != data[-_CRC_BYTES:]:
            raise DamagedError("the checksum of its index does not fit")
        places = np.frombuffer(index, "<u8").reshape(-1, 2)[:count].tolist()
        smallest = _BLOSC_HEADER.size + _CRC_BYTES
        if any(length < smallest or length > start or offset > start - length for offset, length in places):
            raise DamagedError("its index lacks a chunk, or points outside of the object")
        return [(offset, length) for offset, length in places]

    def _require_chunk(self, packed: memoryview, number: int) -> None:
        """Refuse a chunk that declares another size than the array's chunks have, before it is decompressed."""
        *_, size, _, compressed = _BLOSC_HEADER.unpack(packed[: _BLOSC_HEADER.size])
        if size != self.chunk_bytes or compressed != len(packed) - _CRC_BYTES:
            raise DamagedError(
                f"chunk {number} declares {size} bytes packed in {compressed}, "
                f"{self.chunk_bytes} packed in {len(packed) - _CRC_BYTES} belong there"
            )
        if google_crc32c.value(bytes(packed[:-_CRC_BYTES])).to_bytes(4, "little") != packed[-_CRC_BYTES:]:
            raise DamagedError(f"the checksum of chunk {number} does not fit")


def objects_of(arrays: Mapping[str, ArraySpec], values: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, bytes]]:
    """Key and bytes of every object of these arrays, one after the other, with the values of the same names in them."""
    for name, spec in arrays.items():
        assert values[name].shape == spec.shape, f"{spec.path}: {values[name].shape}, want {spec.shape}"
        step = spec.block[spec.axis]
        for number, key in enumerate(spec.object_keys()):
            yield key, spec.encode(np.ascontiguousarray(values[name][number * step : (number + 1) * step]))
