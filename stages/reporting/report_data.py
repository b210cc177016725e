"""What is a report about, and in which words and colours does it speak of it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.labelling.cost import Cost
from pipeline.shards.index import SampleIndex
from pipeline.store.reader import StoreReader
from stages.reporting.gallery import Shelf
from stages.reporting.results import KINDS, Results, Spread

CALLED = {"none": "no teacher", "hard": "hard labels", "soft": "soft labels"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All that the page is about."""

    results: Results
    store: StoreReader
    index: SampleIndex
    architecture: str | None
    """The teacher's, where its name does not say it"""
    cost: Cost | None
    per_view: Sequence[tuple[int, float]]
    views: Sequence[Shelf]
    held_out: Sequence[Shelf]

    @property
    def labelled(self) -> int:
        """Rows with a label."""
        return int((self.index.classes >= 0).sum())

    @property
    def best(self) -> tuple[str, Spread] | None:
        """The kind of distillation that gained most, and its gain."""
        gains = self.results.gains()
        return max(gains.items(), key=lambda pair: pair[1].mean) if gains else None


def called(kind: str) -> str:
    """A kind of student in words."""
    return CALLED.get(kind, kind)


def colour(kind: str) -> str:
    """The page's colour of a kind."""
    return kind if kind in KINDS else "accent"


def points(spread: Spread) -> str:
    """A gain in percentage points, with its sign."""
    text = f"{100 * spread.mean:+.1f}".replace("-", "−")
    return f"{text} ± {100 * spread.deviation:.1f}" if len(spread.values) > 1 else text
