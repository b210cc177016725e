"""Each operation against Pillow as timm calls it, at equal parameters."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment as timm_augment

from pipeline.rendering.operations import FILL, grey
from pipeline.views.operation_table import ARGUMENT_ONE, Op
from tests.operation_cases import ARGUMENTS, SIDE, cases, ours, pictures
from tests.pictures import scene

EXACT = [op for op in ARGUMENTS if op not in (Op.SHEAR_X, Op.SHEAR_Y, Op.ROTATE, Op.BLUR)]


def timms(op, argument, picture, *, cubic=True):
    image, value = Image.fromarray(picture), argument / ARGUMENT_ONE
    kwargs = {"fillcolor": FILL, "resample": Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR}
    functions = {
        Op.AUTO_CONTRAST: lambda: timm_augment.auto_contrast(image),
        Op.EQUALIZE: lambda: timm_augment.equalize(image),
        Op.INVERT: lambda: timm_augment.invert(image),
        Op.ROTATE: lambda: timm_augment.rotate(image, value, **kwargs),
        Op.POSTERIZE: lambda: timm_augment.posterize(image, int(value)),
        Op.SOLARIZE: lambda: timm_augment.solarize(image, int(value)),
        Op.SOLARIZE_ADD: lambda: timm_augment.solarize_add(image, int(value)),
        Op.COLOR: lambda: timm_augment.color(image, value),
        Op.CONTRAST: lambda: timm_augment.contrast(image, value),
        Op.BRIGHTNESS: lambda: timm_augment.brightness(image, value),
        Op.SHARPNESS: lambda: timm_augment.sharpness(image, value),
        Op.SHEAR_X: lambda: timm_augment.shear_x(image, value, **kwargs),
        Op.SHEAR_Y: lambda: timm_augment.shear_y(image, value, **kwargs),
        Op.TRANSLATE_X: lambda: timm_augment.translate_x_abs(image, value, **kwargs),
        Op.TRANSLATE_Y: lambda: timm_augment.translate_y_abs(image, value, **kwargs),
        Op.BLUR: lambda: timm_augment.gaussian_blur(image, value),
    }
    return np.asarray(functions[op]())


def test_every_operation_is_tested():
    assert set(ARGUMENTS) == set(Op) - {Op.NONE}


@pytest.mark.parametrize("cubic", [True, False])
@pytest.mark.parametrize("op", EXACT, ids=lambda op: op.name)
def test_equal_to_pillow_bit_for_bit(op, cubic):
    for name, picture in pictures().items():
        for argument in cases(op):
            mine, theirs = ours(op, argument, picture, cubic=cubic), timms(op, argument, picture, cubic=cubic)
            assert np.array_equal(mine, theirs), (name, argument)


@pytest.mark.parametrize("cubic", [True, False])
@pytest.mark.parametrize("op", [Op.SHEAR_X, Op.SHEAR_Y], ids=lambda op: op.name)
def test_shears_differ_by_one_level_in_one_value_of_five_hundred(op, cubic):
    for picture in pictures().values():
        for argument in cases(op):
            mine, theirs = ours(op, argument, picture, cubic=cubic), timms(op, argument, picture, cubic=cubic)
            difference = np.abs(mine.astype(int) - theirs)
            assert difference.max() <= 1
            assert (difference > 0).mean() <= 0.002


@pytest.mark.parametrize(("cubic", "inside"), [(True, 1.3), (False, 0.8)])
def test_rotation_turns_about_the_same_centre(cubic, inside):
    """Another kernel, a grid of 1/32 pixel, and a seam of mixed pixels where the fill colour begins."""
    place = np.arange(SIDE) - (SIDE - 1) / 2
    disc = np.hypot(place[:, None], place) < SIDE / 2 - 2
    for argument in cases(Op.ROTATE):
        mine = ours(Op.ROTATE, argument, scene(3, SIDE, SIDE), cubic=cubic).astype(int)
        theirs = timms(Op.ROTATE, argument, scene(3, SIDE, SIDE), cubic=cubic).astype(int)
        further = timms(Op.ROTATE, argument + ARGUMENT_ONE, scene(3, SIDE, SIDE), cubic=cubic).astype(int)
        assert np.abs(mine - theirs)[disc].mean() <= inside
        assert np.abs(mine - theirs).mean() <= 2.5
        assert np.abs(mine - further)[disc].mean() > 1.5 * np.abs(mine - theirs)[disc].mean()
    assert np.array_equal(ours(Op.ROTATE, 0, scene(3, SIDE, SIDE)), scene(3, SIDE, SIDE))


def test_blur_differs_by_three_levels_at_most():
    for name in ("scene", "noise", "flat"):
        for argument in cases(Op.BLUR):
            picture = pictures()[name]
            difference = np.abs(ours(Op.BLUR, argument, picture).astype(int) - timms(Op.BLUR, argument, picture))
            assert difference.max() <= 3


def test_grey_is_pillows_luma_for_every_colour_of_a_fine_grid():
    level = np.arange(0, 256, 3, dtype=np.uint8)
    colours = np.stack(np.meshgrid(level, level, level), axis=-1).reshape(len(level), -1, 3)
    assert np.array_equal(grey(colours), np.asarray(Image.fromarray(colours).convert("L")))


def test_every_pair_of_bytes_is_mixed_exactly():
    """What mixup relies on: OpenCV's weighted sum in 1/256 is the exact value, rounded half to even."""
    own, other = (np.ascontiguousarray(x.astype(np.uint8)) for x in np.meshgrid(np.arange(256), np.arange(256)))
    for share in range(257):
        mixed = cv2.addWeighted(own, share / 256, other, 1 - share / 256, 0.0)
        exact = share * own.astype(int) + (256 - share) * other.astype(int)
        whole, rest = np.divmod(exact, 256)
        assert np.array_equal(mixed, whole + ((rest > 128) | ((rest == 128) & (whole % 2 == 1))))


@pytest.mark.parametrize("side", [8, 9, 33])
def test_small_and_odd_sides(side):
    picture = scene(5, side, side)
    for op in ARGUMENTS:
        for argument in cases(op):
            difference = np.abs(ours(op, argument, picture).astype(int) - timms(op, argument, picture))
            assert difference.max() <= (0 if op in EXACT else 1 if "SHEAR" in op.name else 255)


PROGRAM = """
import sys, zlib
import numpy as np
from pipeline.rendering.operations import apply
work, total = np.load(sys.argv[1]), 0
for op, argument in work["steps"].tolist():
    for cubic in (True, False):
        for picture in work["pictures"].copy():
            apply(op, argument, picture, cubic=cubic)
            total = zlib.crc32(picture.tobytes(), total)
print(total)
"""


def test_the_same_bits_on_lesser_processors(tmp_path):
    """All but rotation; without AVX2 and fused multiply-add in OpenCV and torch, without AVX-512 in NumPy."""
    steps = [(op, argument) for op in ARGUMENTS if op != Op.ROTATE for argument in cases(op)]
    np.savez(tmp_path / "work.npz", steps=steps, pictures=np.stack(list(pictures().values())))
    lesser = {
        "OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,FMA3",
        "OPENCV_IPP": "disabled",
        "ATEN_CPU_CAPABILITY": "default",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    }
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "work.npz")]
    totals = [
        subprocess.run(command, env={**os.environ, **extra}, capture_output=True, text=True, check=True).stdout
        for extra in ({}, lesser)
    ]
    assert totals[0] == totals[1]
