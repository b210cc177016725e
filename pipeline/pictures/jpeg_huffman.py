"""Which codes does a Huffman table of a JPEG give to its symbols, and which would be the shortest for these symbols?

A table is a count of codes for each length from 1 to 16, and the symbols in the order of their codes. A symbol says how
many bits of value follow its code (the lower half of the byte) and, for the coefficients behind the first of a block,
how many zeros go before it (the upper half). `Codes.of` lays the table out over all windows of 16 bits: what stands
there, and where it ends. For a reader in Python it also says how far *all* the symbols go that lie whole within a
window (`jumps`), because a step costs the same whether it passes one symbol or four.

`best_table` counts on nothing but the frequencies: Huffman's tree, cut to 16 bits as annex K.2 of the standard says,
without the code of ones alone, which the standard keeps free.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_LENGTH = 16
WINDOWS = 1 << MAX_LENGTH
END, ZEROS = 0x00, 0xF0
"""The symbols of a block whose other coefficients are zero, and of sixteen zeros"""
COEFFICIENTS = 64
ENDED = 128
"""What a jump adds that passes the end of a block"""
NOWHERE = 255
"""What a window adds that begins with no code"""
DOUBLINGS = 2
"""A jump passes up to four symbols"""


class BadTableError(ValueError):
    """These counts and symbols are no Huffman table."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Codes:
    """A table, laid out over the windows [W] of 16 bits: by the code that a window begins with."""

    symbol_W: NDArray[np.uint8]
    code_W: NDArray[np.uint8]
    """The bits of the code; 0 where there is none."""
    bits_W: NDArray[np.uint8]
    """The bits of code and value."""
    advance_W: NDArray[np.uint8]
    """The coefficients that the symbol stands for, with its zeros; or `ENDED`, or `NOWHERE`."""

    @classmethod
    @lru_cache(maxsize=64)  # many files share the tables that the standard gives as an example
    def of(cls, counts: bytes, symbols: bytes) -> Codes:
        """The layout of the table with so many `counts` of codes of each length, and these `symbols`."""
        length_S = np.repeat(np.arange(1, MAX_LENGTH + 1), np.frombuffer(counts, np.uint8))
        width_S = 1 << (MAX_LENGTH - length_S)
        if len(length_S) != len(symbols) or not symbols or width_S.sum() > WINDOWS:
            raise BadTableError
        wide_S = np.append(width_S, WINDOWS - width_S.sum())
        symbol_S = np.frombuffer(symbols, np.uint8)
        advance_S = np.where((symbol_S & 15) > 0, (symbol_S >> 4) + 1, NOWHERE)
        advance_S[symbol_S == END], advance_S[symbol_S == ZEROS] = ENDED, 16

        def laid(value_S: NDArray[Any], otherwise: int) -> NDArray[np.uint8]:
            return np.repeat(np.append(value_S, otherwise).astype(np.uint8), wide_S)

        return cls(
            symbol_W=laid(symbol_S, 0),
            code_W=laid(length_S, 0),
            bits_W=laid(length_S + (symbol_S & 15), 0),
            advance_W=laid(advance_S, NOWHERE),
        )

    @lru_cache(maxsize=64)  # noqa: B019  # as many as are kept above
    def jumps(self) -> tuple[list[int], list[int]]:
        """For each window: the coefficients that its whole symbols stand for, up to a block's end, and their bits."""
        window_W = np.arange(WINDOWS, dtype=np.uint16)
        total_W, bits_W = self.advance_W, self.bits_W
        for _ in range(DOUBLINGS):
            rest_W = window_W << np.minimum(bits_W, MAX_LENGTH - 1)  # zeros come in: such symbols are not whole
            more_W, end_W = total_W[rest_W], bits_W + bits_W[rest_W]
            passed_W = total_W + (more_W & (ENDED - 1))
            good_W = (end_W <= MAX_LENGTH) & (more_W != NOWHERE) & (total_W < COEFFICIENTS) & (passed_W < COEFFICIENTS)
            total_W, bits_W = np.where(good_W, total_W + more_W, total_W), np.where(good_W, end_W, bits_W)
        return total_W.tolist(), bits_W.tolist()

    def steps(self) -> tuple[bytes, bytes]:
        """For each window: how many coefficients the first symbol in it stands for, and its bits."""
        return self.advance_W.tobytes(), self.bits_W.tobytes()


def best_table(frequency_S: NDArray[np.int64]) -> tuple[bytes, bytes]:
    """The counts and symbols of the table that codes symbols of these frequencies [256] in the fewest bits."""
    found = np.flatnonzero(frequency_S)
    order = found[np.argsort(-frequency_S[found], kind="stable")].tolist()
    counts = _limited(_lengths([int(frequency_S[symbol]) for symbol in order]))
    return bytes(counts), bytes(order)


def _lengths(frequencies: list[int]) -> list[int]:
    """The depth of each leaf of Huffman's tree, and of one more, of the least weight: its code will not be used."""
    tickets = itertools.count()
    heap: list[tuple[int, int, tuple[int, ...]]] = [
        (weight, next(tickets), (place,)) for place, weight in enumerate((*frequencies, 0))
    ]
    heapq.heapify(heap)
    depths = [0] * len(heap)
    while len(heap) > 1:
        (light, _, some), (heavy, _, others) = heapq.heappop(heap), heapq.heappop(heap)
        for place in (together := some + others):
            depths[place] += 1
        heapq.heappush(heap, (light + heavy, next(tickets), together))
    return depths


def _limited(lengths: list[int]) -> list[int]:
    """How many codes have each length from 1 to 16, the longest of all left out (annex K.2)."""
    counts = [0] * (max(*lengths, MAX_LENGTH) + 1)
    for length in lengths:
        counts[length] += 1
    for length in range(len(counts) - 1, MAX_LENGTH, -1):
        while counts[length]:
            shorter = next(place for place in range(length - 2, 0, -1) if counts[place])
            counts[length] -= 2
            counts[length - 1] += 1
            counts[shorter + 1] += 2
            counts[shorter] -= 1
    longest = max(length for length, count in enumerate(counts) if count)
    counts[longest] -= 1
    return counts[1 : MAX_LENGTH + 1]


def codes_of(counts: bytes, symbols: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The code [256] of each symbol, and its bits [256]."""
    length_S = np.repeat(np.arange(1, MAX_LENGTH + 1), np.frombuffer(counts, np.uint8))
    width_S = 1 << (MAX_LENGTH - length_S)
    code_S = (np.cumsum(width_S) - width_S) >> (MAX_LENGTH - length_S)
    codes, bits = np.zeros(256, np.int64), np.zeros(256, np.int64)
    places = np.frombuffer(symbols, np.uint8)
    codes[places], bits[places] = code_S, length_S
    return codes, bits
