"""A recipe is what it says: validated at once, one text, one fingerprint."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RecipeError
from pipeline.views.recipe import Recipe

SHARES = st.floats(0, 1)
RECIPES = st.builds(
    Recipe,
    seed=st.integers(0, 2**64 - 1),
    image_size=st.integers(8, 512),
    crop=st.sampled_from(["random", "center", "simple"]),
    crop_scale=st.tuples(st.floats(0.01, 0.5), st.floats(0.5, 1)),
    flip=SHARES,
    randaugment=st.sampled_from(["", "rand-m9-mstd0.5-inc1", "rand-n3", "rand-m5-tweights-p1"]),
    color_jitter=SHARES,
    mixup=st.floats(0, 10),
    mix_prob=SHARES,
    mix_window=st.sampled_from([2, 4, 64, 512]),
    interpolation=st.sampled_from(["bicubic", "bilinear", "random"]),
)


@given(RECIPES)
@settings(max_examples=30, deadline=None)
def test_json_and_back_is_the_same_recipe(recipe):
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    assert again.fingerprint() == recipe.fingerprint()
    assert again.differences(recipe) == []


def test_equal_values_have_one_fingerprint_whatever_their_type():
    plain = Recipe(crop_scale=(0.08, 1.0), flip=1.0, erase=0.0)
    assert Recipe(crop_scale=[0.08, 1], flip=1, erase=-0.0).fingerprint() == plain.fingerprint()
    assert Recipe(seed=np.int64(3).item()) == Recipe(seed=3)


def test_every_field_changes_the_fingerprint():
    other = {
        "seed": 1,
        "image_size": 32,
        "crop": "center",
        "crop_scale": (0.3, 1),
        "crop_ratio": (1, 1),
        "crop_pct": 1.0,
        "flip": 0,
        "randaugment": "rand-m8",
        "color_jitter": 0.4,
        "erase": 0,
        "mixup": 0.2,
        "cutmix": 0,
        "mix_prob": 0.5,
        "mix_switch": 0.1,
        "mix_window": 32,
        "interpolation": "bilinear",
        "on_bad_image": "grey",
    }
    changed = {name: Recipe(**{name: value}).fingerprint() for name, value in other.items()}
    changed["three_augment"] = Recipe(randaugment="", three_augment=True).fingerprint()
    changed["randaugment off"] = Recipe(randaugment="").fingerprint()
    assert len({*changed.values(), Recipe().fingerprint()}) == len(changed) + 1
    fixed = {"version", "decoder"}
    assert {field.name for field in dataclasses.fields(Recipe)} - fixed <= set(changed)


def test_differences_name_both_values():
    assert Recipe(crop_scale=(0.3, 1)).differences(Recipe(seed=4)) == [
        "seed: 0 against 4",
        "crop_scale: (0.3, 1.0) against (0.08, 1.0)",
    ]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seed", -1, "seed (--seed) is -1: it must lie in [0, 18446744073709551615]"),
        ("image_size", 4, "image_size (--image-size) is 4: it must lie in [8, 4096]"),
        ("image_size", 224.0, "image_size (--image-size) is 224.0: it must be a whole number"),
        ("flip", 1.5, "flip (--flip) is 1.5: it must lie in [0.0, 1.0]"),
        ("flip", True, "flip (--flip) is True: it must be a number"),
        ("flip", float("nan"), "flip (--flip) is nan: it must lie in [0.0, 1.0]"),
        (
            "crop_scale",
            (0, 1),
            "crop_scale (--crop-scale) is (0.0, 1.0): it must be two numbers LOW <= HIGH in (0.0, 1.0]",
        ),
        (
            "crop_scale",
            (0.5, 0.2),
            "crop_scale (--crop-scale) is (0.5, 0.2): it must be two numbers LOW <= HIGH in (0.0, 1.0]",
        ),
        ("crop_scale", 0.3, "crop_scale (--crop-scale) is 0.3: it must be two numbers"),
        (
            "crop_ratio",
            (1, 1000),
            "crop_ratio (--crop-ratio) is (1.0, 1000.0): it must be two numbers LOW <= HIGH in (0.0, 100.0]",
        ),
        ("crop", "centre", "crop (--crop) is 'centre': it must be one of random, center, simple"),
        ("mix_window", 48, "mix_window (--mix-window) is 48: it must be a power of two in [2, 512]"),
        (
            "interpolation",
            "area",
            "interpolation (--interpolation) is 'area': it must be one of bicubic, bilinear, random",
        ),
        ("decoder", "pil", "decoder (--decoder) is 'pil': it must be one of turbo"),
        ("on_bad_image", "skip", "on_bad_image (--on-bad-image) is 'skip': it must be one of refuse, grey"),
        ("three_augment", 1, "three_augment (--three-augment) is 1: it must be true or false"),
        (
            "three_augment",
            True,
            "three_augment (--three-augment) is True: it needs randaugment off, which is 'rand-m9-mstd0.5-inc1': "
            "give ''",
        ),
        (
            "version",
            3,
            "recipe version 3 is not known, this program renders versions 1 and 2: use the release that wrote it",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_range(field, value, message):
    with pytest.raises(RecipeError) as error:
        Recipe(**{field: value})
    assert str(error.value) == message


def test_a_record_must_have_exactly_the_fields():
    record = Recipe().to_json()
    del record["flip"]
    with pytest.raises(RecipeError, match="other fields than versions 1 and 2: unknown blur, hue; absent flip"):
        Recipe.from_json({**record, "hue": 1, "blur": 2})
    with pytest.raises(RecipeError, match="recipe version 7 is not known"):
        Recipe.from_json({**Recipe().to_json(), "version": 7, "hue": 0.1})


def test_presets():
    assert Recipe.preset("deit") == Recipe()
    light, none, three = (Recipe.preset(name) for name in ("light", "none", "three"))
    assert (light.crop_scale, light.flip, light.mixes, light.jitters, light.policy) == (
        (0.35, 1.0),
        0.5,
        False,
        False,
        None,
    )
    assert (none.crop, none.flip, none.mixes, none.jitters, none.erase) == ("center", 0.0, False, False, 0.0)
    assert three.three_augment
    assert three.jitters
    assert Recipe.preset("none", seed=3, image_size=64).image_size == 64
    with pytest.raises(RecipeError, match="recipe 'deti' is not known: it is one of deit, light, three, none"):
        Recipe.preset("deti")


def test_colour_jitter_applies_only_where_timm_applies_it():
    assert not Recipe().jitters
    assert Recipe(randaugment="").jitters
    assert Recipe(randaugment="rand-t3a").jitters
    assert not Recipe(randaugment="", color_jitter=0).jitters
