"""Which pixels does a rectangle of a payload have, at the cost of no more than it covers?

Of a JPEG that was tiled (`pipeline.pictures.jpeg_tiling`) only the restart segments that the rectangle touches are
decoded; of anything else, and of a tiled one whose part cannot be shown, the whole. The pixels are those of
`pipeline.pictures.images.decode` in any case, its limits hold for the whole picture, and whether a picture can be shown
is decided by what it decides of the whole.

Shapes: H rows, W columns, C = 3 channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ImageError
from pipeline.pictures.formats import decode_plain_jpeg
from pipeline.pictures.images import MAX_PIXELS, decode
from pipeline.pictures.jpeg_segments import part_of

Box = tuple[int, int, int, int]
"""Top, left, height, width"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shown:
    """The decoded pixels of a rectangle of a picture, or of all of it."""

    pixels_HWC: NDArray[np.uint8]
    top: int
    """Where the rectangle begins in the picture."""
    left: int
    height: int
    """Of the picture."""
    width: int
    nbytes: int
    """What is held in memory for it."""

    @property
    def whole(self) -> bool:
        """Whether these are the pixels of the whole picture."""
        return self.pixels_HWC.shape[:2] == (self.height, self.width)

    def holds(self, box: Sequence[int]) -> bool:
        """Whether these pixels include all of a rectangle of the picture, `box`."""
        (top, left, height, width), (rows, columns) = box, self.pixels_HWC.shape[:2]
        down, across = top - self.top, left - self.left
        return bool(0 <= down <= down + height <= rows and 0 <= across <= across + width <= columns)

    def cut(self, box: Sequence[int]) -> NDArray[np.uint8]:
        """The pixels of a rectangle, by its place in the picture."""
        top, left, height, width = box
        return self.pixels_HWC[top - self.top : top - self.top + height, left - self.left : left - self.left + width]


def decode_part(payload: bytes, box: Box | None, *, max_pixels: int = MAX_PIXELS) -> Shown:
    """The decoded pixels of a box of the picture, and perhaps more; of the whole picture where `box` is None."""
    part = None if box is None else _part(payload, box, max_pixels)
    if part is not None:
        return part
    pixels_HWC = decode(payload, max_pixels=max_pixels)
    height, width = pixels_HWC.shape[:2]
    return Shown(pixels_HWC=pixels_HWC, top=0, left=0, height=height, width=width, nbytes=pixels_HWC.nbytes)


def _part(payload: bytes, box: Box, max_pixels: int) -> Shown | None:
    """The box alone; None where the whole is to be decoded."""
    part = part_of(payload, *box)
    if part is None or part.height * part.width > max_pixels:
        return None
    top, left, height, width = box
    with contextlib.suppress(ImageError):  # the whole decides whether the picture is bad, and why
        pixels_HWC = decode_plain_jpeg(part.payload)
        if pixels_HWC is None:  # inks
            pixels_HWC = decode(bytes(part.payload), max_pixels=max_pixels)
        if pixels_HWC.shape != (part.rows, part.columns, 3):
            return None
        return Shown(
            pixels_HWC=pixels_HWC[part.top : part.top + height, part.left : part.left + width],
            top=top,
            left=left,
            height=part.height,
            width=part.width,
            nbytes=pixels_HWC.nbytes,
        )
    return None
