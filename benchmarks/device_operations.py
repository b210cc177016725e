"""How are the operations of a plan carried out on many views at once, on any device?

Those of `pipeline.rendering.operations`, a layer of the plan after the other. Within a layer the views that share a
kind of operation are done together, each with its own argument, so the number of kernels does not grow with the views:

    tables    eight operations as one look-up in a table a view and channel
    blends    colour, sharpness: integers, shifted down
    shifts    shears and translations: four taps along rows, one gather each; along columns by turning the views
    rotation  bilinear: OpenCV's maps in 1/32 pixel, four gathers, weights of 1/1024; cubic: left to the processor
    blur      three boxes along rows, three along columns

All are done in integers, or in the very chain of single IEEE operations of the processor's renderer, and equal it bit
for bit. OpenCV's cubic warp has its places in floats of its own, so those few views go to the host and back.
`torch.compile` would fuse operations and must stay away.

Shapes: B views, N of them that share a kind, L layers, C = 3 channels, H = W = S the side, V = 256 levels, K taps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline.rendering.operations import BLUR_PASSES, FILL, FLOOR, MATRIX_ONE, apply, box_taps
from pipeline.views.operation_table import ARGUMENT_ONE, Kind, Op, ops_of

ARGUMENT_BITS = ARGUMENT_ONE.bit_length() - 1
LUMA = (19595, 38470, 7471)
MAP_BITS, GRID_BITS = 16, 5
MAP_ONE, GRID_ONE = 1 << MAP_BITS, 1 << GRID_BITS
SHEARS, UPRIGHT = (Op.SHEAR_X, Op.SHEAR_Y), (Op.SHEAR_Y, Op.TRANSLATE_Y)


@dataclass(frozen=True, slots=True)
class Steps:
    """One operation each, of N views; on the host."""

    op_N: NDArray[np.uint8]
    argument_N: NDArray[np.int32]
    cubic_N: NDArray[np.bool_]

    def some(self, place_M: NDArray[np.int64]) -> Steps:
        """Those of some of the views."""
        return Steps(self.op_N[place_M], self.argument_N[place_M], self.cubic_N[place_M])


def operate(
    image_BCSS: Tensor, op_BL: NDArray[np.uint8], argument_BL: NDArray[np.int32], cubic_BL: NDArray[np.bool_]
) -> None:
    """Do all layers, in place."""
    for op_B, argument_B, cubic_B in zip(op_BL.T, argument_BL.T, cubic_BL.T, strict=True):
        for kind, carry_out in HOW.items():
            place_N = np.flatnonzero(np.isin(op_B, ops_of(kind)))
            if len(place_N):
                place = moved(place_N, image_BCSS.device)
                steps = Steps(op_B, argument_B, cubic_B).some(place_N)
                image_BCSS[place] = carry_out(image_BCSS[place], steps)


def moved(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """A host's array on the device."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)  # staged: nothing is waited for


# Tables


def look_up(image_NCSS: Tensor, steps: Steps) -> Tensor:
    """Every channel of every view through its own table."""
    table_NCV = torch.empty((*image_NCSS.shape[:2], 256), dtype=torch.uint8, device=image_NCSS.device)
    for op in np.unique(steps.op_N).tolist():
        place_M = np.flatnonzero(steps.op_N == op)
        place, argument_M11 = (moved(array, image_NCSS.device) for array in (place_M, steps.argument_N[place_M]))
        table_MCV = TABLES[op](image_NCSS[place], argument_M11.long()[:, None, None])
        table_NCV[place] = table_MCV.clamp(0, 255).to(torch.uint8).expand(-1, 3, -1)
    return table_NCV.gather(2, image_NCSS.flatten(2).long()).view_as(image_NCSS)


def _levels(image_NCSS: Tensor) -> Tensor:
    return torch.arange(256, device=image_NCSS.device)


def _auto_contrast(image_NCSS: Tensor, _argument_N11: Tensor) -> Tensor:
    low_NC1, high_NC1 = (edge(image_NCSS.flatten(2), 2, True).double() for edge in (torch.amin, torch.amax))
    level_V = _levels(image_NCSS).double()
    spread_NC1 = high_NC1 - low_NC1
    top = torch.full_like(spread_NC1, 255.0)  # a plain number would be multiplied by a reciprocal, which rounds twice
    scale_NC1 = top / torch.where(spread_NC1 > 0, spread_NC1, 1.0)
    stretched_NCV = (level_V * scale_NC1 + -low_NC1 * scale_NC1).trunc()
    return torch.where(spread_NC1 > 0, stretched_NCV, level_V).long()


def _equalize(image_NCSS: Tensor, _argument_N11: Tensor) -> Tensor:
    value_NCP = image_NCSS.flatten(2).long()
    count_NCV = torch.zeros((*value_NCP.shape[:2], 256), dtype=torch.int64, device=value_NCP.device)
    count_NCV.scatter_add_(2, value_NCP, torch.ones_like(value_NCP))
    last_NC1 = count_NCV.gather(2, value_NCP.amax(2, True))
    step_NC1 = (value_NCP.shape[2] - last_NC1) // 255
    before_NCV = count_NCV.cumsum(2) - count_NCV
    table_NCV = (step_NC1 // 2 + before_NCV) // step_NC1.clamp(min=1)
    return torch.where(step_NC1 > 0, table_NCV, _levels(image_NCSS))


def _invert(image_NCSS: Tensor, argument_N11: Tensor) -> Tensor:
    return 255 - _levels(image_NCSS) + 0 * argument_N11


def _posterize(image_NCSS: Tensor, argument_N11: Tensor) -> Tensor:
    lost_N11 = 8 - (argument_N11 >> ARGUMENT_BITS).clamp(0, 8)
    return _levels(image_NCSS) >> lost_N11 << lost_N11


def _solarize(image_NCSS: Tensor, argument_N11: Tensor) -> Tensor:
    level_V = _levels(image_NCSS)
    return torch.where(level_V >= argument_N11 >> ARGUMENT_BITS, 255 - level_V, level_V)


def _solarize_add(image_NCSS: Tensor, argument_N11: Tensor) -> Tensor:
    level_V = _levels(image_NCSS)
    return torch.where(level_V < 128, level_V + (argument_N11 >> ARGUMENT_BITS), level_V)


def _brightness(image_NCSS: Tensor, argument_N11: Tensor) -> Tensor:
    return argument_N11 * _levels(image_NCSS) >> ARGUMENT_BITS


def _contrast(image_NCSS: Tensor, argument_N11: Tensor) -> Tensor:
    total_N11 = grey(image_NCSS.int()).sum((2, 3)).double()[:, None]
    mean_N11 = (total_N11 / image_NCSS[0, 0].numel() + 0.5).long()
    return argument_N11 * _levels(image_NCSS) + (ARGUMENT_ONE - argument_N11) * mean_N11 >> ARGUMENT_BITS


# Blends


def grey(image_NCSS: Tensor) -> Tensor:
    """Pillow's luma, of 32-bit integers."""
    red, green, blue = (weight * image_NCSS[:, channel] for channel, weight in enumerate(LUMA))
    return (red + green + blue + 0x8000 >> 16)[:, None]


def color(image_NCSS: Tensor, steps: Steps) -> Tensor:
    """Away from grey, or towards it."""
    wide_NCSS = image_NCSS.int()
    return _blend(wide_NCSS, grey(wide_NCSS), steps)


def sharpness(image_NCSS: Tensor, steps: Steps) -> Tensor:
    """Away from the smoothed picture, whose edges are those of the picture itself."""
    wide_NCSS = image_NCSS.int()
    rows = wide_NCSS[:, :, :-2] + wide_NCSS[:, :, 1:-1] + wide_NCSS[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * wide_NCSS[:, :, 1:-1, 1:-1]
    smooth_NCSS = wide_NCSS.clone()
    smooth_NCSS[:, :, 1:-1, 1:-1] = (2 * total + 13) // 26  # thirteenths, to the nearest
    return _blend(wide_NCSS, smooth_NCSS, steps)


def _blend(image_NCSS: Tensor, from_NCSS: Tensor, steps: Steps) -> Tensor:
    factor = moved(steps.argument_N, image_NCSS.device)[:, None, None, None]
    blended_NCSS = factor * image_NCSS + (ARGUMENT_ONE - factor) * from_NCSS >> ARGUMENT_BITS
    return blended_NCSS.clamp_(0, 255).to(torch.uint8)


# Geometry


def shift(image_NCSS: Tensor, steps: Steps) -> Tensor:
    """Every row shows what lies further right: by the same for all rows, or by more from row to row."""
    device, side = image_NCSS.device, image_NCSS.shape[3]
    upright = moved(np.isin(steps.op_N, UPRIGHT), device)[:, None, None, None]
    lying_NCSS = torch.where(upright, image_NCSS.transpose(2, 3), image_NCSS)
    shift_NR = moved(_row_shifts(steps, side), device)
    whole_NR = shift_NR.floor()
    tap_NRK = _taps(shift_NR - whole_NR, moved(steps.cubic_N, device)[:, None]).float()
    column_S = torch.arange(side, device=device)
    source_NRS = column_S + whole_NR.long()[..., None] - 1
    total_NCRS = torch.zeros(lying_NCSS.shape, device=device)
    for tap in range(4):  # single operations, in the order of `pipeline.rendering.operations`
        source = (source_NRS + tap).clamp(0, side - 1)[:, None].expand(-1, 3, -1, -1)
        total_NCRS += lying_NCSS.gather(3, source).float().mul_(tap_NRK[:, None, :, tap, None])
    limit_NR1 = (-0.5 - shift_NR).ceil()[..., None]
    outside_NRS = (column_S < limit_NR1) | (column_S >= limit_NR1 + side)
    value_NCRS = total_NCRS.add_(FLOOR).round_().clamp_(0, 255)
    filled_NCRS = torch.where(outside_NRS[:, None], _fill(device), value_NCRS).to(torch.uint8)
    return torch.where(upright, filled_NCRS.transpose(2, 3), filled_NCRS)


def _row_shifts(steps: Steps, side: int) -> NDArray[np.float64]:
    """Pixels by which each row's source lies further right."""
    argument_N1, shears_N1 = steps.argument_N[:, None].astype(np.int64), np.isin(steps.op_N, SHEARS)[:, None]
    return np.where(shears_N1, argument_N1 * (2 * np.arange(side) + 1), 2 * argument_N1) / (2 * ARGUMENT_ONE)


def _taps(fraction: Tensor, cubic: Tensor) -> Tensor:
    """Weights of the pixels at −1, 0, 1, 2: cubic with a = −1, or linear."""
    d, zero = fraction, torch.zeros_like(fraction)
    square, cube = d * d, d * d * d
    curved = (2 * square - d - cube, 1 - 2 * square + cube, d + square - cube, cube - square)
    return torch.stack([torch.where(cubic, *pair) for pair in zip(curved, (zero, 1 - d, d, zero), strict=True)], -1)


def _fill(device: torch.device) -> Tensor:
    return moved(np.array(FILL, np.float32)[:, None, None], device)


def rotate(image_NCSS: Tensor, steps: Steps) -> Tensor:
    """Counter-clockwise around the centre, bicubic and bilinear apart."""
    turned_NCSS = torch.empty_like(image_NCSS)
    for cubic, turn in ((True, by_the_processor), (False, _turned)):
        place_M = np.flatnonzero(steps.cubic_N == cubic)
        if len(place_M):
            place = moved(place_M, image_NCSS.device)
            turned_NCSS[place] = turn(image_NCSS[place], steps.some(place_M))
    return turned_NCSS


def by_the_processor(image_NCSS: Tensor, steps: Steps) -> Tensor:
    """What the renderer does, on the host."""
    image_NSSC = image_NCSS.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    for image_SSC, op, argument, cubic in zip(image_NSSC, steps.op_N, steps.argument_N, steps.cubic_N, strict=True):
        apply(int(op), int(argument), image_SSC, cubic=bool(cubic))
    return moved(image_NSSC, image_NCSS.device).permute(0, 3, 1, 2)


def _turned(image_NCSS: Tensor, steps: Steps) -> Tensor:
    """Between the four pixels around the place where each one looks, the fill colour being outside."""
    device, side = image_NCSS.device, image_NCSS.shape[3]
    fill_C1 = torch.tensor(FILL, dtype=torch.int32, device=device)[:, None]
    pixels_NCP = image_NCSS.flatten(2).int()
    x_NSS, y_NSS = _places(steps.argument_N, side, device)
    right_NSS, below_NSS = x_NSS & GRID_ONE - 1, y_NSS & GRID_ONE - 1
    total_NCP = torch.full_like(pixels_NCP, 1 << GRID_BITS * 2 - 1)
    for down, across in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight_NSS = (below_NSS if down else GRID_ONE - below_NSS) * (right_NSS if across else GRID_ONE - right_NSS)
        row_NSS, column_NSS = (y_NSS >> GRID_BITS) + down, (x_NSS >> GRID_BITS) + across
        inside_NSS = (row_NSS >= 0) & (row_NSS < side) & (column_NSS >= 0) & (column_NSS < side)
        place_NSS = row_NSS.clamp(0, side - 1) * side + column_NSS.clamp(0, side - 1)
        value_NCP = pixels_NCP.gather(2, place_NSS.flatten(1)[:, None].expand(-1, 3, -1))
        value_NCP = torch.where(inside_NSS.flatten(1)[:, None], value_NCP, fill_C1)
        total_NCP += weight_NSS.flatten(1)[:, None].int() * value_NCP
    return (total_NCP >> GRID_BITS * 2).to(torch.uint8).view_as(image_NCSS)


def _places(argument_N: NDArray[np.int32], side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The column and the row where each pixel looks, in 1/32 pixel."""
    turn_N = [math.radians(argument / ARGUMENT_ONE) for argument in argument_N.tolist()]
    cosine, sine = (np.rint(np.array([f(t) for t in turn_N]) * MATRIX_ONE) / MATRIX_ONE for f in (math.cos, math.sin))
    middle, place_S = (side - 1) / 2, torch.arange(side, device=device)
    rows = ((cosine, -sine, middle * (1 - cosine + sine)), (sine, cosine, middle * (1 - sine - cosine)))
    axes = []
    for row_3N in map(np.stack, rows):
        whole_3N = np.rint(row_3N * MAP_ONE).astype(np.int64)
        along, down, start = (moved(number_N, device)[:, None, None] for number_N in whole_3N)
        axes.append(along * place_S + down * place_S[:, None] + start >> MAP_BITS - GRID_BITS)
    return axes[0], axes[1]


# Blur


def blur(image_NCSS: Tensor, steps: Steps) -> Tensor:
    """Box filters along rows, then along columns, rounded after each."""
    taps = [box_taps(argument / ARGUMENT_ONE) for argument in steps.argument_N.tolist()]
    reach = max(len(tap_K) for tap_K in taps) // 2
    tap_NK = np.stack([np.pad(tap_K, reach - len(tap_K) // 2) for tap_K in taps])
    tap_N111K = moved(tap_NK, image_NCSS.device)[:, None, None, None]
    value_NCSS = image_NCSS.float()
    for _ in range(2):
        for _ in range(BLUR_PASSES):
            value_NCSS = _box(value_NCSS, tap_N111K, reach)
        value_NCSS = value_NCSS.transpose(2, 3)
    return value_NCSS.to(torch.uint8)


def _box(value_NCSS: Tensor, tap_N111K: Tensor, reach: int) -> Tensor:
    """One filter along rows; its sums are exact."""
    side = value_NCSS.shape[3]
    padded = functional.pad(value_NCSS, (reach, reach, 0, 0), "replicate")
    parts = (padded[..., k : k + side] * tap_N111K[..., k] for k in range(2 * reach + 1))
    return sum(parts, torch.zeros_like(value_NCSS)).round_()


TABLES: dict[int, Callable[[Tensor, Tensor], Tensor]] = {
    Op.AUTO_CONTRAST: _auto_contrast,
    Op.EQUALIZE: _equalize,
    Op.INVERT: _invert,
    Op.POSTERIZE: _posterize,
    Op.SOLARIZE: _solarize,
    Op.SOLARIZE_ADD: _solarize_add,
    Op.BRIGHTNESS: _brightness,
    Op.CONTRAST: _contrast,
}
HOW: dict[Kind, Callable[[Tensor, Steps], Tensor]] = {
    Kind.TABLE: look_up,
    Kind.COLOR: color,
    Kind.SHARPNESS: sharpness,
    Kind.SHIFT: shift,
    Kind.ROTATION: rotate,
    Kind.BLUR: blur,
}
