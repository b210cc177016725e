"""A training run under any sequence of stops, kills, and lost or damaged checkpoints ends with the same weights.

In this process: each rule goes through everything that the command does, except for its start.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from student.checkpoints import checkpoint
from student.learning.settings import Settings
from student.ranks.ranks import Ranks, Stop
from student.run.launch import launched
from student.run.loop import Run, fit
from student.run.resume import Places
from tests.small_students import make_store, same, weights

STEPS = 6  # 2 epochs of 3


class KilledError(Exception):
    """The process is gone: nothing is saved."""


class Resumes(RuleBasedStateMachine):
    """The model is that nothing matters: the run goes on from what is whole, and ends as if nothing had happened."""

    store: Path
    whole: Path

    def __init__(self) -> None:
        super().__init__()
        logging.disable(logging.WARNING)
        self.folder = Path(tempfile.mkdtemp())
        self.run_ = self.folder / "run"

    @rule(steps=st.integers(1, STEPS))
    def stop_after(self, steps: int) -> None:
        go(self.store, self.run_, steps)

    @rule(steps=st.integers(1, STEPS), every=st.integers(1, 3))
    def be_killed_after(self, steps: int, every: int) -> None:
        go(self.store, self.run_, STEPS, kill_after=steps, every=every)

    @precondition(lambda self: (self.run_ / "previous.pt").exists() and (self.run_ / "last.pt").exists())
    @rule(place=st.floats(0, 0.99))
    def damage_last(self, place: float) -> None:
        last = checkpoint.path_of(self.run_)
        data = bytearray(last.read_bytes())
        data[int(place * len(data))] ^= 8
        last.write_bytes(data)

    @precondition(lambda self: (self.run_ / "previous.pt").exists())
    @rule()
    def lose_last(self) -> None:
        checkpoint.path_of(self.run_).unlink(missing_ok=True)

    def teardown(self) -> None:
        go(self.store, self.run_, STEPS)
        assert same(weights(self.run_), weights(self.whole))
        shutil.rmtree(self.folder)
        logging.disable(logging.NOTSET)


def go(store: Path, out: Path, steps: int, *, kill_after: int = 10**6, every: int = 2) -> None:
    """The command with --max-steps, in this process."""
    values = Settings(
        patch_size=8, width=16, depth=1, heads=2, epochs=2, batch=16, warmup_epochs=1, lr=1e-2, views=2, ema=True,
        ema_decay=0.9, max_steps=steps, checkpoint_every=every,
    )  # fmt: skip
    with launched(Places(logits=str(store), out=out, dvclive=False), values, Ranks(), Stop()) as run:
        if run is not None:
            done = [0]
            learn = run.engine.learn

            def counted(*step: object) -> torch.Tensor:
                done[0] += 1
                if done[0] > kill_after:
                    raise KilledError
                return learn(*step)  # type: ignore[arg-type]

            run.engine.learn = counted  # type: ignore[method-assign]
            _fit(run)


def _fit(run: Run) -> None:
    with contextlib.suppress(KilledError):
        fit(run)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("world")
    Resumes.store = make_store(folder, rows=48)
    go(Resumes.store, folder / "whole", STEPS)
    Resumes.whole = folder / "whole"


@pytest.mark.usefixtures("world")
class TestResumes(Resumes.TestCase):  # type: ignore[name-defined, misc]
    settings = settings(max_examples=4, stateful_step_count=5, deadline=None, suppress_health_check=list(HealthCheck))
