"""The figures of a store are right, and cost little: what was read once is not read again."""

from __future__ import annotations

from collections import Counter

from pipeline.inspection.quality import summarise
from pipeline.store.reader import StoreReader
from tests.class_stores import NAMES, ROWS, VIEWS, store_of
from tests.pictures import tiny_shards


def test_only_classes_are_read_twice_and_no_thumbnail_is(tmp_path, monkeypatch):
    urls = tiny_shards(tmp_path, rows=ROWS, classes=3, class_names=NAMES)
    store = StoreReader.open(store_of(tmp_path / "store.zarr", urls, "topk:2"))
    asked, read = Counter(), StoreReader.read_arrays

    def counted(self, view, run, names):
        names = list(names)
        asked.update((view, run, name) for name in names)
        return read(self, view, run, names)

    monkeypatch.setattr(StoreReader, "read_arrays", counted)
    found = summarise(store)
    assert found["measured_views"] == ROWS * VIEWS and found["view_agreement"] == 1.0
    assert {name for _, _, name in asked} == set(store.layout.unit_arrays()) - {"luma"}
    assert {key[2] for key, times in asked.items() if times > 1} == {"argmax"}
