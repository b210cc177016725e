"""Which random numbers belong to this sample, this view, this purpose?

Philox4x32-10 (Salmon et al., 2011), vectorised: a block of four 32-bit words is a pure function of a 64-bit key and a
128-bit counter. There is no state, so nothing can depend on order, workers, batches or restarts.

    key      the sample's key hash (blake2b, 8 bytes, little-endian), or that of b"window:<k>" for a mix window
    counter  (block, view, low half of the seed, high half of the seed), with block = purpose · 2^16 + number

The map from (key hash, view, seed, purpose, number) to (key, counter) is injective, so no two of them share words by
construction; seed 0 of sample 1 is not seed 1 of sample 0. Purposes are written down once, here, and never renumbered:
stored labels depend on them.

Shapes: B samples (or windows), N blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
CHUNK = 8192  # blocks worked on at once: the temporaries of a round stay in the second-level cache


class Purpose(IntEnum):
    """What a block of words is for."""

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
        """The counter's first word for one block of this purpose."""
        assert 0 <= number < 1 << 16
        return (int(self) << 16) + number


def key_hash(key: str | bytes) -> int:
    """The 64-bit identity that a sample's draws are keyed by."""
    data = key.encode() if isinstance(key, str) else key
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def key_hashes(keys: Iterable[bytes]) -> NDArray[np.uint64]:
    """`key_hash` of many keys."""
    return np.fromiter((key_hash(key) for key in keys), np.uint64)


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
    blocks_BN = np.broadcast_to(blocks_BN, (count, blocks))
    words = np.empty((count, blocks, 4), np.uint32)
    flat = words.reshape(count * blocks, 4)
    low, high = np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)
    step = max(1, CHUNK // max(1, blocks))
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        key = np.repeat(np.asarray(key_B[part], np.uint64), blocks)
        view = np.repeat(np.asarray(view_B[part], np.uint64), blocks)
        block = blocks_BN[part].astype(np.uint64).ravel()
        counter = (block, view, np.full(len(key), low), np.full(len(key), high))
        _bijection(key, counter, flat[part.start * blocks : part.stop * blocks])
    return words.reshape(count, 4 * blocks)


def _bijection(key: NDArray[np.uint64], counter: tuple[NDArray[np.uint64], ...], out_B4: NDArray[np.uint32]) -> None:
    """Ten rounds over 32-bit values held in 64-bit lanes, where a product keeps its upper half."""
    x0, x1, x2, x3 = counter
    k0, k1 = key & LOW, key >> HALF
    for _ in range(ROUNDS):
        product0, product1 = x0 * MULTIPLIERS[0], x2 * MULTIPLIERS[1]
        x0 = (product1 >> HALF) ^ x1 ^ k0
        x2 = (product0 >> HALF) ^ x3 ^ k1
        x1, x3 = product1 & LOW, product0 & LOW
        k0, k1 = (k0 + np.uint64(WEYL[0])) & LOW, (k1 + np.uint64(WEYL[1])) & LOW
    for position, lane in enumerate((x0, x1, x2, x3)):
        out_B4[:, position] = lane


def uniform(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Numbers in [0, 1), multiples of 2^-32."""
    return words.astype(np.float64) * 2.0**-32


def below(words: NDArray[np.uint32], limit: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Integers in [0, limit), in integer arithmetic; the bias is under limit / 2^32."""
    product: NDArray[np.uint64] = words.astype(np.uint64) * np.asarray(limit, np.uint64)
    return (product >> HALF).astype(np.int64)
