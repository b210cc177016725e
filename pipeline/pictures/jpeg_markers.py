"""What is in a JPEG before its first coefficient?

A JPEG is a row of segments, each a marker (0xff and a code), two bytes of length, and that many bytes less two; after
the start of the scan come the coefficients, Huffman coded, as far as the next marker. `read_header` takes the segments
apart strictly, and only for the plain kind: sequential, Huffman coded, 8 bits, one scan of all components. Whatever
else it meets is a `NotPlainError`, whose `reason` is one of a few words that can be counted; such a file is no error,
it is only decoded whole.

A frame is cut into MCUs ("minimum coded units"): 8 × 8 pixels, or a multiple where chroma is subsampled. The scan
holds the MCUs row by row. At a *restart marker* (0xffd0 to 0xffd7, in turn) the coder begins anew on a byte's boundary
with all predictions at zero, so that what lies between two of them, a *restart segment*, can be decoded alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

SOI, EOI, SOS, DQT, DHT, DRI, DNL = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xDC
APP0, APP9, APP14, COM = 0xE0, 0xE9, 0xEE, 0xFE
SEQUENTIAL = (0xC0, 0xC1)
FRAMES = {
    **dict.fromkeys((0xC2, 0xC6), "progressive"),
    **dict.fromkeys((0xC3, 0xC7), "lossless"),
    **dict.fromkeys((0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF), "arithmetic"),
    0xC5: "hierarchical",
}
KNOWN = (DQT, DHT, DRI, COM, *range(APP0, APP0 + 16))
TAKEN = frozenset((*SEQUENTIAL, SOS, *KNOWN))
BLOCK = 8
"""Pixels, or samples, of a side of a block"""
MAX_BLOCKS = 10
"""Blocks of an MCU, by the standard"""
MAX_SEGMENTS = 2000
"""Before the scan; a hostile file has millions, and each is an object"""


class NotPlainError(ValueError):
    """This JPEG cannot be tiled, for the given reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Segment(NamedTuple):
    """A segment of a JPEG: a marker, its length and its content."""

    marker: int
    start: int
    """Where its 0xff stands."""
    stop: int
    """Behind its last byte."""

    @property
    def body(self) -> slice:
        """The bytes of its content, behind marker and length."""
        return slice(self.start + 4, self.stop)


NOWHERE = Segment(0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One plane of a JPEG, such as its brightness."""

    across: int
    """Blocks of an MCU from left to right, in a scan of several components."""
    down: int
    """Blocks of an MCU from top to bottom, in a scan of several components."""
    dc_table: int
    ac_table: int


@dataclass(frozen=True, kw_only=True)
class JpegHeader:
    """All that stands in a plain JPEG before the coded pixels."""

    segments: tuple[Segment, ...]
    """All from the first behind the start mark to the start of the scan, which is the last."""
    frame: Segment
    """The one that says the size."""
    width: int
    height: int
    components: tuple[Component, ...]
    restart_interval: int
    """MCUs between two restart markers; 0 is none."""

    @property
    def scan_start(self) -> int:
        """The position in the file of the first byte of coded pixels."""
        return self.segments[-1].stop

    @property
    def blocks(self) -> tuple[int, ...]:
        """The component of each block of an MCU; a component that is alone has one block."""
        if len(self.components) == 1:
            return (0,)
        return tuple(number for number, part in enumerate(self.components) for _ in range(part.across * part.down))

    @cached_property
    def mcu_width(self) -> int:
        """The width of an MCU in pixels."""
        return BLOCK * (max(part.across for part in self.components) if len(self.components) > 1 else 1)

    @cached_property
    def mcu_height(self) -> int:
        """The height of an MCU in pixels."""
        return BLOCK * (max(part.down for part in self.components) if len(self.components) > 1 else 1)

    @cached_property
    def mcu_columns(self) -> int:
        """How many MCUs stand side by side."""
        return -(-self.width // self.mcu_width)

    @cached_property
    def mcu_rows(self) -> int:
        """How many rows of MCUs there are."""
        return -(-self.height // self.mcu_height)

    @cached_property
    def subsampled(self) -> bool:
        """Whether samples of a plane stand for several pixels, so that pixels depend on neighbours beyond their MCU."""
        return len({(part.across, part.down) for part in self.components}) > 1


def read_header(payload: bytes) -> JpegHeader:
    """The segments and the geometry of a JPEG; NotPlainError where it is not plain."""
    if payload[:2] != bytes((0xFF, SOI)):
        raise NotPlainError("not understood")
    segments: list[Segment] = []
    frame: Segment | None = None
    interval = 0
    marker, stop = 0, 2
    while marker != SOS:
        found = _segment_at(payload, stop)
        segments.append(found)
        marker, _, stop = found
        if marker in SEQUENTIAL:
            _require(frame is None)
            frame = found
        elif marker == DRI:
            _require(stop - found.start == 6)
            interval = int.from_bytes(payload[found.body], "big")
        if len(segments) > MAX_SEGMENTS:
            raise NotPlainError("not understood")
    if frame is None:
        raise NotPlainError("not understood")
    return header_of(payload[frame.body], payload[segments[-1].body], interval, frame=frame, segments=tuple(segments))


def header_of(
    frame_body: bytes,
    scan_body: bytes,
    interval: int,
    *,
    frame: Segment = NOWHERE,
    segments: tuple[Segment, ...] = (),
) -> JpegHeader:
    """The geometry that the contents of a frame and a scan segment describe; `segments` say where all stand."""
    width, height, sampling = _read_frame(frame_body)
    return JpegHeader(
        segments=segments,
        frame=frame,
        width=width,
        height=height,
        components=_read_scan(scan_body, sampling),
        restart_interval=interval,
    )


def _require(true: bool, reason: str = "not understood") -> None:
    if not true:
        raise NotPlainError(reason)


def _segment_at(payload: bytes, place: int) -> Segment:
    """The segment there; one without a length, or behind fill bytes, is not understood."""
    stop = place + 4
    if stop > len(payload) or payload[place] != 0xFF:
        raise NotPlainError("not understood")
    marker = payload[place + 1]
    if marker not in TAKEN:
        raise NotPlainError(FRAMES.get(marker, "not understood"))
    stop = place + 2 + (payload[place + 2] << 8 | payload[place + 3])
    if not place + 4 <= stop <= len(payload):
        raise NotPlainError("not understood")
    return Segment(marker, place, stop)


def _read_frame(body: bytes) -> tuple[int, int, dict[int, tuple[int, int]]]:
    """Width, height, and the sampling of each component by its id."""
    _require(len(body) >= 6)
    _require(body[0] == 8, f"{body[0]}-bit")
    height, width, count = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big"), body[5]
    _require(height > 0 and width > 0 and count in (1, 3, 4) and len(body) == 6 + 3 * count)
    sampling = {body[place]: (body[place + 1] >> 4, body[place + 1] & 15) for place in range(6, len(body), 3)}
    _require(len(sampling) == count and all(1 <= side <= 4 for sides in sampling.values() for side in sides))
    return width, height, sampling


def _read_scan(body: bytes, sampling: dict[int, tuple[int, int]]) -> tuple[Component, ...]:
    """The components in the order of the scan, which must be that of the frame."""
    _require(len(body) >= 1)
    count = body[0]
    _require(len(body) == 4 + 2 * count)
    _require(count == len(sampling), "several scans")
    _require(body[-3:] == b"\x00\x3f\x00" and tuple(body[1:-3:2]) == tuple(sampling))
    components = tuple(
        Component(across=across, down=down, dc_table=tables >> 4, ac_table=tables & 15)
        for (across, down), tables in zip(sampling.values(), body[2:-3:2], strict=True)
    )
    _require(all(part.dc_table < 4 and part.ac_table < 4 for part in components))
    _require(count == 1 or sum(part.across * part.down for part in components) <= MAX_BLOCKS)
    return components
