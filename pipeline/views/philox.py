"""Which random numbers belong to this sample, this view, this purpose?

Philox4x32-10 (Salmon et al., 2011), vectorised: a block of four 32-bit words is a pure function of a 64-bit key and a
128-bit counter. There is no state, so nothing can depend on order, workers, batches or restarts.

    key      the sample's key hash (blake2b, 8 bytes, little-endian), or that of b"window:<k>" for a mix window
    counter  (block, view, low half of the seed, high half of the seed), with block = purpose · 2^16 + number

The map from (key hash, view, seed, purpose, number) to (key, counter) is injective, so no two of them share words by
construction; seed 0 of sample 1 is not seed 1 of sample 0. Purposes are written down once, here, and never renumbered:
stored labels depend on them.

Shapes: B samples (or windows), N blocks each, T = B · N blocks in all.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from pipeline.shards.samples import key_hash

ROUNDS = 10
MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
Words = NDArray[np.uint32]

CHUNK = 8192  # blocks worked on at once: the temporaries of a round stay in the second-level cache


class Purpose(IntEnum):
    """What random words are drawn for: each purpose has words of its own, so that none moves another's."""

    CROP = 1
    FLIP = 2
    AUGMENT = 3
    JITTER = 4
    ERASE = 5
    NOISE = 6
    MIX_ORDER = 7
    MIX_PAIR = 8
    ORDER = 9
    """The student's order of rows; no view uses it."""

    def block(self, number: int = 0) -> int:
        """The counter's first word for the block of this number among those of this purpose."""
        assert 0 <= number < 1 << 16
        return (int(self) << 16) + number


def window_hash(window: int) -> int:
    """The key that a mix window's draws are keyed by; its purposes are the window's own, so no sample shares them."""
    return key_hash(b"window:%d" % window)


def philox(
    key_B: NDArray[np.uint64], view_B: NDArray[np.uint32], seed: int, block: int, blocks: int = 1
) -> NDArray[np.uint32]:
    """Words [B, 4·blocks] of the consecutive blocks that start at `block`."""
    return philox_at(key_B, view_B, seed, np.arange(block, block + blocks, dtype=np.uint32))


def philox_at(
    key_B: NDArray[np.uint64], view_B: NDArray[np.uint32], seed: int, blocks_BN: NDArray[np.uint32]
) -> NDArray[np.uint32]:
    """Words [B, 4·N] of any blocks, in one call: the same blocks for all [N], or for each its own [B, N]."""
    count, blocks = len(key_B), blocks_BN.shape[-1]
    words = np.empty((count * blocks, 4), np.uint32)
    block_T = np.broadcast_to(blocks_BN, (count, blocks)).ravel()
    key_T, view_T = np.repeat(key_B, blocks), np.repeat(view_B, blocks)
    for start in range(0, count * blocks, CHUNK):
        part = slice(start, start + CHUNK)
        _bijection(key_T[part], view_T[part], seed, block_T[part], words[part])
    return words.reshape(count, 4 * blocks)


def _bijection(
    key_T: NDArray[np.uint64], view_T: NDArray[np.uint32], seed: int, block_T: NDArray[np.uint32], out_T4: Words
) -> None:
    """Ten rounds over 32-bit values held in 64-bit lanes, where a product keeps its upper half.

    The counter's even words (0, 2) are multiplied in one array, its odd words (1, 3) wait in the other.
    """
    even_2T, odd_2T, key_2T = (np.empty((2, len(key_T)), np.uint64) for _ in range(3))
    even_2T[0], even_2T[1] = block_T, seed & 0xFFFFFFFF
    odd_2T[0], odd_2T[1] = view_T, seed >> 32
    key_2T[0], key_2T[1] = key_T & LOW, key_T >> HALF
    for _ in range(ROUNDS):
        product_2T = even_2T * MULTIPLIERS
        even_2T = (product_2T >> HALF)[::-1] ^ odd_2T ^ key_2T
        odd_2T = (product_2T & LOW)[::-1]
        key_2T = (key_2T + WEYL) & LOW
    out_T4[:, ::2], out_T4[:, 1::2] = even_2T.T, odd_2T.T


def uniform(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Numbers in [0, 1), in steps of 2^-32, one for each random word."""
    return words.astype(np.float64) * 2.0**-32


def below(words: NDArray[np.uint32], limit: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Integers in [0, limit), in integer arithmetic; the bias is under limit / 2^32."""
    product: NDArray[np.uint64] = words.astype(np.uint64) * np.asarray(limit, np.uint64)
    return (product >> HALF).astype(np.int64)
