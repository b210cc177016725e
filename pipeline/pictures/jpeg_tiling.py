"""How does a JPEG become one whose parts can be decoded alone, without another pixel?

Its scan is read as symbols (`pipeline.pictures.jpeg_coefficients`), the predictions of the first coefficients begin
anew every few MCUs, and the symbols are coded again, by the Huffman tables that suit them best, with a restart marker
wherever a prediction begins anew. No coefficient changes, so every decoder shows the same picture. Every other segment
stays, byte for byte and in its order, and so does what stands behind the end mark.

A restart segment is about `SPAN` pixels wide and never crosses the end of a row of MCUs: the number of its MCUs divides
that of the row. Where no good divisor exists, a segment is the whole row.

The file says that it was tiled (`Sign`): a segment of its own names the crc32c and the length of the payload that it
was made from, so that the two can be known for the same picture, and says where the restart segments are; and the
crc32c of the rest of the file, so that whether it was damaged since is known without decoding what nobody looks at.

Shapes: B blocks, M MCUs, G restart segments.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pipeline.pictures.jpeg_coefficients import (
    Ints,
    Symbols,
    read_scan,
    read_symbols,
    tables_of,
    tables_used,
    write_symbols,
)
from pipeline.pictures.jpeg_huffman import best_table
from pipeline.pictures.jpeg_markers import APP9, DHT, DRI, JpegHeader, Segment, read_header
from pipeline.pictures.jpeg_markers import NotPlainError as NotPlainError

SPANS = (32, 64)
"""Pixels that a restart segment should be wide: as it is now, and as it was written before"""
SPAN = SPANS[0]
SIGN = b"tiled\0\x01"
"""What the segment of a tiled file begins with"""
MARKER = 2
"""Bytes of a marker"""
FIXED = struct.Struct(">III")
MAX_BODY = 60_000
"""Bytes of a segment; a longer sign goes on in another"""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sign:
    """What a tiled file says of the file that it was made from, of its own bytes, and of its restart segments."""

    crc: int
    """crc32c of the payload that it was made from."""
    length: int
    """Bytes of that payload."""
    rest: int
    """crc32c of all that is not the sign itself."""
    length_G: Ints
    """[G] bytes of each restart segment, with the marker behind it."""

    def to_bytes(self) -> bytes:
        """The sign as one or more segments of a JPEG."""
        kind = ">u2" if self.length_G.max() < 1 << 16 else ">u4"
        body = FIXED.pack(self.crc, self.length, self.rest) + self.length_G.astype(kind).tobytes()
        pieces = (body[start : start + MAX_BODY] for start in range(0, len(body), MAX_BODY))
        return b"".join(_segment(APP9, SIGN + piece) for piece in pieces)

    @classmethod
    def from_bytes(cls, body: bytes, count: int) -> Sign | None:
        """The sign of `count` restart segments; None where these bytes have another length than it would."""
        if (found := cls.read(body, count)) is None:
            return None
        crc, length, _ = FIXED.unpack_from(body)
        rest, length_G = found
        return cls(crc=crc, length=length, rest=rest, length_G=length_G.astype(np.int64))

    @staticmethod
    def read(body: bytes, count: int) -> tuple[int, NDArray[np.uint16] | NDArray[np.uint32]] | None:
        """Only what decoding a part needs of the sign: its `rest` and its `length_G`; None as in `from_bytes`."""
        kind = {2 * count: ">u2", 4 * count: ">u4"}.get(len(body) - FIXED.size)
        if kind is None:
            return None
        return FIXED.unpack_from(body)[2], np.frombuffer(body, kind, offset=FIXED.size)


def tile(payload: bytes, *, span: int = SPAN) -> bytes:
    """The same picture with restart markers; NotPlainError where it cannot have them, with the reason."""
    header = read_header(payload)
    if sign_of(payload, header) is not None:
        raise NotPlainError("tiled already")
    scan = read_scan(payload, header.scan_start)
    interval = interval_of(header.mcu_columns, header.mcu_width, span)
    symbols = _begun_anew(read_symbols(header, tables_of(payload, header), scan), header, interval)
    used = tables_used(header)
    tables = [_best_of(symbols, number) for number in range(len(used))]
    body, stop_G = write_symbols(symbols, tables, symbols.first_B[:: interval * len(header.blocks)])
    before = b"".join(_kept(payload, header))
    after = b"".join(_added(payload, header, interval, dict(zip(used, tables, strict=True)))) + body
    after += payload[scan.stop :]
    sign = Sign(
        crc=google_crc32c.value(payload),
        length=len(payload),
        rest=google_crc32c.extend(google_crc32c.value(before), after),
        length_G=np.diff(stop_G + MARKER, prepend=0),
    )
    return before + sign.to_bytes() + after


def sign_of(payload: bytes, header: JpegHeader) -> Sign | None:
    """What a tiled payload says of itself; None where it was not tiled by this project."""
    body = b"".join(payload[segment.body][len(SIGN) :] for segment in _signs(payload, header))
    interval = header.restart_interval
    if not body or not interval or header.mcu_columns % interval:
        return None
    return Sign.from_bytes(body, header.mcu_rows * (header.mcu_columns // interval))


def origin_of(payload: bytes) -> tuple[int, int] | None:
    """The crc32c and the length of what a tiled payload says that it was made from; its beginning is enough."""
    try:
        header = read_header(payload)
    except NotPlainError:
        return None
    sign = sign_of(payload, header)
    return None if sign is None else (sign.crc, sign.length)


def _signs(payload: bytes, header: JpegHeader) -> Iterator[Segment]:
    """The segments of a sign."""
    return (part for part in header.segments if part.marker == APP9 and payload.startswith(SIGN, part.start + 4))


def _best_of(symbols: Symbols, number: int) -> tuple[bytes, bytes]:
    """The best table for the symbols that are coded by one."""
    return best_table(np.bincount(symbols.symbol_Y[symbols.table_Y == number], minlength=256))


def interval_of(columns: int, mcu_width: int, span: int = SPAN) -> int:
    """How many MCUs a restart segment has: the divisor of a row's MCUs that makes it most nearly `span` pixels wide."""
    divisors = (count for count in range(1, columns + 1) if columns % count == 0)
    return min(divisors, key=lambda count: (abs(math.log(count * mcu_width / span)), count))


def _begun_anew(symbols: Symbols, header: JpegHeader, interval: int) -> Symbols:
    """The symbols with first coefficients that are predicted from their own restart segment alone."""
    mcus, blocks = header.mcu_columns * header.mcu_rows, header.blocks
    old_MB = symbols.difference_B.reshape(mcus, len(blocks))
    new_MB = np.empty_like(old_MB)
    for number in set(blocks):
        mine = [place for place, block in enumerate(blocks) if block == number]
        values = _summed(old_MB[:, mine].ravel(), (header.restart_interval or mcus) * len(mine))
        before = np.append(0, values[:-1])
        before[:: interval * len(mine)] = 0
        new_MB[:, mine] = (values - before).reshape(mcus, len(mine))
    size_B = np.frexp(np.abs(new_MB.ravel()))[1].astype(np.int64)  # the bits of a whole number
    if size_B.max() > 11:
        raise NotPlainError("not understood")
    difference_B = new_MB.ravel()
    symbol_Y, value_Y = symbols.symbol_Y.copy(), symbols.value_Y.copy()
    symbol_Y[symbols.first_B] = size_B
    value_Y[symbols.first_B] = difference_B + np.where(difference_B < 0, (1 << size_B) - 1, 0)
    return Symbols(
        symbol_Y=symbol_Y,
        value_Y=value_Y,
        table_Y=symbols.table_Y,
        first_B=symbols.first_B,
        difference_B=difference_B,
    )


def _summed(differences: Ints, interval: int) -> Ints:
    """Running sums that begin anew at every multiple of `interval`."""
    sums = np.cumsum(differences)
    before = np.append(0, sums)[: len(sums) : interval]
    return np.asarray(sums - np.repeat(before, interval)[: len(sums)], np.int64)


def _kept(payload: bytes, header: JpegHeader) -> Iterator[bytes]:
    """The old segments before the scan, without Huffman tables and interval."""
    yield payload[:2]
    for segment in header.segments[:-1]:
        if segment.marker not in (DHT, DRI):
            yield payload[segment.start : segment.stop]


def _added(
    payload: bytes, header: JpegHeader, interval: int, tables: dict[tuple[int, int], tuple[bytes, bytes]]
) -> Iterator[bytes]:
    """The interval and the Huffman tables, and the head of the scan."""
    yield _segment(DRI, interval.to_bytes(2, "big"))
    yield _segment(DHT, _table_bytes(tables))
    yield payload[header.segments[-1].start : header.segments[-1].stop]


def _table_bytes(tables: dict[tuple[int, int], tuple[bytes, bytes]]) -> bytes:
    return b"".join(
        bytes((kind << 4 | number,)) + counts + symbols for (kind, number), (counts, symbols) in tables.items()
    )


def _segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + (2 + len(body)).to_bytes(2, "big") + body
