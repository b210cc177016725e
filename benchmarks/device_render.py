"""What would the same plan cost where it is executed on a GPU, and how far would its pixels be from the processor's?

`draw` executes a `ViewPlan` on decoded pictures, all views of a call together, on whatever device the pictures are:

    cut      crops of like size together: two batched matrix products with the weights of torch's antialiased uint8
             kernel (a = −0.5, 15 bits), rounded after each as there; mirroring is in the weights
    operate  `benchmarks.device_operations`
    erase    `benchmarks.device_noise`
    mix      both base views of a pair are in the call, and are mixed with each other

From the same decoded pictures its pixels are those of `pipeline.rendering.renderer`, bit for bit: sums are integers, or
whole numbers in 64-bit floats. One operation is left to the processor: rotation by OpenCV's cubic kernel (6 to 7 % of
DeiT's base views). So it is a second executor of plans, written from their meaning, and each holds the other to it
(tests/benchmarks/test_device_render.py). Nothing of it draws a view that is stored or trained on, and nvJPEG would
decode otherwise. `benchmarks.device_plans` measures it.

Shapes: B views, N of them that are worked on together, S the side of a view, R that of the resized picture, h × w the
largest crop among N, A = 2 axes, C = 3 channels, K taps, P bytes of all pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.device_noise import words
from benchmarks.device_operations import moved, operate
from pipeline.errors import UserError
from pipeline.rendering.noise import levels
from pipeline.views.mixing import LAMBDA_ONE, Kind
from pipeline.views.plan import ViewPlan
from pipeline.views.recipe import Recipe

STEPS = 2
"""Crops are cut together where their sides lie between the same powers of 2^(1/STEPS)."""
MOST_PIXELS = 1 << 24
"""Of what is cut together, with its padding."""
MOST_BITS, WEIGHT_LIMIT = 22, 1 << 15
Ints = NDArray[np.int64]


def draw(recipe: Recipe, plan: ViewPlan, pictures: Mapping[int, Tensor]) -> Tensor:
    """All views of the plan [B, 3, S, S], from the pictures [3, H, W] of its rows."""
    mate_B = mates(plan)
    base_BCSS = cut(plan, pictures, recipe.image_size)
    operate(base_BCSS, plan.op_BL, plan.argument_BL, plan.op_cubic_BL)
    erase(base_BCSS, plan, recipe.seed)
    return mix(base_BCSS, plan, mate_B)


# Cutting


def cut(plan: ViewPlan, pictures: Mapping[int, Tensor], side: int) -> Tensor:
    """Cut, resize, mirror."""
    rows, place_B = np.unique(plan.row_B, return_inverse=True)
    kept = [pictures[row] for row in rows.tolist()]
    shape_B2 = np.array([picture.shape[1:] for picture in kept])[place_B]
    assert ((plan.crop_B4[:, :2] + plan.crop_B4[:, 2:]) <= shape_B2).all(), "a picture is smaller than its index says"
    start_B = np.cumsum([0, *(picture.numel() for picture in kept)])[place_B]
    pixels_P = torch.cat([picture.reshape(-1) for picture in kept])
    groups = list(_alike(plan.crop_B4[:, 2:].astype(np.int64)))
    order_B, ends = np.concatenate(groups), np.cumsum([0, *map(len, groups)]).tolist()
    taps = _Taps.of(plan, order_B, side, pixels_P.device)
    ordered_BCSS = torch.empty((len(plan), 3, side, side), dtype=torch.uint8, device=pixels_P.device)
    for place_N, span in zip(groups, map(slice, ends, ends[1:]), strict=False):
        part_NhCw = _crops(pixels_P, plan.crop_B4[place_N].astype(np.int64), start_B[place_N], shape_B2[place_N])
        ordered_BCSS[span] = _resized(part_NhCw, taps, span)
    return ordered_BCSS[moved(np.argsort(order_B), pixels_P.device)]


def _alike(size_B2: Ints) -> Iterator[Ints]:
    """Places of crops of like height and width: padded to the largest of them, they waste little."""
    step_B2 = np.ceil(STEPS * np.log2(size_B2)).astype(np.int64)
    order_B = np.lexsort(step_B2.T)
    ends = np.flatnonzero(np.diff(step_B2[order_B], axis=0, append=np.iinfo(np.int64).max).any(axis=1)) + 1
    for place_N in np.split(order_B, ends[:-1]):
        count = max(1, MOST_PIXELS // int(size_B2[place_N].max(axis=0).prod()))
        yield from (place_N[start : start + count] for start in range(0, len(place_N), count))


def _crops(pixels_P: Tensor, crop_N4: Ints, start_N: Ints, shape_N2: Ints) -> Tensor:
    """The crops [N, h, C, w] as doubles; beyond its last row and column a crop repeats them, which have no weight."""
    (top_N, left_N, height_N, width_N), (tall_N, wide_N) = crop_N4.T, shape_N2.T
    y_Nh = top_N[:, None] + np.minimum(np.arange(height_N.max()), height_N[:, None] - 1)
    x_Nw = left_N[:, None] + np.minimum(np.arange(width_N.max()), width_N[:, None] - 1)
    plane_NC = start_N[:, None] + np.arange(3) * (tall_N * wide_N)[:, None]
    row_Nh, plane_NC, x_Nw = (moved(array, pixels_P.device) for array in (y_Nh * wide_N[:, None], plane_NC, x_Nw))
    return pixels_P[row_Nh[:, :, None, None] + plane_NC[:, None, :, None] + x_Nw[:, None, None]].double()


def _resized(part_NhCw: Tensor, taps: _Taps, span: slice) -> Tensor:
    """Along rows, then along columns, rounded after each."""
    count, height, _, width = part_NhCw.shape
    down_NSh, across_NSw = taps.dense(0, span, height), taps.dense(1, span, width)
    narrow = _rounded(torch.bmm(part_NhCw.view(count, 3 * height, width), across_NSw.mT))
    final = _rounded(torch.bmm(down_NSh, narrow.view(count, height, -1)))
    return final.view(count, final.shape[1], 3, -1).transpose(1, 2)


def _rounded(value: Tensor) -> Tensor:
    return value.add_(0.5).floor_().clamp_(0, 255)


@dataclass(frozen=True, slots=True)
class _Taps:
    """Which pixels of its crop each row (axis 0) and each column (axis 1) of a view takes, with what weights."""

    most_AB: Ints
    """How many of the K can have a weight; on the host."""
    index_ABSK: Tensor
    weight_ABSK: Tensor

    @classmethod
    def of(cls, plan: ViewPlan, order_B: Ints, side: int, device: torch.device) -> _Taps:
        """Of all views at once, in that order."""
        size_AB, resized_AB = plan.crop_B4[order_B, 2:].T, plan.resize_B2[order_B].T
        stretch_AB = np.maximum(size_AB / resized_AB, 1.0)
        most_AB = np.ceil(4 * stretch_AB).astype(np.int64) + 1
        numbers = (size_AB, resized_AB, stretch_AB, np.broadcast_to(plan.cubic_B[order_B], size_AB.shape))
        size, resized, stretch, cubic = moved(np.stack(numbers), device)[..., None]
        row_ABR = torch.minimum(torch.arange(int(resized_AB.max()), device=device), resized - 1)
        center_ABR, support = (size / resized) * (row_ABR + 0.5), (1 + cubic) * stretch
        begin_ABR = (center_ABR - support + 0.5).trunc().clamp(min=0)
        end_ABR = torch.minimum((center_ABR + support + 0.5).trunc(), size)
        index_ABRK = begin_ABR[..., None] + torch.arange(int(most_AB.max()), device=device)
        far_ABRK = (index_ABRK - center_ABR[..., None] + 0.5) * (1.0 / stretch)[..., None]
        weight_ABRK = torch.where(index_ABRK < end_ABR[..., None], _kernel(far_ABRK, cubic[..., None] > 0), 0.0)
        weight_ABRK = _in_bits(weight_ABRK / weight_ABRK.sum(3, keepdim=True))
        shown_ABSK = moved(_shown(plan, order_B, side), device)[..., None].expand(-1, -1, -1, index_ABRK.shape[3])
        return cls(most_AB, index_ABRK.long().gather(2, shown_ABSK), weight_ABRK.gather(2, shown_ABSK))

    def dense(self, axis: int, span: slice, length: int) -> Tensor:
        """What each row (or column) of some views takes from each of their crops [N, S, length]."""
        most = int(self.most_AB[axis, span].max())
        index_NSK, weight_NSK = (tensor[axis, span, :, :most] for tensor in (self.index_ABSK, self.weight_ABSK))
        taps_end = (*index_NSK.shape[:2], length + most)  # they may reach beyond the crop
        room = torch.zeros(taps_end, dtype=torch.float64, device=index_NSK.device)
        return room.scatter_(2, index_NSK, weight_NSK)[..., :length]


def _shown(plan: ViewPlan, order_B: Ints, side: int) -> Ints:
    """The rows and columns [A, B, S] of the resized picture that a view shows; beyond its ends they are reflected."""
    last_AB1 = plan.resize_B2[order_B].T[..., None].astype(np.int64) - 1
    shown_ABS: Ints = np.abs(plan.offset_B2[order_B].T[..., None] - plan.pad + np.arange(side))
    shown_ABS = np.minimum(shown_ABS, 2 * last_AB1 - shown_ABS)
    flipped_B = plan.flip_B[order_B]
    shown_ABS[1, flipped_B] = shown_ABS[1, flipped_B, ::-1]
    return shown_ABS


def _kernel(place: Tensor, cubic: Tensor) -> Tensor:
    """Keys' cubic with a = −0.5, or the triangle."""
    x = place.abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, -0.5 * (((x - 5) * x + 8) * x - 4)
    return torch.where(cubic, torch.where(x < 1, near, torch.where(x < 2, far, 0.0)), (1 - x).clamp(min=0))


def _in_bits(weight_ABRK: Tensor) -> Tensor:
    """Multiples of the smallest power of two of which the largest weight of a view has less than 2^15."""
    largest = weight_ABRK.amax((2, 3), keepdim=True)
    one_M = 2.0 ** torch.arange(1, MOST_BITS + 1, device=largest.device, dtype=torch.float64)
    one = 2.0 ** ((largest * one_M + 0.5).floor() < WEIGHT_LIMIT).sum(3, keepdim=True).double()
    scaled_ABRK = weight_ABRK * one
    return (scaled_ABRK + scaled_ABRK.sign() * 0.5).trunc() / one


# Erasing


def erase(base_BCSS: Tensor, plan: ViewPlan, seed: int) -> None:
    """Noise in the boxes, in place."""
    place_N = np.flatnonzero(plan.erase_B4[:, 2])
    if not len(place_N):
        return
    place, device, side = moved(place_N, base_BCSS.device), base_BCSS.device, base_BCSS.shape[3]
    top_N, left_N, height_N, width_N = (moved(edge_N, device) for edge_N in plan.erase_B4[place_N].T.astype(np.int64))
    row_NS1 = (torch.arange(side, device=device) - top_N[:, None])[:, :, None]
    column_N1S = (torch.arange(side, device=device) - left_N[:, None])[:, None]
    inner_N1SS = (row_NS1 * width_N[:, None, None] + column_N1S)[:, None]
    channel_C11 = torch.arange(3, device=device)[:, None, None]
    count = 3 * int(plan.erase_B4[place_N, 2:].astype(np.int64).prod(axis=1).max())
    word_NCSS = inner_N1SS + channel_C11 * (height_N * width_N)[:, None, None, None]
    word_NW = words(plan.key_B[place_N], plan.view_B[place_N], seed, count, device)
    drawn_NCSS = word_NW.gather(1, word_NCSS.clamp_(0, count - 1).flatten(1)).view(-1, 3, side, side)
    noise_NCSS = moved(levels().ravel(), device)[drawn_NCSS + (channel_C11 << 16)]
    inside_N1SS = _inside(plan.erase_B4[place_N], side, device)
    base_BCSS[place] = torch.where(inside_N1SS, noise_NCSS, base_BCSS[place])


# Mixing


def mates(plan: ViewPlan) -> Ints:
    """Where in the plan the partner of each view is."""
    rows, views, partners = (array.tolist() for array in (plan.row_B, plan.view_B, plan.mixing.partner_B))
    known = {pair: place for place, pair in enumerate(zip(rows, views, strict=True))}
    pairs = list(zip(partners, views, strict=True))
    unknown = [place for place, pair in enumerate(pairs) if pair not in known]
    if unknown:
        first = unknown[0]
        raise UserError(
            f"row {rows[first]} is mixed with row {partners[first]} in view {views[first]}, which is not in the call, "
            f"as {len(unknown)} of {len(rows)} are not. Draw whole mix windows."
        )
    return np.array([known[pair] for pair in pairs], np.int64)


def mix(base_BCSS: Tensor, plan: ViewPlan, mate_B: Ints) -> Tensor:
    """Each view with its mate's base view."""
    mixing, device, side = plan.mixing, base_BCSS.device, base_BCSS.shape[3]
    mixed_BCSS = base_BCSS.clone()
    for kind in (Kind.MIXUP, Kind.CUTMIX):
        place_N = np.flatnonzero(mixing.kind_B == kind)
        if not len(place_N):
            continue
        place = moved(place_N, device)
        own_NCSS, other_NCSS = base_BCSS[place], base_BCSS[moved(mate_B[place_N], device)]
        if kind == Kind.CUTMIX:
            inside_N1SS = _inside(mixing.box_B4[place_N], side, device)
            mixed_BCSS[place] = torch.where(inside_N1SS, other_NCSS, own_NCSS)
        else:
            lam = moved((mixing.lam_B[place_N] * LAMBDA_ONE).astype(np.float32), device)[:, None, None, None]
            total_NCSS = own_NCSS * lam + other_NCSS * (LAMBDA_ONE - lam)  # exact
            mixed_BCSS[place] = total_NCSS.div_(LAMBDA_ONE).round_().to(torch.uint8)
    return mixed_BCSS


def _inside(box_N4: NDArray[np.int32], side: int, device: torch.device) -> Tensor:
    """Which pixels lie in the boxes [N, 1, S, S]."""
    edges_N41 = moved(box_N4, device)[:, :, None]
    place_S = torch.arange(side, device=device)
    top, left, height, width = edges_N41.unbind(1)
    down_NS, across_NS = (place_S >= top) & (place_S < top + height), (place_S >= left) & (place_S < left + width)
    return (down_NS[:, :, None] & across_NS[:, None])[:, None]
