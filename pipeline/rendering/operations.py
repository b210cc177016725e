"""How is each operation of a plan carried out on pixels?

Every function changes a contiguous uint8 picture in place. The meaning is Pillow's, as timm calls it; the work is done
by OpenCV and NumPy in arithmetic that gives the same bits on every processor:

    tables, masks   histogram operations, inversion, posterise, solarise: integers
    blends          colour, contrast, brightness, sharpness: Pillow cuts to an integer where OpenCV rounds, so half a
                    level less a little is taken off first; factors are multiples of 1/4096, which makes every product
                    and sum exact in 32-bit floats
    shears, shifts  one-dimensional interpolation with Pillow's own kernel (cubic with a = −1, edges repeated, the fill
                    colour outside); shifts are exact, shears a chain of single IEEE operations
                    (torch's, which broadcasts a weight over a row at half of NumPy's cost)
    rotation        OpenCV's warp, whose cubic kernel has a = −0.75: the one operation that differs visibly, and the one
                    that is a level off here and there on processors without AVX2

All but rotation, shear and blur equal Pillow's bit for bit; docs/recipe.md has the measured differences of those three.

Shapes: H = W = S the side, C = 3 channels; R rows that are interpolated, K = 4 taps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.views.operation_table import ARGUMENT_ONE, Op
from pipeline.views.randaugment import SUBPIXELS

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

FILL = (124, 116, 104)
"""What shows where a geometric operation uncovers the outside: the ImageNet mean colour, as timm."""
LUMA_16 = np.array([[19595, 38470, 7471, 0x8000]], np.float32)
"""Pillow's luma in 1/65536 and its rounding; every partial sum is an integer under 2^24, so exact in 32-bit floats."""
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
FLOOR = -0.5 + 2.0**-13
"""Added before rounding to nearest, it rounds down: exactly so for multiples of 1/4096."""
MATRIX_ONE = 1 << 20
BLUR_PASSES, BOX_ONE = 3, 1 << 15


def apply(op: int, argument: int, image_HWC: Image, *, cubic: bool = True) -> None:
    """Do one operation of a plan, in place; `argument` is in 1/4096 of the operation's unit."""
    _OPERATIONS[op](image_HWC, argument, cubic)


def _auto_contrast(image_HWC: Image, _argument: int, _cubic: bool) -> None:
    low_C, high_C = (edge(edge(image_HWC, axis=0), axis=0).astype(np.float64) for edge in (np.min, np.max))
    level_N1 = np.arange(256.0)[:, None]
    spread_C = high_C - low_C
    scale_C = 255.0 / np.where(spread_C > 0, spread_C, 1.0)
    stretched_NC = np.clip(np.trunc(level_N1 * scale_C + -low_C * scale_C), 0, 255)
    _look_up(image_HWC, np.where(spread_C > 0, stretched_NC, level_N1))


def _equalize(image_HWC: Image, _argument: int, _cubic: bool) -> None:
    table_NC = np.empty((256, 3))
    for channel in range(3):
        count_N = cv2.calcHist([image_HWC], [channel], None, [256], [0, 256]).ravel().astype(np.int64)
        step = (count_N.sum() - count_N[np.flatnonzero(count_N)[-1]]) // 255
        before_N = np.cumsum(count_N) - count_N
        table_NC[:, channel] = np.minimum((step // 2 + before_N) // step, 255) if step else np.arange(256)
    _look_up(image_HWC, table_NC)


def _look_up(image_HWC: Image, table_NC: NDArray[np.float64]) -> None:
    """Map each channel by its own table; plane by plane is faster than OpenCV's three-channel table."""
    tables = table_NC.T.astype(np.uint8)
    planes = [cv2.LUT(plane, table) for plane, table in zip(cv2.split(image_HWC), tables, strict=True)]
    cv2.merge(planes, dst=image_HWC)


def _invert(image_HWC: Image, _argument: int, _cubic: bool) -> None:
    cv2.bitwise_not(image_HWC, dst=image_HWC)


def _posterize(image_HWC: Image, argument: int, _cubic: bool) -> None:
    bits = argument // ARGUMENT_ONE
    np.bitwise_and(image_HWC, np.uint8(256 - (1 << (8 - bits)) & 255 if bits < 8 else 255), out=image_HWC)


def _solarize(image_HWC: Image, argument: int, _cubic: bool) -> None:
    _, at_least_HWC = cv2.threshold(image_HWC, argument // ARGUMENT_ONE - 1, 255, cv2.THRESH_BINARY)
    cv2.bitwise_xor(image_HWC, at_least_HWC, dst=image_HWC)


def _solarize_add(image_HWC: Image, argument: int, _cubic: bool) -> None:
    _, extra_HWC = cv2.threshold(image_HWC, 127, argument // ARGUMENT_ONE, cv2.THRESH_BINARY_INV)
    cv2.add(image_HWC, extra_HWC, dst=image_HWC)


def _brightness(image_HWC: Image, argument: int, _cubic: bool) -> None:
    cv2.addWeighted(image_HWC, argument / ARGUMENT_ONE, image_HWC, 0.0, FLOOR, dst=image_HWC)


def _contrast(image_HWC: Image, argument: int, _cubic: bool) -> None:
    mean = int(cv2.sumElems(grey(image_HWC))[0] / (image_HWC.shape[0] * image_HWC.shape[1]) + 0.5)
    factor = argument / ARGUMENT_ONE
    cv2.addWeighted(image_HWC, factor, image_HWC, 0.0, (1.0 - factor) * mean + FLOOR, dst=image_HWC)


def _color(image_HWC: Image, argument: int, _cubic: bool) -> None:
    _blend(image_HWC, _bytes(cv2.cvtColor(grey(image_HWC), cv2.COLOR_GRAY2RGB)), argument)


def _sharpness(image_HWC: Image, argument: int, _cubic: bool) -> None:
    smooth_HWC = _bytes(cv2.filter2D(image_HWC, -1, SMOOTH))
    for edge in ((0,), (-1,), (slice(None), 0), (slice(None), -1)):
        smooth_HWC[edge] = image_HWC[edge]
    _blend(image_HWC, smooth_HWC, argument)


def _blend(image_HWC: Image, from_HWC: Image, argument: int) -> None:
    """Move away from another picture by a factor: 0 is the other one, 1 the picture itself."""
    factor = argument / ARGUMENT_ONE
    cv2.addWeighted(image_HWC, factor, from_HWC, 1.0 - factor, FLOOR, dst=image_HWC)


def _blur(image_HWC: Image, argument: int, _cubic: bool) -> None:
    """Three box filters along rows, three along columns, rounded after each: Pillow's Gaussian."""
    tap_K = box_taps(argument / ARGUMENT_ONE)
    for kernel in (tap_K[None], tap_K[:, None]):
        for _ in range(BLUR_PASSES):
            cv2.filter2D(image_HWC, -1, kernel, dst=image_HWC, borderType=cv2.BORDER_REPLICATE)


def box_taps(sigma: float) -> Floats:
    """A box of fractional width, three of which have the variance sigma²; multiples of 2^-15, so sums are exact."""
    variance = sigma * sigma / BLUR_PASSES
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    edge = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    side = round(edge / (2 * (whole + edge) + 1) * BOX_ONE)
    inner, rest = divmod(BOX_ONE - 2 * side, 2 * whole + 1)
    tap_K = np.full(2 * whole + 3, inner)
    tap_K[[0, -1]], tap_K[whole + 1] = side, inner + rest
    return (tap_K / BOX_ONE).astype(np.float32)


def grey(image_HWC: Image) -> Image:
    """How bright each pixel is, in whole levels as Pillow computes it."""
    luma_HW = cv2.transform(image_HWC.astype(np.float32), LUMA_16).astype(np.int32) >> 16
    return luma_HW.astype(np.uint8)


def _rotate(image_HWC: Image, argument: int, cubic: bool) -> None:
    """Turn counter-clockwise by degrees around the centre."""
    angle = math.radians(argument / ARGUMENT_ONE)
    cosine, sine = (round(value * MATRIX_ONE) / MATRIX_ONE for value in (math.cos(angle), -math.sin(angle)))
    middle = (image_HWC.shape[0] - 1) / 2
    matrix = np.array(
        [[cosine, sine, middle * (1 - cosine - sine)], [-sine, cosine, middle * (1 + sine - cosine)]], np.float64
    )
    if cubic:
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        size = image_HWC.shape[1::-1]
        image_HWC[:] = cv2.warpAffine(image_HWC, matrix, size, flags=flags, borderMode=0, borderValue=FILL)
    else:
        image_HWC[:] = cv2.remap(image_HWC, *_maps(matrix, len(image_HWC)), cv2.INTER_LINEAR, None, 0, FILL)


def _maps(matrix: NDArray[np.float64], side: int) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
    """OpenCV's fixed-point maps in 1/32 pixel; its own bilinear warp gives other bits on other processors."""
    (a, b, c), (d, e, f) = np.rint(matrix * (1 << 16)).astype(np.int64)
    place_W = np.arange(side)
    x_HW, y_HW = (
        np.add.outer((down * place_W + start).astype(np.int32), (along * place_W).astype(np.int32)) >> 11
        for along, down, start in ((a, b, c), (d, e, f))
    )  # under 2^30 at the largest side of a view, 4096
    whole_HW2 = np.empty((side, side, 2), np.int16)
    for axis, place_HW in enumerate((x_HW, y_HW)):
        np.right_shift(place_HW, 5, out=whole_HW2[..., axis], casting="unsafe")
    return whole_HW2, ((x_HW & 31) | (y_HW & 31) << 5).astype(np.uint16)


def _shear_x(image_HWC: Image, argument: int, cubic: bool) -> None:
    """Row y shows what lies argument · (y + ½) pixels further right."""
    side = len(image_HWC)
    shift_R = argument * (2 * np.arange(side) + 1) / (2 * ARGUMENT_ONE)
    whole_R = np.floor(shift_R)
    tap_RK = torch.from_numpy(_taps(shift_R - whole_R, cubic).astype(np.float32))
    padded = cv2.copyMakeBorder(image_HWC, 1, 1, 2, 2, cv2.BORDER_REPLICATE)
    stride, width = 3 * (side + 4), 3 * side
    start_R = (np.arange(side) + 1) * stride + 3 * (np.clip(whole_R, -side, side).astype(np.int64) + 1)
    runs = np.lib.stride_tricks.as_strided(padded, (padded.size - width - 8, width + 9), (1, 1), writeable=False)
    row_RW = torch.from_numpy(runs[start_R].astype(np.float32))  # outside the picture: filled below
    first, *others = range(4) if cubic else (1, 2)  # the outer two of linear interpolation weigh nothing
    total_RW = row_RW[:, 3 * first : 3 * first + width] * tap_RK[:, first : first + 1]
    part_RW = torch.empty_like(total_RW)
    for tap in others:  # single operations: no processor may fuse them
        torch.mul(row_RW[:, 3 * tap : 3 * tap + width], tap_RK[:, tap : tap + 1], out=part_RW)
        total_RW += part_RW
    total = total_RW.numpy()
    cv2.addWeighted(total, 1.0, total, 0.0, FLOOR, dst=image_HWC.reshape(side, width), dtype=cv2.CV_8U)
    column_W, limit_R1 = np.arange(side, dtype=np.int32), np.ceil(-0.5 - shift_R)[:, None].astype(np.int32)
    outside_RW = column_W >= limit_R1 + side if argument > 0 else column_W < limit_R1
    cv2.copyTo(_filled(side), outside_RW.view(np.uint8), dst=image_HWC)


def _translate_x(image_HWC: Image, argument: int, cubic: bool) -> None:
    """Each pixel shows what lies `argument` pixels further right."""
    side = len(image_HWC)
    steps = argument * SUBPIXELS // ARGUMENT_ONE
    whole, fraction = divmod(steps, SUBPIXELS)
    first = min(max(0, -((steps + SUBPIXELS // 2) // SUBPIXELS)), side)
    stop = max(min(side, -((steps + SUBPIXELS // 2 - SUBPIXELS * side) // SUBPIXELS)), 0)
    outside = (slice(None, first), slice(stop, None)) if first < stop else (slice(None),)
    if first < stop:
        start = max(first + whole - 1, 0)
        source = cv2.copyMakeBorder(image_HWC[:, start : stop + whole + 2], 0, 0, 1, 0, cv2.BORDER_REPLICATE)
        tap_1K = _taps(np.array([fraction / SUBPIXELS]), cubic).astype(np.float32)
        moved = cv2.filter2D(source, -1, tap_1K, anchor=(1, 0), delta=FLOOR, borderType=cv2.BORDER_REPLICATE)
        image_HWC[:, first:stop] = moved[:, first + whole + 1 - start : stop + whole + 1 - start]
    for part in outside:
        image_HWC[:, part] = _filled(side)[:, part]


def _turned(along_rows: Callable[[Image, int, bool], None]) -> Callable[[Image, int, bool], None]:
    """The same operation along columns."""

    def along_columns(image_HWC: Image, argument: int, cubic: bool) -> None:
        turned_WHC = _bytes(cv2.transpose(image_HWC))
        along_rows(turned_WHC, argument, cubic)
        cv2.transpose(turned_WHC, dst=image_HWC)

    return along_columns


def _taps(fraction: NDArray[np.float64], cubic: bool) -> NDArray[np.float64]:
    """Weights of the pixels at −1, 0, 1, 2 for a point that far right of 0."""
    d = fraction
    if not cubic:
        return np.stack((0 * d, 1 - d, d, 0 * d), axis=-1)
    square, cube = d * d, d * d * d
    return np.stack((2 * square - d - cube, 1 - 2 * square + cube, d + square - cube, cube - square), axis=-1)


def _bytes(array: object) -> Image:
    """What OpenCV returns, by its real type."""
    assert isinstance(array, np.ndarray) and array.dtype == np.uint8
    return array


@lru_cache(maxsize=4)
def _filled(side: int) -> Image:
    picture_HWC = np.empty((side, side, 3), np.uint8)
    picture_HWC[:] = FILL
    return picture_HWC


_OPERATIONS: dict[int, Callable[[Image, int, bool], None]] = {
    Op.AUTO_CONTRAST: _auto_contrast,
    Op.EQUALIZE: _equalize,
    Op.INVERT: _invert,
    Op.ROTATE: _rotate,
    Op.POSTERIZE: _posterize,
    Op.SOLARIZE: _solarize,
    Op.SOLARIZE_ADD: _solarize_add,
    Op.COLOR: _color,
    Op.CONTRAST: _contrast,
    Op.BRIGHTNESS: _brightness,
    Op.SHARPNESS: _sharpness,
    Op.SHEAR_X: _shear_x,
    Op.SHEAR_Y: _turned(_shear_x),
    Op.TRANSLATE_X: _translate_x,
    Op.TRANSLATE_Y: _turned(_translate_x),
    Op.BLUR: _blur,
}
