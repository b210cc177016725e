"""What do a student's answers look like? Figures for reports, readable on white and on black paper alike.

Transparent ground, text in a middle grey, one accent colour that holds on both.

    reliability   how often the student is right when it claims to be sure, with how many images claim so
    classes       recall of each class, worst first; for many classes their curve, with the worst by name
    confusion     which class is taken for which (few classes only)
    tokens        how alike the class and the distillation token are after each block

Shapes: N confidence bins, K classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from pipeline.durable.file import write_with
from student.judging.metrics import BINS, ClassRow, Tally

INK = "#7d8590"
ACCENT = "#3b82f6"
WARM = "#f0883e"
MOST_BARS = 40
"""Up to so many classes each has a bar with its name."""
NAMED = 8
"""Worst classes named beside the curve of many."""

_STYLE: Any = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "font.size": 9.5,
    "font.family": "DejaVu Sans",
    "svg.hashsalt": "student",
}


@contextlib.contextmanager
def _page(path: Path, width: float, height: float) -> Iterator[Figure]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        write_with(path, lambda p: figure.savefig(p, dpi=160, transparent=True, metadata={"Software": None}))


def _grid(axes: Axes, axis: Any = "both") -> None:
    axes.grid(axis=axis, color=INK, alpha=0.2, linewidth=0.8)
    axes.set_axisbelow(True)


def reliability(tally: Tally, path: Path, title: str) -> Path:
    """Draw into `path` how often an answer is right at each confidence, and how often it is so confident."""
    count_N = tally.bin_count_N.numpy()
    full_N = count_N > 0
    accuracy_N = tally.bin_correct_N.numpy()[full_N] / count_N[full_N]
    confidence_N = tally.bin_confidence_N.numpy()[full_N] / count_N[full_N]
    edge_N = np.arange(BINS) / BINS
    with _page(path, 5.2, 5.4) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        upper.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 4)), label="calibrated")
        bar = {"width": 1 / BINS, "align": "edge", "edgecolor": "none"}
        upper.bar(edge_N[full_N], accuracy_N, color=ACCENT, alpha=0.45, label="accuracy", **bar)
        upper.plot(confidence_N, accuracy_N, color=ACCENT, marker="o", markersize=4, linewidth=1.5)
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", aspect="auto")
        upper.set_title(f"{title}  ·  calibration error {tally.summary()['ece']:.3f}")
        upper.legend(frameon=False, loc="upper left")
        lower.bar(edge_N, count_N / max(count_N.sum(), 1), color=INK, alpha=0.6, **bar)
        lower.set(xlabel="confidence", ylabel="share")
        for axes in (upper, lower):
            _grid(axes, "y")
    return path


def classes(rows: Sequence[ClassRow], path: Path, title: str) -> Path:
    """Draw into `path` the recall of each class that has images, the worst first."""
    seen = sorted((row for row in rows if row.recall is not None), key=lambda row: (row.recall, row.number))
    recalls = np.array([row.recall for row in seen])
    mean = float(recalls.mean())
    if len(seen) > MOST_BARS:
        return _class_curve(seen, recalls, path, f"{title}  ·  mean {mean:.3f}")
    with _page(path, 6, 1.1 + 0.26 * len(seen)) as figure:
        axes = figure.subplots()
        colors = [WARM if recall < mean - recalls.std() else ACCENT for recall in recalls]
        bars = axes.barh([_short(row.name) for row in seen], recalls, color=colors, alpha=0.85, height=0.72)
        axes.bar_label(bars, labels=[f"{recall:.2f}" for recall in recalls], padding=4, color=INK, fontsize=8.5)
        axes.axvline(mean, color=INK, linewidth=1, linestyle=(0, (4, 4)))
        axes.set(xlim=(0, 1.08), ylim=(-0.6, len(seen) - 0.4), xlabel="recall")
        axes.set_title(f"{title}  ·  mean {mean:.3f}")
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        _grid(axes, "x")
    return path


def _class_curve(seen: Sequence[ClassRow], recalls: np.ndarray[Any, Any], path: Path, title: str) -> Path:
    with _page(path, 7, 4) as figure:
        axes = figure.subplots()
        rank = np.arange(len(seen))
        axes.fill_between(rank, recalls, color=ACCENT, alpha=0.2, linewidth=0, step="mid")
        axes.step(rank, recalls, color=ACCENT, linewidth=1.6, where="mid")
        worst = "\n".join(f"{row.recall:.2f}  {_short(row.name)}" for row in seen[:NAMED])
        axes.text(0.03, 0.97, f"worst\n{worst}", transform=axes.transAxes, va="top", fontsize=8.5)
        axes.set(xlim=(-0.5, len(seen) - 0.5), ylim=(0, 1.02), xlabel="classes, worst first", ylabel="recall")
        axes.set_title(title)
        _grid(axes)
    return path


def confusion(tally: Tally, names: Sequence[str], path: Path, title: str) -> Path:
    """Share of each true class (row) that is taken for each class (column)."""
    counts_KK = tally.confusion_KK.double()
    share_KK = (counts_KK / counts_KK.sum(1, keepdim=True).clamp(min=1)).numpy()
    side = max(4.2, 1.8 + 0.34 * len(names))
    ramp = LinearSegmentedColormap.from_list("accent", [(*mpl.colors.to_rgb(ACCENT), a) for a in (0.04, 1.0)])
    with _page(path, side, side) as figure:
        axes = figure.subplots()
        axes.imshow(share_KK, cmap=ramp, vmin=0, vmax=1)
        ticks = range(len(names))
        axes.set_xticks(ticks, [_short(name) for name in names], rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(ticks, [_short(name) for name in names])
        axes.set(xlabel="taken for", ylabel="truth", title=title)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for row, column in zip(*np.nonzero(share_KK >= 0.01), strict=True):
            color = "white" if share_KK[row, column] > 0.5 else INK
            text = f"{100 * share_KK[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=7.5)
    return path


def tokens(means: Sequence[float], deviations: Sequence[float], start: float, path: Path, title: str) -> Path:
    """Cosine similarity of the two tokens: learned inputs, then after each block."""
    block = np.arange(1, len(means) + 1)
    mean, spread = np.array(means), np.array(deviations)
    with _page(path, 6.4, 3.8) as figure:
        axes = figure.subplots()
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.fill_between(block, mean - spread, mean + spread, color=ACCENT, alpha=0.2, linewidth=0)
        axes.plot([0, *block], [start, *mean], color=ACCENT, marker="o", markersize=5, linewidth=2)
        axes.annotate(f"{start:.2f}", (0, start), xytext=(0, 8), textcoords="offset points", ha="center")
        axes.annotate(f"{mean[-1]:.2f}", (block[-1], mean[-1]), xytext=(0, 8), textcoords="offset points", ha="center")
        axes.set(ylim=(min(-0.1, float((mean - spread).min()), start - 0.1), 1.05), ylabel="cosine similarity")
        axes.set_xticks([0, *block], ["input", *map(str, block)])
        axes.set(xlabel="after block", title=title)
        _grid(axes, "y")
    return path


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"
