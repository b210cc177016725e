"""Which bytes of a tiled JPEG hold the pixels of a rectangle, and which JPEG shows them alone?

The restart segments that the rectangle touches are put behind one another under a header that says their size, with the
restart markers counted anew: a smaller JPEG, whose pixels are those of the large one (`part_of`). Where chroma is
subsampled a decoder interpolates between neighbouring samples, and at the border of a picture it has no neighbour: so
the part is one pixel wider than the rectangle on every side that is no border of the whole.

Where the segments begin stands in the payload itself (`pipeline.pictures.jpeg_tiling`). It is held to the markers that
must stand there, all of them and in turn, so that a list which does not fit is passed over.

Only payloads that say of themselves that they were tiled are taken apart: those were decoded whole when they were made,
and their sign has the crc32c of the rest. Of another that is damaged in one place, some parts could be shown, and
whether a picture is bad must not depend on the part that is looked at. None, for the whole picture is to be decoded, is
always a right answer.

A part saves half a millisecond of decoding, of which its assembly must not eat much: one walk over the segments before
the scan, the geometry of frames that were met before remembered, few calls of NumPy, one join of the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pipeline.pictures.jpeg_markers import (
    APP0,
    APP9,
    APP14,
    DHT,
    DQT,
    DRI,
    EOI,
    MAX_SEGMENTS,
    SEQUENTIAL,
    SOI,
    SOS,
    TAKEN,
    NotPlainError,
    header_of,
)
from pipeline.pictures.jpeg_tiling import MARKER, SIGN, Sign

START, END = bytes((0xFF, SOI)), bytes((0xFF, EOI))
RESTARTS = bytes.fromhex("ffd0 ffd1 ffd2 ffd3 ffd4 ffd5 ffd6 ffd7")
"""The markers behind eight segments; then they begin anew"""
NEEDED = frozenset((APP0, APP14, DQT, DHT, DRI, SOS, *SEQUENTIAL))
"""Segments without which a decoder would show other pixels; JFIF and Adobe say which colours are meant"""
WORTHWHILE = 0.9
"""Of the MCUs: a part that needs more of them is not worth the assembly"""
NARROW = 2
"""Samples of chroma: a decoder does not interpolate a picture that is no wider"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A JPEG of its own that shows a rectangle of a larger one."""

    payload: bytearray
    top: int
    """Where the rectangle begins in it."""
    left: int
    rows: int
    """Of its pixels."""
    columns: int
    height: int
    """Of the larger one."""
    width: int


def part_of(payload: bytes, top: int, left: int, height: int, width: int) -> Part | None:
    """A JPEG that shows this rectangle; None where the whole picture has to be, or may as well be, decoded."""
    head = _Head.of(payload)
    mesh = head and _mesh(head.pieces[head.frame][4:], head.pieces[-1][4:], head.interval)
    cells = mesh and mesh.over(top, left, height, width)
    if not head or not mesh or not cells or cells.segments > WORTHWHILE * mesh.rows * mesh.of_row:
        return None
    place_G = _places(payload, head, mesh.rows * mesh.of_row)
    if place_G is None:
        return None
    return Part(
        payload=_assembled(payload, head, cells, place_G, mesh.of_row),
        top=top - cells.first_row * mesh.tall,
        left=left - cells.first * mesh.span,
        rows=cells.height,
        columns=cells.width,
        height=mesh.height,
        width=mesh.width,
    )


class _Head(NamedTuple):
    """What stands before the scan of a payload that says that it was tiled."""

    pieces: list[bytes]
    """The start mark and the segments that decide pixels; the last is the head of the scan."""
    frame: int
    """Which of them says the size."""
    interval: int
    signs: list[tuple[int, int]]
    """Where each segment of the sign begins, and behind it."""
    scan_start: int

    @classmethod
    def of(cls, payload: bytes) -> _Head | None:
        """As `jpeg_markers.read_header` walks, but what is not needed here is passed over; None without a sign."""
        pieces, signs, frames, interval = [payload[:2]], list[tuple[int, int]](), list[int](), 0
        marker, start, end = 0, 2, len(payload)
        for _ in range(MAX_SEGMENTS):
            if start + 4 > end or payload[start] != 0xFF:
                return None
            marker = payload[start + 1]
            stop = start + 2 + (payload[start + 2] << 8 | payload[start + 3])
            if marker not in TAKEN or not start + 4 <= stop <= end:
                return None
            if marker in NEEDED:
                pieces.append(payload[start:stop])
                if marker in SEQUENTIAL:
                    frames.append(len(pieces) - 1)
                elif marker == DRI:
                    interval = int.from_bytes(payload[start + 4 : stop], "big")
                elif marker == SOS:
                    break
            elif marker == APP9 and payload.startswith(SIGN, start + 4):
                signs.append((start, stop))
            start = stop
        plain = marker == SOS and signs and len(frames) == 1 and pieces[0] == START
        return cls(pieces, frames[0], interval, signs, stop) if plain else None


class _Cells(NamedTuple):
    """Restart segments that stand in a rectangle, and the pixels that they show."""

    first_row: int
    rows: int
    first: int
    """Segment of a row."""
    columns: int
    height: int
    width: int

    @property
    def segments(self) -> int:
        return self.rows * self.columns


class _Mesh(NamedTuple):
    """The restart segments of a picture, of which none crosses the end of a row of MCUs."""

    height: int
    width: int
    tall: int
    """Pixels of a segment from top to bottom."""
    span: int
    """Pixels of a segment from left to right."""
    rows: int
    of_row: int
    """Segments of a row."""
    margin: int
    """Pixels around a rectangle on which its own depend."""
    narrow: int
    """Pixels across: of no more, chroma is not interpolated."""

    def over(self, top: int, left: int, height: int, width: int) -> _Cells | None:
        """Those that a rectangle needs; None where it does not lie in the picture."""
        if not (0 <= top < top + height <= self.height and 0 <= left < left + width <= self.width):
            return None
        tall, span, margin = self.tall, self.span, self.margin
        first_row, first = max(top - margin, 0) // tall, max(left - margin, 0) // span
        last_row = -(-min(top + height + margin, self.height) // tall)
        last = -(-min(left + width + margin, self.width) // span)
        bottom, right = min(last_row * tall, self.height), min(last * span, self.width)
        while first and right - first * span <= self.narrow:
            first -= 1
        return _Cells(
            first_row, last_row - first_row, first, last - first, bottom - first_row * tall, right - first * span
        )


@lru_cache(maxsize=4096)
def _mesh(frame: bytes, scan: bytes, interval: int) -> _Mesh | None:
    """By the bodies of frame and scan, which many pictures share; None where segments are no rectangles."""
    try:
        header = header_of(frame, scan, interval)
    except NotPlainError:
        return None
    if not interval or header.mcu_columns % interval:
        return None
    return _Mesh(
        height=header.height,
        width=header.width,
        tall=header.mcu_height,
        span=interval * header.mcu_width,
        rows=header.mcu_rows,
        of_row=header.mcu_columns // interval,
        margin=int(header.subsampled),
        narrow=NARROW * header.mcu_width // 8,
    )


def _places(payload: bytes, head: _Head, count: int) -> NDArray[np.int64] | None:
    """Where each segment begins, and behind the end mark; None where the markers do not stand as they should."""
    sign = Sign.read(b"".join([payload[start + 4 + len(SIGN) : stop] for start, stop in head.signs]), count)
    if sign is None:
        return None
    rest, length_G = sign
    place_G = np.empty(count + 1, np.int64)
    place_G[0], place_G[1:] = head.scan_start, length_G
    place_G.cumsum(out=place_G)
    if place_G[-1] > len(payload):
        return None
    pairs = np.ndarray(len(payload) - 1, np.uint16, payload, strides=(1,))
    if pairs[place_G[1:] - MARKER].tobytes() != _markers(count):
        return None
    crc, place, data = 0, 0, np.frombuffer(payload, np.uint8)  # slices of it are no copies
    for start, stop in head.signs:
        crc, place = google_crc32c.extend(crc, data[place:start]), stop
    return place_G if google_crc32c.extend(crc, data[place:]) == rest else None


def _markers(count: int) -> bytes:
    """The markers behind so many segments."""
    return (RESTARTS * (count // 8 + 1))[: MARKER * (count - 1)] + END


def _assembled(payload: bytes, head: _Head, cells: _Cells, place_G: NDArray[np.int64], of_row: int) -> bytearray:
    """The segments that decide pixels, with the size of the part; those of the cells, their markers counted anew."""
    pieces: list[bytes | memoryview] = [*head.pieces]
    frame = head.pieces[head.frame]
    pieces[head.frame] = frame[:5] + cells.height.to_bytes(2, "big") + cells.width.to_bytes(2, "big") + frame[9:]
    first = cells.first_row * of_row + cells.first
    begin_R = place_G[first : first + cells.rows * of_row : of_row].tolist()
    end_R = place_G[first + cells.columns :: of_row][: cells.rows].tolist()
    data, shift_R, size = memoryview(payload), [], sum(map(len, pieces))
    for begin, end in zip(begin_R, end_R, strict=True):
        pieces.append(data[begin:end])
        shift_R.append(size - begin - 1)
        size += end - begin
    stop_RC = place_G[1:].reshape(-1, of_row)[
        cells.first_row : cells.first_row + cells.rows, cells.first : cells.first + cells.columns
    ]
    part = bytearray().join(pieces)
    code_RC = np.frombuffer(_markers(cells.segments), np.uint8)[1::MARKER].reshape(cells.rows, cells.columns)
    np.frombuffer(part, np.uint8)[stop_RC + np.array(shift_R)[:, None]] = code_RC
    return part
