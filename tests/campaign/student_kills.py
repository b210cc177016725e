"""Does a student that is killed, anywhere and any number of times, end with the weights of an undisturbed run?

The command in a process of its own, with everything on that has state (moving average, clipping, validation), gets
SIGKILL at random times until it gets through, over and over; and a run is stopped after every one of its steps and
resumed. All tensors of the last checkpoint, optimiser included, and the run's record must be the same bit by bit.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from student.run import loop
from tests.campaign.tally import Scale, Tally
from tests.small_students import arguments, make_store, record, same, start, train, weights

TITLE = "student: SIGKILL and resume; resume at every step of a short run"
SHOWS = "bit-identical weights"
FULL, REDUCED, STEPS = 50, 3, 15


def line(store: Path, out: Path, *more: str) -> list[str]:
    """The command: 3 epochs of 5 steps."""
    val = str(store.parent / "data/000000.tar")
    return arguments(store, out, "--ema", "--ema-decay", "0.9", "--clip-grad", "1", "--val-shards", val, *more)


def run(scale: Scale, place: Path) -> Tally:
    """Kills, then steps."""
    tally, generator = Tally(), np.random.default_rng(scale.seed)
    store = make_store(place)
    begun = time.monotonic()
    code, said = train(line(store, place / "whole"), place / "whole.txt")
    assert code == 0, said
    duration, finished = time.monotonic() - begun, 0
    out, output = place / "killed", place / "killed.txt"
    while tally.count < scale.count(FULL, REDUCED):
        process = start(line(store, out, "--checkpoint-every", "1"), output)
        process.join(duration * generator.uniform(0.1, 0.9))
        if process.exitcode is None:
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            tally.case(failure=_unreadable(out))
            continue
        finished += 1
        _compare(tally, out, place / "whole", process.exitcode, output.read_text())
        shutil.rmtree(out)
    code, said = train(line(store, out, "--checkpoint-every", "1"), output)
    _compare(tally, out, place / "whole", code, said)
    kills = tally.count
    for step in scale.some(range(1, STEPS), 2):
        _cut(tally, store, place, step)
    tally.note(f"{kills} kills, {finished + 1} runs finished under them; resumed after {tally.count - kills} steps.")
    return tally


def _unreadable(out: Path) -> str | None:
    """Every checkpoint that a kill leaves is whole."""
    for path in out.glob("*.pt"):
        try:
            torch.load(path, weights_only=True)
        except Exception as error:  # whatever it is, it is a failure
            return f"{path.name} after a kill: {error}"
    return None


def _compare(tally: Tally, out: Path, whole: Path, code: int | None, said: str) -> None:
    if code:
        tally.failures.append(f"the same command ended with {code}: {said[-300:]}")
    elif not (same(weights(out), weights(whole)) and record(out) == record(whole)):
        tally.silent.append("the run ended with other weights, or another record")


def _cut(tally: Tally, store: Path, place: Path, step: int) -> None:
    out = place / f"cut{step}"
    code, said = train(line(store, out, "--max-steps", str(step)), place / "cut.txt")
    if code == 0:
        code, said = train(line(store, out), place / "cut.txt")
    tally.case()
    _compare(tally, out, place / "whole", code, said)


def sabotage(place: Path) -> Tally:
    """A checkpoint without the optimiser's moments: the comparison must notice."""
    tally = Tally()
    store = make_store(place, rows=48)
    assert train(line(store, place / "whole"), place / "whole.txt")[0] == 0
    restore = loop.restore

    def forgetful(run_: loop.Run, state: dict[str, object]) -> None:
        fresh = run_.engine.optimizer.state_dict()
        restore(run_, state)
        run_.engine.optimizer.load_state_dict(fresh)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("student.run.launch.restore", forgetful)
        _cut(tally, store, place, 3)
    return tally
