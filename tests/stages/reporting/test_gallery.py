"""Each row is shown once, and each unit of a store is read once, however many of its views are shown."""

import numpy as np
import pytest

from pipeline.store.reader import StoreReader
from stages.reporting.gallery import stored, view_shelves
from tests.class_stores import NAMES, ROWS, VIEWS, store_of
from tests.pictures import tiny_shards


@pytest.mark.parametrize("rows", [2, 3, 20])
def test_a_row_is_shown_once_where_rows_are_few(tmp_path, rows):
    urls = tiny_shards(tmp_path, rows=rows, shards=1, classes=3, class_names=NAMES)
    store = StoreReader.open(store_of(tmp_path / "store.zarr", urls, "argmax"))
    titles = [shelf.title for shelf in view_shelves(store, store.index, rows=4, views=1)]
    assert 0 < len(titles) == len(set(titles)) <= min(rows, 4)


@pytest.mark.parametrize(("keep", "second"), [("dense", True), ("topk:2", True), ("argmax", False)])
def test_each_unit_is_read_once(tmp_path, monkeypatch, keep, second):
    urls = tiny_shards(tmp_path, rows=ROWS, shards=1, classes=3, class_names=NAMES)
    store = StoreReader.open(store_of(tmp_path / "store.zarr", urls, keep, wrong=[5]))
    whole = {(view, run): store.read(view, run).crc_B for view in range(VIEWS) for run in range(store.layout.runs)}
    asked, read = [], StoreReader.read
    monkeypatch.setattr(
        StoreReader, "read", lambda self, view, run, **more: asked.append((view, run)) or read(self, view, run, **more)
    )
    row_B, view_B = np.repeat([17, 5, 0], VIEWS), np.tile(np.arange(VIEWS), 3)
    answers, crc_B = stored(store, row_B, view_B)
    assert asked == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert crc_B.tolist() == [whole[view, row // 16][row % 16] for row, view in zip(row_B, view_B, strict=True)]
    for row, said in zip(row_B.tolist(), answers, strict=True):
        assert said[0] == (row % 3, pytest.approx(0.9, abs=0.01) if second else None)
        assert [named for named, _ in said[1:]] == ([(row + 1) % 3] if second else [])
