"""How to add the store of the next format: what a release that changes `pipeline.store.layout.VERSION` does.

1. leave tests/golden/store-v1 … as they are
2. python -m tests.campaign.old_stores      makes tests/golden/store-v<VERSION> from the program of that release
3. commit it; add VERSION to `tests.campaign.old_stores.READABLE`, and take out what is read no longer
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.inspection.audit import audit
from pipeline.labelling.writers import luma_for
from pipeline.labels.soft_labels import encode
from pipeline.proofs.proof import kept
from pipeline.rendering.renderer import Renderer
from pipeline.store.layout import VERSION
from pipeline.store.reader import StoreReader
from pipeline.store.unit_labels import UnitLabels
from pipeline.store.writer import StoreWriter
from tests.campaign.old_stores import GOLDEN, READABLE, golden_of, unpacked
from tests.small_students import arguments, train
from tests.stores import same_labels


def test_the_format_of_today_has_a_golden_store() -> None:
    assert golden_of(VERSION).exists(), "run: python -m tests.campaign.old_stores, and commit what it makes"
    assert VERSION in READABLE


def test_golden_stores_are_small() -> None:
    assert sum(path.stat().st_size for path in GOLDEN.glob("store-v*/*")) < 50_000


def test_a_student_trains_on_the_golden_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(unpacked(VERSION, tmp_path))
    code, said = train(arguments(Path("store.zarr"), Path("run"), "--epochs", "1", "--batch", "8"), Path("said.txt"))
    assert code == 0, said


def test_the_golden_store_is_finished(tmp_path: Path) -> None:
    assert audit(StoreReader.open(unpacked(VERSION, tmp_path) / "store.zarr").name) == []


def test_the_golden_store_grows_by_views_with_thumbnails_as_it_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(unpacked(VERSION, tmp_path))
    before = StoreReader.open("store.zarr")
    old = {unit: before.read(unit.view, unit.run) for unit in before.layout.units()}
    manifest, index = before.manifest, before.index
    assert luma_for("store.zarr", None) is manifest.luma is True
    renderer, side = Renderer(manifest.recipe, index, index.files()), manifest.recipe.image_size
    with StoreWriter.open(
        "store.zarr", manifest, index, 3, witness=before.witness, environment=lambda: before.layout.environment
    ) as store:
        missing = store.missing()
        for unit in missing:
            row_B = np.arange(*store.layout.rows_of(unit))
            pixels = np.empty((len(row_B), side, side, 3), np.uint8)
            drawn = renderer.render(row_B, np.full(len(row_B), unit.view), pixels)
            labels = encode(np.random.default_rng(0).normal(size=(len(row_B), 5)), manifest.keep, manifest.temperatures)
            crc_B, luma_B16 = kept(manifest.luma, drawn.crc_B, drawn.luma_B16)
            store.write(unit, UnitLabels(labels=labels, crc_B=crc_B, luma_B16=luma_B16))
        grown = store.finish()
    assert {unit.view for unit in missing} == {2} and grown.layout.views == 3
    assert all(same_labels(grown.read(unit.view, unit.run), labels) for unit, labels in old.items())
    assert grown.read(2, 0).luma_B16 is not None and audit(grown.name) == []
