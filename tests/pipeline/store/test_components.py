"""The components of a lowrank store: fitted once, stored, and read as plain Zarr reads them."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import RecipeError, StoreError
from pipeline.inspection.audit import audit
from pipeline.labels.keeps import parse_keep
from pipeline.store.reader import StoreReader
from pipeline.store.writer import StoreWriter
from tests.faults import Calls, in_child, memory_disk, wait_for
from tests.stores import codes_of, fill, finished, index_of, manifest_of, open_writing, tree, witness_of

INDEX = index_of(100)
MANIFEST = manifest_of(INDEX, "lowrank:3+5")
PARTS = ("mean", "step", "spread")
OBJECTS = ("components/mean/c.0", "components/step/c.0.0", "components/spread/c.0")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with memory_disk() as path:
        yield path


@pytest.fixture(scope="module")
def whole() -> Iterator[Path]:
    with memory_disk() as path:
        finished(path / "store.zarr", MANIFEST, INDEX)
        yield path / "store.zarr"


def documented() -> str:
    page = Path(__file__).parents[3] / "docs" / "store-format.md"
    found = re.search(r"```python lowrank\n(.*?)```", page.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("keep", "classes"), [("lowrank:3+5", 12), ("lowrank:1+4", 12), ("lowrank:4+7", 300), ("lowrank:6+3", 1100)]
)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_reader_in_the_documentation_reads_the_same_targets(
    tmp_path: Path, keep: str, classes: int, temperature: float
) -> None:
    store = finished(tmp_path / "s.zarr", manifest_of(INDEX, keep, num_classes=classes), INDEX)
    names: dict[str, object] = {}
    exec(documented(), names)
    labels = store.read(1, 2).labels
    told_BC = store.manifest.keep.events(labels.arrays(), temperature, ()).prob_BK
    for place in (0, 7, 31):
        read_C = names["soft_target"](str(tmp_path / "s.zarr"), 1, 64 + place, temperature)  # type: ignore[operator]
        np.testing.assert_allclose(told_BC[place], read_C, rtol=2e-4, atol=1e-7)


def test_killed_at_any_point_it_ends_in_the_same_bytes(tmp_path: Path, whole: Path) -> None:
    def work(at: int) -> None:
        with Calls(at, kill=True).active(), open_writing(tmp_path / "s.zarr", MANIFEST, INDEX, 2) as store:
            fill(store)
            store.finish()

    for at in range(0, 160, 13):
        assert wait_for(in_child(partial(work, at))) in (0, -signal.SIGKILL)
    with open_writing(tmp_path / "s.zarr", MANIFEST, INDEX, 2) as store:
        fill(store)
        store.finish()
    assert tree(tmp_path / "s.zarr") == tree(whole)


def test_it_grows_by_views_under_the_same_components(tmp_path: Path, whole: Path) -> None:
    finished(tmp_path / "s.zarr", MANIFEST, INDEX, 1)
    finished(tmp_path / "s.zarr", MANIFEST, INDEX, 2)
    assert tree(tmp_path / "s.zarr") == tree(whole)


@pytest.mark.parametrize("key", OBJECTS)
@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_damage_is_refused_told_and_mended(tmp_path: Path, whole: Path, key: str, damage: str) -> None:
    finished(tmp_path / "s.zarr", MANIFEST, INDEX)
    broken = tmp_path / "s.zarr" / key
    data = bytearray(broken.read_bytes())
    data[len(data) // 2] ^= 4
    broken.write_bytes(data) if damage == "flip" else broken.unlink()
    with pytest.raises(StoreError, match=re.escape(key)):
        StoreReader.open(tmp_path / "s.zarr")
    assert any(key in finding.where for finding in audit(tmp_path / "s.zarr"))
    finished(tmp_path / "s.zarr", MANIFEST, INDEX)
    assert tree(tmp_path / "s.zarr") == tree(whole)


def test_no_flipped_bit_is_read(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "s.zarr")
    for key in (key for key in tree(whole) if not key.endswith("/")):
        data = (tmp_path / "s.zarr" / key).read_bytes()
        for at in {0, len(data) // 3, len(data) - 1}:
            (tmp_path / "s.zarr" / key).write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
            assert audit(tmp_path / "s.zarr"), f"{key}, byte {at}"
        (tmp_path / "s.zarr" / key).write_bytes(data)
    assert audit(tmp_path / "s.zarr") == []


def test_components_that_come_out_otherwise_are_refused(tmp_path: Path) -> None:
    finished(tmp_path / "s.zarr", MANIFEST, INDEX)
    (tmp_path / "s.zarr" / OBJECTS[1]).unlink()
    with pytest.raises(StoreError) as error:
        StoreWriter.open(
            tmp_path / "s.zarr", MANIFEST, INDEX, 2, witness=lambda: witness_of(MANIFEST), environment=dict,
            answers=lambda row_N: codes_of(MANIFEST, row_N)[:, ::-1],
        )  # fmt: skip
    assert str(error.value) == (
        f"{tmp_path}/s.zarr: components/ is damaged, and fitted again here it is another, by which the labels "
        "cannot be read. Restore it from a copy, or remove the store to label anew."
    )


def test_they_are_fitted_to_every_other_window_from_all_over_and_asked_for_once(tmp_path: Path) -> None:
    keep = parse_keep("lowrank:5+35")
    assert keep.fitting is not None
    row_N = keep.fitting.rows(1_281_167, 64)
    assert len(row_N) == 4096 and (row_N // 64 % 2 == 0).all() and (np.diff(row_N) > 0).all()
    assert row_N[0] == 0 and row_N[-1] > 1_280_000
    assert keep.fitting.rows(10, 64).tolist() == list(range(10))
    asked = []
    for _ in range(2):
        with StoreWriter.open(
            tmp_path / "s.zarr", MANIFEST, INDEX, 2, witness=lambda: witness_of(MANIFEST), environment=dict,
            answers=lambda row_N: asked.append(row_N) or codes_of(MANIFEST, row_N),
        ) as store:  # fmt: skip
            fill(store, store.missing()[:3])
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("keep", "classes", "message"),
    [
        (
            "lowrank:0+3", 12,
            "keep 'lowrank:0+3' keeps no class, or no component. Give lowrank:K+R (for example lowrank:5+35), both of "
            "at least 1; or topk:K.",
        ),
        ("lowrank:13+3", 12, "keep 'lowrank:13+3' wants 13 of 12 classes. Give a smaller K, or dense."),
        (
            "lowrank:3+12", 12,
            "keep 'lowrank:3+12' wants 12 components of 12 classes, which have 11 at most. Give a smaller R, or dense.",
        ),
        (
            "lowrank:5+35", 65_537,
            "keep 'lowrank:5+35' names classes in 16 bits, and there are 65,537. Give topk:K, or dense.",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused(keep: str, classes: int, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        parse_keep(keep).require_fit(classes)
    assert str(error.value) == message
