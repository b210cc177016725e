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
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.pictures.jpeg_markers import APP0, APP14, DHT, DQT, DRI, EOI, SOS, JpegHeader, NotPlainError, read_header
from pipeline.pictures.jpeg_tiling import MARKER, is_signed, is_undamaged, sign_of

RST = 0xD0
NEEDED = (APP0, APP14, DQT, DHT, DRI, SOS)
"""Segments without which a decoder would show other pixels; JFIF and Adobe say which colours are meant"""
WORTHWHILE = 0.9
"""Of the MCUs: a part that needs more of them is not worth the assembly"""
NARROW = 2
"""Samples of chroma: a decoder does not interpolate a picture that is no wider"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A JPEG that shows a rectangle of a larger one."""

    payload: bytes
    top: int
    """Where the rectangle begins in it."""
    left: int
    height: int
    """Of the larger one."""
    width: int


def part_of(payload: bytes, top: int, left: int, height: int, width: int) -> Part | None:
    """A JPEG with the pixels of this rectangle; None where the whole must, or may as well, be decoded."""
    if not is_signed(payload):  # a fraction of the time that the header takes
        return None
    try:
        header = read_header(payload)
    except NotPlainError:
        return None
    sign = sign_of(payload, header)
    if sign is None:
        return None
    inside = 0 <= top < top + height <= header.height and 0 <= left < left + width <= header.width
    grid = _Grid.over(header, top, left, height, width) if inside and _is_tiled(header) else None
    if grid is None or grid.segments > WORTHWHILE * grid.of_row * header.mcu_rows:
        return None
    place_G = _places(payload, header, sign.length_G)
    if place_G is None or not is_undamaged(payload, header, sign):
        return None
    return Part(
        payload=_head(payload, header, grid) + _body(payload, place_G, grid),
        top=top - grid.pixels.top,
        left=left - grid.pixels.left,
        height=header.height,
        width=header.width,
    )


def _is_tiled(header: JpegHeader) -> bool:
    """Whether no restart segment crosses the end of a row."""
    return header.restart_interval > 0 and header.mcu_columns % header.restart_interval == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """Restart segments that stand in a rectangle."""

    rows: range
    """Of MCUs, and so of segments."""
    columns: range
    """Of segments."""
    of_row: int
    """Segments of a whole row."""
    pixels: _Box
    """What they show."""

    @property
    def segments(self) -> int:
        return len(self.rows) * len(self.columns)

    @classmethod
    def over(cls, header: JpegHeader, top: int, left: int, height: int, width: int) -> _Grid:
        """Those that a rectangle needs."""
        margin, span, tall = int(header.subsampled), header.restart_interval * header.mcu_width, header.mcu_height
        rows = range(max(top - margin, 0) // tall, -(-min(top + height + margin, header.height) // tall))
        first, last = max(left - margin, 0) // span, -(-min(left + width + margin, header.width) // span)
        right = min(last * span, header.width)
        while first and right - first * span <= NARROW * header.mcu_width // 8:
            first -= 1
        return cls(
            rows=rows,
            columns=range(first, last),
            of_row=header.mcu_columns // header.restart_interval,
            pixels=_Box(
                top=rows.start * tall, left=first * span, bottom=min(rows.stop * tall, header.height), right=right
            ),
        )


def _places(payload: bytes, header: JpegHeader, length_G: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Where each segment begins, and behind the end mark; None where the markers do not stand as they should."""
    if len(length_G) != header.mcu_rows * (header.mcu_columns // header.restart_interval):
        return None
    place_G = np.full(len(length_G) + 1, header.scan_start)
    place_G[1:] += np.cumsum(length_G)
    if length_G.min() < MARKER or place_G[-1] > len(payload):
        return None
    data, code_G = np.frombuffer(payload, np.uint8), _codes(len(length_G))
    found = np.all(data[place_G[1:] - 2] == 0xFF) and np.array_equal(data[place_G[1:] - 1], code_G)
    return place_G if found else None


@lru_cache(maxsize=64)
def _codes(count: int) -> NDArray[np.int64]:
    """The codes of the markers behind so many segments."""
    code_G = RST | np.arange(count) & 7
    code_G[-1] = EOI
    code_G.flags.writeable = False
    return code_G


def _head(payload: bytes, header: JpegHeader, grid: _Grid) -> bytes:
    """The segments that decide pixels, with the size of the part."""
    height, width = grid.pixels.bottom - grid.pixels.top, grid.pixels.right - grid.pixels.left
    frame, pieces = header.frame, [payload[:2]]
    for segment in header.segments:
        if segment is frame:
            size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
            pieces.append(payload[frame.start : frame.start + 5] + size + payload[frame.start + 9 : frame.stop])
        elif segment.marker in NEEDED:
            pieces.append(payload[segment.start : segment.stop])
    return b"".join(pieces)


def _body(payload: bytes, place_G: NDArray[np.int64], grid: _Grid) -> bytearray:
    """The segments of the grid, each with the marker behind it, counted anew."""
    first_R = np.arange(grid.rows.start, grid.rows.stop) * grid.of_row
    begin_R, end_R = place_G[first_R + grid.columns.start], place_G[first_R + grid.columns.stop]
    data = memoryview(payload)
    body = bytearray().join([data[begin:end] for begin, end in zip(begin_R.tolist(), end_R.tolist(), strict=True)])
    stop_RC = place_G[first_R[:, None] + np.arange(grid.columns.start + 1, grid.columns.stop + 1)]
    shift_R = np.cumsum(end_R - begin_R) - end_R
    np.frombuffer(body, np.uint8)[(stop_RC + shift_R[:, None]).ravel() - 1] = _codes(grid.segments)
    return body
