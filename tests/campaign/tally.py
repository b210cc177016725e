"""What has a campaign seen so far, and how much of it is asked for?"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
EVERY = 20.0
"""Seconds between two lines about a row that takes long"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much of a campaign is run."""

    share: float = 1.0
    """Of the full count; 0 asks for the reduced counts of `make test`."""
    seed: int = 0

    @classmethod
    def parse(cls, text: str, seed: int) -> Scale:
        """full, reduced, or a percentage such as 10%."""
        known = {"full": 1.0, "reduced": 0.0}
        share = known[text] if text in known else float(text.removesuffix("%")) / 100
        if not 0 <= share <= 1:
            raise ValueError(f"{text} is not within 0% and 100%")
        return cls(share=share, seed=seed)

    def count(self, full: int, reduced: int) -> int:
        """How many of `full`; never fewer than `reduced`."""
        return max(min(reduced, full), math.ceil(full * self.share))

    def some(self, things: Sequence[T], reduced: int) -> list[T]:
        """So many of the things, evenly spread; all of them at full scale."""
        count = self.count(len(things), reduced)
        return [things[(2 * number + 1) * len(things) // (2 * count)] for number in range(count)]


@dataclass(slots=True)
class Tally:
    """Counts, and every single thing that was not as promised."""

    count: int = 0
    silent: list[str] = field(default_factory=list)
    """Wrong, and nobody was told."""
    failures: list[str] = field(default_factory=list)
    """Told, but not as promised."""
    notes: list[str] = field(default_factory=list)
    _told: float = field(default_factory=time.monotonic)

    @property
    def sound(self) -> bool:
        """Everything was as promised, and there was something."""
        return self.count > 0 and not self.silent and not self.failures

    def case(self, *, silent: str | None = None, failure: str | None = None) -> None:
        """Count one case, with what was wrong about it."""
        self.count += 1
        self.silent += [silent] if silent else []
        self.failures += [failure] if failure else []
        if time.monotonic() - self._told > EVERY:
            self._told = time.monotonic()
            faults = f"{len(self.silent)} silent, {len(self.failures)} failed"
            print(f"    {self.count:,} cases, {faults}", file=sys.stderr, flush=True)

    def require(self, true: bool, failure: str) -> None:
        """Count one case that must be so."""
        self.case(failure=None if true else failure)

    def note(self, text: str) -> None:
        """Something that a reader of the table should know."""
        self.notes.append(text)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}
