"""Which part of a picture does a view show, and at what size?

    random   a box of random area and aspect (ten tries, then the central fallback), stretched to the view: timm's
             `RandomResizedCropAndInterpolation`
    center   short side to ⌊image_size / crop_pct⌋, then the central square: timm's evaluation transform
    simple   short side to image_size, 4 reflected pixels around, then a random square: DeiT III's simple crop

Each is resolved from the sizes in the index, for many views at once. The whole-picture kinds resize first and cut
afterwards; so that a strip of 10 × 10,000 pixels cannot become one of 256 × 256,000, they see only the central part of
a picture that is longer than eight times its short side.

Shapes: B views, N those that are still without a box, A attempts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.views.distributions import log_uniform
from pipeline.views.philox import Purpose, below, philox, uniform
from pipeline.views.recipe import Recipe

ATTEMPTS = 10
"""Tries at a box that fits."""
SIMPLE_PAD = 4
LONGEST = 8
"""Longest side of what is resized whole, in short sides."""

Ints = NDArray[np.int64]
Words = NDArray[np.uint32]
Geometry = Callable[[Recipe, Ints, NDArray[np.uint64], Ints, Words], tuple[Ints, Ints, Ints]]
"""(recipe, picture sizes, keys, views, first words) → crop_B4, resize_B2, offset_B2."""


def place_boxes(
    limit_B2: Ints,
    room_B2: Ints,
    area: tuple[float, float],
    aspect: tuple[float, float],
    purpose: Purpose,
    draw: tuple[NDArray[np.uint64], Ints, int],
    words_B4: Words,
) -> tuple[Ints, NDArray[np.bool_]]:
    """Boxes (top, left, height, width) inside `room` and no larger than `limit`, and which of them were found.

    An attempt takes one block: share of the room's area, aspect (log-uniform), top, left. The first attempt's words are
    given; for those that it does not fit, the other nine are drawn at once and the first that fits is taken.
    """
    box_B4, found_B = _attempt(limit_B2, room_B2, area, aspect, words_B4[:, None])
    open_N = np.flatnonzero(~found_B)
    if len(open_N):
        key_B, view_B, seed = draw
        view_N = view_B[open_N].astype(np.uint32)
        words = philox(key_B[open_N], view_N, seed, purpose.block(1), ATTEMPTS - 1)
        words_NA4 = words.reshape(len(open_N), ATTEMPTS - 1, 4)
        box_B4[open_N], found_B[open_N] = _attempt(limit_B2[open_N], room_B2[open_N], area, aspect, words_NA4)
    return box_B4, found_B


def _attempt(
    limit_N2: Ints, room_N2: Ints, area: tuple[float, float], aspect: tuple[float, float], words_NA4: Words
) -> tuple[Ints, NDArray[np.bool_]]:
    """The first of A attempts that fits, and whether one does."""
    area_NA = between(words_NA4[..., 0], *area) * (room_N2[:, 0] * room_N2[:, 1])[:, None]
    aspect_NA = log_uniform(uniform(words_NA4[..., 1]), *aspect)
    sides_NA2 = np.sqrt(np.stack((area_NA / aspect_NA, area_NA * aspect_NA), axis=2))
    box_NA2 = np.maximum(np.rint(sides_NA2).astype(np.int64), 1)
    fits_NA = np.all(box_NA2 <= limit_N2[:, None], axis=2)
    corner_NA2 = below(words_NA4[..., 2:], np.maximum(room_N2[:, None] - box_NA2 + 1, 1))
    place = (np.arange(len(fits_NA)), fits_NA.argmax(axis=1))
    return np.concatenate((corner_NA2[place], box_NA2[place]), axis=1), fits_NA.any(axis=1)


def _random_crop(
    recipe: Recipe, picture_B2: Ints, key_B: NDArray[np.uint64], view_B: Ints, words_B4: Words
) -> tuple[Ints, Ints, Ints]:
    """A box of random area and aspect, stretched to the view; the central fallback where ten tries do not fit."""
    ranges = (recipe.crop_scale, recipe.crop_ratio)
    draw = (key_B, view_B, recipe.seed)
    box_B4, found_B = place_boxes(picture_B2, picture_B2, *ranges, Purpose.CROP, draw, words_B4)
    crop_B4 = np.where(found_B[:, None], box_B4, _central_fallback(recipe, picture_B2))
    return crop_B4, np.full_like(picture_B2, recipe.image_size), np.zeros_like(picture_B2)


def _central_fallback(recipe: Recipe, picture_B2: Ints) -> Ints:
    height_B, width_B = picture_B2.T
    low, high = recipe.crop_ratio
    ratio_B = width_B / height_B
    box_B2 = picture_B2.copy()
    box_B2[:, 0] = np.where(ratio_B < low, np.rint(width_B / low), height_B)
    box_B2[:, 1] = np.where(ratio_B > high, np.rint(height_B * high), width_B)
    return _centered(picture_B2, np.clip(box_B2, 1, picture_B2))


def _centered(picture_B2: Ints, box_B2: Ints) -> Ints:
    return np.concatenate(((picture_B2 - box_B2) // 2, box_B2), axis=1)


def _center_crop(
    recipe: Recipe, picture_B2: Ints, _key_B: NDArray[np.uint64], _view_B: Ints, _words_B4: Words
) -> tuple[Ints, Ints, Ints]:
    """Short side to ⌊image_size / crop_pct⌋, then the central square."""
    crop_B4, resize_B2 = _short_side(picture_B2, int(recipe.image_size / recipe.crop_pct))
    return crop_B4, resize_B2, np.rint((resize_B2 - recipe.image_size) / 2).astype(np.int64)


def _simple_crop(
    recipe: Recipe, picture_B2: Ints, _key_B: NDArray[np.uint64], _view_B: Ints, words_B4: Words
) -> tuple[Ints, Ints, Ints]:
    """Short side to image_size, 4 reflected pixels around, a random square of image_size."""
    crop_B4, resize_B2 = _short_side(picture_B2, recipe.image_size)
    offset_B2 = below(words_B4[:, 2:4], resize_B2 + 2 * SIMPLE_PAD - recipe.image_size + 1)
    if recipe.version == 1:
        corner_B = np.all((resize_B2 == recipe.image_size) & (offset_B2 == 0), axis=1)
        offset_B2[corner_B] = SIMPLE_PAD
    return crop_B4, resize_B2, offset_B2


GEOMETRIES: dict[str, Geometry] = {"random": _random_crop, "center": _center_crop, "simple": _simple_crop}


def _short_side(picture_B2: Ints, side: int) -> tuple[Ints, Ints]:
    """The picture (or the central part of a very long one), and its size once its short side is `side`."""
    short_B1 = picture_B2.min(axis=1, keepdims=True)
    box_B2 = np.minimum(picture_B2, LONGEST * short_B1)
    return _centered(picture_B2, box_B2), np.where(
        box_B2 == short_B1, side, (side * box_B2 / short_B1).astype(np.int64)
    )


def between(words: Words, low: float, high: float) -> NDArray[np.float64]:
    """Numbers drawn evenly between `low` and `high`, one for each random word."""
    return low + uniform(words) * (high - low)
