"""The number of threads is part of a run: one that goes on elsewhere computes with as many, and says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from student.checkpoints import checkpoint
from student.ranks.ranks import Ranks
from student.run import threads
from tests.small_students import arguments, make_store, same, weights

SIZES = ("--width", "192", "--depth", "2", "--heads", "3", "--patch-size", "4")


def train(store: Path, out: Path, number: int | None, *more: str) -> str:
    """The command with so many threads; None: with what it takes by itself on a single core."""
    line = [sys.executable, "-m", "student.train", *arguments(store, out, *SIZES, *more)]
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    env |= {} if number is None else {"OMP_NUM_THREADS": str(number)}
    core = {min(os.sched_getaffinity(0))}
    one = (lambda: os.sched_setaffinity(0, core)) if number is None else None
    done = subprocess.run(  # no thread of this process is needed between fork and exec
        line, env=env, capture_output=True, text=True, timeout=300, check=False, preexec_fn=one
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores, and Linux"
)
def test_a_run_goes_on_with_the_threads_that_it_was_begun_with(tmp_path: Path) -> None:
    """Begun with one and resumed with two; begun with two and resumed on a node of one core."""
    store = make_store(tmp_path, rows=100)
    for mine, other in ((1, 2), (2, None)):
        whole, cut = tmp_path / f"whole{mine}", tmp_path / f"cut{mine}"
        train(store, whole, mine)
        train(store, cut, mine, "--max-steps", "3")
        said = train(store, cut, other)
        assert f"torch computes with {mine} threads" in said and f"not with the {other or 1} that" in said
        assert same(weights(cut), weights(whole))
        assert checkpoint.load(cut)["meta"]["threads"] == mine
    assert not same(weights(tmp_path / "whole1"), weights(tmp_path / "whole2")), "threads have no say here: a weak test"


def test_what_is_said_where_the_number_cannot_be_kept(caplog: pytest.LogCaptureFixture) -> None:
    here = torch.get_num_threads()
    assert threads.settle(None, Ranks()) == {"threads": here, "world": 1} and not caplog.text
    assert threads.settle({}, Ranks())["threads"] == here
    assert "does not say with how many threads" in caplog.text
    caplog.clear()
    assert threads.settle({"threads": here, "world": 1}, Ranks())["threads"] == here and not caplog.text
    assert threads.settle({"threads": here + 1, "world": 4}, Ranks())["threads"] == here
