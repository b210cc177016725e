"""The record of a run: whole, without doubles, and the source of what DVCLive and TensorBoard show."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from student.run.meter import Means
from student.run.run_log import RunLog
from tests.records import write
from tests.terminal import screen, terminal


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def positions(run: Path) -> list[tuple[str, int]]:
    return [(line["kind"], line["update"]) for line in lines(run)]


def test_what_the_user_sees(tmp_path: Path) -> None:
    assert write(tmp_path, range(1, 11)).splitlines() == [
        "step 05/40 | loss 0.2000 | 3,812 img/s | wait 1% | eta 12m",
        "step 10/40 | loss 0.1000 | 3,812 img/s | wait 1% | eta 12m",
        "epoch 1 | loss 0.1000 | top1 0.1000",
    ]


def test_a_narrow_terminal_keeps_the_scores_that_decide(tmp_path: Path) -> None:
    scores = {"ema_top1": 0.5, "ema_top1_class": 0.4, "top1": 0.3, "top1_class": 0.2}
    shown = {}
    for columns in (40, 60, 200):
        (tmp_path / f"{columns}").mkdir()
        code = f"""
from pathlib import Path
from student.run.run_log import RunLog
log = RunLog(Path({str(tmp_path / str(columns))!r}), epoch=0, update=0, total=40)
log.epoch({{"epoch": 0, "update": 10, "loss": 1.25, **{scores!r}}})
log.close()
"""
        with terminal(["-c", code], columns=columns) as window:
            shown[columns] = [line.rstrip() for line in screen(window.read(), columns)]
    assert shown == {
        40: ["epoch 1 | loss 1.2500 | top1 0.3000", ""],
        60: ["epoch 1 | loss 1.2500 | ema_top1 0.5000 | top1 0.3000", ""],
        200: [
            "epoch 1 | loss 1.2500 | ema_top1 0.5000 | ema_top1_class 0.4000 | top1 0.3000 | top1_class 0.2000",
            "",
        ],
    }


def test_a_resumed_record_has_no_doubles_and_no_holes(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    write(whole, range(1, 41))
    write(cut, range(1, 24))
    for epoch, update, until in ((1, 17, 28), (2, 20, 36), (3, 33, 41)):
        write(cut, range(update + 1, until), epoch=epoch, update=update)
    assert lines(cut) == lines(whole)


def test_a_checkpoint_before_the_end_of_its_epoch_drops_the_epochs_line(tmp_path: Path) -> None:
    write(tmp_path, range(1, 21))
    write(tmp_path, range(0), epoch=1, update=20)
    assert positions(tmp_path) == [("steps", 5), ("steps", 10), ("epoch", 10), ("steps", 15), ("steps", 20)]


def test_a_line_that_was_being_written_is_dropped(tmp_path: Path) -> None:
    write(tmp_path, range(1, 11))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "steps", "upd')
    write(tmp_path, range(0), epoch=9, update=99)
    assert positions(tmp_path) == [("steps", 5), ("steps", 10), ("epoch", 10)]


def test_dvclive_shows_the_epochs_of_the_record(tmp_path: Path) -> None:
    write(tmp_path, range(1, 21), loggers=("dvclive",))
    write(tmp_path, range(11, 31), epoch=1, update=10, loggers=("dvclive",))
    table = (tmp_path / "dvclive/plots/metrics/top1.tsv").read_text().splitlines()
    assert table == ["step\ttop1", "0\t0.1", "1\t0.2", "2\t0.3"]
    assert json.loads((tmp_path / "dvclive/metrics.json").read_text())["top1"] == 0.3


def test_tensorboard_by_flag(tmp_path: Path) -> None:
    write(tmp_path, range(1, 11), loggers=("tensorboard",))
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_means_go_on_in_the_middle_of_an_interval() -> None:
    whole, first, second = Means(), Means(), Means()
    values = [[0.1 * n, 0.3 * n, 0.7] for n in range(7)]
    for value in values:
        whole.add(value)
    for value in values[:4]:
        first.add(value)
    second.restore(first.state())
    for value in values[4:]:
        second.add(value)
    assert second.take_interval() == whole.take_interval()
    assert second.take_epoch() == whole.take_epoch()
    assert second.state() == Means().state()


def test_the_record_that_is_kept_is_on_the_disk_before_it_takes_the_old_ones_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, range(1, 11))
    kept = (tmp_path / "metrics.jsonl").read_text()
    synced: list[int] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_ino), sync(file))[1])

    def checked(self: Path, target: Path) -> Path:
        assert target != tmp_path / "metrics.jsonl" or self.stat().st_ino in synced
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", checked)
    RunLog(tmp_path, epoch=1, update=10, total=40, stream=io.StringIO()).close()
    assert (tmp_path / "metrics.jsonl").read_text() == kept and synced
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "status.json"]
