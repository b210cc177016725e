from __future__ import annotations

import tracemalloc
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from pipeline.durable import canonical
from pipeline.errors import StoreError
from pipeline.store.arrays import ArraySpec, DamagedError

DTYPES = ("uint8", "uint16", "uint32", "uint64", "int32", "int64", "float32")


@st.composite
def specs(draw: st.DrawFn) -> ArraySpec:
    rows, chunks, width = draw(st.sampled_from([1, 4, 32])), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    axis = draw(st.integers(0, 1))
    lead, tail = (3,) * axis, draw(st.sampled_from([(), (width,)]))
    return ArraySpec(
        path="index/things",
        dtype=np.dtype(draw(st.sampled_from(DTYPES))),
        shape=(*lead, draw(st.integers(1, 3 * rows * chunks)), *tail),
        block=(*(1,) * axis, rows * chunks, *tail),
        rows=rows,
        axis=axis,
        names=tuple("abc"[: axis + 1 + len(tail)]),
        level=draw(st.sampled_from([1, 4, 9])),
        shuffle=draw(st.sampled_from(["shuffle", "bitshuffle"])),
        attributes={"meaning": "nothing"},
    )


def values_of(spec: ArraySpec, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    many = generator.integers(0, 256, (*spec.shape, spec.dtype.itemsize), dtype=np.uint8)
    values = many.view(spec.dtype)[..., 0] if seed % 3 else np.zeros(spec.shape, spec.dtype)
    return np.nan_to_num(values) if spec.dtype.kind == "f" else values


def blocks_of(spec: ArraySpec, values: np.ndarray) -> dict[str, np.ndarray]:
    step, leads = spec.block[spec.axis], range(spec.shape[0] if spec.axis else 1)
    return {
        spec.key(*([lead] * spec.axis), n): values[
            (*[slice(lead, lead + 1)] * spec.axis, slice(n * step, (n + 1) * step))
        ]
        for lead in leads
        for n in range(spec.blocks)
    }


@settings(max_examples=40, deadline=None)
@given(specs(), st.integers(0, 100))
def test_blocks_are_what_zarr_writes_and_reads(spec: ArraySpec, seed: int) -> None:
    values = values_of(spec, seed)
    store = MemoryStore({"zarr.json": cpu.Buffer.from_bytes(canonical.dump(spec.metadata()))})
    array = zarr.open_array(store, mode="r+").with_config({"write_empty_chunks": True})
    array[...] = values
    theirs = {f"index/things/{k}": v.to_bytes() for k, v in store._store_dict.items() if k != "zarr.json"}
    ours = {key: spec.encode(block) for key, block in blocks_of(spec, values).items()}
    assert ours == theirs
    for key, block in blocks_of(spec, values).items():
        assert np.array_equal(spec.decode(ours[key], block.shape[spec.axis]), block)


def test_metadata_is_what_zarr_makes_of_it() -> None:
    spec = SPEC
    store = MemoryStore({"zarr.json": cpu.Buffer.from_bytes(canonical.dump(spec.metadata()))})
    theirs: Any = zarr.open_array(store, mode="r").metadata.to_dict()
    theirs.pop("storage_transformers")
    assert canonical.dump(theirs) == canonical.dump(spec.metadata())


SPEC = ArraySpec(
    path="lse",
    dtype=np.dtype(np.float32),
    shape=(2, 100, 2),
    block=(1, 32, 2),
    rows=16,
    axis=1,
    names=("v", "r", "t"),
    fill="NaN",
)
BLOCK = np.random.default_rng(0).normal(size=(1, 32, 2)).astype(np.float32)
DATA = SPEC.encode(BLOCK)


def test_no_flipped_bit_is_decoded() -> None:
    for bit in range(len(DATA) * 8):
        flipped = bytearray(DATA)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedError):
            SPEC.decode(bytes(flipped), 32)
    for length in range(len(DATA)):
        with pytest.raises(DamagedError):
            SPEC.decode(DATA[:length], 32)


def with_index(body: bytes, places: list[tuple[int, int]]) -> bytes:
    index = np.array(places, "<u8").tobytes()
    return body + index + google_crc32c.value(index).to_bytes(4, "little")


def test_an_index_that_points_elsewhere_is_refused() -> None:
    body, absent = DATA[:-36], 2**64 - 1
    for place in [(absent, absent), (0, absent), (absent, 10), (len(body), 40), (len(body) - 10, 40), (0, 3)]:
        with pytest.raises(DamagedError, match="its index lacks a chunk, or points outside of the object"):
            SPEC.decode(with_index(body, [(0, 144), place]), 32)


def test_a_chunk_that_declares_another_size_gets_no_memory() -> None:
    spec = ArraySpec(
        path="bomb", dtype=np.dtype(np.uint8), shape=(1 << 29,), block=(1 << 29,), rows=1 << 29, axis=0, names=("x",)
    )
    bomb = spec.encode(np.zeros(1 << 29, np.uint8))
    assert len(bomb) < 1 << 24
    packed = bomb[:-20]
    small = with_index(packed, [(0, len(packed)), (0, len(packed))])
    tracemalloc.start()
    with pytest.raises(DamagedError, match=r"chunk 0 declares 536870912 bytes packed in \d+, 128 packed in \d+ belong"):
        SPEC.decode(small, 32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * len(bomb) + 1_000_000


def test_a_block_that_would_take_too_much_memory_is_refused() -> None:
    with pytest.raises(StoreError) as error:
        ArraySpec(
            path="logits",
            dtype=np.dtype(np.uint16),
            shape=(1, 65536, 100_000),
            block=(1, 65536, 100_000),
            rows=1024,
            axis=1,
            names=("view", "row", "class"),
        )
    assert str(error.value) == (
        "logits: a block of 1 × 65536 × 100000 values has 13,107,200,000 bytes, at most 1,073,741,824 are allowed. "
        "Give a smaller --unit-rows, or keep topk."
    )
