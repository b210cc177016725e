"""How is a table measured row by row, within a time that it keeps itself, so that a run cut off leaves what it has?

A `Receipt` is asked for one row after the other, the most telling first. Each is printed and written to the results as
soon as it is there. A row that would not fit into what is left of the time is not begun, one that takes longer than it
may is broken off, and one that fails says why; all three say so in their place, and the next one has its turn. What an
`earlier` run has found is taken from its results, so that a table can be measured in slices.
"""

from __future__ import annotations

import gc
import json
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Self

import click
import torch

from benchmarks.report import Table, grid
from pipeline.errors import UserError

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """The results of another run of the same table."""

    title: str
    cells: dict[str, tuple[str, ...]]
    figures: dict[str, float]

    @classmethod
    def read(cls, path: Path) -> Self:
        """From the JSON that it wrote."""
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        cells = {row["what"]: tuple(row[column] for column in COLUMNS) for row in record["rows"]}
        return cls(title=record["title"], cells=cells, figures=record["figures"])

    def found(self, name: str) -> Found | None:
        """What it found in this row; None where it was skipped, broken off or failed."""
        if name not in self.figures:
            return None
        share, waited = (self.figures.get(f"{name}, {what}") for what in ("share", "waiting"))
        return Found(text=self.cells[name][1], figure=self.figures[name], share=share, waited=waited)


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
    earlier: Earlier | None = None
    """What is known is not measured again"""
    rows: list[tuple[str, ...]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.earlier and self.earlier.title != self.title:
            raise UserError(
                f"--earlier holds '{self.earlier.title}', and this is '{self.title}'. Give the same flags on the same "
                "kind of machine, or measure it whole."
            )

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.begun)

    def row(self, name: str, measure: Callable[[], Found], *, takes: float, most: float | None = None) -> Found | None:
        """Measure a row that `takes` about so many seconds, and may take `most` (three times that, if not said)."""
        if self.earlier and (known := self.earlier.found(name)):
            self._note(name, known)
            self._tell(self.earlier.cells[name])
            return known
        most = self.patience * (most or 3 * takes)
        takes *= self.pace
        self._make_room()
        if self.left < takes:
            self._add(name, f"skipped: some {takes:.0f} s are needed, {max(self.left, 0):.0f} s are left")
            return None
        try:
            with within(min(most, self.left)):
                found = measure()
        except OverTimeError as error:
            self._add(name, f"broken off: {error}")
        except Exception as error:  # a row that fails must not take the others with it
            traceback.print_exc()
            said = str(error).strip().splitlines()[0][:100] if str(error) else ""
            self._add(name, f"failed: {type(error).__name__}: {said}")
        else:
            self._note(name, found)
            share = "" if found.share is None else f"{found.share:.3f}"
            self._add(name, found.text, share, _percent(found.waited), self._memory())
            return found
        return None

    def skip(self, name: str, why: str) -> None:
        """A row that cannot be measured here."""
        self._add(name, f"skipped: {why}")

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

    def _note(self, name: str, found: Found) -> None:
        self.figures[name] = found.figure
        if found.share is not None:
            self.figures[f"{name}, share"] = found.share
        if found.waited is not None:
            self.figures[f"{name}, waiting"] = found.waited

    def _add(self, name: str, text: str, share: str = "", waited: str = "", memory: str = "") -> None:
        self._tell((name, text, share, waited, memory, f"{time.monotonic() - self.begun:.0f} s"))

    def _tell(self, cells: tuple[str, ...]) -> None:
        self.rows.append(cells)
        click.echo(" | ".join(cell for cell in cells if cell))
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
