"""Training goes on while a checkpoint is written, and the checkpoint is of the moment at which it was asked for."""

from __future__ import annotations

import collections
import errno
import threading
from pathlib import Path

import pytest
import torch

from pipeline.errors import UserError
from student.checkpoints import checkpoint
from student.checkpoints.background import Writing, copied
from tests.training_states import state


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Files are written once this is set."""
    opened, write = threading.Event(), checkpoint._write_temporary

    def held(target: Path, held_state: checkpoint.State) -> Path:
        assert opened.wait(60)
        return write(target, held_state)

    monkeypatch.setattr(checkpoint, "_write_temporary", held)
    return opened


def test_a_later_step_does_not_change_what_is_written(tmp_path: Path, gate: threading.Event) -> None:
    given = state(1)
    with Writing(tmp_path) as writing:
        writing.save(given)  # which waits for nothing: the gate is shut
        given["model"]["w"].add_(100)
        given["model"]["new"] = torch.zeros(1)
        writing.check()
        assert not list(tmp_path.iterdir())
        gate.set()
    found = checkpoint.load(tmp_path)
    assert list(found["model"]) == ["w"] and torch.equal(found["model"]["w"], state(1)["model"]["w"])


def test_states_are_written_in_order_and_all_of_them(tmp_path: Path, gate: threading.Event) -> None:
    gate.set()
    with Writing(tmp_path) as writing:
        for step in range(3):
            writing.save_best({**state(step), "optimizer": {}})
            writing.save(state(step))
    assert [checkpoint.load(tmp_path, which)["step"] for which in ("last", "previous", "best")] == [2, 1, 2]
    assert "optimizer" not in checkpoint.load(tmp_path, "best")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "last.pt", "previous.pt"]


@pytest.mark.parametrize("when", ["at a step", "at the next state", "at the end"])
def test_what_the_disk_refuses_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left on device"), Writing(tmp_path) as writing:
        writing.save(state(1))
        if when == "at a step":
            while True:
                writing.check()
        if when == "at the next state":
            writing.save(state(2))
            raise AssertionError("it went on")


def test_an_error_of_the_training_leaves_the_state_before_it_whole(tmp_path: Path, gate: threading.Event) -> None:
    with pytest.raises(ZeroDivisionError), Writing(tmp_path) as writing:
        writing.save(state(1))
        threading.Timer(0.05, gate.set).start()
        raise ZeroDivisionError
    assert checkpoint.load(tmp_path)["step"] == 1


def test_a_disk_that_refuses_is_told_of_where_the_training_fails_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(KeyboardInterrupt), Writing(tmp_path) as writing:
        writing.save(state(1))
        raise KeyboardInterrupt
    assert "a checkpoint was not written: cannot write" in caplog.text
    assert "No space left on device" in caplog.text


def test_a_copy_is_alike_in_kind_and_shares_nothing() -> None:
    net = torch.nn.BatchNorm2d(3)
    whole = {"model": net.state_dict(), "means": [1.0, (2, torch.ones(2))], "scaler": {}}
    found = copied(whole)
    assert type(found["model"]) is collections.OrderedDict
    assert found["model"]._metadata == whole["model"]._metadata
    assert all(torch.equal(found["model"][name], value) for name, value in whole["model"].items())
    own = {tensor.data_ptr() for tensor in (*whole["model"].values(), whole["means"][1][1])}
    assert not own & {tensor.data_ptr() for tensor in (*found["model"].values(), found["means"][1][1])}
