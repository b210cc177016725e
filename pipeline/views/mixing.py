"""Which row is each row mixed with, how, and how strongly?

For each view the rows of a mix window (`mix_window` consecutive rows of the whole index) are ordered by random words
keyed by (window, view, seed); the first is paired with the second, the third with the fourth, and so on; a lone last
one stays as it is. Both rows of a pair are mixed with each other, with the same λ and the same box, as in timm's
pairwise Mixup: row = λ · own + (1 − λ) · partner. So a partner depends on the index and the recipe alone, never on a
batch, a worker or a rank, and whoever holds a whole window holds all partners.

    mixup   λ ~ Beta(α, α) rounded to a multiple of 1/256, drawn exactly from that rounded distribution: one word looked
            up in 256 thresholds
    cutmix  side of the box = ⌊S · √(1 − λ)⌋ with λ ~ Beta(α, α), again one word looked up in the thresholds of the
            sides; the centre is uniform, the box clipped to the view, and λ = 1 − area of what is left / S²

A pair whose λ comes out as 1 is not mixed. A row that is not mixed has itself as partner, kind 0 and λ = 1.

Shapes: B requested views, U distinct (window, view) pairs among them, W rows of a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.views.distributions import beta_steps
from pipeline.views.philox import Purpose, below, philox, philox_at, uniform, window_hash
from pipeline.views.recipe import Recipe

LAMBDA_ONE = 256
"""λ of mixup is a multiple of 1/256: then mixing bytes is exact integer arithmetic."""


class Kind(IntEnum):
    """How a row is mixed with its partner: not at all, by mixup, or by cutmix."""

    NONE = 0
    MIXUP = 1
    CUTMIX = 2


@dataclass(frozen=True, slots=True)
class Mixing:
    """How each requested view is mixed: with which row, in which way, and how strongly."""

    partner_B: NDArray[np.int64]
    kind_B: NDArray[np.uint8]
    lam_B: NDArray[np.float64]
    """Weight of the row itself; the partner has the rest."""
    box_B4: NDArray[np.int32]
    """Top, left, height, width of what cutmix takes from the partner; zeros elsewhere."""


def plan_mixing(recipe: Recipe, num_rows: int, row_B: NDArray[np.int64], view_B: NDArray[np.int64]) -> Mixing:
    """Resolve any set of views, in any order; each distinct (window, view) is ordered once."""
    row_B, view_B = np.asarray(row_B, np.int64), np.asarray(view_B, np.int64)
    assert row_B.shape == view_B.shape
    assert not len(row_B) or 0 <= int(row_B.min()) <= int(row_B.max()) < num_rows
    if not recipe.mixes or not len(row_B):
        return _unmixed(row_B)
    window_B = row_B // recipe.mix_window
    key_B = _window_keys(window_B)
    partner_B, pair_B = _partners(recipe, num_rows, row_B, view_B, key_B)
    first_block_B = np.uint32(Purpose.MIX_PAIR.block()) + 2 * pair_B.astype(np.uint32)
    blocks_B2 = np.stack((first_block_B, first_block_B + np.uint32(1)), axis=1)
    words_B8 = philox_at(key_B, view_B.astype(np.uint32), recipe.seed, blocks_B2)
    kind_B, lam_B, box_B4 = _strengths(recipe, words_B8)
    unmixed_B = (partner_B == row_B) | (uniform(words_B8[:, 0]) >= recipe.mix_prob) | (lam_B == 1.0)
    return Mixing(
        np.where(unmixed_B, row_B, partner_B),
        np.where(unmixed_B, np.uint8(Kind.NONE), kind_B),
        np.where(unmixed_B, 1.0, lam_B),
        np.where(unmixed_B[:, None], np.int32(0), box_B4),
    )


def _unmixed(row_B: NDArray[np.int64]) -> Mixing:
    count = len(row_B)
    return Mixing(row_B.copy(), np.zeros(count, np.uint8), np.ones(count), np.zeros((count, 4), np.int32))


def _window_keys(window_B: NDArray[np.int64]) -> NDArray[np.uint64]:
    distinct, place_B = np.unique(window_B, return_inverse=True)
    keys = np.fromiter((window_hash(int(window)) for window in distinct), np.uint64, len(distinct))
    return keys[place_B]


def _partners(
    recipe: Recipe, num_rows: int, row_B: NDArray[np.int64], view_B: NDArray[np.int64], key_B: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The other row of each row's pair (itself for a lone one), and the number of the pair in its window."""
    width = recipe.mix_window
    window_B, place_B = np.divmod(row_B, width)
    _, first_U, group_B = np.unique(window_B << 32 | view_B, return_index=True, return_inverse=True)
    length_U = np.minimum(width, num_rows - window_B[first_U] * width)
    blocks = -(-width // 4)
    order_block = Purpose.MIX_ORDER.block()
    words_UW = philox(key_B[first_U], view_B[first_U].astype(np.uint32), recipe.seed, order_block, blocks)[:, :width]
    place_W = np.arange(width)
    rank_key_UW = words_UW.astype(np.int64) << 16 | place_W  # the place breaks ties, so the order is one on any machine
    rank_key_UW[place_W >= length_U[:, None]] = np.iinfo(np.int64).max
    order_UW = np.argsort(rank_key_UW, axis=1)
    rank_UW = np.empty_like(order_UW)
    np.put_along_axis(rank_UW, order_UW, place_W[None], axis=1)
    rank_B = rank_UW[group_B, place_B]
    other_B = np.where((rank_B ^ 1) < length_U[group_B], rank_B ^ 1, rank_B)
    return window_B * width + order_UW[group_B, other_B], rank_B >> 1


def _strengths(
    recipe: Recipe, words_B8: NDArray[np.uint32]
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.int32]]:
    """Kind, λ and box of each pair, as if all were mixed."""
    cuts_B = uniform(words_B8[:, 1]) < recipe.mix_switch
    if recipe.mixup == 0 or recipe.cutmix == 0:
        cuts_B = np.full(len(words_B8), recipe.cutmix > 0)
    lam_B = np.searchsorted(_mixup_steps(recipe.mixup), words_B8[:, 2], side="right") / LAMBDA_ONE
    box_B4 = np.where(cuts_B[:, None], _boxes(recipe, words_B8), np.int32(0))
    left_B = 1.0 - box_B4[:, 2] * box_B4[:, 3] / recipe.image_size**2
    return np.where(cuts_B, np.uint8(Kind.CUTMIX), np.uint8(Kind.MIXUP)), np.where(cuts_B, left_B, lam_B), box_B4


def _boxes(recipe: Recipe, words_B8: NDArray[np.uint32]) -> NDArray[np.int32]:
    """Square boxes around uniform centres, clipped to the view."""
    size = recipe.image_size
    side_B = np.searchsorted(_cut_steps(recipe.cutmix, size), words_B8[:, 2], side="right")
    center_B2 = below(words_B8[:, 3:5], size)
    low_B2 = np.clip(center_B2 - side_B[:, None] // 2, 0, size)
    high_B2 = np.clip(center_B2 + (side_B[:, None] + 1) // 2, 0, size)
    return np.concatenate((low_B2, high_B2 - low_B2), axis=1).astype(np.int32)


@lru_cache(maxsize=16)
def _mixup_steps(alpha: float) -> NDArray[np.uint64]:
    """Thresholds between the 257 values of round(256 · λ)."""
    return beta_steps((np.arange(LAMBDA_ONE) + 0.5) / LAMBDA_ONE, alpha or 1.0)


@lru_cache(maxsize=16)
def _cut_steps(alpha: float, size: int) -> NDArray[np.uint64]:
    """Thresholds between the sides 0 … size: ⌊size · √x⌋ ≤ c exactly where x < ((c + 1)/size)², x ~ Beta(α, α)."""
    side = np.arange(1, size + 1) / size
    return beta_steps(side * side, alpha or 1.0)
