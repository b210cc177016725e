"""What does a store keep of the pixels that the teacher saw?

Every view has four bytes, in the store's array ``crc``. What is in them is the manifest's `luma`:

    false       crc32c of the pixels
    true        the same, and the thumbnail of sixteen bytes in an array of its own
    "sketch"    the upper half of the crc32c, and in the lower one a *sketch*: sixteen bits that say how the view looks

A sketch is made of the thumbnail. The sums x of two neighbouring cells, from the top left, give two bits each,
⌊x / 32⌋ mod 4, the first in the lowest bits. A view drawn by another decoder moves such a sum by a level or two, and so
may cross from one step into the next; hence a part of a sketch fits wherever a sum within ±4 of the present one has its
two bits. Another view fits by chance in some 30 of 100 cases a part, once in several thousand in all eight.

Where pixels are to be the same, all 32 bits are compared in either case.

Shapes: B views; 16 cells of a thumbnail, P = 8 parts of a sketch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.rendering import checksums
from pipeline.store.manifest import SKETCH, Luma

PARTS = 8
STEP, STEPS = 32, 4
_SHIFT_P = np.arange(0, 2 * PARTS, 2, dtype=np.uint32)
_UPPER = np.uint32(0xFFFF0000)

Checksums = NDArray[np.uint32]
Thumbnails = NDArray[np.uint8]


def kept(luma: Luma, crc_B: Checksums, luma_B16: Thumbnails) -> tuple[Checksums, Thumbnails | None]:
    """What is stored of views with these checksums and thumbnails."""
    if luma == SKETCH:
        return (crc_B & _UPPER) | sketches(luma_B16), None
    return crc_B, luma_B16 if luma else None


def kept_of(luma: Luma, image_HWC: NDArray[np.uint8]) -> int:
    """The four bytes that are stored of a view with these pixels."""
    crc_B = np.array([checksums.checksum(image_HWC)], np.uint32)
    return int(kept(luma, crc_B, checksums.luma(image_HWC)[None])[0][0])


def sketches(luma_B16: Thumbnails) -> Checksums:
    """Of views with these thumbnails, in the lower half [B]."""
    part_BP = _sums(luma_B16) // STEP % STEPS
    result: Checksums = (part_BP.astype(np.uint32) << _SHIFT_P).sum(axis=1, dtype=np.uint32)
    return result


def parts_apart(stored_B: Checksums, luma_B16: Thumbnails, levels: int) -> NDArray[np.int64]:
    """How many parts of each stored sketch do not fit a view with this thumbnail, give or take so many levels [B]."""
    part_BP, slack = (stored_B[:, None] >> _SHIFT_P).astype(np.int64) % STEPS, 2 * levels  # of a sum of two cells
    past_BP = (_sums(luma_B16) - STEP * part_BP + slack) % (STEP * STEPS)
    count_B: NDArray[np.int64] = (past_BP >= STEP + 2 * slack).sum(axis=1)
    return count_B


def _sums(luma_B16: Thumbnails) -> NDArray[np.int64]:
    sum_BP: NDArray[np.int64] = luma_B16.reshape(-1, PARTS, 2).sum(axis=2, dtype=np.int64)
    return sum_BP
