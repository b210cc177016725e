"""A folder appears whole, and whoever fails, is killed or comes late takes nothing of another's with it."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pipeline.durable.folder import LOCK, claimed
from pipeline.errors import ShardError
from tests.faults import Calls, in_child, wait_for

NAMES = [f"{number:06d}.tar" for number in range(40)]


def write(folder: Path, text: str) -> None:
    for name in NAMES:
        (folder / name).write_text(text)


def said(folder: Path) -> set[str]:
    return {path.read_text() for path in folder.glob("*.tar")}


def test_the_next_run_begins_only_when_all_of_a_failed_one_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, unlink = tmp_path / "out", os.unlink
    with ExitStack() as stack:

        def then_the_next(path: str | Path, **where: Any) -> None:
            unlink(path, **where)
            if Path(path).name == LOCK:
                monkeypatch.undo()
                write(stack.enter_context(claimed(out)).path, "new")

        with pytest.raises(KeyboardInterrupt), claimed(out) as staging:
            write(staging.path, "old")
            monkeypatch.setattr(os, "unlink", then_the_next)
            raise KeyboardInterrupt
        assert len(list(staging.path.glob("*.tar"))) == len(NAMES) and said(staging.path) == {"new"}
    assert list(tmp_path.iterdir()) == []


def test_one_that_comes_while_another_finishes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, mkdir = tmp_path / "out", Path.mkdir
    with claimed(out) as staging:
        write(staging.path, "whole")

        def then_the_other(path: Path, **how: Any) -> None:
            try:
                mkdir(path, **how)
            finally:
                monkeypatch.undo()
                staging.finish()

        monkeypatch.setattr(Path, "mkdir", then_the_other)
        with pytest.raises(ShardError) as told, claimed(out):
            pass
    assert str(told.value) == f"{out} is being written by another process. Wait for it, or choose another --out."
    assert said(out) == {"whole"} and [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EACCES])
def test_a_share_that_calls_a_taken_lock_forbidden_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def taken(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", taken)
    with pytest.raises(ShardError, match=r"out is being written by another process\."), claimed(tmp_path / "out"):
        pass


def test_one_that_is_interrupted_after_its_rename_leaves_the_next_run_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with ExitStack() as stack:
        with pytest.raises(KeyboardInterrupt), claimed(out) as first:
            first.path.rename(out)  # as `finish` does
            second = stack.enter_context(claimed(out))
            write(second.path, "new")
            raise KeyboardInterrupt
        assert said(second.path) == {"new"}


@pytest.mark.parametrize("at", range(4))
def test_killed_while_it_removes_what_it_began_the_next_run_begins_anew(tmp_path: Path, at: int) -> None:
    def work() -> None:
        with Calls(at, kill=True, names=("unlink", "rmdir")).active(), claimed(tmp_path / "out") as staging:
            (staging.path / "folder").mkdir()
            (staging.path / "000000.tar").write_text("old")
            raise KeyboardInterrupt

    assert wait_for(in_child(work)) == -9
    with claimed(tmp_path / "out") as staging:
        assert [path.name for path in staging.path.iterdir()] == [LOCK]
        staging.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
