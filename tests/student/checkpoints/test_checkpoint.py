"""A checkpoint is whole or refused, at every instant of its writing."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import StudentError
from student.checkpoints import checkpoint
from student.run.run_status import run_status
from tests.faults import in_child, wait_for
from tests.training_states import state


def test_plain_torch_reads_what_was_written(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, state(3))
    read = torch.load(path, weights_only=True)
    assert torch.equal(read["model"]["w"], state(3)["model"]["w"])
    assert read["meta"] == state(3)["meta"] and (read["epoch"], read["step"]) == (1, 3)
    assert zipfile.ZipFile(path).testzip() is None
    assert checkpoint.load(tmp_path)["step"] == checkpoint.load(path)["step"] == 3


def test_previous_is_kept_and_nothing_else(tmp_path: Path) -> None:
    for step in range(4):
        checkpoint.save(tmp_path, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "previous.pt"]
    assert [checkpoint.load(tmp_path, which)["step"] for which in ("last", "previous")] == [3, 2]


def test_best_holds_no_training_state(tmp_path: Path) -> None:
    checkpoint.save_best(tmp_path, {**state(1), "optimizer": {"m": torch.zeros(3)}})
    assert "optimizer" not in checkpoint.load(tmp_path, "best")


def test_every_flipped_bit_and_every_cut_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, state(1))
    whole = path.read_bytes()
    for byte in range(0, len(whole), 7):
        path.write_bytes(whole[:byte] + bytes([whole[byte] ^ (1 << byte % 8)]) + whole[byte + 1 :])
        with pytest.raises(StudentError, match=r"is damaged|cut short"):
            checkpoint.load(tmp_path)
    for length in range(0, len(whole), 101):
        path.write_bytes(whole[:length])
        with pytest.raises(StudentError, match=r"is damaged|cut short"):
            checkpoint.load(tmp_path)


def test_resume_takes_previous_where_last_is_damaged(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, state(step))
    last = checkpoint.path_of(tmp_path)
    last.write_bytes(last.read_bytes()[:-100])
    resumed = checkpoint.newest(tmp_path)
    assert resumed and resumed["step"] == 1
    checkpoint.put_aside_damaged(tmp_path)
    checkpoint.save(tmp_path, state(3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.damaged", "last.pt", "previous.pt"]
    assert checkpoint.load(tmp_path, "previous")["step"] == 1


def test_resume_between_the_two_renames(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1))
    (tmp_path / "last.pt").replace(tmp_path / "previous.pt")
    resumed = checkpoint.newest(tmp_path)
    assert resumed and resumed["step"] == 1


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    with pytest.raises(StudentError) as error:
        checkpoint.load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/last.pt is not there. A run directory that student.train has written a checkpoint to (or such a "
        "file) is needed."
    )


def test_all_damaged_is_not_taken_for_a_fresh_start(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1))
    checkpoint.path_of(tmp_path).write_bytes(b"")
    with pytest.raises(
        StudentError, match=r"No other checkpoint of .* can be read\. Give another --out; or --resume none"
    ):
        checkpoint.newest(tmp_path)
    checkpoint.put_aside_damaged(tmp_path)
    assert checkpoint.path_of(tmp_path).exists(), "it is refused, as long as it is there"


def test_a_second_damaged_file_leaves_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, name in enumerate(("last.damaged", "last-2.damaged")):
        for step in (1, 2):
            checkpoint.save(tmp_path, state(step))
        checkpoint.path_of(tmp_path).write_text(f"damage {number}")
        checkpoint.put_aside_damaged(tmp_path)
        assert (tmp_path / name).read_text() == f"damage {number}"
        assert caplog.messages[-1].endswith(f"does not end in its digest. It is kept as {tmp_path / name}")
    assert (tmp_path / "last.damaged").read_text() == "damage 0"


def test_what_a_killed_run_left_half_written_goes_with_its_folder(tmp_path: Path) -> None:
    for name in ("run", "run.previous", "run.previous-2"):
        (tmp_path / name).mkdir()
        for left in ("last.pt", "status.tmp", ".metrics-a1b2c3d4.jsonl"):
            (tmp_path / name / left).touch()
    checkpoint.keep_one(tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.previous"]


class Bomb:
    """Unpickled, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_executes_nothing(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {**state(1), "meta": Bomb(tmp_path / "executed")})
    with pytest.raises(StudentError, match="cannot be read"):
        checkpoint.load(tmp_path)
    checkpoint.path_of(tmp_path).write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    with pytest.raises(StudentError, match="not a checkpoint"):
        checkpoint.load(tmp_path)
    assert not (tmp_path / "executed").exists()


def _hold(run: Path, ready: multiprocessing.synchronize.Event, done: multiprocessing.synchronize.Event) -> None:
    with checkpoint.only_writer(run):
        ready.set()
        done.wait(300)


def test_whoever_looks_at_a_run_that_saves_sees_whole_checkpoints(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(0))
    checkpoint.save(tmp_path, state(1))

    def save() -> None:
        torch.set_num_threads(1)
        for step in range(2, 200):
            weights = {"w": torch.zeros(1000 * (step % 3))}  # of other sizes: no file has the size of another
            checkpoint.save(tmp_path, {**state(step), "model": weights})

    child, seen, ended = in_child(save), [0], 0
    while not ended:
        ended, status = os.waitpid(child, os.WNOHANG)
        seen.append(checkpoint.load(tmp_path)["step"])
        assert not run_status(tmp_path).why
    assert status == 0 and seen == sorted(seen) and seen[-1] == 199


def test_a_folder_that_goes_while_it_is_being_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes with the start that made it and was refused, another process."""
    run, lock = tmp_path / "run", fcntl.flock

    def late(*args: Any) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        shutil.rmtree(run)
        lock(*args)

    monkeypatch.setattr(fcntl, "flock", late)
    with checkpoint.only_writer(run):
        checkpoint.save(run, state(1))
        child = in_child(lambda: checkpoint._hold(run))
        assert wait_for(child) == 1, "it is held"


def _outlive(ready: multiprocessing.synchronize.Event, done: multiprocessing.synchronize.Event) -> None:
    ready.set()
    done.wait(300)


def test_a_worker_that_outlives_its_trainer_does_not_hold_the_run(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    with checkpoint.only_writer(tmp_path):
        worker = context.Process(target=_outlive, args=(ready, done), daemon=True)
        worker.start()
        assert ready.wait(180)
    with checkpoint.only_writer(tmp_path):
        assert worker.is_alive()
    done.set()
    worker.join()


def test_a_second_writer_is_told_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, done), daemon=True)
    other.start()
    assert ready.wait(180)
    with (
        pytest.raises(StudentError, match=r"is being written by another student.train"),
        checkpoint.only_writer(tmp_path),
    ):
        pass
    done.set()
    other.join()
    with checkpoint.only_writer(tmp_path):
        pass


@pytest.mark.parametrize("begun", ["new", "found", "written"])
def test_a_folder_that_only_a_refused_start_made_goes_again(tmp_path: Path, begun: str) -> None:
    run = tmp_path / "run"
    if begun == "found":
        run.mkdir()
    with pytest.raises(StudentError, match="refused"), checkpoint.only_writer(run):
        if begun == "written":
            checkpoint.save(run, state(1))
        raise StudentError("refused")
    assert run.exists() == (begun != "new")
    assert checkpoint.path_of(run).exists() == (begun == "written")
    with checkpoint.only_writer(run):
        checkpoint.save(run, state(2))
    assert checkpoint.load(run)["step"] == 2
