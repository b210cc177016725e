"""How is it shown that two renderings are of the same view?

`checksum` is the crc32c of the view's bytes (rows from the top, pixels from the left, red, green, blue): equal pixels,
and for all practical purposes nothing else, have equal checksums.

`luma` says how a view looks in 16 bytes, so that a view drawn by another decoder (a few pixels one level off) can still
be told from another view. Every s-th pixel of every s-th row is looked at, from the first, with s = ⌈side / 56⌉; sample
row i and column j out of n belong to block (⌊4i / n⌋, ⌊4j / n⌋). A block's value is the mean of
(77 red + 150 green + 29 blue) / 256 over its samples, rounded half up. All sums are integers under 2^24, so 32-bit
floats hold them exactly, in any order.

Shapes: B views of H × W pixels, C = 3 channels; N ≤ 56 samples along a side, D bytes a sample, M = N · D; K = 4 blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import google_crc32c
import numpy as np
from numpy.typing import NDArray

BLOCKS = 4
SAMPLES = 56
LUMA = (77, 150, 29)
CHUNK = 16  # views summed at once: their samples stay in the second-level cache


def checksum(image_HWC: NDArray[np.uint8]) -> int:
    """The crc32c of a view's pixels, row after row."""
    assert image_HWC.flags.c_contiguous
    return int(google_crc32c.value(image_HWC))


def luma(image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The thumbnail [16] of one view: how bright each of 4 × 4 cells is."""
    thumbnail: NDArray[np.uint8] = thumbnails([samples(image_HWC)])[0]
    return thumbnail


def samples(image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The samples [N, M] that a thumbnail is made of: 3 bytes each, or with a fourth that does not count."""
    side = len(image_HWC)
    step = -(-side // SAMPLES)
    if step % 4 == 0 and side % 4 == 0:  # copied as 32-bit words: ten times as fast as pixels of three bytes
        words = image_HWC.reshape(side, 3 * side).view(np.uint32)[::step, :: 3 * step // 4]
        return np.ascontiguousarray(words).view(np.uint8)
    picked = image_HWC[::step, ::step]
    return picked.reshape(len(picked), -1)


def thumbnails(samples_B: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The thumbnails [B, 16] of views, from the samples that `samples` took of each."""
    sum_BKK = np.zeros((len(samples_B), BLOCKS, BLOCKS), np.int64)
    divisor_KK = np.ones((BLOCKS, BLOCKS), np.int64)
    for start in range(0, len(samples_B), CHUNK):
        sample_BNM = np.stack(samples_B[start : start + CHUNK])
        count, width = sample_BNM.shape[1:]
        left_KN, right_MK, divisor_KK = _weights(count, width // count)
        sum_BKK[start : start + CHUNK] = left_KN @ sample_BNM.astype(np.float32) @ right_MK
    mean_BKK = (2 * sum_BKK + divisor_KK) // (2 * divisor_KK)
    return mean_BKK.astype(np.uint8).reshape(-1, BLOCKS * BLOCKS)


@lru_cache(maxsize=8)
def _weights(count: int, depth: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Sums over sample rows, luma sums over sample columns, and what each block's sum is divided by."""
    member_NK = np.arange(count)[:, None] * BLOCKS // count == np.arange(BLOCKS)
    weight_D = np.zeros(depth)
    weight_D[: len(LUMA)] = LUMA
    right_MK = np.kron(member_NK, weight_D[:, None])
    size_K = member_NK.sum(axis=0)
    return member_NK.T.astype(np.float32), right_MK.astype(np.float32), np.outer(size_K, size_K) * sum(LUMA)
