"""Which figures does the report show? Each is drawn of what was measured, and left out where that is absent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from stages.reporting.drawing import INK, PALETTE, STEPS, WIDTH, Drawing, Mark, drawing
from stages.reporting.measures import Reliability, wilson
from stages.reporting.report_data import Story, bytes_read, labels_by_share, share
from stages.reporting.results import HEADS, Line, Results, StudentResult, called, mean_curve

NAMED_CLASSES = 25
"""Up to so many classes each has a line of its own, and each of its confusions a cell that can be pointed at"""
COUNTED_CLASSES = 12
"""Up to so many classes a cell says its percentage"""
MOST_MATRIX = 200
"""Classes up to which a confusion matrix can be seen"""
PALEST, FULLEST = 0.04, 0.48
"""How much of a colour fills a cell: what is written on it can still be read"""
CURVES = {"top1": "held-out accuracy", "loss": "training loss"}
Colours = Mapping[str, str]
"""Of each kind, by its name in the palette"""
ABOVE: Any = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}


def drawings(story: Story) -> dict[str, Drawing]:
    """All figures that the results of this report allow, by their names."""
    results, names, colours = story.results, story.classes, story.results.colours
    curves = [curve(results, name, title) for name, title in CURVES.items()]
    drawn = [accuracy(results), *(found for found in curves if found.tips)]
    if story.recalls:
        drawn.append(classes(names, {kind: share_K for kind, (_, share_K) in story.recalls.items()}, colours))
    if story.closest and story.confused is not None and len(names) <= MOST_MATRIX:
        drawn.append(confusion(names, story.confused, story.closest, colours))
    if story.reliabilities:
        drawn.append(reliability(story.reliabilities, colours))
    if rates := _by_rate(story):
        drawn.append(trade("by-rate", rates, "images a second, forward pass alone", colours))
    if len(sizes := _by_bytes(story)) > 1:
        drawn.append(trade("by-bytes", sizes, "bytes of labels that are read for a view", colours))
    if story.tokens:
        drawn.append(tokens(story.tokens, colours))
    return {figure.name: figure for figure in (*drawn, *_of_labels(story))}


def _of_labels(story: Story) -> list[Drawing]:
    if not story.results.labels:
        return []
    per_view = [(float(view), value, f"view {view}: {share(value, ' %')}") for view, value in story.per_view]
    losses = [(line["epoch"], line["loss"]) for line in story.results.teacher_curve]
    fitted = [(epoch, loss, f"epoch {epoch:g}: {loss:.3f}") for epoch, loss in losses]
    drawn = [by_share(parts)] if (parts := labels_by_share(story)) else []
    if len(per_view) > 1:
        drawn.append(line("by-view", per_view, "labels that name the true class", xlabel="view", percent="y"))
    if len(fitted) > 1:
        drawn.append(line("fit", fitted, "the teacher’s training loss", xlabel="epoch"))
    return drawn


def accuracy(results: Results) -> Drawing:
    """Of each head a dot for each seed, a bar at their mean, and the interval of the pictures."""
    lines = list[str]()
    count = sum(1 + len(results.heads(kind)) for kind in results.kinds)
    how: Any = {"height": 0.8 + 0.24 * count, "xlabel": "held-out accuracy", "grid": "x", "percent": "x"}
    with drawing("accuracy", results.colours, about="held-out accuracy of each head, seed by seed", **how) as figure:
        for kind in results.kinds:
            lines.append(called(kind))
            for head, spread in results.heads(kind).items():
                who, at = f"{called(kind)}, {HEADS[head]}", len(lines)
                sure = wilson(spread.mean, results.of(kind)[0].images)
                last = head == list(results.heads(kind))[-1]
                style: Any = {"color": figure.tone(kind), "alpha": 1.0 if last else 0.6}
                figure.axes.plot([sure.low, sure.high], [at, at], linewidth=1, zorder=1.8, **style)
                (bar,) = figure.axes.plot([spread.mean], [at], "|", markersize=13, markeredgewidth=2.5, **style)
                figure.tip(bar, f"{who}: {spread} %; other pictures would say {sure} (95 %)")
                dots = [(v, at, f"{who}, {share(v, ' %')}") for v in spread.values]
                figure.series(kind, dots, size=6.5, marker="o", **style)
                lines.append(HEADS[head])
        figure.categories(lines, -0.7)
        for label in figure.axes.get_yticklabels():
            label.set_fontweight("bold" if label.get_text() not in HEADS.values() else "normal")
        figure.axes.margins(x=0.08)
        if (level := results.teacher_accuracy) is not None:
            green: Any = {"color": figure.tone("teacher")}
            dotted = figure.axes.axvline(level, linestyle=":", linewidth=2, **green)
            figure.tip(dotted, f"the teacher: {share(level, ' %')}")
            figure.axes.annotate("teacher", (level, -0.7), ha="center", va="bottom", annotation_clip=False, **green)
    return figure


def curve(results: Results, name: str, title: str) -> Drawing:
    """Accuracy or loss over the updates: a thin line for each seed, and their mean."""
    percent = name == "top1"
    how: Any = {"title": title, "xlabel": "updates", "grid": "y", "whole": 5, "percent": "y" if percent else ""}
    with drawing(name, results.colours, about=f"{title} over the updates", legend={}, **how) as figure:
        for kind in results.kinds:
            runs = [student.epochs for student in results.of(kind)]
            for run in runs:
                x_y = np.reshape(mean_curve([run], name), (-1, 2)).T
                figure.axes.plot(*x_y, linewidth=0.8, alpha=0.4, color=figure.tone(kind))
            mean = [(x, y, share(y, " %") if percent else f"{y:.3f}") for x, y in mean_curve(runs, name)]
            marks = [(x, y, f"{called(kind)} after {x:,g} updates: {value}") for x, y, value in mean]
            figure.series(kind, marks, size=4, line=2)
    return figure


def classes(names: Sequence[str], recalls: Mapping[str, NDArray[np.float64]], colours: Colours) -> Drawing:
    """Which share of each class each kind recognises: a row for each class or, of many, a curve, worst first."""
    order = np.argsort(np.nan_to_num(next(iter(recalls.values())), nan=2.0), kind="stable").tolist()
    many = len(names) > NAMED_CLASSES
    how: Any = {"grid": "x", "percent": "x", "xlabel": "share of the class that is recognised"}
    if many:
        how = {"grid": "y", "percent": "y", "xlabel": "classes, worst first", "ylabel": "recognised"}
    how["height"] = 3.2 if many else 0.9 + 0.27 * len(names)
    about = f"share of each of {len(names)} classes that is recognised"
    with drawing("classes", colours, about=about, legend={"ncols": 3, **ABOVE}, **how) as figure:
        for kind, recall_K in recalls.items():
            told = [
                f"{called(kind)}: {share(recall, ' %')} of {name}" for name, recall in zip(names, recall_K, strict=True)
            ]
            if many:
                worst_first = [k for k in np.argsort(recall_K, kind="stable").tolist() if not np.isnan(recall_K[k])]
                figure.series(kind, [(at, recall_K[k], told[k]) for at, k in enumerate(worst_first)], size=3, line=2)
            else:
                marks = [(recall_K[k], at, told[k]) for at, k in enumerate(order)]
                figure.series(kind, marks, size=6.5, alpha=0.85)
        if not many:
            figure.categories([_short(names[k]) for k in order])
    return figure


def confusion(names: Sequence[str], counts_KK: NDArray[np.int64], kind: str, colours: Colours) -> Drawing:
    """Which class is taken for which, as a share of the true class's pictures."""
    share_KK = counts_KK / np.maximum(counts_KK.sum(1, keepdims=True), 1)
    edges, many = (-0.5, len(names) - 0.5), len(names) > NAMED_CLASSES
    number = ", by its number" if many else ""
    words: Any = {"xlabel": f"taken for{number}", "ylabel": f"true class{number}", "grid": None}
    about = f"confusion matrix of {called(kind)} over {len(names)} classes"
    with drawing("confusion", colours, about=about, height=min(WIDTH, 2 + 0.35 * len(names)), **words) as figure:
        if many:
            rgb = mpl.colors.to_rgb(figure.tone(kind))
            pale_to_full = LinearSegmentedColormap.from_list("share", [(*rgb, 0.03), (*rgb, 1.0)])
            figure.axes.imshow(share_KK, cmap=pale_to_full, vmin=0, vmax=1)
        else:
            _cells(figure, names, share_KK, figure.tone(kind))
        figure.axes.set(xlim=edges, ylim=edges[::-1], aspect="equal")
        figure.axes.tick_params(length=0, labelsize=9 if len(names) <= COUNTED_CLASSES else 7)
        figure.axes.spines[:].set_visible(False)
    return figure


def _cells(figure: Drawing, names: Sequence[str], share_KK: NDArray[np.float64], tone: str) -> None:
    """A cell for each pair of classes, which says its figure."""
    for (row, column), found in np.ndenumerate(share_KK):
        corner = (column - 0.48, row - 0.48)
        box = Rectangle(corner, 0.96, 0.96, facecolor=tone, alpha=PALEST + (FULLEST - PALEST) * found, linewidth=0)
        figure.tip(figure.axes.add_patch(box), f"{names[row]} taken for {names[column]}: {share(found, ' %')}")
        if len(names) <= COUNTED_CLASSES and found >= 0.01:
            how: Any = {"ha": "center", "va": "center", "color": PALETTE["ink"], "fontsize": 8.5}
            figure.axes.text(column, row, f"{100 * found:.0f}", **how)
    short = [_short(name) for name in names]
    figure.axes.set_xticks(range(len(names)), short, rotation=45, ha="right", rotation_mode="anchor")
    figure.axes.set_yticks(range(len(names)), short)


def reliability(found: Mapping[str, Reliability], colours: Colours) -> Drawing:
    """How often the answers of each kind's students are right, by how confident they are."""
    words: Any = {"xlabel": "how sure it is", "ylabel": "how often it is right", "legend": {"loc": "upper left"}}
    about = "how often students are right, by how sure they are"
    with drawing("reliability", colours, about=about, height=4.0, percent="xy", **words) as figure:
        figure.axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 4)), label="as sure as right")
        for kind, bins in found.items():
            said = f"{called(kind)}: {{:.0f}} % sure, {{:.0f}} % right ({{:,}} answers)"
            figure.series(kind, [(s, r, said.format(100 * s, 100 * r, n)) for s, r, n in bins], size=5, line=1.6)
        figure.axes.set(xlim=(0, 1), ylim=(0, 1))
    return figure


def trade(name: str, marks: Mapping[str, Sequence[Mark]], x: str, colours: Colours) -> Drawing:
    """Accuracy against what it costs: one dot for each student."""
    words: Any = {"xlabel": x, "ylabel": "held-out accuracy", "percent": "y", "legend": {"ncols": 2, **ABOVE}}
    with drawing(name, colours, about=f"held-out accuracy against {x}", **words) as figure:
        for kind, of_kind in marks.items():
            figure.series(kind, of_kind, size=8, alpha=0.85)
        figure.axes.margins(0.1)
        figure.axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        figure.axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    return figure


def line(name: str, marks: Sequence[Mark], title: str, **how: Any) -> Drawing:
    """A line through these points, which are marked."""
    with drawing(name, {}, about=title, title=title, grid="y", whole=6, **how) as figure:
        figure.series("teacher", marks, size=5, line=2)
        for mark in figure.axes.lines:
            mark.set_clip_on(False)  # at 100 % half of it would be missing
    return figure


def by_share(parts: Sequence[tuple[str, int, float]]) -> Drawing:
    """How often the labels name the main picture of a mixed view, by that picture's share of the view."""
    words: Any = {"xlabel": "labels that name the main picture", "grid": "x", "percent": "x"}
    about = "labels that name the main picture, by its share of the view"
    with drawing("by-share", {}, about=about, height=0.9 + 0.4 * len(parts), **words) as figure:
        for at, (name, views, named) in enumerate(parts):
            (bar,) = figure.axes.barh([at], [named], height=0.66, color=figure.tone("teacher"), alpha=0.8)
            figure.tip(bar, f"{name}: {share(named, ' %')} of {views:,} views")
        figure.categories([tip.replace(": ", "\n") for tip in figure.tips])  # print has no list of them
        figure.axes.set_xlim(0, 1)
    return figure


def tokens(found: Mapping[str, Line], colours: Colours) -> Drawing:
    """The cosine similarity of the class token and the distillation token after each block."""
    words: Any = {"xlabel": "after block (0: as learned)", "ylabel": "cosine", "grid": "y", "whole": 6}
    about = "cosine of the class and the distillation token after each block"
    with drawing("tokens", colours, about=about, legend={}, **words) as figure:
        for kind, record in found.items():
            values = [record["input"]["tokens"], *(block["mean"] for block in record["blocks"])]
            marks = [(at, v, f"{called(kind)}, after block {at}: {v:.2f}") for at, v in enumerate(values)]
            figure.series(kind, marks, size=5, line=2)
        figure.axes.set_ylim(top=1.03)
    return figure


def _by_rate(story: Story) -> dict[str, list[Mark]]:
    rates = _marks(story, lambda s: s.speed.get("forward_images_per_second"), "{:,.0f} images/s")
    level = story.results.teacher_accuracy
    if rates and (views := story.teacher_rate) is not None and level is not None:
        rates["teacher"] = [(views, level, f"the teacher: {share(level, ' %')}, {views:,.0f} images/s")]
    return rates


def _by_bytes(story: Story) -> dict[str, list[Mark]]:
    read = bytes_read(story)
    return _marks(story, lambda s: read.get(s.kind), "{:.1f} bytes a view")


def _marks(story: Story, cost: Callable[[StudentResult], float | None], form: str) -> dict[str, list[Mark]]:
    """Of each kind what each student costs, and what it reached."""
    found: dict[str, list[Mark]] = {}
    for s in story.students:
        if (x := cost(s)) is not None:
            said = f"{called(s.kind)}, seed {s.seed}: {share(s.best, ' %')}, {form.format(x)}"
            found.setdefault(s.kind, []).append((x, s.best, said))
    return found


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"
