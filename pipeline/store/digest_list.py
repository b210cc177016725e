"""How are the lengths and SHA-256s of a million objects read from COMPLETE, without an object for each?

In canonical JSON the list of units can be written in one way only, and nothing in it is escaped:

    [["<length> <64 hex digits>","…"],["…","…"], …]

So it is read as bytes, not as JSON: where its quotes are says where everything else must be, and every byte is compared
with what must stand there. A list that passes is its own canonical text; it need not be written again to prove that.

Shapes: N texts, K of them in each unit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HEX = 64
MOST_DIGITS = 15
BLOCK = 1 << 16
"""Texts that are looked at together: what is allocated does not grow with their number"""

QUOTE, COMMA, SPACE, OPEN, CLOSE, ZERO = b'", []0'

_NIBBLE = np.full(256, 255, np.uint8)
_NIBBLE[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16, dtype=np.uint8)

Digests = tuple[NDArray[np.int64], NDArray[np.uint8]]
"""Lengths [N], and SHA-256s [N, 32]"""


def read_units(text: memoryview, per_unit: int) -> Digests | None:
    """The digests in a list of units of `per_unit` texts each; None where it is not, byte for byte, such a list."""
    byte_T = np.frombuffer(text, np.uint8)
    quotes = np.flatnonzero(byte_T == QUOTE)
    if len(quotes) == 0 or len(quotes) % (2 * per_unit):
        return None
    first_N, last_N = quotes[::2], quotes[1::2]
    if not _is_framed(byte_T, first_N, last_N, per_unit):
        return None
    lengths, digests = np.empty(len(first_N), np.int64), np.empty((len(first_N), HEX // 2), np.uint8)
    for at in range(0, len(first_N), BLOCK):
        block = slice(at, at + BLOCK)
        if not _read(byte_T, first_N[block], last_N[block], lengths[block], digests[block]):
            return None
    return lengths, digests


def _is_framed(byte_T: NDArray[np.uint8], first_N: NDArray[np.int64], last_N: NDArray[np.int64], per_unit: int) -> bool:
    """Whether before, after and between the texts stands what must: ``[[``, ``]]``, ``,`` or ``],[``."""
    if bytes(byte_T[: first_N[0]]) != b"[[" or bytes(byte_T[last_N[-1] + 1 :]) != b"]]":
        return False
    ends = np.arange(1, len(first_N)) % per_unit == 0
    after = last_N[:-1] + 1
    if not np.array_equal(first_N[1:] - after, np.where(ends, 3, 1)):
        return False
    inner, outer = after[~ends], after[ends]
    return bool(
        np.all(byte_T[inner] == COMMA)
        and np.all(byte_T[outer] == CLOSE)
        and np.all(byte_T[outer + 1] == COMMA)
        and np.all(byte_T[outer + 2] == OPEN)
    )


def _read(
    byte_T: NDArray[np.uint8],
    first_N: NDArray[np.int64],
    last_N: NDArray[np.int64],
    lengths: NDArray[np.int64],
    digests: NDArray[np.uint8],
) -> bool:
    """Read the texts between these quotes; whether each is a length, a space and a SHA-256."""
    width_N = last_N - first_N - 1 - HEX - 1
    if width_N.min() < 1 or width_N.max() > MOST_DIGITS or np.any(byte_T[first_N + 1 + width_N] != SPACE):
        return False
    lengths[:] = 0
    for place in range(int(width_N.max())):
        inside = width_N > place
        digit = byte_T[first_N[inside] + 1 + place] - np.uint8(ZERO)
        if np.any(digit > 9) or (place == 0 and np.any((digit == 0) & (width_N > 1))):
            return False
        lengths[inside] = lengths[inside] * 10 + digit
    windows = np.lib.stride_tricks.sliding_window_view(byte_T, HEX)
    nibble_NH = _NIBBLE[windows[last_N - HEX]]
    digests[:] = nibble_NH[:, ::2] << 4 | nibble_NH[:, 1::2]
    return bool(nibble_NH.max() < 16)
