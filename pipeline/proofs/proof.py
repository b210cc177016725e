"""What does a store keep of the pixels that the teacher saw, and how is another view told by it?

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

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.proofs import checksums

SKETCH: Literal["sketch"] = "sketch"
Luma = Literal["sketch"] | bool
"""What tells another view from one that is drawn a little otherwise: a sketch, a thumbnail, or nothing"""

PARTS = 8
STEP, STEPS = 32, 4
TOLERANCE = 2
"""Levels of a thumbnail: decoders differ by less, but where an operation makes a jump of a step (decision 0195)"""

_SLACK = 2 * TOLERANCE  # of a sum of two cells
_SHIFT_P = np.arange(0, 2 * PARTS, 2, dtype=np.uint32)
_UPPER = np.uint32(0xFFFF0000)

Checksums = NDArray[np.uint32]
Thumbnails = NDArray[np.uint8]


def kept(luma: Luma, crc_B: Checksums, luma_B16: Thumbnails) -> tuple[Checksums, Thumbnails | None]:
    """What a store keeps of these checksums and thumbnails in the form `luma`: a column, and thumbnails or None."""
    if luma == SKETCH:
        return (crc_B & _UPPER) | sketches(luma_B16), None
    return crc_B, luma_B16 if luma else None


def kept_of(luma: Luma, image_HWC: NDArray[np.uint8]) -> int:
    """The four bytes that are stored of a view with these pixels."""
    crc_B = np.array([checksums.checksum(image_HWC)], np.uint32)
    return int(kept(luma, crc_B, checksums.luma(image_HWC)[None])[0][0])


def sketches(luma_B16: Thumbnails) -> Checksums:
    """The sketches of thumbnails: two bits for each two cells, in the lower half of a checksum [B]."""
    part_BP = _sums(luma_B16) // STEP % STEPS
    result: Checksums = (part_BP.astype(np.uint32) << _SHIFT_P).sum(axis=1, dtype=np.uint32)
    return result


def apart(
    luma: Luma, stored_B: Checksums, stored_B16: Thumbnails | None, luma_B16: Thumbnails
) -> NDArray[np.int64] | None:
    """How far each view is from how it looked: levels of a thumbnail, or parts of a sketch; None if none is kept."""
    if luma == SKETCH:
        part_BP = (stored_B[:, None] >> _SHIFT_P).astype(np.int64) % STEPS
        past_BP = (_sums(luma_B16) - STEP * part_BP + _SLACK) % (STEP * STEPS)
        return np.asarray((past_BP >= STEP + 2 * _SLACK).sum(axis=1), np.int64)
    if stored_B16 is None:
        return None
    return np.asarray(np.abs(luma_B16.astype(np.int64) - stored_B16).max(axis=1, initial=0), np.int64)


def most_apart(luma: Luma) -> int:
    """How far a view may be from how it looked and still count as the same view, drawn otherwise."""
    return 0 if luma == SKETCH else TOLERANCE


def how_far(luma: Luma, off: int) -> str:
    """How far a view is from how it looked, `off`, in words for a message."""
    return f"{off} of {PARTS} parts of its sketch differ" if luma == SKETCH else f"its thumbnail is {off} levels off"


def _sums(luma_B16: Thumbnails) -> NDArray[np.int64]:
    sum_BP: NDArray[np.int64] = luma_B16.reshape(-1, PARTS, 2).sum(axis=2, dtype=np.int64)
    return sum_BP
