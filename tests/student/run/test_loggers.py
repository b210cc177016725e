"""Trackers are told what the record has, once, through their own clients and without a network."""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from pipeline.errors import StudentError
from student.checkpoints import checkpoint
from student.run import loggers
from student.run.loggers import Loggers, chosen
from tests.records import write
from tests.small_students import arguments, make_store, record, same, train, weights

CONFIG = {"lr": 0.01, "model": "deit"}


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    return {
        tag: [(event.step, round(event.value, 4)) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]
    }


def test_tensorboard_has_no_step_twice(tmp_path: Path) -> None:
    write(tmp_path, range(1, 24), loggers=("tensorboard",))
    write(tmp_path, range(18, 41), epoch=1, update=17, loggers=("tensorboard",))
    shown = scalars(tmp_path)
    assert shown["steps/loss"] == [(step, round(1 / step, 4)) for step in range(5, 41, 5)]
    assert shown["epoch/top1"] == [(10, 0.1), (20, 0.2), (30, 0.3), (40, 0.4)]


def test_mlflow_has_a_run_for_each_start_with_the_whole_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    from mlflow import MlflowClient

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    write(tmp_path, range(1, 24), loggers=("mlflow",), config=CONFIG)
    write(tmp_path, range(18, 41), epoch=1, update=17, loggers=("mlflow",), config=CONFIG)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("offline-distiller")
    first, last = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    assert {run.info.status for run in (first, last)} == {"FINISHED"}
    assert (last.info.run_name, last.data.params) == (tmp_path.name, {"lr": "0.01", "model": "deit"})
    history = client.get_metric_history(last.info.run_id, "steps/loss")
    assert [(metric.step, metric.value) for metric in history] == [(step, 1 / step) for step in range(5, 41, 5)]
    epochs = client.get_metric_history(last.info.run_id, "epoch/top1")
    assert [(metric.step, metric.value) for metric in epochs] == [(10, 0.1), (20, 0.2), (30, 0.3), (40, 0.4)]


def test_wandb_has_a_run_for_each_start_with_the_whole_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_PROJECT", "WANDB_RUN_GROUP", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    begun: list[dict[str, Any]] = []
    init = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **settings: (begun.append(settings), init(**settings))[1])
    write(tmp_path, range(1, 24), loggers=("wandb",), config=CONFIG)
    write(tmp_path, range(18, 41), epoch=1, update=17, loggers=("wandb",), config=CONFIG)
    assert [(each["group"], each["config"]) for each in begun] == 2 * [(tmp_path.name, CONFIG)]
    first, last = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    expected = {}
    for line in (json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()):
        named = {f"{line['kind']}/{name}": value for name, value in loggers.numbers(line).items()}
        expected.setdefault(line["update"], {}).update(named)
    assert history(last) == expected and list(history(first)) == [5, 10, 15, 20]


def history(path: Path) -> dict[int, dict[str, float]]:
    """What the file of an offline run holds, by step."""
    from wandb.proto import wandb_internal_pb2

    found: dict[int, dict[str, float]] = {}
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found[items["_step"]] = {name: value for name, value in items.items() if not name.startswith("_")}
    return found


def records(data: bytes) -> Iterator[bytes]:
    """LevelDB's log format: blocks of 32 KiB, pieces with a checksum, a length and a kind before them."""
    at, whole, block = len(b":W&B") + 3, b"", 2**15
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
        _crc, length, kind = struct.unpack_from("<IHB", data, at)
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # a whole one, or its last piece
            yield whole
            whole = b""


@pytest.mark.parametrize(
    ("named", "dvclive", "tensorboard", "expected"),
    [
        ((), None, False, {"dvclive"}),
        ((), False, False, set()),
        ((), True, True, {"dvclive", "tensorboard"}),
        (("tensorboard", "dvclive", "tensorboard"), None, True, {"dvclive", "tensorboard"}),
        (("tensorboard",), False, False, {"tensorboard"}),
    ],
)
def test_each_is_told_once_whatever_flag_asks_for_it(
    named: tuple[str, ...], dvclive: bool | None, tensorboard: bool, expected: set[str]
) -> None:
    found = chosen(named, dvclive=dvclive, tensorboard=tensorboard)
    assert len(found) == len(expected) and set(found) == expected


def test_two_flags_that_contradict_each_other() -> None:
    with pytest.raises(
        click.UsageError, match="--logger dvclive and --no-dvclive contradict each other; leave one out"
    ):
        chosen(("dvclive",), dvclive=False, tensorboard=False)


def test_one_that_cannot_be_started_is_told_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").touch()
    with pytest.raises(
        StudentError, match=r"tensorboard cannot be started: \w+: .*\. Leave it out, or give its client"
    ):
        Loggers(["dvclive", "tensorboard"], tmp_path, kept=[], update=0, config={})


def test_one_that_fails_is_told_nothing_more_and_the_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []

    class Server:
        """Goes away after the third line."""

        def __init__(self, *_anything: object) -> None: ...

        def tell(self, line: loggers.Line) -> None:
            told.append(line["update"])
            if len(told) == 3:
                raise ConnectionError("the server\nis gone")

        def close(self) -> None:
            raise AssertionError("it was let go of")

    monkeypatch.setitem(loggers.CLIENTS, "mlflow", Server)
    with caplog.at_level(logging.WARNING):
        write(tmp_path, range(1, 41), loggers=("mlflow", "tensorboard"))
    assert told == [5, 10, 10]
    assert caplog.messages == [
        "mlflow fails and is told nothing more; metrics.jsonl has everything: ConnectionError: the server"
    ]
    assert [step for step, _loss in scalars(tmp_path)["steps/loss"]] == list(range(5, 41, 5))


def test_what_they_leave_goes_with_the_run_when_it_is_set_aside_and_removed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with checkpoint.only_writer(run):
        for _ in range(2):
            for name in (*(f"{client}/a" for client in loggers.CLIENTS), "mlflow.db", "last.pt"):
                (run / name).parent.mkdir(exist_ok=True)
                (run / name).touch()
            checkpoint.set_aside(run, "Another one.")
        checkpoint.keep_one(run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.previous"]
    assert set(loggers.CLIENTS) < {path.name for path in (tmp_path / "run.previous").iterdir()}


def test_the_flag_of_the_command_changes_nothing_else(tmp_path: Path) -> None:
    store = make_store(tmp_path / "data")
    runs = tmp_path / "plain", tmp_path / "told"
    for run, flags in zip(runs, ((), ("--logger", "tensorboard")), strict=True):
        status, said = train(arguments(store, run, *flags), tmp_path / f"{run.name}.txt")
        assert status == 0, said
    steps = [line["update"] for line in record(runs[1]) if line["kind"] == "steps"]
    assert [step for step, _loss in scalars(runs[1])["steps/loss"]] == steps
    assert same(weights(runs[0]), weights(runs[1]))
