"""How to add the store of the next format: what a release that changes `pipeline.store.layout.VERSION` does.

1. leave tests/golden/store-v1 … as they are
2. python -m tests.campaign.old_stores      makes tests/golden/store-v<VERSION> from the program of that release
3. commit it; add VERSION to `tests.campaign.old_stores.READABLE`, and take out what is read no longer
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.inspection.audit import audit
from pipeline.store.layout import VERSION
from pipeline.store.reader import StoreReader
from tests.campaign.old_stores import GOLDEN, READABLE, golden_of, unpacked
from tests.small_students import arguments, train


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
