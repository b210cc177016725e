"""A teacher that was fitted to other views than it is to label is told, with both values; one that was not is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.teacher.fitted_recipe import other_views
from pipeline.views.recipe import Recipe

LIGHT = Recipe.preset("light", image_size=32)


def fit(folder: Path, recipe: Recipe = LIGHT, epochs: int = 3) -> str:
    folder.mkdir(exist_ok=True)
    record = {"contract": {"recipe": recipe.to_json(), "settings": {"epochs": epochs}}, "weights_sha256": ""}
    (folder / "fit.json").write_text(json.dumps(record))
    return f"local-dir:{folder}"


def test_other_crops_and_mixing_are_told_with_both_values(tmp_path: Path) -> None:
    said = other_views(fit(tmp_path), None, Recipe.preset("deit", image_size=32, randaugment="rand-m9-mstd0.5-inc1"))
    assert said is not None and said.startswith(
        f"the teacher in {tmp_path} was fitted to other views than those that it is to label: "
        "crop_scale: (0.35, 1.0) against (0.08, 1.0); randaugment: '' against 'rand-m9-mstd0.5-inc1'; erase: 0.0 "
        "against 0.25; mixup: 0.0 against 0.8; cutmix: 0.0 against 1.0 (the fit against the labels)."
    )
    assert said.endswith("with the recipe flags that are given here), or label under the recipe of the fit.")
    assert other_views("mine:net", tmp_path / "model.safetensors", Recipe.preset("deit", image_size=32)) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 7},
        {"mix_window": 8},
        {"mix_prob": 0.5},
        {"crop_pct": 0.9},
        {"on_bad_image": "grey"},
        {"mix_switch": 0.1},
        {"color_jitter": 0.0},
    ],
)
def test_what_does_not_show_in_a_view_is_no_difference(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert other_views(fit(tmp_path), None, Recipe.preset("light", image_size=32, **changes)) is None


@pytest.mark.parametrize("changes", [{"image_size": 64}, {"flip": 0.0}, {"crop_scale": (0.5, 1.0)}])
def test_what_shows_is_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    said = other_views(fit(tmp_path), None, Recipe.preset("light", **{"image_size": 32, **changes}))
    assert said is not None and next(iter(changes)) in said and "randaugment" not in said


def test_there_is_nothing_to_say_where_nothing_is_known_or_learned_from(tmp_path: Path) -> None:
    deit = Recipe.preset("deit", image_size=32)
    assert other_views(fit(tmp_path / "taken", epochs=0), None, deit) is None, "published weights as they are"
    assert other_views(fit(tmp_path / "fitted"), None, Recipe.preset("none", image_size=32)) is None
    assert other_views("regnety_160", None, deit) is None
    assert other_views(f"local-dir:{tmp_path / 'none'}", None, deit) is None
    for damage in (b"", b"[" * 100_000, b"[]", b'{"contract": 1}', b'{"contract": {"settings": {"epochs": 1}}}'):
        (tmp_path / "fitted" / "fit.json").write_bytes(damage)
        assert other_views(f"local-dir:{tmp_path / 'fitted'}", None, deit) is None
