"""A result file is the old one or the new one."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.durable.file import write_json, write_with
from pipeline.errors import StoreError
from student.checkpoints.checkpoint import save
from student.judging.predictions import write_predictions
from tests.faults import in_child, wait_for


def test_a_result_replaces_the_name_and_not_the_file(tmp_path: Path) -> None:
    (tmp_path / "cached").write_text("cached")
    os.link(tmp_path / "cached", tmp_path / "a.json")
    write_json(tmp_path / "a.json", {"b": "ö", "a": 2})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "a": 2,\n  "b": "ö"\n}\n'
    assert (tmp_path / "cached").read_text() == "cached"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = write_json(tmp_path / "deep" / "metrics.json", {"b": 1, "a": None})
    assert path.read_text() == '{\n  "a": null,\n  "b": 1\n}\n'

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_with(path, fail)
    assert json.loads(path.read_text()) == {"a": None, "b": 1}
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


def test_several_processes_may_write_one_result(tmp_path: Path) -> None:
    """None takes the file that another one has just begun for one that a killed process left."""

    def write() -> None:
        for number in range(300):
            write_json(tmp_path / "metrics.json", {"a": number})

    children = [in_child(write) for _ in range(4)]
    assert [wait_for(child) for child in children] == [0] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_a_disk_that_locks_nothing_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    before = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(StoreError, match=r"cannot write .*metrics.json: No locks available"):
        write_json(tmp_path / "metrics.json", {"a": 1})
    assert not list(tmp_path.iterdir()) and len(list(Path("/dev/fd").iterdir())) == before


def test_a_number_that_json_does_not_have_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "metrics.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_names_the_file_and_the_remedy(tmp_path: Path) -> None:
    path = write_json(tmp_path / "metrics.json", {"a": 1})
    with small_files(), pytest.raises(StoreError, match=r"cannot write .*metrics.json: File too large.*ulimit -f"):
        write_json(path, {"a": "x" * 1000})
    assert json.loads(path.read_text()) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_a_checkpoint_that_does_not_fit_leaves_the_last_one(tmp_path: Path) -> None:
    save(tmp_path, {"model": {"w": torch.zeros(2)}, "epoch": 0, "step": 1})
    before = (tmp_path / "last.pt").read_bytes()
    with small_files(), pytest.raises(StoreError, match=r"cannot write .*last.pt: File too large"):
        save(tmp_path, {"model": {"w": torch.zeros(5000)}, "epoch": 0, "step": 2})
    assert (tmp_path / "last.pt").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_what_a_killed_process_left_goes_and_what_another_writes_stays(tmp_path: Path) -> None:
    (tmp_path / ".metrics-abcdefgh.json").write_text("half")
    (tmp_path / ".metrics-abcdefghi.json").write_text("somebody else's")

    def meanwhile(temporary: Path) -> None:
        write_json(tmp_path / "metrics.json", {"of": "another"})
        temporary.write_text("{}")

    write_with(tmp_path / "metrics.json", meanwhile)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".metrics-abcdefghi.json", "metrics.json"]
    assert (tmp_path / "metrics.json").read_text() == "{}"


def test_predictions_are_written_under_any_name(tmp_path: Path) -> None:
    table = {"row": np.arange(3)}
    paths = [write_predictions(tmp_path / name, table) for name in ("p.npz", "p.bin", "p")]
    assert len({path.read_bytes() for path in paths}) == 1 and sorted(tmp_path.iterdir()) == sorted(paths)


@contextmanager
def small_files(limit: int = 900) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a disk that is full."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
