"""Does a failure of any single call that changes the disk end in a clear error, and the next run in the same store?

The calls of a whole run are counted; then the first fails, in the next run the second, and so on: every write, fsync,
rename, mkdir and link, with EIO, ENOSPC and EFBIG. Once each, the system itself does it: a file system that is full, a
limit on file sizes. The same for a student's checkpoint: whatever fails, an earlier one is whole.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from pipeline.durable.local import LocalObjects
from pipeline.errors import StoreError, StudentError
from pipeline.store.reader import StoreReader
from student.checkpoints import checkpoint
from tests.campaign.tally import Scale, Tally
from tests.damaged_stores import INDEX, MANIFEST, VIEWS, count_calls, files, whole_run
from tests.faults import Calls, in_child, small_disk, wait_for
from tests.stores import fill, finished, index_of, manifest_of, open_writing, tree

TITLE = "failing write, fsync, rename, mkdir, link with EIO, ENOSPC, EFBIG at each call of the write path"
SHOWS = "clear error, resumes identical"
ERRORS = (errno.EIO, errno.ENOSPC, errno.EFBIG)


def run(scale: Scale, place: Path) -> Tally:
    """Every call of making a store, of growing one, of saving a checkpoint; then a real full disk and a real limit."""
    tally = Tally()
    finished(place / "reference.zarr", MANIFEST, INDEX, VIEWS)
    reference = tree(place / "reference.zarr")
    with open_writing(place / "one.zarr", MANIFEST, INDEX, 1) as store:
        fill(store)
        store.finish()
    shutil.copytree(place / "one.zarr", place / "grown.zarr")
    made, grown = count_calls(place / "counted.zarr"), count_calls(place / "grown.zarr")
    cases = [
        (start, at, error) for start, n in ((None, made), ("one.zarr", grown)) for at in range(n) for error in ERRORS
    ]
    for start, at, error in scale.some(cases, 36):
        path = place / "store.zarr"
        if start is not None:
            shutil.copytree(place / start, path)
        _fail_once(tally, path, at, error, reference)
        shutil.rmtree(path)
    _checkpoints(tally, place)
    _full_disk(tally, place / "disk")
    _limited_files(tally, place)
    tally.note(
        f"{made} calls make the store, {grown} grow it by a view; each fails with {len(ERRORS)} errors at full scale."
    )
    return tally


def _fail_once(tally: Tally, path: Path, at: int, error: int, reference: dict[str, bytes]) -> None:
    calls, said = Calls(at, error), ""
    try:
        with calls.active():
            whole_run(path)
    except StoreError as raised:
        said = str(raised)
    what = f"call {at} ({calls.made[at]}) with {errno.errorcode[error]}"
    clear = os.strerror(error) in said and str(path) in said and "then run this again" in said
    clear = clear or (not said and tree(path) == reference)  # a flush after a removal need not succeed
    tally.case(failure=None if clear else f"{what}: the error is {said!r}")
    with suppress(StoreError):
        StoreReader.open(path)
        if tree(path) != reference:
            tally.case(silent=f"{what}: a reader opens a store that is not whole")
    whole_run(path)
    if tree(path) != reference:
        tally.case(silent=f"{what}: the next run ends with another store")


def _checkpoints(tally: Tally, place: Path) -> None:
    """Every flush and rename of a checkpoint."""
    place = place / "run"
    states = [{"model": {"w": torch.full((4,), float(number))}, "epoch": number, "step": 0} for number in range(3)]
    for at in range(4):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for state in states[:2]:
            checkpoint.save(place, state)
        calls = Calls(at)
        with suppress(StoreError), calls.active():
            checkpoint.save(place, states[2])
        if at >= len(calls.made):
            break
        try:
            found = checkpoint.newest(place)
            whole = found is not None and found["epoch"] in (1, 2)
        except StudentError:
            whole = False
        tally.require(whole, f"checkpoint: call {at} ({calls.made[at]}) fails, and no earlier one can be read")


def _full_disk(tally: Tally, disk: Path) -> None:
    index = index_of(4000)
    manifest = manifest_of(index, "dense", num_classes=400, unit_rows=1024)
    try:
        with small_disk(disk) as path:
            said = ""
            try:
                with open_writing(path / "store.zarr", manifest, index, 3) as store:
                    fill(store)
            except StoreError as error:
                said = str(error)
            left = [key for key in files(path / "store.zarr") if ".tmp-" in key]
            tally.require("Make room, or give another --out" in said and not left, f"full disk: {said!r}, {left}")
    except pytest.skip.Exception as reason:
        tally.note(f"The real full disk was not run: {reason}.")


def _limited_files(tally: Tally, place: Path) -> None:
    """The system's own limit on the size of a file, in a process that is lost afterwards."""

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            whole_run(place / "limited.zarr")
        except StoreError as error:
            os._exit(7 if "Raise the limit on file sizes (ulimit -f)" in str(error) else 8)

    tally.require(wait_for(in_child(work)) == 7, "a limit on file sizes is not told clearly")
    whole_run(place / "limited.zarr")
    same = tree(place / "limited.zarr") == tree(place / "reference.zarr")
    tally.case(silent=None if same else "after a limit on file sizes the next run ends with another store")


def sabotage(place: Path) -> Tally:
    """A writer that passes over what the system says: the campaign must notice."""
    tally, put = Tally(), LocalObjects.put

    def careless(self: LocalObjects, key: str, data: bytes) -> None:
        with suppress(StoreError):
            put(self, key, data)

    finished(place / "reference.zarr", MANIFEST, INDEX, VIEWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalObjects, "put", careless)
        with suppress(StoreError):
            _fail_once(tally, place / "store.zarr", 100, errno.EIO, tree(place / "reference.zarr"))
    return tally
