"""A node that is cut off from a student's run: every rank ends within the time-out, and the run goes on from there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from student.evaluate import main as evaluate
from student.train import main as train
from tests.many_ranks import Rank, eventually, meeting, start
from tests.network import Cable, cabled
from tests.saved_runs import save_run
from tests.small_students import CLASSES, arguments, make_store

TIMEOUT = 4
ENOUGH = 180
"""Seconds in which the slowest machine has ended it; without a time-out it would take half an hour"""
MORE = ("--epochs", "5000", "--warmup-epochs", "0", "--checkpoint-every", "1", "--timeout", str(TIMEOUT))


@pytest.fixture
def cable() -> Iterator[Cable]:
    with cabled() as made:
        yield made


def envs(cable: Cable) -> list[dict[str, object]]:
    return [{**env, "MASTER_ADDR": cable.address(0), **cable.env(node)} for node, env in enumerate(meeting(2))]


def require_told(rank: Rank, number: int) -> None:
    assert rank.process.exitcode == 1, rank.said
    last = rank.said.splitlines()[-1]
    assert last.startswith(f"error: Rank {number} of 2 lost the others (time-out {TIMEOUT} s): "), rank.said
    assert "Start the same command again" in last and "Traceback" not in rank.said


def test_a_run_that_is_cut_in_two_ends_in_time_and_one_process_goes_on(cable, ranks, tmp_path) -> None:
    store, out = make_store(tmp_path), tmp_path / "run"
    line = arguments(store, out, *MORE)
    ranks += [start(train, line, env, tmp_path / f"{number}.log") for number, env in enumerate(envs(cable))]
    eventually((out / "last.pt").exists)
    cable.cut()
    for number, rank in enumerate(ranks):
        rank.wait(ENOUGH)
        require_told(rank, number)
    before = torch.load(out / "last.pt", weights_only=True)
    steps = 3 * before["epoch"] + before["step"]
    ranks.append(start(train, [*line, "--max-steps", str(steps + 2)], {}, tmp_path / "alone.log"))
    assert ranks[-1].wait() == 0, ranks[-1].said
    after = torch.load(out / "last.pt", weights_only=True)
    assert 3 * after["epoch"] + after["step"] == steps + 2


def test_a_run_whose_nodes_never_meet_ends_in_time(cable, ranks, tmp_path) -> None:
    cable.cut()
    line = arguments(make_store(tmp_path), tmp_path / "run", *MORE)
    ranks += [start(train, line, env, tmp_path / f"{number}.log") for number, env in enumerate(envs(cable))]
    for number, rank in enumerate(ranks):
        rank.wait(ENOUGH)
        require_told(rank, number)


def test_an_evaluation_whose_nodes_never_meet_ends_in_time(cable, ranks, tmp_path) -> None:
    make_store(tmp_path)
    save_run(tmp_path / "run", num_classes=CLASSES, names=None)
    cable.cut()
    line = ["--checkpoint", tmp_path / "run", "--shards", tmp_path / "data/*.tar", "--workers", 0, "--device", "cpu"]
    line += ["--timeout", TIMEOUT]
    ranks += [start(evaluate, line, env, tmp_path / f"{number}.log") for number, env in enumerate(envs(cable))]
    for number, rank in enumerate(ranks):
        rank.wait(ENOUGH)
        require_told(rank, number)
