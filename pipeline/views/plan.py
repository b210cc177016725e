"""What exactly is done to each row in each view?

A `ViewPlan` holds every decision as arrays: crop box, flip, operations with their arguments, erased box, partner and λ.
It is drawn from (key, view, seed) for thousands of views at once, resolved against the sizes in the index, needs no
pixels, and can be printed. Rendering only executes it.

    geometry  cut `crop_B4` out of the picture, resize to `resize_B2`, pad by `pad` (reflected), take the square of
              `image_size` at `offset_B2`, mirror it where `flip_B`
    pixels    operations `op_BL` with `argument_BL` (integers in 1/4096, see `pipeline.views.randaugment`), in order
    erasing   noise in `erase_B4` (height 0: none), a function of `key_B`, view and seed
    mixing    `pipeline.views.mixing`

Boxes are (top, left, height, width). Arithmetic is integer or plain IEEE double (`pipeline.views.distributions`), so a
plan is the same on every machine. The rules are those of timm 1.0 (`RandAugment`, `RandomErasing`; crops:
`pipeline.views.crops`) and torchvision (`ColorJitter`).

Shapes: B views, L operations a view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.shards.index import SampleIndex
from pipeline.views.crops import GEOMETRIES, SIMPLE_PAD, between, place_boxes
from pipeline.views.mixing import Kind, Mixing, plan_mixing
from pipeline.views.operation_table import ARGUMENT_ONE, Op, describe
from pipeline.views.philox import Purpose, below, philox_at, uniform
from pipeline.views.recipe import Recipe

ERASE_AREA = (0.02, 1 / 3)
ERASE_ASPECT = (0.3, 1 / 0.3)
JITTERS = (Op.BRIGHTNESS, Op.CONTRAST, Op.COLOR)
JITTER_ORDERS = np.array([(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
THREE = (Op.COLOR, Op.SOLARIZE, Op.BLUR)
THREE_BLUR = (0.1, 2.0)

Ints = NDArray[np.int64]
Words = NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewPlan:
    """Everything that is decided about B views before any pixel is touched, as arrays."""

    row_B: Ints
    view_B: Ints
    key_B: NDArray[np.uint64]
    crop_B4: NDArray[np.int32]
    resize_B2: NDArray[np.int32]
    """Height and width after resizing."""
    offset_B2: NDArray[np.int32]
    """Top and left of the view in the resized (and padded) picture."""
    pad: int
    image_size: int
    flip_B: NDArray[np.bool_]
    cubic_B: NDArray[np.bool_]
    """Resize by the bicubic filter, else the bilinear one."""
    op_BL: NDArray[np.uint8]
    argument_BL: NDArray[np.int32]
    op_cubic_BL: NDArray[np.bool_]
    erase_B4: NDArray[np.int32]
    mixing: Mixing

    def __len__(self) -> int:
        return len(self.row_B)

    def table(self) -> str:
        """The plan as a table to print, with a line for each view."""
        return aligned({"row": self.row_B.tolist(), "view": self.view_B.tolist(), **self.columns()})

    def columns(self) -> dict[str, list[str]]:
        """What is done to each view, in words; sizes are width × height, + left + top."""
        parts = (self._geometry, self._operations, self._erasing, self._mixing)
        names = ("crop", "operations", "erased", "mixed")
        return {name: [part(i) for i in range(len(self))] for name, part in zip(names, parts, strict=True)}

    def _geometry(self, i: int) -> str:
        text = _box(self.crop_B4[i])
        if self.pad or (self.resize_B2[i] != self.image_size).any():
            (height, width), (top, left) = self.resize_B2[i], self.offset_B2[i] - self.pad
            text += f" to {width}x{height}{left:+}{top:+}"
        return text + ("" if self.cubic_B[i] else " bilinear") + (" flipped" if self.flip_B[i] else "")

    def _operations(self, i: int) -> str:
        steps = zip(self.op_BL[i].tolist(), self.argument_BL[i].tolist(), strict=True)
        return ", ".join(describe(op, argument) for op, argument in steps if op != Op.NONE)

    def _erasing(self, i: int) -> str:
        return _box(self.erase_B4[i]) if self.erase_B4[i, 2] else ""

    def _mixing(self, i: int) -> str:
        mixing = self.mixing
        kind = Kind(mixing.kind_B[i])
        if kind is Kind.NONE:
            return ""
        box = f" {_box(mixing.box_B4[i])}" if kind is Kind.CUTMIX else ""
        return f"{mixing.lam_B[i]:.3f} own, rest {kind.name.lower()} of row {mixing.partner_B[i]}{box}"


def aligned(columns: Mapping[str, Sequence[object]]) -> str:
    """A table for people: a header line, then one line an entry; columns that are empty throughout are left out."""
    cells = {name: [name, *(str(value) for value in values)] for name, values in columns.items()}
    filled = [texts for texts in cells.values() if any(texts[1:])]
    widths = [max(map(len, texts)) for texts in filled]
    lines = zip(*filled, strict=True)
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _box(box: NDArray[np.int32]) -> str:
    top, left, height, width = box.tolist()
    return f"{width}x{height}+{left}+{top}"


def plan_views(recipe: Recipe, index: SampleIndex, row_B: Ints, view_B: Ints) -> ViewPlan:
    """Decide everything about these views of these rows, whichever they are and in whatever order."""
    row_B, view_B = np.asarray(row_B, np.int64), np.asarray(view_B, np.int64)
    key_B = index.key_hash[row_B]
    words = _draw(recipe, key_B, view_B)
    picture_B2 = _picture_sizes(recipe, index, row_B)
    crop_B4, resize_B2, offset_B2 = GEOMETRIES[recipe.crop](recipe, picture_B2, key_B, view_B, words[Purpose.CROP])
    op_BL, argument_BL, fair_BL = _operations(recipe, words)
    cubic_B, op_cubic_BL = words[Purpose.FLIP][:, 1] < 1 << 31, fair_BL
    if recipe.interpolation != "random":
        cubic_B, op_cubic_BL = (np.full(fair.shape, recipe.interpolation == "bicubic") for fair in (cubic_B, fair_BL))
    return ViewPlan(
        row_B=row_B,
        view_B=view_B,
        key_B=key_B,
        crop_B4=crop_B4.astype(np.int32),
        resize_B2=resize_B2.astype(np.int32),
        offset_B2=offset_B2.astype(np.int32),
        pad=SIMPLE_PAD if recipe.crop == "simple" else 0,
        image_size=recipe.image_size,
        flip_B=uniform(words[Purpose.FLIP][:, 0]) < recipe.flip,
        cubic_B=cubic_B,
        op_BL=op_BL,
        argument_BL=argument_BL,
        op_cubic_BL=op_cubic_BL,
        erase_B4=_erasing(recipe, key_B, view_B, words),
        mixing=plan_mixing(recipe, len(index), row_B, view_B),
    )


def _draw(recipe: Recipe, key_B: NDArray[np.uint64], view_B: Ints) -> dict[Purpose, Words]:
    """The first words [B, 4·n] of every purpose, in one call."""
    policy = recipe.policy
    counts = dict.fromkeys((Purpose.CROP, Purpose.FLIP, Purpose.AUGMENT, Purpose.JITTER, Purpose.ERASE), 1)
    counts[Purpose.AUGMENT] = policy.layers if policy else 1
    blocks = [purpose.block(number) for purpose, count in counts.items() for number in range(count)]
    words = philox_at(key_B, view_B.astype(np.uint32), recipe.seed, np.array(blocks, np.uint32))
    ends = np.cumsum([4 * n for n in counts.values()])
    return dict(zip(counts, np.split(words, ends[:-1], axis=1), strict=True))


def _picture_sizes(recipe: Recipe, index: SampleIndex, row_B: Ints) -> Ints:
    """Height and width; what has no readable header is planned as a square of the view's size."""
    size_B2 = np.stack((index.heights[row_B], index.widths[row_B]), axis=1).astype(np.int64)
    return np.where(size_B2.min(axis=1, keepdims=True) > 0, size_B2, recipe.image_size)


def _operations(
    recipe: Recipe, words: dict[Purpose, Words]
) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.bool_]]:
    """RandAugment or 3-Augment, then colour jitter where it applies; a fair bit for each operation's filter."""
    augment, count = words[Purpose.AUGMENT], len(words[Purpose.AUGMENT])
    parts = []
    policy = recipe.policy
    if policy:
        parts.append(policy.draw(augment.reshape(count, policy.layers, 4), recipe.image_size))
    if recipe.three_augment:
        parts.append(_three_augment(augment))
    if recipe.jitters:
        parts.append(_jitter(recipe, words[Purpose.JITTER]))
    if not parts:
        return np.zeros((count, 0), np.uint8), np.zeros((count, 0), np.int32), np.zeros((count, 0), bool)
    op, argument, fair = (np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True))
    return op, argument, fair


def _three_augment(words_B4: Words) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.bool_]]:
    """Grey, solarise at 128, or blur by a radius between 0.1 and 2: one of them, evenly."""
    pick_B = below(words_B4[:, 0], len(THREE))
    radius_B = between(words_B4[:, 2], *THREE_BLUR)
    value_B3 = np.stack((np.zeros(len(pick_B)), np.full(len(pick_B), 128.0), radius_B), axis=1)
    value_B1 = np.take_along_axis(value_B3, pick_B[:, None], axis=1)
    return np.array(THREE, np.uint8)[pick_B][:, None], _fixed(value_B1), np.zeros(value_B1.shape, bool)


def _jitter(recipe: Recipe, words_B4: Words) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.bool_]]:
    """Brightness, contrast and saturation by factors around 1, in random order."""
    order_B3 = JITTER_ORDERS[below(words_B4[:, 0], len(JITTER_ORDERS))]
    factor_B3 = between(words_B4[:, 1:4], max(0.0, 1.0 - recipe.color_jitter), 1.0 + recipe.color_jitter)
    factor_B3 = np.take_along_axis(factor_B3, order_B3, axis=1)
    return np.array(JITTERS, np.uint8)[order_B3], _fixed(factor_B3), np.zeros(order_B3.shape, bool)


def _erasing(recipe: Recipe, key_B: NDArray[np.uint64], view_B: Ints, words: dict[Purpose, Words]) -> NDArray[np.int32]:
    """A box of 2 to 33 % of the view; none where ten tries do not fit."""
    erase_B4 = np.zeros((len(key_B), 4), np.int32)
    chosen_N = np.flatnonzero(uniform(words[Purpose.FLIP][:, 2]) < recipe.erase)
    if len(chosen_N):
        room_N2 = np.full((len(chosen_N), 2), recipe.image_size)
        draw = (key_B[chosen_N], view_B[chosen_N], recipe.seed)
        box_N4, found_N = place_boxes(
            room_N2 - 1, room_N2, ERASE_AREA, ERASE_ASPECT, Purpose.ERASE, draw, words[Purpose.ERASE][chosen_N]
        )
        erase_B4[chosen_N[found_N]] = box_N4[found_N]
    return erase_B4


def _fixed(value: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.rint(value * ARGUMENT_ONE).astype(np.int32)
