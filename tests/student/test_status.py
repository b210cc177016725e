"""How far a labelling and a training are, from files alone: under way, ended in every way, and damaged."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.durable import writer_lock
from pipeline.durable.objects import open_objects
from pipeline.durable.writer_lock import myself, seated
from pipeline.labelling.writers import Telling
from pipeline.processes.world import Place
from student.run import run_status
from student.status import main
from tests.many_ranks import eventually
from tests.records import write
from tests.small_students import arguments, make_store, start, train

HOST = socket.gethostname()[:20]


def status(place: object, *flags: str) -> Result:
    result = CliRunner().invoke(main, [str(place), *flags], catch_exceptions=False)
    assert all(len(line) <= 60 for line in result.stdout.splitlines() if not flags), result.stdout
    return result


def told(place: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(status(place, "--json").stdout)
    return found


def lines(place: object) -> list[str]:
    result = status(place)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


# ---- stores


def test_a_store_is_stopped_then_finished(tmp_path: Path) -> None:
    store = make_store(tmp_path, rows=40, finish=False)
    first, *rest = lines(store)
    assert first == "store    stopped 90.0 %"  # the last unit has 8 of 80 labels
    assert rest[:2] == ["labels   72 of 80", "         2 views x 40 rows"]
    assert rest[2].startswith("units    5 of 6, last ")
    shutil.rmtree(store)
    assert lines(make_store(tmp_path, rows=40)) == [
        "store    finished", "labels   80 of 80", "         2 views x 40 rows", "units    6 of 6",
    ]  # fmt: skip
    found = told(store)
    assert (found["kind"], found["state"], found["labels"], found["units_done"]) == ("store", "finished", 80, 6)


def _labels(store: Path, place: Place, ready: Any) -> None:
    """A process that has a seat, says how it gets on, and stays."""
    with seated(open_objects(store).seat(), alone=False, follows=place.rank > 0, wait_s=9) as seat:
        seat.share()
        telling = Telling(seat, place)
        telling(8)
        time.sleep(0.01)
        telling._said = -9.0
        telling(8)
        ready.set()
        time.sleep(600)


@pytest.fixture
def labeller(tmp_path: Path) -> Iterator[tuple[Path, Any]]:
    store, context = make_store(tmp_path, rows=40, finish=False), multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_labels, args=(store, Place(rank=0, world=2), ready), daemon=True)
    process.start()
    assert ready.wait(180)
    yield store, process
    process.kill()
    process.join()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> float:
    """The time at which all that is told is read, however long that takes."""
    moment = time.time()
    clock = SimpleNamespace(time=lambda: moment, monotonic=time.monotonic, sleep=time.sleep)
    monkeypatch.setattr(writer_lock, "time", clock)
    return moment


def test_a_store_under_way_says_who_and_how_long_still(labeller: tuple[Path, Any], now: float) -> None:
    store, process = labeller
    shown = lines(store)
    assert shown[0] == "store    labelling 90.0 %" and shown[4].endswith("s to go")
    assert shown[5].startswith(f"rank 0   {HOST} {process.pid} labels, ") and shown[5].endswith("/s")
    found = told(store)
    (writer,) = found["writers"]
    assert writer["told"]["world"] == 2 and writer["alive"] is True
    assert found["left_s"] == pytest.approx(8 / found["rate"])
    beside = store.with_name("store.zarr.writers")
    elsewhere = {**myself(), "host": "node7", "rank": 1, "state": "labels", "rate": 3.0, "at": now - 500}
    (beside / "node7-1.json").write_text(json.dumps(elsewhere))
    (beside / "torn-1.json").write_text('{"pid": ')
    assert lines(store)[6] == f"rank 1   node7 {os.getpid()} no word, silent 8m20s"
    assert told(store)["rate"] == found["rate"], "who is silent is not reckoned with"
    process.kill()
    process.join()
    shown = lines(store)
    assert (
        shown[0] == "store    stopped 90.0 %" and f"rank 0   {HOST} {process.pid} is gone (killed, or failed)" in shown
    )
    with seated(open_objects(store).seat(), alone=True, follows=False, wait_s=0):
        assert [w.pid for w in open_objects(store).writers()] == [os.getpid()], "who is alone sweeps"
    assert not beside.exists()


def test_another_process_of_the_same_number_is_not_the_one_that_was_killed(tmp_path: Path) -> None:
    store = make_store(tmp_path, rows=40, finish=False)
    beside = store.with_name("store.zarr.writers")
    beside.mkdir()
    mine = {**myself(), "rank": 0, "state": "labels", "rate": 3.0, "at": time.time()}
    (beside / "a.json").write_text(json.dumps(mine))
    assert told(store)["state"] == "labelling"
    (beside / "a.json").write_text(json.dumps({**mine, "born": 1}))
    assert told(store)["state"] == "stopped"


def test_a_damaged_store_says_so(tmp_path: Path) -> None:
    store = make_store(tmp_path, rows=40)
    (store / "argmax/c.1.2").unlink()
    result = status(store)
    assert (result.exit_code, result.stdout) == (1, "store    damaged\n")
    assert result.stderr.startswith(f"error: {store}/argmax/c.1.2 (unit view 1, run 2) is absent; ")
    (store / "COMPLETE").unlink()
    result = status(store)
    assert result.exit_code == 1 and result.stderr == (
        "error: argmax/c.1.2 is absent or empty, and its receipt is there. Label again: it is done anew.\n"
    )
    assert told(store)["units_done"] == 6, "--json tells as much, and ends in the same status"
    (store / "COMPLETE").write_bytes(b"{}")
    assert status(store).exit_code == 1 and "COMPLETE is damaged" in status(store).stderr


def test_no_store_and_no_run(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.txt").touch()
    for place, said in (
        (tmp_path / "none", "there is no label store, and nobody makes one."),
        (tmp_path / "other", "is not a label store, or it was hardly begun."),
    ):
        result = status(place)
        assert result.exit_code == 1 and result.stderr.rstrip().endswith(said) and result.stderr.count("\n") == 1


# ---- runs


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("world"))


def test_a_run_that_stopped_and_then_finished(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, said = train(arguments(store, run, "--max-steps", "2"), tmp_path / "said", ranks=2)
    assert code == 0, said
    shown = lines(run)
    assert shown[:2] == ["run      stopped", "step     2 of 2, epoch 1 of 2"] and shown[-1].startswith("saved    ")
    found = told(run)
    assert [rank["host"] for rank in found["ranks"]] == [socket.gethostname()] * 2
    assert len({rank["pid"] for rank in found["ranks"]}) == 2
    code, said = train(arguments(store, run, "--val-shards", f"{store.parent}/data/*.tar"), tmp_path / "said")
    assert code == 0, said
    shown = lines(run)
    assert shown[:2] == ["run      finished", "step     6 of 6, epoch 2 of 2"]
    assert [line.split()[0] for line in shown if line.endswith("%")] == ["top1", "top1_class", "top1_distillation"]
    for path in list(run.iterdir()):  # while it saves, a run that another program looks at may have this alone
        if path.name == "last.pt":
            path.rename(run / "previous.pt")
        elif path.name in ("status.json", "metrics.jsonl"):
            path.unlink()
    assert lines(run)[0] == "run      unknown"


def test_a_run_under_way_that_is_then_killed(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(run_status, "SAY_S", 600.0)  # what is said of the first step stands while it is looked at
        process = start(arguments(store, run, "--epochs", "4000"), tmp_path / "said")
    try:
        eventually(lambda: (run / "status.json").exists() and told(run)["state"] == "training")
        shown = lines(run)
        assert shown[0] == "run      training" and " of 12,000, epoch 1 of 4000" in shown[1]
        assert shown[3].startswith("speed    ") and shown[3].endswith(" to go")
        assert shown[-1] == f"rank 0   {HOST} {process.pid} trains"
    finally:
        process.kill()
        process.join()
    shown = lines(run)
    assert shown[0] == "run      killed" and shown[-1] == f"rank 0   {HOST} {process.pid} is gone (killed, or failed)"
    (run / "status.json").unlink()
    assert lines(run)[0] == "run      unknown", "as a run of an older release"


def test_a_run_of_another_machine(tmp_path: Path, now: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_status, "SAY_S", 0.0)
    write(tmp_path, range(1, 13), config={"epochs": 4})
    said = json.loads((tmp_path / "status.json").read_text())
    assert (said["update"], said["rate"], said["left_s"], said["epochs"]) == (10, 3812.4, 720, 4)

    def shown(**changes: Any) -> list[str]:
        (tmp_path / "status.json").write_text(json.dumps({**said, "host": "node7", **changes}))
        return lines(tmp_path)

    assert shown()[:4] == ["run      training", "step     10 of 40, epoch 1 of 4", "loss     0.1000",
                           "speed    3,812 img/s, wait 1%, 12m to go"]  # fmt: skip
    assert shown(at=now - 400)[-1] == f"rank 0   node7 {os.getpid()} no word, silent 6m40s"
    assert shown(at=now - 400)[0] == "run      silent"
    assert shown(at=now - 400, state="validates")[0] == "run      validating"


def test_a_damaged_run_says_so(tmp_path: Path) -> None:
    write(tmp_path, range(1, 6))
    (tmp_path / "last.pt").write_bytes(b"cut")
    result = status(tmp_path)
    assert result.exit_code == 1 and result.stderr == (
        f"error: {tmp_path}/last.pt is cut short, or not a checkpoint of student.train: it does not end in its digest. "
        "There is no other.\n"
    )
    (tmp_path / "last.pt").unlink()
    (tmp_path / "status.json").write_text("[]")
    assert status(tmp_path).stderr == f"error: {tmp_path / 'status.json'} cannot be read.\n"


def test_a_full_disk_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_status, "write_said", full)
    assert "step 05/40" in write(tmp_path, range(1, 6))


def test_nothing_that_takes_long_is_imported() -> None:
    code = "import sys, student.status; print(sorted({'torch', 'timm', 'cv2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
