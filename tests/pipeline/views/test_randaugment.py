"""The specification means what it means to timm, and draws are distributed as timm's."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from timm.data import auto_augment as timm_augment

from pipeline.errors import RecipeError
from pipeline.views import randaugment
from pipeline.views.operation_table import ARGUMENT_ONE, Op
from pipeline.views.philox import philox
from pipeline.views.randaugment import SUBPIXELS, Policy

SIDE = 224
HPARAMS = {"translate_const": 100, "img_mean": (124, 116, 104)}
TIMM_NAMES = {
    "AutoContrast": Op.AUTO_CONTRAST,
    "Equalize": Op.EQUALIZE,
    "Invert": Op.INVERT,
    "Rotate": Op.ROTATE,
    "Posterize": Op.POSTERIZE,
    "PosterizeIncreasing": Op.POSTERIZE,
    "Solarize": Op.SOLARIZE,
    "SolarizeIncreasing": Op.SOLARIZE,
    "SolarizeAdd": Op.SOLARIZE_ADD,
    "Color": Op.COLOR,
    "ColorIncreasing": Op.COLOR,
    "Contrast": Op.CONTRAST,
    "ContrastIncreasing": Op.CONTRAST,
    "Brightness": Op.BRIGHTNESS,
    "BrightnessIncreasing": Op.BRIGHTNESS,
    "Sharpness": Op.SHARPNESS,
    "SharpnessIncreasing": Op.SHARPNESS,
    "ShearX": Op.SHEAR_X,
    "ShearY": Op.SHEAR_Y,
    "TranslateXRel": Op.TRANSLATE_X,
    "TranslateYRel": Op.TRANSLATE_Y,
    "TranslateX": Op.TRANSLATE_X,
    "TranslateY": Op.TRANSLATE_Y,
    "Desaturate": Op.COLOR,
    "GaussianBlur": Op.BLUR,
}
SPECS = [
    "rand-m9-mstd0.5-inc1",
    "rand-m9-mstd0.5-inc1-n3-p1",
    "rand-m7-mstd101",
    "rand-m15-mstd2-mmax20-inc1",
    "rand-m9-mstd0.5-tweights",
    "rand-m9-mstd1-inc1-t3a",
]


def drawn(policy, views=4000):
    words = philox(np.arange(views, dtype=np.uint64), np.zeros(views, np.uint32), 1, 0, policy.layers)
    return policy.draw(words.reshape(views, policy.layers, 4), SIDE)


def timm_drawn(spec, views):
    """What timm draws: its own transform, with the pixel functions replaced by ones that note their argument."""
    transform = timm_augment.rand_augment_transform(spec, dict(HPARAMS))
    noted = []
    for op in transform.ops:
        name = TIMM_NAMES[op.name]
        op.aug_fn = lambda image, *args, name=name, desaturate=op.name == "Desaturate", **_: (
            noted.append((name, 1 - args[0] if desaturate else args[0] if args else 0.0)) or image
        )
    timm_augment.random.seed(1)
    timm_augment.np.random.seed(1)
    for _ in range(views):
        transform(None)
    return noted


def test_parse_reads_every_part():
    policy = Policy.parse("rand-m7-n3-p0.25-mstd0.5-mmax12-inc1-tweights")
    expected = Policy(magnitude=7, layers=3, prob=0.25, deviation=0.5, top=12, increasing=True, chosen="weights")
    assert policy == expected
    assert Policy.parse("rand") == Policy()
    assert Policy.parse("rand-mstdinf").deviation == Policy.parse("rand-mstd101").deviation == math.inf
    assert Policy.parse("rand-mmax0").top == 10


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("augmix-m3", "randaugment 'augmix-m3' must start with 'rand'"),
        ("rand-m9-x3", "randaugment 'rand-m9-x3' gives 'x3'; the parts are m9 (magnitude), n2"),
        ("rand-m", "gives 'm'"),
        ("rand-m9.5", "gives 'm9.5'"),
        ("rand-m9-m8", "repeats 'm8'"),
        ("rand-inc2", "gives 'inc2'"),
        ("rand-tfoo", "gives 'tfoo'"),
        ("rand--m9", "gives ''"),
        ("rand-p1.5", "randaugment: p is 1.5, it must lie in [0, 1]"),
        ("rand-n0", "randaugment: n is 0, it must lie in [1, 8]"),
        ("rand-m101", "randaugment: m is 101, it must lie in [0, 100]"),
        ("rand-t3a-n4", "randaugment: n is 4, it must lie in [1, 3]"),
        ("rand-translate_const", "gives 'translate_const'"),
        ("rand-translate_const0", "randaugment: translate_const is 0, it must lie in (0, 4096]"),
        ("rand-translate_const4097", "randaugment: translate_const is 4097, it must lie in (0, 4096]"),
        ("rand-translate_pct1.5", "randaugment: translate_pct is 1.5, it must lie in (0, 1]"),
        (
            "rand-translate_pct0.4-translate_const100",
            "randaugment: translate_pct0.4 and translate_const100 both say how far a shift goes; give one of them",
        ),
        ("rand-t3a-translate_const9", "randaugment: translate_const9 is about shifts, and t3a has none"),
    ],
)
def test_what_is_not_understood_is_named(spec, problem):
    with pytest.raises(RecipeError) as error:
        Policy.parse(spec)
    assert problem in str(error.value)


@given(
    magnitude=st.floats(0, 30),
    sign=st.sampled_from([-1.0, 1.0]),
    spec=st.sampled_from(["rand-inc0", "rand-inc1", "rand-t3a"]),
)
@settings(max_examples=60, deadline=None)
def test_arguments_equal_timms_at_equal_magnitudes(magnitude, sign, spec):
    policy = Policy.parse(spec)
    names = timm_augment.rand_augment_choices(policy.chosen, increasing=policy.increasing)
    assert [TIMM_NAMES[name] for name in names] == [choice.op for choice in policy.choices()]
    shape = (1, len(names))
    ours = randaugment._arguments(
        np.full(shape, magnitude), np.full(shape, sign), np.arange(len(names))[None], policy.choices(), SIDE
    )[0]
    for name, argument in zip(names, ours, strict=True):
        assert argument / ARGUMENT_ONE == pytest.approx(
            timm_argument(name, magnitude, sign), abs=0.04 if "Translate" in name else 2e-4
        )


def timm_argument(name, magnitude, sign):
    function = timm_augment.LEVEL_TO_ARG[name]
    if function is None:
        return 0.0
    negate = timm_augment._randomly_negate
    timm_augment._randomly_negate = lambda value: sign * value
    try:
        value = function(magnitude, {})[0]
    finally:
        timm_augment._randomly_negate = negate
    if name == "Desaturate":
        return 1 - value
    if "Translate" in name:
        return value * SIDE
    return min(max(value, 0), 8) if name.startswith("Posterize") else max(value, 0) if "Solarize" in name else value


@pytest.mark.parametrize("spec", SPECS)
def test_draws_are_distributed_as_timms(spec):
    ops_BL, arguments_BL, fair_BL = drawn(Policy.parse(spec))
    noted = timm_drawn(spec, 4000)
    counts = np.bincount(ops_BL.ravel(), minlength=len(Op))[1:]
    theirs = np.bincount([op for op, _ in noted], minlength=len(Op))[1:]
    used = theirs > 10
    assert stats.chi2_contingency(np.stack([counts[used], theirs[used]])).pvalue > 1e-4
    assert abs(counts.sum() - theirs.sum()) < 5 * math.sqrt(theirs.sum())
    for op in np.flatnonzero(theirs > 100) + 1:
        values = np.array([value for name, value in noted if name == op])
        if op in (Op.TRANSLATE_X, Op.TRANSLATE_Y):
            values = np.rint(values * SIDE * SUBPIXELS) / SUBPIXELS
        values = np.rint(np.clip(values, 0 if op == Op.POSTERIZE else None, None) * ARGUMENT_ONE) / ARGUMENT_ONE
        assert stats.ks_2samp(arguments_BL[ops_BL == op] / ARGUMENT_ONE, values).pvalue > 1e-4, Op(op).name
    assert 0.47 < fair_BL.mean() < 0.53


@pytest.mark.parametrize("side", [32, 224, 288])
@pytest.mark.parametrize("spec", ["rand", "rand-inc1", "rand-tweights"])
@pytest.mark.parametrize(
    ("part", "name", "hparams"),
    [
        ("translate_const117", "TranslateX", {"translate_const": 117}),
        ("translate_const7.5", "TranslateY", {"translate_const": 7.5}),
        ("translate_pct0.3", "TranslateXRel", {"translate_pct": 0.3}),
    ],
)
def test_how_far_a_shift_goes_is_timms_number(spec, part, name, hparams, side, monkeypatch):
    monkeypatch.setattr(timm_augment, "_randomly_negate", lambda value: value)
    policy = Policy.parse(f"{spec}-mmax20-{part}")
    choices = policy.choices()
    place = [choice.op for choice in choices].index(TIMM_NAMES[name])
    for magnitude in (0.0, 1.0, 9.0, 9.37, 10.0, 20.0):
        theirs = timm_augment.LEVEL_TO_ARG[name](magnitude, hparams)[0] * (side if name.endswith("Rel") else 1)
        for sign in (-1.0, 1.0):
            ours = randaugment._arguments(
                np.full((1, 1), magnitude), np.full((1, 1), sign), np.array([[place]]), choices, side
            )
            assert ours.item() == round(sign * theirs * SUBPIXELS) * (ARGUMENT_ONE // SUBPIXELS)


def test_only_shifts_know_how_far_a_shift_goes():
    spec = "rand-m9-mstd0.5-inc1"
    (ops, plain, _), (same_ops, other, _) = drawn(Policy.parse(spec)), drawn(Policy.parse(f"{spec}-translate_const117"))
    shifts = np.isin(ops, (Op.TRANSLATE_X, Op.TRANSLATE_Y))
    assert np.array_equal(ops, same_ops) and np.array_equal(plain[~shifts], other[~shifts])
    grid = ARGUMENT_ONE / SUBPIXELS  # both were rounded to it
    assert np.abs(plain[shifts] * 117 / (0.45 * SIDE) - other[shifts]).max() <= grid * 1.1
    assert other[shifts].max() / ARGUMENT_ONE == pytest.approx(117, abs=8)


def test_the_share_that_goes_without_saying_draws_what_it_drew():
    for spec in ("rand-m9-mstd0.5-inc1", "rand-m5-tweights"):
        one, other = drawn(Policy.parse(spec)), drawn(Policy.parse(f"{spec}-translate_pct0.45"))
        assert all(np.array_equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


def test_weighted_sets_choose_without_replacement():
    ops_BL, _, _ = drawn(Policy.parse("rand-tweights-n8-p1"), 300)
    assert all(len(set(row)) == 8 for row in ops_BL.tolist())


def test_even_sets_choose_with_replacement():
    ops_BL, _, _ = drawn(Policy.parse("rand-p1"), 3000)
    same = (ops_BL[:, 0] == ops_BL[:, 1]).mean()
    assert 0.045 < same < 0.09  # one in fifteen
