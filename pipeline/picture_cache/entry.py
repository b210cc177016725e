"""What does the file of one decoded picture look like, and how are some of its rows read and proven?

    head    magic, decoder, which picture, one crc32c for each band of rows, and the crc32c of all that
    pixels  from the next multiple of 64 bytes: rows from the top, pixels from the left, red, green, blue

Only the bands that a crop touches are read, by one positioned read, and each is held to its checksum. The head says
which picture it is, so a file under another's name is noticed. It is read anew each time: nothing of a file is believed
because it was right before.

Shapes: H rows, W columns, C = 3 channels; N bands.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import google_crc32c
import numpy as np
from numpy.typing import NDArray

BAND = 16
"""Rows that share a checksum"""
MAGIC = b"PICTURE1"
HEAD = struct.Struct("<8s8sIQQII")
CRC_BYTES, ALIGNED, BLOCK = 4, 64, 4096
FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

Pixels = NDArray[np.uint8]
Number = TypeVar("Number", int, NDArray[np.int64])


class DamagedError(Exception):
    """A file in the cache does not hold the picture that its name says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Which picture: that of these bytes, under this key. The key tells apart what has equal checksums by chance."""

    payload_crc: int
    length: int
    """Bytes of the payload."""
    key_hash: int
    width: int
    height: int

    @property
    def name(self) -> str:
        """The name of its file, which has all of these values in it, so that the file's size follows from its name."""
        crc, key, length = f"{self.payload_crc:08x}", f"{self.key_hash:016x}", f"{self.length:x}"
        return f"{crc}-{key}-{length}-{self.width}x{self.height}"

    @property
    def bands(self) -> int:
        """How many runs of rows the picture is cut into; each has a checksum of its own."""
        return -(-self.height // BAND)

    @property
    def head_bytes(self) -> int:
        """How many bytes of its file come before the pixels, without the gap that aligns them."""
        return HEAD.size + CRC_BYTES * self.bands + CRC_BYTES

    @property
    def start(self) -> int:
        """The byte of its file at which the pixels begin."""
        return _whole(self.head_bytes, ALIGNED)

    @property
    def file_bytes(self) -> int:
        """How many bytes its file has."""
        return self.start + 3 * self.width * self.height

    @property
    def disk_bytes(self) -> int:
        """How many bytes its file takes on disk, in whole blocks."""
        return _whole(self.file_bytes, BLOCK)

    def head(self, decoder: bytes) -> bytes:
        """The bytes that its file must begin with when this decoder made it; the checksums follow."""
        which = (self.payload_crc, self.length, self.key_hash, self.width, self.height)
        return HEAD.pack(MAGIC, decoder, *which)


def disk_bytes(width_R: NDArray[np.int32], height_R: NDArray[np.int32]) -> NDArray[np.int64]:
    """What the files of many pictures take, in whole blocks."""
    wide_R, tall_R = width_R.astype(np.int64), height_R.astype(np.int64)
    head_R = HEAD.size + CRC_BYTES * -(-tall_R // BAND) + CRC_BYTES
    return _whole(_whole(head_R, ALIGNED) + 3 * wide_R * tall_R, BLOCK)


def write(descriptor: int, picture: Picture, decoder: bytes, pixels_HWC: Pixels) -> None:
    """Write the file of a decoded picture: its head, the checksum of each band, the pixels."""
    assert pixels_HWC.shape == (picture.height, picture.width, 3) and pixels_HWC.dtype == np.uint8
    pixels_HWC = np.ascontiguousarray(pixels_HWC)
    head = picture.head(decoder) + np.array([*_crcs(pixels_HWC)], "<u4").tobytes()
    head += _crc(head).to_bytes(CRC_BYTES, "little")
    _write_all(descriptor, memoryview(head.ljust(picture.start, b"\0")), 0)
    _write_all(descriptor, memoryview(pixels_HWC.data).cast("B"), picture.start)


def read(path: str | Path, picture: Picture, decoder: bytes, top: int, bottom: int) -> tuple[int, Pixels]:
    """The bands that these rows lie in: the first of their rows, and the pixels. `OSError`: it cannot be read."""
    descriptor = os.open(path, FLAGS)
    try:
        return _read(descriptor, picture, decoder, top, bottom)
    finally:
        os.close(descriptor)


def _read(descriptor: int, picture: Picture, decoder: bytes, top: int, bottom: int) -> tuple[int, Pixels]:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size != picture.file_bytes:
        raise DamagedError(f"is no file of {picture.file_bytes} bytes")
    head = os.pread(descriptor, picture.head_bytes, 0)
    if len(head) != picture.head_bytes or _crc(head[:-CRC_BYTES]) != int.from_bytes(head[-CRC_BYTES:], "little"):
        raise DamagedError("its head is damaged")
    if head[: HEAD.size] != picture.head(decoder):
        raise DamagedError("it is another picture")
    first, last = top // BAND, -(-bottom // BAND)
    start, stop = first * BAND, min(last * BAND, picture.height)
    pixels_HWC = np.empty((stop - start, picture.width, 3), np.uint8)
    _read_all(descriptor, memoryview(pixels_HWC.data).cast("B"), picture.start + start * picture.width * 3)
    known_N = np.frombuffer(head, "<u4", picture.bands, HEAD.size)[first:last]
    if not _are_sound(pixels_HWC, known_N):
        raise DamagedError("its pixels are damaged")
    return start, pixels_HWC


def _whole(count: Number, step: int) -> Number:
    """The next multiple of `step`."""
    return -(-count // step) * step


def _are_sound(pixels_HWC: Pixels, known_N: NDArray[np.uint32]) -> bool:
    return list(_crcs(pixels_HWC)) == list(map(int, known_N))


def _crcs(pixels_HWC: Pixels) -> Iterator[int]:
    return (_crc(pixels_HWC[start : start + BAND]) for start in range(0, len(pixels_HWC), BAND))


def _crc(data: bytes | Pixels) -> int:
    return int(google_crc32c.value(data))


def _read_all(descriptor: int, into: memoryview, offset: int) -> None:
    while len(into):
        count = os.preadv(descriptor, [into], offset)
        if not count:
            raise DamagedError("it ends early")
        into, offset = into[count:], offset + count


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while len(data):
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count
