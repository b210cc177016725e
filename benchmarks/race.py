"""Which of several ways to do the same work is faster, on a machine that is never quite quiet?

They take turns: A B, B A, A B, … after one turn each that is not counted. A drift of the machine (heat, other
processes) meets all of them alike, and ratios are taken within a round, pair by pair, before their median. Processor
time of this process is counted beside the wall clock: it says what the work costs where others take the cores.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

Contestant = Callable[[], int]
"""Does a fixed amount of work, and says how many views that was."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One contestant's share of one round."""

    seconds: float
    busy: float
    """Processor time of this process and all its threads."""
    views: int

    def cost(self, busy: bool) -> float:
        """Seconds a view."""
        return (self.busy if busy else self.seconds) / self.views


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with its smallest and largest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of at least one value."""
        found = list(values)
        return cls(statistics.median(found), min(found), max(found))

    def text(self, form: str = ".2f") -> str:
        """As in a table: median (low–high)."""
        return f"{self.median:{form}} ({self.low:{form}}–{self.high:{form}})"


@dataclass(frozen=True, slots=True)
class Race:
    """All turns, by contestant, in the order of the rounds."""

    turns: Mapping[str, tuple[Turn, ...]]

    @property
    def rounds(self) -> int:
        """How often each of them ran."""
        return len(next(iter(self.turns.values())))

    def cost(self, name: str, *, busy: bool = False) -> Spread:
        """Seconds a view."""
        return Spread.of(turn.cost(busy) for turn in self.turns[name])

    def rate(self, name: str) -> Spread:
        """Views a second."""
        return Spread.of(1 / turn.cost(False) for turn in self.turns[name])

    def ratio(self, name: str, base: str, *, busy: bool = False) -> Spread:
        """How many times as fast as `base`."""
        pairs = zip(self.turns[name], self.turns[base], strict=True)
        return Spread.of(theirs.cost(busy) / ours.cost(busy) for ours, theirs in pairs)


def race(
    contestants: Mapping[str, Contestant],
    *,
    seconds: float,
    fewest: int = 3,
    before: Mapping[str, Callable[[], None]] | None = None,
) -> Race:
    """Run them in turn for about so many seconds each, and at least `fewest` rounds.

    `before` prepares a contestant's turn, and is not timed.
    """
    prepare = before or {}
    gc.collect()
    for name, run in contestants.items():
        prepare.get(name, _nothing)()
        run()
    turns: dict[str, list[Turn]] = {name: [] for name in contestants}
    names, begun, rounds = list(contestants), time.perf_counter(), 0
    while rounds < fewest or time.perf_counter() - begun < seconds * len(names):
        for name in names if rounds % 2 == 0 else reversed(names):
            prepare.get(name, _nothing)()
            turns[name].append(timed(contestants[name]))
        rounds += 1
    return Race({name: tuple(taken) for name, taken in turns.items()})


def timed(run: Contestant) -> Turn:
    """One turn."""
    begun, busy = time.perf_counter(), time.process_time()
    views = run()
    return Turn(time.perf_counter() - begun, time.process_time() - busy, views)


def _nothing() -> None:
    """No preparation."""
