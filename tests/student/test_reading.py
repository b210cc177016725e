"""docs/reading.md: its reader, as it stands there, says of every keep what ours says."""

from __future__ import annotations

import importlib
import importlib.util
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.labels.codes import logits_of
from pipeline.store.reader import StoreReader
from pipeline.store.receipts import Unit
from tests.small_students import CLASSES, make_store
from tests.stores import finished, index_of, manifest_of

PAGE = Path(__file__).parents[2] / "docs/reading.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the page's code defines."""
    found: dict[str, Any] = {}
    exec(compile(BLOCKS[0], str(PAGE), "exec"), found)
    return found


def test_the_reader_is_short_and_needs_zarr_and_numpy_alone() -> None:
    assert len(BLOCKS[0].splitlines()) <= 60
    imported = set(re.findall(r"^(?:import|from) (\w+)", BLOCKS[0], re.MULTILINE))
    assert imported == {"numpy", "zarr"}


@pytest.mark.parametrize("keep", ["dense", "topk:3", "argmax"])
def test_the_reader_says_what_the_store_says(names: dict[str, Any], tmp_path: Path, keep: str) -> None:
    store = StoreReader.open(make_store(tmp_path, rows=40, keep=keep))
    read, manifest = names["Labels"](str(tmp_path / "store.zarr")), store.manifest
    assert (read.views, read.rows) == (2, 40) and read.keys == [store.index.key(row) for row in range(40)]
    assert np.array_equal(read.classes, store.index.classes)
    assert [read.shard(row) for row in (0, 19, 20, 39)] == [store.index.urls[n] for n in (0, 0, 1, 1)]
    for view in range(2):
        labels = [store.read(view, run).labels for run in range(store.layout.runs)]
        assert np.array_equal(read.argmax(view), np.concatenate([part.argmax_B for part in labels]))
        for run, part in enumerate(labels):
            rows = slice(*store.layout.rows_of(Unit(0, run)))
            if keep == "argmax":
                continue
            name = "logits" if keep == "dense" else "topk_logit"
            assert np.array_equal(read.logits(view, rows), logits_of(part.parts[name]))
            if keep != "dense":
                assert np.array_equal(read.topk(view, rows), part.parts["topk_index"])
            for temperature in (1.0, 3.0):
                want = manifest.keep.events(part.parts, temperature, manifest.temperatures).spread(CLASSES)
                assert np.allclose(read.soft(view, rows, temperature), want, atol=1e-6)


@pytest.mark.parametrize(("keep", "classes"), [("lowrank:1+2", 5), ("lowrank:3+4", 5), ("lowrank:4+3", 1100)])
def test_the_reader_of_lowrank_says_what_the_store_says(
    names: dict[str, Any], tmp_path: Path, keep: str, classes: int
) -> None:
    index = index_of(100)
    store = finished(tmp_path / "store.zarr", manifest_of(index, keep, num_classes=classes), index)
    found = dict(names)
    exec(compile(BLOCKS[2], str(PAGE), "exec"), found)
    read, keep_ = found["LowRankLabels"](str(tmp_path / "store.zarr")), store.manifest.keep
    for run in range(store.layout.runs):
        arrays, rows = store.read(1, run).labels.arrays(), slice(*store.layout.rows_of(Unit(0, run)))
        assert np.array_equal(read.topk(1, rows), keep_.likeliest(arrays, int(str(keep)[8])))
        for temperature in (1.0, 2.5):
            want = keep_.events(arrays, temperature, ()).spread(classes)
            assert np.allclose(read.soft(1, rows, temperature), want, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("keep", ["dense", "topk:3", "lowrank:2+3", "argmax"])
def test_labels_of_every_keep_are_a_table(names: dict[str, Any], tmp_path: Path, keep: str) -> None:
    if importlib.util.find_spec("pandas") is None:
        pytest.skip("needs pandas, which the run-time does not: pip install pandas")
    store = StoreReader.open(make_store(tmp_path, rows=40, keep=keep))
    found = dict(names)
    exec(compile(BLOCKS[1], str(PAGE), "exec"), found)
    table = found["table"](str(tmp_path / "store.zarr"), view=1)
    assert list(table.columns) == ["row", "key", "shard", "label", "teacher"] and table.row.tolist() == list(range(40))
    assert table.key[7] == store.index.key(7) and table.label.tolist() == store.index.classes.tolist()
    assert table.teacher.tolist()[:16] == store.read(1, 0).labels.argmax_B.tolist()
    (right,) = re.findall(r"^# (t\.assign.*?)   ", BLOCKS[1], re.MULTILINE)
    for label, share in eval(right, {"t": table}).items():
        assert share == (table.teacher[table.label == label] == label).mean()
    read = importlib.import_module("pandas").read_csv(io.StringIO(table.to_csv(index=False)))
    assert read.to_dict("list") == table.to_dict("list"), "where no pyarrow is, nothing is lost by commas"
