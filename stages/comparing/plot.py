"""Accuracy over images a second as a PNG: a dot a model, a line through those on the frontier."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from stages.comparing.place import Place

MARKS = {"student": ("o", "#4f8df0"), "teacher": ("s", "#35a572")}
INK = "#7d8590"


def draw(places: Sequence[Place]) -> bytes:
    """Draw the models by speed and accuracy; the PNG's bytes."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
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
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=160, metadata={"Software": None})
    return data.getvalue()
