"""The report's main figures as PNG files, for slides and for `dvc plots show`: readable on white and on black alike.

The page itself draws its own (`stages.reporting.figures`), which follow the reader's colours; these have a clear ground
and colours that hold on both.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from stages.reporting.gallery import Shelf
from stages.reporting.report_data import called
from stages.reporting.results import BEST_HEAD, HEADS, Results, mean_curve

INK = "#7d8590"
COLOURS = {"none": "#8b92a0", "hard": "#4f8df0", "soft": "#e8762f", "teacher": "#35a572"}
STYLE: Any = {
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    **{f"axes.{part}": INK for part in ("labelcolor", "edgecolor", "titlecolor")},
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "font.size": 10.5,
    "font.family": "DejaVu Sans",
    "legend.frameon": False,
}


def drawn(width: float, height: float, draw: Callable[[Figure], None]) -> bytes:
    """A figure as the bytes of a PNG file, the same bytes each time."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=160, transparent=True, metadata={"Software": None})
    return data.getvalue()


def accuracy(results: Results) -> bytes:
    """A dot for each seed and head, a bar at their mean."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        names: list[str] = []
        for kind in results.kinds:
            for head, name in HEADS.items():
                values = [s.accuracy[head] for s in results.of(kind) if head in s.accuracy]
                if values:
                    strong = head == BEST_HEAD
                    style: Any = {"color": COLOURS.get(kind, INK), "alpha": 1.0 if strong else 0.55}
                    axes.plot(values, [len(names)] * len(values), "o", markersize=7, markeredgewidth=0, **style)
                    axes.plot([np.mean(values)], [len(names)], "|", markersize=17, markeredgewidth=3, **style)
                    names.append(f"{called(kind)}, {name}")
        if results.teacher_accuracy is not None:
            axes.axvline(results.teacher_accuracy, color=COLOURS["teacher"], linestyle=":", linewidth=2)
            axes.text(results.teacher_accuracy, -0.75, "teacher ", color=COLOURS["teacher"], ha="right", va="center")
        axes.set_yticks(range(len(names)), names)
        axes.set(ylim=(len(names) - 0.4, -1.1), xlabel="held-out accuracy")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.tick_params(axis="y", length=0)
        _grid(axes, "x")

    return drawn(8, 4.2, draw)


def curves(results: Results) -> bytes:
    """Accuracy and loss over the updates, mean and each seed."""

    def draw(figure: Figure) -> None:
        for axes, (name, title) in zip(
            figure.subplots(1, 2), (("top1", "held-out accuracy"), ("loss", "training loss")), strict=True
        ):
            for kind in results.kinds:
                runs = [s.epochs for s in results.of(kind)]
                style = {"color": COLOURS.get(kind, INK)}
                for run in runs:
                    axes.plot(*_columns(mean_curve([run], name)), linewidth=0.8, alpha=0.4, **style)
                axes.plot(*_columns(mean_curve(runs, name)), linewidth=2.4, label=called(kind), **style)
            axes.set(xlabel="updates")
            axes.set_title(title)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if name == "top1":
                axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
                axes.legend(loc="lower right")
            _grid(axes, "y")

    return drawn(10, 3.8, draw)


def tokens(results: Results) -> bytes:
    """Cosine of the class and the distillation token after each block."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for kind, record in results.tokens.items():
            line = [record["input"]["tokens"], *(block["mean"] for block in record["blocks"])]
            axes.plot(line, marker="o", linewidth=2.2, color=COLOURS.get(kind, INK), label=called(kind))
        axes.set(xlabel="after block (0: as learned)", ylim=(None, 1.03))
        axes.set_title("cosine of class and distillation token")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
        _grid(axes, "y")

    return drawn(6.4, 3.8, draw)


def contact_sheet(shelves: Sequence[Shelf]) -> bytes:
    """The pictures of some shelves, a row each, with the last thing said about each."""

    def draw(figure: Figure) -> None:
        columns = max(len(shelf.tiles) for shelf in shelves)
        grid = figure.subplots(len(shelves), columns, squeeze=False)
        for axes in grid.ravel():
            axes.set_axis_off()
        for row, shelf in zip(grid, shelves, strict=True):
            for axes, tile in zip(row, shelf.tiles, strict=False):
                axes.imshow(tile.pixels_HWC, interpolation="nearest")
                word = tile.words[-1]
                tone = INK if word.right is None else COLOURS["teacher" if word.right else "soft"]
                axes.set_title(word.says, fontsize=8, color=tone, loc="center", pad=3)

    columns = max(len(shelf.tiles) for shelf in shelves)
    return drawn(1.2 * columns, 1.4 * len(shelves), draw)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[NDArray[Any], NDArray[Any]]:
    table = np.array(points).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _grid(axes: Axes, axis: Any) -> None:
    axes.grid(axis=axis, color=INK, alpha=0.2, linewidth=0.8)
    axes.set_axisbelow(True)
