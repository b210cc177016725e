"""Of two writers of one store, does exactly one write, is the other told, and is nothing lost?

Processes that were forked before and wait for one signal open the store together; now and then the winner is killed in
its midst. Each says when it held the store, on the clock that all processes share: two stretches that overlap would be
two writers. Those that were told try again until the store is finished.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline.durable.local_lock import Flock
from pipeline.errors import StoreError
from tests.campaign.tally import Scale, Tally
from tests.damaged_stores import INDEX, MANIFEST, VIEWS
from tests.faults import in_child, wait_for
from tests.stores import fill, finished, open_writing, tree

TITLE = "two (and more) writers of one store"
SHOWS = "one proceeds, the others are told; nothing lost"
FULL, REDUCED = 100, 8
TOLD = 7


def run(scale: Scale, place: Path) -> Tally:
    """Race after race."""
    tally, generator = Tally(), np.random.default_rng(scale.seed)
    finished(place / "reference.zarr", MANIFEST, INDEX, VIEWS)
    told = killed = 0
    for number in range(scale.count(FULL, REDUCED)):
        path = place / "store.zarr"
        statuses = race(path, place / "held", writers=2 + number % 3, kill_after=_kill_time(number, generator))
        told, killed = told + statuses.count(TOLD), killed + statuses.count(-signal.SIGKILL)
        _judge(tally, path, place, statuses, f"race {number}")
        shutil.rmtree(path, ignore_errors=True)
    tally.require(told > 0, "no writer was ever told: these were no races")
    tally.count -= 1
    tally.note(f"{told} writers were told, {killed} were killed in their midst.")
    return tally


def _kill_time(number: int, generator: np.random.Generator) -> float | None:
    return float(generator.uniform(0.01, 0.15)) if number % 4 == 3 else None


def race(path: Path, log: Path, *, writers: int, kill_after: float | None) -> list[int]:
    """The exit statuses of writers that begin at once."""
    log.unlink(missing_ok=True)
    reading, writing = os.pipe()

    def writer() -> None:
        os.close(writing)
        os.read(reading, 1)  # until the pipe is closed: the start
        try:
            _write_it(path, log)
        except StoreError as error:
            clear = "is being written by" in str(error) and "Wait until it ends" in str(error)
            os._exit(TOLD if clear else 8)

    children = [in_child(writer) for _ in range(writers)]
    os.close(reading)
    os.close(writing)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(children[0], signal.SIGKILL)
    return [wait_for(child) for child in children]


def _write_it(path: Path, log: Path) -> None:
    with open_writing(path, MANIFEST, INDEX, VIEWS) as store:
        begun = time.monotonic()
        fill(store)
        store.finish()
        held = f"{begun} {time.monotonic()}\n"
    with log.open("a") as file:
        file.write(held)


def _judge(tally: Tally, path: Path, place: Path, statuses: list[int], what: str) -> None:
    log = place / "held"
    stretches = sorted(tuple(map(float, text.split())) for text in log.read_text().splitlines()) if log.exists() else []
    overlap = any(one[1] > other[0] for one, other in pairwise(stretches))
    bad = [status for status in statuses if status not in (0, TOLD, -signal.SIGKILL)]
    tally.case(
        silent=f"{what}: two writers at once" if overlap else None,
        failure=f"{what}: exit statuses {statuses}"
        if bad or (0 not in statuses and -signal.SIGKILL not in statuses)
        else None,
    )
    _settle(lambda: _write_it(path, log))
    if tree(path) != tree(place / "reference.zarr"):
        tally.silent.append(f"{what}: the store is another")


def _settle(write: Callable[[], None]) -> None:
    """What a user who was told does: the same command again."""
    for _ in range(100):
        try:
            return write()
        except StoreError:
            time.sleep(0.02)
    raise AssertionError("the lock is never let go of")


def sabotage(place: Path) -> Tally:
    """Without the lock two writers hold the store at once."""
    tally = Tally()
    finished(place / "reference.zarr", MANIFEST, INDEX, VIEWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Flock, "take", lambda *_: True)
        for number in range(5):
            path = place / f"{number}.zarr"
            statuses = race(path, place / "held", writers=3, kill_after=None)
            _judge(tally, path, place, statuses, "unlocked")
    return tally
