"""Who may write, and who waits? On a disk; leases are tested with the store in S3."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from pipeline.durable import writer_lock as seats
from pipeline.durable.local import LocalObjects
from pipeline.durable.writer_lock import seated
from pipeline.errors import StoreError

ALONE, WITH_OTHERS = {"alone": True}, {"alone": False}


@pytest.mark.parametrize(("first", "then"), [(ALONE, ALONE), (ALONE, WITH_OTHERS), (WITH_OTHERS, ALONE)])
@pytest.mark.parametrize("shared_before", [False, True])
def test_one_that_is_alone_keeps_all_others_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: dict[str, bool],
    then: dict[str, bool],
    shared_before: bool,
) -> None:
    monkeypatch.setattr(seats, "PATIENCE_S", 0.1)
    objects = LocalObjects(tmp_path / "store.zarr")
    if shared_before:
        with seated(objects, alone=False, follows=False, wait_s=0):
            pass
    with seated(objects, **first, follows=False, wait_s=0) as seat:
        assert seat.first
        with (
            pytest.raises(StoreError, match="is being written by other processes"),
            seated(objects, **then, follows=False, wait_s=0),
        ):
            pass
    with seated(objects, **then, follows=False, wait_s=0) as seat:
        assert seat.first


def test_a_process_that_has_just_been_killed_is_waited_for(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path / "store.zarr")
    with Path(f"{objects.root}.writers.lock").open("wb") as inherited:  # as a worker does that has not run yet
        fcntl.flock(inherited, fcntl.LOCK_EX)
        threading.Timer(0.3, fcntl.flock, (inherited, fcntl.LOCK_UN)).start()
        with seated(objects, alone=True, follows=False, wait_s=0) as seat:
            assert seat.first


def test_whoever_is_refused_is_told_by_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seats, "PATIENCE_S", 0.1)
    objects = LocalObjects(tmp_path / "store.zarr")
    alone = {"alone": True, "follows": False, "wait_s": 0.0}
    told = rf"is being written by process {os.getpid()} on .* \(waited for 0.1 s\). Wait until that ends"
    with seated(objects, **alone), objects.lock(), pytest.raises(StoreError, match=told), seated(objects, **alone):
        pass
    Path(f"{objects.root}.lock").write_text("process 999999999 on nowhere\n")
    with seated(objects, **alone), pytest.raises(StoreError, match="by other processes"), seated(objects, **alone):
        pass
