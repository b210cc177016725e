"""Operations with their arguments, and pictures to carry them out on."""

from __future__ import annotations

import numpy as np

from pipeline.rendering.operations import apply
from pipeline.views.operation_table import ARGUMENT_ONE, Op
from pipeline.views.randaugment import SUBPIXELS
from tests.pictures import scene

ARGUMENTS = {
    Op.AUTO_CONTRAST: [0],
    Op.EQUALIZE: [0],
    Op.INVERT: [0],
    Op.POSTERIZE: [0, 1, 2, 3, 4, 8],
    Op.SOLARIZE: [0, 1, 26, 128, 255, 256],
    Op.SOLARIZE_ADD: [0, 1, 99, 110, 128],
    Op.COLOR: [0, 0.1, 0.1923, 1, 1.81, 1.9, 2.8],
    Op.CONTRAST: [0, 0.1, 0.1923, 1, 1.81, 1.9, 2.8],
    Op.BRIGHTNESS: [0, 0.1, 0.1923, 1, 1.81, 1.9, 2.8],
    Op.SHARPNESS: [0, 0.1, 0.1923, 1, 1.81, 1.9, 2.8],
    Op.TRANSLATE_X: [0, 0.5, -0.5, -0.4375, 0.0625, 20.25, -33.5, 63.5, -63.5, 64, 300, -300],
    Op.TRANSLATE_Y: [0, 0.5, -0.5, -0.4375, 0.0625, 20.25, -33.5, 63.5, -63.5, 64, 300, -300],
    Op.SHEAR_X: [0, 0.01, 0.3, -0.27, -0.003, 2.5, -2.5],
    Op.SHEAR_Y: [0, 0.01, 0.3, -0.27, -0.003, 2.5, -2.5],
    Op.ROTATE: [0, 1, -1, 15, -27, 30],
    Op.BLUR: [0.1, 0.3, 0.5, 1, 1.5, 2],
}


SIDE = 64


def pictures():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return {
        "scene": scene(3, SIDE, SIDE),
        "noise": noise,
        "flat": np.full((SIDE, SIDE, 3), 7, np.uint8),
        "nearly white": np.where(rng.random((SIDE, SIDE, 3)) < 0.02, noise, 255).astype(np.uint8),
        "two levels": np.where(noise < 128, 0, 255).astype(np.uint8),
    }


def ours(op, argument, picture, *, cubic=True):
    changed = picture.copy()
    apply(op, argument, changed, cubic=cubic)
    return changed


def cases(op):
    step = ARGUMENT_ONE // SUBPIXELS if op in (Op.TRANSLATE_X, Op.TRANSLATE_Y) else 1
    return [round(value * ARGUMENT_ONE / step) * step for value in ARGUMENTS[op]]
