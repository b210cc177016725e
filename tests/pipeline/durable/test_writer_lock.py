"""What an flock alone does: it may be inherited, and whoever is refused is told by whom. The rest: test_conformance."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from pipeline.durable import local_lock
from pipeline.durable.local import LocalObjects
from pipeline.durable.writer_lock import seated
from pipeline.errors import StoreError


def test_a_process_that_has_just_been_killed_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_lock, "PATIENCE_S", 60.0)
    objects = LocalObjects(tmp_path / "store.zarr")
    with Path(f"{objects.root}.writers.lock").open("wb") as inherited:  # as a worker does that has not run yet
        fcntl.flock(inherited, fcntl.LOCK_EX)
        threading.Timer(0.3, fcntl.flock, (inherited, fcntl.LOCK_UN)).start()
        with seated(objects.seat(), alone=True, follows=False, wait_s=0) as seat:
            assert seat.first


def test_whoever_is_refused_is_told_by_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_lock, "PATIENCE_S", 0.1)
    objects = LocalObjects(tmp_path / "store.zarr")
    alone = {"alone": True, "follows": False, "wait_s": 0.0}
    told = rf"is being written by process {os.getpid()} on .* \(waited for 0.1 s\). Wait until that ends"
    with (
        seated(objects.seat(), **alone),
        objects.lock(),
        pytest.raises(StoreError, match=told),
        seated(objects.seat(), **alone),
    ):
        pass
    Path(f"{objects.root}.lock").write_text("process 999999999 on nowhere\n")
    with (
        seated(objects.seat(), **alone),
        pytest.raises(StoreError, match="by other processes"),
        seated(objects.seat(), **alone),
    ):
        pass
