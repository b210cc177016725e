"""How is a table measured row by row, within a time that it keeps itself, so that a run cut off leaves what it has?

A `Receipt` is asked for one row after the other, the most telling first. Each is printed and written to the results as
soon as it is there. A row that would not fit into what is left of the time is not begun, one that takes longer than it
may is broken off, and one that fails says why; all three say so in their place, and the next one has its turn.
"""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import click
import torch

from benchmarks.report import Table, grid

Told = Callable[[Table], None]
COLUMNS = ("what", "figure", "of the bare one", "waiting", "GPU memory, GB", "at")


class OverTimeError(Exception):
    """A row took longer than it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a row found."""

    text: str
    figure: float
    share: float | None = None
    """Of the bare figure that it is held against"""
    waited: float | None = None
    """Share of the time that it stood still for data"""


@dataclass(slots=True, kw_only=True)
class Receipt:
    """The rows so far."""

    title: str
    device: torch.device
    told: Told
    seconds: float
    """For all rows together"""
    pace: float = 1.0
    """What is expected of a row is taken times this"""
    patience: float = 1.0
    """And what it may take, times this"""
    notes: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.begun)

    def row(self, name: str, measure: Callable[[], Found], *, takes: float, most: float | None = None) -> Found | None:
        """Measure a row that `takes` about so many seconds, and may take `most` (three times that, if not said)."""
        most = self.patience * (most or 3 * takes)
        takes *= self.pace
        self._make_room()
        if self.left < takes:
            self._tell(name, f"skipped: some {takes:.0f} s are needed, {max(self.left, 0):.0f} s are left")
            return None
        try:
            with within(min(most, self.left)):
                found = measure()
        except OverTimeError as error:
            self._tell(name, f"broken off: {error}")
        except Exception as error:  # a row that fails must not take the others with it
            self._tell(
                name,
                f"failed: {type(error).__name__}: {str(error).strip().splitlines()[0][:100] if str(error) else ''}",
            )
        else:
            self.figures[name] = found.figure
            if found.share is not None:
                self.figures[f"{name}, share"] = found.share
            if found.waited is not None:
                self.figures[f"{name}, waiting"] = found.waited
            cells = ("" if found.share is None else f"{found.share:.3f}", _percent(found.waited), self._memory())
            self._tell(name, found.text, *cells)
            return found
        return None

    def skip(self, name: str, why: str) -> None:
        """A row that cannot be measured here."""
        self._tell(name, f"skipped: {why}")

    def table(self) -> Table:
        """All that was found until now."""
        return Table(
            name="gpu", title=self.title, columns=COLUMNS, rows=grid(self.rows), figures=self.figures, notes=self.notes
        )

    def _make_room(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def _memory(self) -> str:
        return f"{torch.cuda.max_memory_allocated(self.device) / 1e9:.1f}" if self.device.type == "cuda" else ""

    def _tell(self, name: str, text: str, share: str = "", waited: str = "", memory: str = "") -> None:
        at = f"{time.monotonic() - self.begun:.0f} s"
        self.rows.append((name, text, share, waited, memory, at))
        click.echo(" | ".join(cell for cell in self.rows[-1] if cell))
        self.told(self.table())


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What takes longer in here is broken off, where the system has a timer for it."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise OverTimeError(f"not done within {max(seconds, 0):.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"
