"""How far along is long work, how fast, and when will it end?

On a terminal one line is redrawn in place; elsewhere one aligned line is written per interval, so that a log file stays
readable: ``teacher  00400/05000 views |  8.0% |   3,812 views/s | eta 12m``. The rate is over this run alone: what an
earlier run had finished counts as progress and not as speed.
"""

from __future__ import annotations

import sys
import time
from typing import TextIO


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
    ) -> None:
        self.name, self.total, self.unit, self.start_count, self.count = name, total, unit, done, done
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.interval = interval if interval is not None else (0.2 if self.live else 10.0)
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
        """Seconds since this run began."""
        return max(time.monotonic() - self.started, 1e-9)

    @property
    def rate(self) -> float:
        """Units a second in this run."""
        return (self.count - self.start_count) / self.elapsed

    def _write(self, final: bool = False) -> None:
        left = duration(max(0, self.total - self.count) / self.rate) if self.count > self.start_count else "?"
        end = f"took {duration(self.elapsed)}" if final else f"eta {left}"
        width = len(str(self.total))
        share = 100 * self.count / max(self.total, 1)
        parts = [f"{self.name}  {self.count:0{width}d}/{self.total} {self.unit}", f"{share:5.1f}%"]
        parts += [f"{self.rate:9,.1f} {self.unit}/s", end, *([self.note] if self.note else [])]
        line = " | ".join(parts)
        ending = "\n" if final or not self.live else ""
        self.stream.write(f"\r\x1b[2K{line}{ending}" if self.live else f"{line}\n")
        self.stream.flush()
