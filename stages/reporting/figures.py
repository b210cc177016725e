"""How is a figure drawn once, and yet read on a phone, in print, in the dark and in slides?

Matplotlib draws each figure. As SVG it stands in the page: its words stay words, its colours become the page's (each
colour of the palette below is replaced by a CSS variable of its name), its marks say their figures when pointed at, and
a text says what it shows to those who do not see it. As PNG the same figure goes to slides and to `dvc plots show`, in
colours that hold on white and on black. Figures are as wide as a phone; a wide screen sets two side by side.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from stages.reporting.report_data import called, colour
from stages.reporting.results import HEADS, Line, Results, mean_curve

PALETTE = {
    "dim": "#7d8590", "none": "#8b92a0", "hard": "#4f8df0", "soft": "#e8762f", "teacher": "#35a572",
    "ink": "#3a3d44", "other1": "#a06cd5", "other2": "#2a9fb0", "other3": "#d1568f", "other4": "#9a8b1f",
}  # fmt: skip
"""Each is the page's variable of this name, and must not be written in any other way."""
INK = PALETTE["dim"]
WIDTH = 4.7
"""In inches: 338 points, which a phone shows as they are"""
NAMED_CLASSES = 25
"""Up to so many classes each has a line of its own, and each of its confusions a cell that can be pointed at"""
COUNTED_CLASSES = 12
"""Up to so many classes a cell says its percentage"""
STYLE: Any = {
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    **{f"axes.{part}": INK for part in ("labelcolor", "edgecolor", "titlecolor")},
    **{f"axes.spines.{side}": False for side in ("top", "right")},
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
}


class Drawing:
    """A figure, and what its marks say when they are pointed at."""

    def __init__(self, name: str, height: float) -> None:
        self.name, self.told = name, ""
        self.figure = Figure(figsize=(WIDTH, height), layout="constrained")
        self._tips: list[str] = []

    def axes(self, *, x: str = "", y: str = "", grid: Any = "both") -> Axes:
        """Its one field, with the names of both directions and faint lines along them."""
        axes = self.figure.subplots()
        axes.set(xlabel=x, ylabel=y)
        if grid:
            axes.grid(axis=grid, color=INK, alpha=0.2, linewidth=0.8)
        axes.set_axisbelow(True)
        return axes

    def tip(self, artist: Artist, text: str) -> None:
        """What this mark says."""
        artist.set_gid(f"tip-{len(self._tips)}-{self.name}")
        artist.set_in_layout(False)  # or hundreds of marks are measured to find that they fit
        self._tips.append(text)

    def dots(self, axes: Axes, x: Sequence[float], y: Sequence[float], said: Sequence[str], **style: Any) -> None:
        """A mark for each point, with what each says."""
        for a, b, text in zip(x, y, said, strict=True):
            (mark,) = axes.plot([a], [b], **{"marker": "o", "markersize": 6.5, "markeredgewidth": 0, **style})
            self.tip(mark, text)

    def png(self) -> bytes:
        """For slides; the same bytes each time."""
        return self._saved(format="png", dpi=160, transparent=True, metadata={"Software": None})

    def svg(self) -> str:
        """For the page: no address, no identity that another figure has, no colour of its own."""
        text = self._saved(format="svg", transparent=True, metadata={"Date": None}).decode()
        text = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
        text = re.sub(r' (?:xmlns(?::xlink)?|version)="[^"]*"', "", text).replace("xlink:href", "href")
        for number, tip in enumerate(self._tips):
            text = text.replace(f'<g id="tip-{number}-{self.name}">', f"<g><title>{escape(tip)}</title>")
        used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))
        text = re.sub(r' id="([^"]*)"', lambda m: f' id="{self.name}-{m[1]}"' if m[1] in used else "", text)
        text = re.sub(r'(url\(|href=")#', rf"\g<1>#{self.name}-", text)
        for name, value in PALETTE.items():
            text = text.replace(value, f"var(--{name})")
        told = escape(self.told, quote=True)
        return re.sub(
            r'<svg[^>]*(viewBox="[^"]*")[^>]*>',
            rf'<svg class="drawing" \1 role="img" aria-label="{told}">',
            text,
            count=1,
        )

    def _saved(self, **how: Any) -> bytes:
        data = io.BytesIO()
        with mpl.rc_context(STYLE):
            self.figure.savefig(data, **how)
        return data.getvalue()


@contextmanager
def drawing(name: str, height: float = 3.0) -> Iterator[Drawing]:
    """A figure in the page's style."""
    with mpl.rc_context(STYLE):
        yield Drawing(name, height)


def tone(kind: str) -> str:
    """The colour of a kind of student, or of the teacher."""
    return PALETTE[colour(kind)]


def accuracy(results: Results) -> Drawing:
    """A dot for each seed of each head, a bar at their mean."""
    lines: list[str] = []
    said = []
    count = sum(1 + len(results.heads(kind)) for kind in results.kinds)
    with drawing("accuracy", 0.8 + 0.24 * count) as figure:
        axes = figure.axes(x="held-out accuracy", grid="x")
        for kind in results.kinds:
            lines.append(called(kind))
            for head, spread in results.heads(kind).items():
                style: Any = {"color": tone(kind), "alpha": 1.0 if head == list(results.heads(kind))[-1] else 0.6}
                axes.plot([spread.mean], [len(lines)], "|", markersize=13, markeredgewidth=2.5, **style)
                tips = [f"{called(kind)}, {HEADS[head]}, {100 * v:.1f} %" for v in spread.values]
                figure.dots(axes, spread.values, [len(lines)] * len(tips), tips, **style)
                said.append(f"{called(kind)}, {HEADS[head]}: {spread} %")
                lines.append(HEADS[head])
        if (level := results.teacher_accuracy) is not None:
            rule = axes.axvline(level, color=PALETTE["teacher"], linestyle=":", linewidth=2)
            figure.tip(rule, f"the teacher, {100 * level:.1f} %")
            axes.annotate(
                "teacher", (level, -0.7), color=PALETTE["teacher"], ha="center", va="bottom", annotation_clip=False
            )
            said.append(f"the teacher: {100 * level:.1f} %")
        axes.set_yticks(range(len(lines)), lines)
        for label in axes.get_yticklabels():
            label.set_fontweight("bold" if label.get_text() not in HEADS.values() else "normal")
        axes.set_ylim(len(lines) - 0.4, -0.7)
        axes.margins(x=0.08)
        _percent(axes.xaxis)
        axes.tick_params(axis="y", length=0)
        figure.told = "; ".join(said)
    return figure


def curve(results: Results, name: str, title: str) -> Drawing | None:
    """Accuracy or loss over the updates, mean and each seed."""
    said = []
    with drawing(name) as figure:
        axes = figure.axes(x="updates", grid="y")
        for kind in results.kinds:
            runs = [s.epochs for s in results.of(kind)]
            for student in results.of(kind):
                axes.plot(*_columns(mean_curve([student.epochs], name)), linewidth=0.8, alpha=0.4, color=tone(kind))
            mean = mean_curve(runs, name)
            axes.plot(*_columns(mean), linewidth=2, color=tone(kind), label=called(kind))
            tips = [f"{called(kind)} after {x:,g} updates: {_value(name, y)}" for x, y in mean]
            figure.dots(axes, *_columns(mean), tips, color=tone(kind), markersize=4)
            said += [f"{called(kind)} ends at {_value(name, mean[-1][1])}"] if mean else []
        axes.set_title(title)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if name == "top1":
            _percent(axes.yaxis)
        axes.legend(fontsize=9)
        figure.told = f"{title}: {'; '.join(said)}"
    return figure if said else None


def classes(names: Sequence[str], recalls: dict[str, NDArray[np.float64]]) -> Drawing:
    """How much of each class each kind recognises: a line a class, or of many classes a curve, worst first."""
    many = len(names) > NAMED_CLASSES
    with drawing("classes", 3.2 if many else 0.9 + 0.27 * len(names)) as figure:
        axes = figure.axes(grid="y" if many else "x")
        first = next(iter(recalls.values()))
        order_K = np.argsort(np.nan_to_num(first, nan=2.0), kind="stable")
        for kind, recall_K in recalls.items():
            style: Any = {"color": tone(kind), "label": called(kind)}
            if many:
                axes.plot(np.sort(recall_K[~np.isnan(recall_K)]), linewidth=2, **style)
                continue
            tips = [f"{called(kind)}: {100 * recall_K[k]:.1f} % of {names[k]}" for k in order_K]
            figure.dots(axes, recall_K[order_K].tolist(), range(len(names)), tips, color=tone(kind), alpha=0.85)
            axes.plot([], [], "o", markeredgewidth=0, **style)
        (_percent(axes.yaxis) if many else _percent(axes.xaxis))
        axes.set_xlabel("classes, worst first" if many else "share of the class that is recognised")
        if many:
            axes.set_ylabel("recognised")
        else:
            axes.set_yticks(range(len(names)), [_short(names[k]) for k in order_K])
            axes.set_ylim(len(names) - 0.4, -0.6)
        axes.legend(fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
        worst = ", ".join(
            f"{called(kind)} {100 * np.nanmin(r):.0f} to {100 * np.nanmax(r):.0f} %" for kind, r in recalls.items()
        )
        figure.told = f"share of each of {len(names)} classes that is recognised: {worst}. The table has each class"
    return figure


def confusion(names: Sequence[str], counts_KK: NDArray[np.int64], kind: str) -> Drawing:
    """Which class is taken for which, as a share of the true class's pictures."""
    share_KK = counts_KK / np.maximum(counts_KK.sum(1, keepdims=True), 1)
    with drawing("confusion", WIDTH) as figure:
        axes = figure.axes(x="taken for", y="true class", grid=None)
        if len(names) > NAMED_CLASSES:
            rgb = mpl.colors.to_rgb(tone(kind))
            axes.imshow(
                share_KK, cmap=LinearSegmentedColormap.from_list("share", [(*rgb, 0.03), (*rgb, 1.0)]), vmin=0, vmax=1
            )
        else:
            for row, column in np.ndindex(*share_KK.shape):
                _cell(figure, axes, names, share_KK, row, column, kind)
            axes.set_xticks(
                range(len(names)), [_short(n) for n in names], rotation=45, ha="right", rotation_mode="anchor"
            )
            axes.set_yticks(range(len(names)), [_short(n) for n in names])
        axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), aspect="equal")
        axes.tick_params(length=0, labelsize=9 if len(names) <= COUNTED_CLASSES else 7)
        axes.spines[:].set_visible(False)
        figure.told = (
            f"confusion matrix of {called(kind)} over {len(names)} classes; the table lists the commonest confusions"
        )
    return figure


def _cell(
    figure: Drawing, axes: Axes, names: Sequence[str], share_KK: NDArray[np.float64], row: int, column: int, kind: str
) -> None:
    share = float(share_KK[row, column])
    box = Rectangle(
        (column - 0.48, row - 0.48), 0.96, 0.96, facecolor=tone(kind), alpha=0.04 + 0.56 * share, linewidth=0
    )
    axes.add_patch(box)
    figure.tip(box, f"{names[row]} taken for {names[column]}: {100 * share:.1f} %")
    if len(names) <= COUNTED_CLASSES and share >= 0.01:
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=PALETTE["ink"], fontsize=8.5)


def reliability(found: dict[str, list[tuple[float, float, int]]]) -> Drawing:
    """How often the students of each kind are right when they are so sure."""
    with drawing("reliability", 4.0) as figure:
        axes = figure.axes(x="how sure it is", y="how often it is right")
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 4)), label="as sure as right")
        for kind, bins in found.items():
            sure, right, _ = zip(*bins, strict=True)
            axes.plot(sure, right, color=tone(kind), linewidth=1.6, label=called(kind))
            tips = [f"{called(kind)}: {100 * s:.0f} % sure, {100 * r:.0f} % right ({n:,} answers)" for s, r, n in bins]
            figure.dots(axes, sure, right, tips, color=tone(kind), markersize=5)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        _percent(axes.xaxis)
        _percent(axes.yaxis)
        axes.legend(fontsize=9, loc="upper left")
        figure.told = f"accuracy against confidence of {', '.join(called(kind) for kind in found)}"
    return figure


def trade(name: str, marks: Sequence[tuple[str, float, float, str]], x: str) -> Drawing:
    """Accuracy against what it costs: a dot a student (kind, cost, accuracy, what it says)."""
    with drawing(name) as figure:
        axes = figure.axes(x=x, y="held-out accuracy")
        for kind in dict.fromkeys(kind for kind, *_ in marks):
            _, costs, accuracies, said = zip(*(mark for mark in marks if mark[0] == kind), strict=True)
            figure.dots(axes, costs, accuracies, said, color=tone(kind), markersize=8, alpha=0.85)
            axes.plot([], [], "o", markeredgewidth=0, color=tone(kind), label=called(kind))
        axes.margins(0.1)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        _percent(axes.yaxis)
        axes.legend(fontsize=9, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
        figure.told = "; ".join(said for *_, said in marks)
    return figure


def line(name: str, points: Sequence[tuple[float, float]], *, x: str, title: str, percent: bool, who: str) -> Drawing:
    """One line with its points."""
    with drawing(name) as figure:
        axes = figure.axes(x=x, grid="y")
        axes.plot(*_columns(points), color=tone("teacher"), linewidth=2)
        tips = [f"{x} {a:g}: {100 * b:.1f} %" if percent else f"{x} {a:g}: {b:.3f}" for a, b in points]
        figure.dots(axes, *_columns(points), tips, color=tone("teacher"), markersize=5)
        axes.set_title(title)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if percent:
            _wide(axes)
            _percent(axes.yaxis)
        for mark in axes.lines:
            mark.set_clip_on(False)  # at 100 % half of it would be missing
        figure.told = f"{who}: {tips[0]}, {tips[-1]}"
    return figure


def by_share(parts: Sequence[tuple[str, int, float]]) -> Drawing:
    """How often the labels name the main picture of a view, by how much of the view it is."""
    with drawing("by-share", 1.0 + 0.3 * len(parts)) as figure:
        axes = figure.axes(x="labels that name the main picture", grid="x")
        for at, (name, views, share) in enumerate(parts):
            (bar,) = axes.barh([at], [share], height=0.66, color=tone("teacher"), alpha=0.8)
            figure.tip(bar, f"{name}: {100 * share:.1f} % of {views:,} views")
        axes.set_yticks(range(len(parts)), [name for name, *_ in parts])
        axes.set(xlim=(0, 1), ylim=(len(parts) - 0.5, -0.5))
        _percent(axes.xaxis)
        axes.tick_params(axis="y", length=0)
        figure.told = "; ".join(f"{name}: {100 * share:.1f} % of {views:,} views" for name, views, share in parts)
    return figure


def tokens(found: dict[str, Line]) -> Drawing:
    """Cosine of the class and the distillation token after each block."""
    said = []
    with drawing("tokens") as figure:
        axes = figure.axes(x="after block (0: as learned)", y="cosine", grid="y")
        for kind, record in found.items():
            values = [record["input"]["tokens"], *(block["mean"] for block in record["blocks"])]
            axes.plot(values, linewidth=2, color=tone(kind), label=called(kind))
            tips = [f"{called(kind)}, after block {at}: {value:.2f}" for at, value in enumerate(values)]
            figure.dots(axes, range(len(values)), values, tips, color=tone(kind), markersize=5)
            said.append(f"{called(kind)}: {values[-1]:.2f} after the last block")
        axes.set_ylim(top=1.03)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.legend(fontsize=9)
        figure.told = "; ".join(said)
    return figure


def _columns(points: Sequence[tuple[float, float]]) -> tuple[Any, Any]:
    table = np.array(points).reshape(-1, 2)
    return table[:, 0].tolist(), table[:, 1].tolist()


def _percent(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g} %"))
    axis.set_major_locator(MaxNLocator(5))


def _wide(axes: Axes, least: float = 0.2) -> None:
    """Not so near that chance looks like a trend."""
    low, high = axes.get_ylim()
    if high - low < least:
        middle = (low + high) / 2
        axes.set_ylim(max(0.0, middle - least / 2), min(1.0, middle + least / 2))


def _value(name: str, value: float) -> str:
    return f"{100 * value:.1f} %" if name == "top1" else f"{value:.3f}"


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"
