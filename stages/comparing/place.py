"""Where does a model lie between accuracy and speed, and which lie on the frontier?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a model lies among others: how accurate and how fast it is."""

    name: str
    kind: str
    side: int
    parameters: int
    top1: float
    images_per_second: float
    slowest: float
    """Of its turns"""
    fastest: float
    on_frontier: bool = False


def frontier(places: Sequence[Place]) -> list[Place]:
    """The fastest first, and marked where no other is as accurate and faster, or as fast and more accurate."""
    ordered = sorted(places, key=lambda place: (-place.images_per_second, -place.top1))
    best, marked = -1.0, []
    for place in ordered:
        marked.append(replace(place, on_frontier=place.top1 > best))
        best = max(best, place.top1)
    return marked


def table(places: Sequence[Place]) -> str:
    """The models as a table in Markdown, with a line for each."""
    lines = ["| model | | pixels | parameters | top-1, % | images/s (turns) | on the frontier |", "|" + "---|" * 7]
    for place in places:
        turns = f"{place.images_per_second:,.0f} ({place.slowest:,.0f} to {place.fastest:,.0f})"
        cells = (place.name, place.kind, place.side, f"{place.parameters:,}", f"{100 * place.top1:.1f}", turns)
        lines.append("| " + " | ".join(map(str, (*cells, "yes" if place.on_frontier else ""))) + " |")
    return "\n".join(lines)
