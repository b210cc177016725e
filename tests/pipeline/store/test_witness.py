from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pipeline.labelling.writers import open_to_label
from pipeline.rendering.drift import Drift, check_witnesses, draw_witnesses
from pipeline.rendering.renderer import Renderer
from pipeline.shards.index import SampleIndex, scan
from pipeline.store.witness import Witness, witness_rows
from pipeline.views.recipe import Recipe
from tests.pictures import tiny_shards
from tests.stores import fill, manifest_of

RECIPE = Recipe(image_size=32, mix_window=8)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SampleIndex:
    return scan(tiny_shards(tmp_path_factory.mktemp("shards"), 40))


def check(witness: Witness, index: SampleIndex, recipe: Recipe = RECIPE) -> Drift:
    return check_witnesses(witness, Renderer(recipe, index, index.files()))


def test_witnesses_are_spread_by_the_number_of_rows_alone() -> None:
    assert witness_rows(5).tolist() == [0, 1, 2, 3, 4]
    assert witness_rows(1000, 4).tolist() == [0, 250, 500, 750]
    assert len(witness_rows(1_281_167)) == 200 and witness_rows(10**9)[-1] == 995_000_000


def test_the_same_machine_draws_them_identically(index: SampleIndex) -> None:
    witness = draw_witnesses(RECIPE, index, 20)
    assert not witness.view_W.any() and witness.pixels_WHWC.shape == (20, 32, 32, 3)
    drift = check(witness, index)
    assert drift.kind == "identical" and str(drift) == "all 20 witness views are identical"


def test_a_few_levels_in_a_few_pixels_are_a_drift(index: SampleIndex) -> None:
    witness = draw_witnesses(RECIPE, index, 20)
    pixels_WHWC = witness.pixels_WHWC.copy()
    pixels_WHWC[3, 5, 7] ^= 3
    pixels_WHWC[4, :, 9] ^= 1
    drift = check(dataclasses.replace(witness, pixels_WHWC=pixels_WHWC), index)
    assert (drift.kind, drift.changed, drift.levels) == ("drifted", 2, 3)
    assert str(drift).startswith("2 of 20 witness views drifted by at most 3 levels (")


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"crop_scale": (0.4, 1.0)}, {"flip": 0.0}, {"mixup": 0.0, "cutmix": 0.0}, {"randaugment": ""}],
    ids=str,
)
def test_another_recipe_is_different(index: SampleIndex, change: dict[str, object]) -> None:
    drift = check(draw_witnesses(RECIPE, index, 20), index, dataclasses.replace(RECIPE, **change))  # type: ignore[arg-type]
    assert drift.kind == "different" and drift.thumbnail_levels > 2
    assert f"{len(drift.different)} of 20 witness views are different" in str(drift)
    assert f"(view 0 of rows {drift.different[0]}" in str(drift)


def test_witnesses_of_other_rows_are_different(index: SampleIndex) -> None:
    witness = draw_witnesses(RECIPE, index, 20)
    shifted = dataclasses.replace(witness, pixels_WHWC=np.roll(witness.pixels_WHWC, 1, axis=0))
    assert len(check(shifted, index).different) >= 15
    bgr = dataclasses.replace(witness, pixels_WHWC=np.ascontiguousarray(witness.pixels_WHWC[..., ::-1]))
    assert check(bgr, index).kind == "different"


def test_a_store_draws_its_own(tmp_path: Path, index: SampleIndex) -> None:
    manifest = manifest_of(index, "argmax", recipe=RECIPE)
    with open_to_label(tmp_path / "s.zarr", manifest, index, 1) as store:
        fill(store)
        finished = store.finish()
    assert len(finished.witness()) == 40
    assert check_witnesses(finished.witness(), Renderer(RECIPE, index, index.files())).kind == "identical"
