"""How do the tables look? A bar a row with a dot for every seed; lines where a table is a curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.evidence import frontier
from benchmarks.evidence.experiments import Experiment, Row
from benchmarks.evidence.tables import curve, done_part, read, shares

BAR, DOT, LINES = "#9fb6cd", "#1f3a5f", ("#1f3a5f", "#c0504d", "#6a8f3c")


def draw(name: str, experiment: Experiment, work: Path, seeds: Sequence[int], folder: Path) -> Path:
    """One PNG a table, of the rows and seeds that are done."""
    folder.mkdir(parents=True, exist_ok=True)
    if experiment.kind != "frontier":  # there all rows are done, or none is
        experiment = replace(experiment, rows=done_part(experiment, work, seeds))
    figure = DRAWN.get(experiment.kind, _bars)(experiment, work)
    figure.axes[0].set_title(experiment.title, loc="left", fontsize=11)
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=120, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return path


def _bars(experiment: Experiment, work: Path) -> Any:
    figure, axis = plt.subplots(figsize=(7, 0.38 * len(experiment.rows) + 0.8))
    for place, row in enumerate(reversed(experiment.rows)):
        values = [100 * value for value in shares(row, work)]
        axis.barh(place, fmean(values), color=BAR, height=0.62)
        axis.plot(values, [place] * len(values), "o", color=DOT, markersize=3.5)
    axis.set_yticks(range(len(experiment.rows)), [row.name for row in reversed(experiment.rows)])
    lowest = min(100 * value for row in experiment.rows for value in shares(row, work))
    axis.set_xlim(left=max(0, lowest - 8))
    axis.set_xlabel("top-1 on held-out pictures, % (dots: seeds; the axis does not begin at 0)")
    return _plain(figure)


def _views(experiment: Experiment, work: Path) -> Any:
    figure, axis = plt.subplots(figsize=(6, 3.6))
    counts = [int(row.name.split()[1]) for row in experiment.rows]
    found = [[100 * value for value in shares(row, work)] for row in experiment.rows]
    axis.plot(counts, [fmean(values) for values in found], "-", color=LINES[0])
    for count, values in zip(counts, found, strict=True):
        axis.plot([count] * len(values), values, "o", color=LINES[0], markersize=3.5)
    axis.set_xscale("log")
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.minorticks_off()
    axis.set_xlabel("stored views (the last: a new one every epoch)")
    axis.set_ylabel("top-1 on held-out pictures, %")
    return _plain(figure)


def _curves(experiment: Experiment, work: Path) -> Any:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for number, row in enumerate(experiment.rows):
        wide = number % 2 == 0  # a wide pale line, and upon it a thin dark one
        style: dict[str, Any] = {
            "color": LINES[number // 2],
            "linewidth": 5 if wide else 1,
            "alpha": 0.3 if wide else 1,
        }
        for axis, name in zip(axes, ("loss", "top1"), strict=True):
            for seed, run in enumerate(row.about):
                points = curve(run, work, name)
                axis.plot(*zip(*points, strict=True), **style, label=row.name if seed == 0 else None)
    for axis, name in zip(axes, ("training loss", "top-1 on held-out pictures"), strict=True):
        axis.set_xlabel("update")
        axis.set_ylabel(name)
    axes[1].legend(frameon=False, fontsize=8)
    return _plain(figure)


def _tokens(experiment: Experiment, work: Path) -> Any:
    figure, axis = plt.subplots(figsize=(6, 3.6))
    for colour, row in zip(LINES, experiment.rows, strict=False):
        for seed, means in enumerate(_cosines(row, work)):
            axis.plot(range(len(means)), means, color=colour, linewidth=1.4, label=row.name if seed == 0 else None)
    axis.set_xlabel("block (0: the tokens as they are learned)")
    axis.set_ylabel("cosine of the two tokens")
    axis.legend(frameon=False, fontsize=8)
    return _plain(figure)


def _course(experiment: Experiment, work: Path) -> Any:
    figure, axis = plt.subplots(figsize=(6, 3.6))
    found: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for row in experiment.rows:
        name, part = row.name.split(", ")
        for seed, means in enumerate(_cosines(row, work)):
            found.setdefault((name, seed), []).append((int(part.split()[0]), means[-1]))
    names = list(dict.fromkeys(name for name, _ in found))
    for (name, seed), points in found.items():
        style = {"color": LINES[names.index(name)], "linewidth": 1.4, "label": name if seed == 0 else None}
        axis.plot(*zip(*points, strict=True), "o-", markersize=2.5, **style)
    axis.set_xlabel("of the training, % (a line a seed)")
    axis.set_ylabel("cosine of the two tokens after the last block")
    axis.legend(frameon=False, fontsize=8)
    return _plain(figure)


def _cosines(row: Row, work: Path) -> list[list[float]]:
    found = [read(step, work) for step in row.about]
    return [[one["input"]["tokens_with_position"], *(block["mean"] for block in one["blocks"])] for one in found]


def _plain(figure: Any) -> Any:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


DRAWN = {"views": _views, "curves": _curves, "tokens": _tokens, "course": _course, "frontier": frontier.draw}
