"""What stands in an erased box?

Normal noise around the ImageNet statistics, a draw a channel and pixel, as timm's `RandomErasing(mode="pixel")` writes
it into a normalised picture; here it is written in pixel space, so each value is round(255 · (mean + std · z)), cut to
0 … 255. z comes from 16-bit words of NumPy's Philox (its raw stream is fixed by NumPy's promise of stream stability),
looked up in a table of 65,536 quantiles: integers only, the same on every machine.

    key      (the sample's key hash, the recipe's seed)
    counter  (running, view, purpose, 0)

The words fill the box channel by channel, each row by row.

Shapes: H rows and W columns of a box, C = 3 channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.views.distributions import NORMAL_ONE, normal_table
from pipeline.views.imagenet import MEAN, STD
from pipeline.views.philox import Purpose


def erase(image_HWC: NDArray[np.uint8], box: Sequence[int], key: int, view: int, seed: int) -> None:
    """Fill the box (top, left, height, width) of a view with its noise, in place."""
    top, left, height, width = box
    stream = np.random.Philox(key=key | seed << 64, counter=view << 64 | Purpose.NOISE << 128)
    count = height * width
    words = stream.random_raw(-(-3 * count // 4)).astype("<u8", copy=False).view("<u2")
    words_CHW = words[: 3 * count].reshape(3, height, width)
    planes = [cv2.LUT(words_HW, table) for words_HW, table in zip(words_CHW, levels(), strict=True)]
    image_HWC[top : top + height, left : left + width] = cv2.merge(planes)


@lru_cache(maxsize=1)
def levels() -> NDArray[np.uint8]:
    """The pixel level that each 16-bit random word stands for, a table [3, 65536] of the three channels."""
    z = normal_table() / NORMAL_ONE
    level = 255.0 * (np.array(MEAN)[:, None] + np.array(STD)[:, None] * z)
    return np.clip(np.rint(level), 0, 255).astype(np.uint8)
