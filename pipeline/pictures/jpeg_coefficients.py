"""Which symbols code the coefficients of a JPEG's one scan, and how are symbols made a scan again?

`read_symbols` walks through the bits once: in Python from block to block, because each symbol says where the next one
begins, with tables that pass several symbols at a step (`pipeline.pictures.jpeg_huffman`); and then in NumPy through
all the places that the walk has noted. It is strict: a scan that is cut, longer than its picture, or coded in a way
that decoders only tolerate is not understood.

`write_symbols` gives each symbol its code and lays all bits at once: a run of at most 27 bits falls on two words of 32,
and runs that do not overlap may be added.

Shapes: Y symbols in the order of the scan, B blocks, M MCUs, G restart segments, N bytes, T tables.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.pictures.jpeg_huffman import COEFFICIENTS, ENDED, NOWHERE, BadTableError, Codes, codes_of
from pipeline.pictures.jpeg_markers import DHT, EOI, KNOWN, SOS, JpegHeader, NotPlainError

Ints = NDArray[np.int64]

RST = 0xD0
MAX_DC_BITS = 11
"""Of a difference between two first coefficients of 8-bit pictures"""
PADDING = 8
"""Bytes behind the scan that a window may look at"""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Scan:
    """The coded bytes of a scan, without its markers and without the zeros that are stuffed in behind each 0xff."""

    data: NDArray[np.uint8]
    """[N + PADDING] all restart segments, one after another."""
    ends: Ints
    """[G] where each ends, in bytes."""
    stop: int
    """The place in the payload of the marker behind the scan."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Symbols:
    """The Huffman symbols of a scan in their order, with the bits that follow each."""

    symbol_Y: NDArray[np.uint8]
    value_Y: NDArray[np.uint16]
    """The bits behind the code."""
    table_Y: Ints
    """The number of the table that it is coded by, among `tables_used`."""
    first_B: Ints
    """The symbol that each block begins with: the one of its first coefficient."""
    difference_B: Ints
    """The first coefficient, less the one that it was predicted by."""


Tables = dict[tuple[int, int], tuple[bytes, bytes]]


def tables_of(payload: bytes, header: JpegHeader) -> Tables:
    """Counts and symbols of each Huffman table, by its class (0 first coefficients, 1 others) and number."""
    tables: Tables = {}
    for segment in header.segments:
        if segment.marker != DHT:
            continue
        body = payload[segment.body]
        while body:
            counts, total = body[1:17], sum(body[1:17])
            if len(body) < 17 + total:
                raise NotPlainError("not understood")
            tables[body[0] >> 4, body[0] & 15] = (counts, body[17 : 17 + total])
            body = body[17 + total :]
    return tables


def tables_used(header: JpegHeader) -> list[tuple[int, int]]:
    """The class and number of each table that the scan needs, in order."""
    parts = header.components
    return sorted({(0, part.dc_table) for part in parts} | {(1, part.ac_table) for part in parts})


def read_scan(payload: bytes, start: int) -> Scan:
    """The coded bytes that begin at `start`, up to the first marker that does not only restart the scan."""
    data = np.frombuffer(payload, np.uint8, offset=start)
    marks = np.flatnonzero(data[:-1] == 0xFF)
    codes = data[marks + 1]
    restart = (codes & 0xF8) == RST
    other = np.flatnonzero(~restart & (codes != 0))
    if not len(other) or codes[other[0]] != EOI:
        follows = len(other) > 0 and codes[other[0]] in (SOS, *KNOWN)
        raise NotPlainError("several scans" if follows else "not understood")
    stop = int(marks[other[0]])
    marks, codes, restart = marks[: other[0]], codes[: other[0]], restart[: other[0]]
    if not np.array_equal(codes[restart] & 7, np.arange(np.count_nonzero(restart)) & 7):
        raise NotPlainError("not understood")
    kept = np.ones(stop, bool)
    kept[marks + 1], kept[marks[restart]] = False, False
    ends = np.append(marks[restart], stop)
    ends -= np.searchsorted(marks, ends) + np.arange(len(ends))  # stuffed bytes and half of the markers; the other half
    return Scan(data=np.append(data[:stop][kept], np.zeros(PADDING, np.uint8)), ends=ends, stop=start + stop)


def read_symbols(header: JpegHeader, tables: Tables, scan: Scan) -> Symbols:
    """All symbols of a scan, decoded with the Huffman tables of its file; NotPlainError where it is no plain scan."""
    used = tables_used(header)
    try:
        codes = [Codes.of(*tables[name]) for name in used]
    except (KeyError, BadTableError):
        raise NotPlainError("not understood") from None
    window_N8 = _windows(scan.data)
    parts = [header.components[number] for number in header.blocks]
    dc = [used.index((0, part.dc_table)) for part in parts]
    ac = [used.index((1, part.ac_table)) for part in parts]
    place_B = _walk(
        window_N8, header, [(codes[one], codes[other]) for one, other in zip(dc, ac, strict=True)], scan.ends
    )
    mcus = len(place_B) // len(parts)
    return _gather(window_N8, codes, place_B, np.tile(dc, mcus), np.tile(ac, mcus))


def _windows(data: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """The 16 bits from each bit on."""
    byte = data.astype(np.uint32)
    wide = byte[:-2] << 16 | byte[1:-1] << 8 | byte[2:]
    window_N8 = np.empty((len(wide), 8), np.uint16)
    for bit in range(8):
        window_N8[:, bit] = wide >> (8 - bit)
    return window_N8.reshape(-1)


def _walk(window_N8: NDArray[np.uint16], header: JpegHeader, codes: Sequence[tuple[Codes, Codes]], ends: Ints) -> Ints:
    """Where each block begins, in bits."""
    mcus = header.mcu_columns * header.mcu_rows
    interval = header.restart_interval or mcus
    if len(ends) != -(-mcus // interval):
        raise NotPlainError("not understood")
    plan = [(dc.steps()[1], *ac.jumps(), *ac.steps()) for dc, ac in codes]
    windows, places, place = array("H", window_N8.tobytes()), list[int](), 0
    for segment, end in enumerate(ends.tolist()):
        try:
            for _ in range(min(interval, mcus - segment * interval)):
                place = _walk_mcu(windows, plan, place, places)
        except IndexError:
            raise NotPlainError("not understood") from None
        if not 0 <= 8 * end - place < 8:
            raise NotPlainError("not understood")
        place = 8 * end
    return np.array(places)


def _walk_mcu(
    windows: array[int],
    plan: Sequence[tuple[bytes, list[int], list[int], bytes, bytes]],
    place: int,
    places: list[int],
) -> int:
    """Note where the blocks of one MCU begin; where the next begins. This loop is most of what tiling costs."""
    for dc_bits, jump_total, jump_bits, step_total, step_bits in plan:
        places.append(place)
        place += dc_bits[windows[place]]
        passed = 1
        while passed < COEFFICIENTS:
            window = windows[place]
            total = passed + jump_total[window]
            if total <= COEFFICIENTS or ENDED <= total < ENDED + COEFFICIENTS:
                place += jump_bits[window]
                passed = total
                continue
            passed += step_total[window]  # the jump would lead out of the block
            place += step_bits[window]
            if COEFFICIENTS < passed < ENDED or passed >= NOWHERE:
                raise NotPlainError("not understood")
    return place


def _gather(window_N8: NDArray[np.uint16], codes: Sequence[Codes], place_B: Ints, dc_B: Ints, ac_B: Ints) -> Symbols:
    """The symbols of blocks that begin at these places."""
    symbol_TW, code_TW, bits_TW, advance_TW = (
        np.concatenate([getattr(each, name) for each in codes])
        for name in ("symbol_W", "code_W", "bits_W", "advance_W")
    )
    behind_B = place_B + bits_TW[dc_B << 16 | window_N8[place_B]]
    place_Y, count_B = _unrolled(window_N8, bits_TW, advance_TW, place_B, behind_B, ac_B << 16)
    first_B = np.cumsum(count_B) - count_B
    table_Y = np.repeat(ac_B, count_B)
    table_Y[first_B] = dc_B
    key_Y = table_Y << 16 | window_N8[place_Y]
    symbol_Y, code_Y = symbol_TW[key_Y], code_TW[key_Y]
    size_Y = symbol_Y & 15
    value_Y = window_N8[place_Y + code_Y] >> (16 - size_Y)
    if np.any(symbol_Y[first_B] > MAX_DC_BITS) or not np.all(code_Y):
        raise NotPlainError("not understood")
    size_B, value_B = size_Y[first_B].astype(np.int64), value_Y[first_B].astype(np.int64)
    negative_B = value_B < (1 << size_B >> 1)
    return Symbols(
        symbol_Y=symbol_Y,
        value_Y=value_Y,
        table_Y=table_Y,
        first_B=first_B,
        difference_B=value_B - np.where(negative_B, (1 << size_B) - 1, 0),
    )


def _unrolled(
    window_N8: NDArray[np.uint16],
    bits_TW: NDArray[np.uint8],
    advance_TW: NDArray[np.uint8],
    place_B: Ints,
    behind_B: Ints,
    table_B: Ints,
) -> tuple[Ints, Ints]:
    """Where each symbol begins, and how many a block has: the next one of all blocks is read at the same time."""
    place, table, block, passed = behind_B, table_B, np.arange(len(place_B)), np.ones(len(place_B), np.int64)
    count_B, rounds = np.ones(len(place_B), np.int64), []
    while len(place):
        rounds.append((block, place))
        count_B[block] += 1
        key = table | window_N8[place]
        passed = passed + advance_TW[key]
        more = passed < COEFFICIENTS
        place, table, block, passed = (place + bits_TW[key])[more], table[more], block[more], passed[more]
    first_B = np.cumsum(count_B) - count_B
    place_Y = np.empty(int(count_B.sum()), np.int64)
    place_Y[first_B] = place_B
    for number, (block, place) in enumerate(rounds, 1):
        place_Y[first_B[block] + number] = place
    return place_Y, count_B


def write_symbols(symbols: Symbols, tables: Sequence[tuple[bytes, bytes]], start_G: Ints) -> tuple[bytes, Ints]:
    """The bytes of a scan that begins anew at each symbol of `start_G`, and where its restart segments [G] end."""
    codes_T256, bits_T256 = (np.stack(each) for each in zip(*(codes_of(*table) for table in tables), strict=True))
    size_Y = symbols.symbol_Y & 15
    key_Y = symbols.table_Y << 8 | symbols.symbol_Y
    run_Y = codes_T256.ravel()[key_Y] << size_Y | symbols.value_Y
    bits_Y = bits_T256.ravel()[key_Y] + size_Y
    end_Y = np.cumsum(bits_Y)
    end_G = np.append(end_Y[start_G[1:] - 1], end_Y[-1])
    before_G = np.append(0, end_G[:-1])
    bytes_G = (end_G - before_G + 7) >> 3
    stop_G = np.cumsum(bytes_G)
    shift_G = 8 * (stop_G - bytes_G) - before_G
    at_Y = end_Y - bits_Y + np.repeat(shift_G, np.diff(start_G, append=len(bits_Y)))
    pad_G = 8 * bytes_G - (end_G - before_G)
    data = _lay(
        np.concatenate([at_Y, 8 * stop_G - pad_G]),
        np.concatenate([bits_Y, pad_G]),
        np.concatenate([run_Y, (1 << pad_G) - 1]),
        int(stop_G[-1]),
    )
    return _with_markers(data, stop_G)


def _lay(at_R: Ints, bits_R: Ints, run_R: Ints, size: int) -> NDArray[np.uint8]:
    """The bytes in which each run of bits stands at its place."""
    up_R = np.minimum(64 - (at_R & 31) - bits_R, 63).astype(
        np.uint64
    )  # a run of no bits is 0, and may stay where it is
    wide_R = run_R.astype(np.uint64) << up_R
    words = size // 4 + 2
    high = np.bincount(at_R >> 5, weights=wide_R >> np.uint64(32), minlength=words)
    low = np.bincount((at_R >> 5) + 1, weights=wide_R & np.uint64(0xFFFFFFFF), minlength=words)
    return (high + low).astype(">u4").view(np.uint8)[:size]


def _with_markers(data: NDArray[np.uint8], stop_G: Ints) -> tuple[bytes, Ints]:
    """The scan with a zero behind each 0xff, and a marker behind each restart segment but the last; and their ends."""
    marked = data == 0xFF
    room = 1 + marked.astype(np.int64)
    last_G = stop_G - 1
    room[last_G[:-1]] += 2
    place = np.cumsum(room) - room
    out = np.zeros(int(room.sum()), np.uint8)
    out[place] = data
    mark_G = place[last_G] + 1 + marked[last_G]
    out[mark_G[:-1]], out[mark_G[:-1] + 1] = 0xFF, RST | (np.arange(len(mark_G) - 1) & 7)
    return out.tobytes(), mark_G
