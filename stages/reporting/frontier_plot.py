"""Accuracy over images a second as a PNG: a dot a model, a line through those on the frontier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from stages.reporting.frontier_place import Place
from stages.reporting.plots import COLOURS, INK, drawn

MARKS = {"student": ("o", COLOURS["hard"]), "teacher": ("s", COLOURS["teacher"])}


def draw(places: Sequence[Place]) -> bytes:
    """The picture."""

    def fill(figure: Figure) -> None:
        axes = figure.subplots()
        best = [(place.images_per_second, 100 * place.top1) for place in places if place.on_frontier]
        axes.plot(*zip(*best, strict=True), "-", color=INK, linewidth=1, zorder=1)
        for kind, (mark, colour) in MARKS.items():
            mine = [(place.images_per_second, 100 * place.top1) for place in places if place.kind == kind]
            if mine:
                axes.plot(*zip(*mine, strict=True), mark, color=colour, label=kind, zorder=2)
        for place in places:
            where = (place.images_per_second, 100 * place.top1)
            axes.annotate(Path(place.name).name, where, xytext=(6, 5), textcoords="offset points")
        axes.set(xscale="log", xlabel="images a second, on this machine", ylabel="held-out top-1, %")
        axes.legend()

    return drawn(8, 4.6, fill)
