"""How far along is long work, how fast, and when will it end?

On a terminal one line is redrawn in place, without the parts that its width has no room for; elsewhere one aligned line
is written per interval, so that a log file stays readable:
``teacher  00400/05000 views |  8.0% |   3,812 views/s | eta 12m``. The rate is over this run alone: what an earlier run
had finished counts as progress and not as speed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TextIO

LIVE_S, LOG_S = 0.2, 10.0
"""Seconds from one line to the next, on a terminal and elsewhere."""
COLUMNS = 80
"""Of a terminal that does not say how wide it is."""
CLEAR = "\r\x1b[2K"

_open: dict[int, LiveLine] = {}
"""The line of each stream (by its identity) that is drawn and not ended."""


def duration(seconds: float) -> str:
    """A duration as people say it: 42s, 12m, 3h05m, 2d04h."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02d}s" if s < 600 else f"{s // 60}m"
    if s < 86400:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 86400}d{s % 86400 // 3600:02d}h"


class LiveLine:
    """A line made of parts: redrawn in place on a terminal, written below the last one elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.shown = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to draw a live line again."""
        return self.live and time.monotonic() - self.shown >= LIVE_S

    def show(self, parts: Sequence[str], *, expendable: Sequence[int] = (), stays: bool = False) -> None:
        """Draw the parts; on a terminal that is too narrow without the `expendable` ones, the first of them first."""
        self.shown = time.monotonic()
        if not self.live:
            self.stream.write(" | ".join(parts) + "\n")
        else:
            self.stream.write(CLEAR + fitted(parts, expendable, self._columns() - 1))
            _open[id(self.stream)] = self
            if stays:
                self.end()
        self.stream.flush()

    def end(self) -> None:
        """Leave what is drawn where it is; what is written next comes below it."""
        if _open.get(id(self.stream)) is self:
            del _open[id(self.stream)]
            self.stream.write("\n")
            self.stream.flush()

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or COLUMNS
        except (OSError, ValueError):
            return COLUMNS


def fitted(parts: Sequence[str], expendable: Sequence[int], width: int) -> str:
    """The parts that a line of this width has room for; what cannot be left out is cut."""
    kept = set(range(len(parts))) - set(expendable)
    for number in reversed(expendable):
        more = kept | {number}
        kept = more if len(_joined(parts, more)) <= width else kept
    return _joined(parts, kept)[: max(width, 1)]


def _joined(parts: Sequence[str], kept: set[int]) -> str:
    return " | ".join(part for number, part in enumerate(parts) if number in kept)


def make_room(stream: TextIO) -> None:
    """Take away the live line of this stream, if there is one, for something that stays; it is drawn again below."""
    if _open.pop(id(stream), None):
        stream.write(CLEAR)


class Progress:
    """A counter with a rate and an ETA; use as a context manager and call `advance`."""

    def __init__(
        self,
        name: str,
        total: int,
        unit: str,
        *,
        done: int = 0,
        interval: float | None = None,
        stream: TextIO | None = None,
        shown: bool = True,
    ) -> None:
        """One that is not `shown` counts alone."""
        self.shown = shown
        self.name, self.total, self.unit, self.start_count, self.count = name, total, unit, done, done
        self.line = LiveLine(stream)
        self.interval = interval if interval is not None else (LIVE_S if self.line.live else LOG_S)
        self.started = self.last = time.monotonic()
        self.note = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._write(final=True)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units; `note` is shown at the end of the line."""
        self.count += count
        self.note = note or self.note
        now = time.monotonic()
        if now - self.last >= self.interval:
            self.last = now
            self._write()

    @property
    def elapsed(self) -> float:
        """Seconds since this process began its part of the work."""
        return max(time.monotonic() - self.started, 1e-9)

    @property
    def rate(self) -> float:
        """How many units this run has done in a second, on average."""
        return (self.count - self.start_count) / self.elapsed

    def _write(self, final: bool = False) -> None:
        if not self.shown:
            return
        left = duration(max(0, self.total - self.count) / self.rate) if self.count > self.start_count else "?"
        end = f"took {duration(self.elapsed)}" if final else f"eta {left}"
        width = len(str(self.total))
        share = 100 * self.count / max(self.total, 1)
        parts = [f"{self.name}  {self.count:0{width}d}/{self.total} {self.unit}", f"{share:5.1f}%"]
        parts += [f"{self.rate:9,.1f} {self.unit}/s", end, *([self.note] if self.note else [])]
        self.line.show(parts, expendable=(4, 1, 2), stays=final)
