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

from stages.reporting.drawing import INK, PALETTE, WIDTH, Drawing, Mark, drawing
from stages.reporting.measures import Reliability
from stages.reporting.report_data import Story, share
from stages.reporting.results import HEADS, Line, Results, StudentResult, called, mean_curve

NAMED_CLASSES = 25
"""Up to so many classes each has a line of its own, and each of its confusions a cell that can be pointed at"""
COUNTED_CLASSES = 12
"""Up to so many classes a cell says its percentage"""
MOST_MATRIX = 200
"""Classes up to which a confusion matrix can be seen"""
PALEST, FULLEST = 0.04, 0.48
"""How much of a colour fills a cell: what is written on it can still be read"""
NARROWEST = 0.2
"""Of an axis of percentages"""
CURVES = {"top1": "held-out accuracy", "loss": "training loss"}
Colours = Mapping[str, str]
"""Of each kind, by its name in the palette"""
ABOVE: Any = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}


def drawings(story: Story) -> dict[str, Drawing]:
    """All figures that the results of this report allow, by their names."""
    results, names, colours = story.results, story.classes, story.results.colours
    curves = [curve(results, name, title) for name, title in CURVES.items()]
    drawn = [accuracy(results), *(found for found in curves if found.said)]
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
    per_view = [(float(view), value) for view, value in story.per_view]
    fitted = [(line["epoch"], line["loss"]) for line in story.results.teacher_curve]
    drawn = [by_share(story.labels.by_share)] if story.labels.by_share else []
    if len(per_view) > 1:
        drawn.append(line("by-view", per_view, x="view", title="labels that name the true class", percent=True))
    if len(fitted) > 1:
        drawn.append(line("fit", fitted, x="epoch", title="the teacher’s training loss", percent=False))
    return drawn


def accuracy(results: Results) -> Drawing:
    """A dot for each seed of each head, a bar at their mean."""
    lines = list[str]()
    count = sum(1 + len(results.heads(kind)) for kind in results.kinds)
    with drawing(
        "accuracy", results.colours, height=0.8 + 0.24 * count, xlabel="held-out accuracy", grid="x", percent="x"
    ) as figure:
        for kind in results.kinds:
            lines.append(called(kind))
            for head, spread in results.heads(kind).items():
                who, at = f"{called(kind)}, {HEADS[head]}", len(lines)
                style: Any = {
                    "color": figure.tone(kind),
                    "alpha": 1.0 if head == list(results.heads(kind))[-1] else 0.6,
                }
                figure.axes.plot([spread.mean], [at], "|", markersize=13, markeredgewidth=2.5, **style)
                figure.series(kind, [(v, at, f"{who}, {share(v, ' %')}") for v in spread.values], size=6.5, **style)
                figure.said.append(f"{who}: {spread} %")
                lines.append(HEADS[head])
        figure.categories(lines, -0.7)
        for label in figure.axes.get_yticklabels():
            label.set_fontweight("bold" if label.get_text() not in HEADS.values() else "normal")
        figure.axes.margins(x=0.08)
        if (level := results.teacher_accuracy) is not None:
            green: Any = {"color": figure.tone("teacher")}
            figure.said.append(f"the teacher: {share(level, ' %')}")
            figure.tip(figure.axes.axvline(level, linestyle=":", linewidth=2, **green), figure.said[-1])
            figure.axes.annotate("teacher", (level, -0.7), ha="center", va="bottom", annotation_clip=False, **green)
    return figure


def curve(results: Results, name: str, title: str) -> Drawing:
    """Accuracy or loss over the updates: a thin line for each seed, and their mean."""
    percent = name == "top1"
    how: Any = {"percent": "y"} if percent else {}
    with drawing(name, results.colours, title=title, xlabel="updates", grid="y", whole=5, legend={}, **how) as figure:
        for kind in results.kinds:
            runs = [student.epochs for student in results.of(kind)]
            for run in runs:
                figure.axes.plot(*_columns(mean_curve([run], name)), linewidth=0.8, alpha=0.4, color=figure.tone(kind))
            mean = [(x, y, share(y, " %") if percent else f"{y:.3f}") for x, y in mean_curve(runs, name)]
            marks = [(x, y, f"{called(kind)} after {x:,g} updates: {value}") for x, y, value in mean]
            figure.series(kind, marks, size=4, line=2)
            figure.said += [f"{called(kind)} ends at {value}" for *_, value in mean[-1:]]
    return figure


def classes(names: Sequence[str], recalls: Mapping[str, NDArray[np.float64]], colours: Colours) -> Drawing:
    """Which share of each class each kind recognises: a row for each class or, of many, a curve, worst first."""
    order = np.argsort(np.nan_to_num(next(iter(recalls.values())), nan=2.0), kind="stable").tolist()
    many = len(names) > NAMED_CLASSES
    how: Any = {"grid": "x", "percent": "x", "xlabel": "share of the class that is recognised"}
    if many:
        how = {"grid": "y", "percent": "y", "xlabel": "classes, worst first", "ylabel": "recognised"}
    height = 3.2 if many else 0.9 + 0.27 * len(names)
    how["about"] = f"share of each of {len(names)} classes that is recognised"
    with drawing("classes", colours, height=height, legend={"ncols": 3, **ABOVE}, **how) as figure:
        for kind, recall_K in recalls.items():
            who = called(kind)
            if many:
                figure.axes.plot(
                    np.sort(recall_K[~np.isnan(recall_K)]), linewidth=2, color=figure.tone(kind), label=who
                )
            else:
                told = [f"{who}: {share(recall_K[k], ' %')} of {names[k]}" for k in order]
                marks = list(zip(recall_K[order].tolist(), range(len(order)), told, strict=True))
                figure.series(kind, marks, size=6.5, alpha=0.85)
                figure.categories([_short(names[k]) for k in order])
            figure.said.append(f"{who} {100 * np.nanmin(recall_K):.0f} to {100 * np.nanmax(recall_K):.0f} %")
    return figure


def confusion(names: Sequence[str], counts_KK: NDArray[np.int64], kind: str, colours: Colours) -> Drawing:
    """Which class is taken for which, as a share of the true class's pictures."""
    share_KK = counts_KK / np.maximum(counts_KK.sum(1, keepdims=True), 1)
    edges, height = (-0.5, len(names) - 0.5), min(WIDTH, 2 + 0.35 * len(names))
    with drawing("confusion", colours, height=height, xlabel="taken for", ylabel="true class", grid=None) as figure:
        if len(names) > NAMED_CLASSES:
            rgb = mpl.colors.to_rgb(figure.tone(kind))
            pale_to_full = LinearSegmentedColormap.from_list("share", [(*rgb, 0.03), (*rgb, 1.0)])
            figure.axes.imshow(share_KK, cmap=pale_to_full, vmin=0, vmax=1)
        else:
            _cells(figure, names, share_KK, figure.tone(kind))
        figure.axes.set(xlim=edges, ylim=edges[::-1], aspect="equal")
        figure.axes.tick_params(length=0, labelsize=9 if len(names) <= COUNTED_CLASSES else 7)
        figure.axes.spines[:].set_visible(False)
    figure.said.append(
        f"confusion matrix of {called(kind)} over {len(names)} classes; the table lists the commonest confusions"
    )
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
    words: Any = {"xlabel": "how sure it is", "ylabel": "how often it is right"}
    with drawing("reliability", colours, height=4.0, percent="xy", legend={"loc": "upper left"}, **words) as figure:
        figure.axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 4)), label="as sure as right")
        for kind, bins in found.items():
            said = f"{called(kind)}: {{:.0f}} % sure, {{:.0f}} % right ({{:,}} answers)"
            figure.series(kind, [(s, r, said.format(100 * s, 100 * r, n)) for s, r, n in bins], size=5, line=1.6)
        figure.axes.set(xlim=(0, 1), ylim=(0, 1))
    figure.said.append(f"accuracy against confidence of {', '.join(map(called, found))}")
    return figure


def trade(name: str, marks: Mapping[str, Sequence[Mark]], x: str, colours: Colours) -> Drawing:
    """Accuracy against what it costs: one dot for each student."""
    with drawing(
        name, colours, xlabel=x, ylabel="held-out accuracy", percent="y", legend={"ncols": 2, **ABOVE}
    ) as figure:
        for kind, of_kind in marks.items():
            figure.series(kind, of_kind, size=8, alpha=0.85)
            figure.said += [said for *_, said in of_kind]
        figure.axes.margins(0.1)
        figure.axes.xaxis.set_major_locator(MaxNLocator(5))
        figure.axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    return figure


def line(name: str, points: Sequence[tuple[float, float]], *, x: str, title: str, percent: bool) -> Drawing:
    """A line through these points, which are marked."""
    with drawing(name, {}, xlabel=x, title=title, grid="y", whole=6, percent="y" if percent else "") as figure:
        marks = [(a, b, f"{x} {a:g}: {share(b, ' %') if percent else f'{b:.3f}'}") for a, b in points]
        figure.series("teacher", marks, size=5, line=2)
        low, high = figure.axes.get_ylim()
        if percent and high - low < NARROWEST:  # or chance would look like a trend
            middle = (low + high) / 2
            figure.axes.set_ylim(max(0.0, middle - NARROWEST / 2), min(1.0, middle + NARROWEST / 2))
        for mark in figure.axes.lines:
            mark.set_clip_on(False)  # at 100 % half of it would be missing
        figure.said += [marks[0][2], marks[-1][2]]
    return figure


def by_share(parts: Sequence[tuple[str, int, float]]) -> Drawing:
    """How often the labels name the main picture of a mixed view, by that picture's share of the view."""
    words: Any = {"xlabel": "labels that name the main picture", "grid": "x", "percent": "x"}
    with drawing("by-share", {}, height=1.0 + 0.3 * len(parts), **words) as figure:
        for at, (name, views, named) in enumerate(parts):
            (bar,) = figure.axes.barh([at], [named], height=0.66, color=figure.tone("teacher"), alpha=0.8)
            figure.said.append(f"{name}: {share(named, ' %')} of {views:,} views")
            figure.tip(bar, figure.said[-1])
        figure.categories([name for name, *_ in parts])
        figure.axes.set_xlim(0, 1)
    return figure


def tokens(found: Mapping[str, Line], colours: Colours) -> Drawing:
    """The cosine similarity of the class token and the distillation token after each block."""
    words: Any = {"xlabel": "after block (0: as learned)", "ylabel": "cosine", "grid": "y"}
    with drawing("tokens", colours, whole=6, legend={}, **words) as figure:
        for kind, record in found.items():
            values = [record["input"]["tokens"], *(block["mean"] for block in record["blocks"])]
            marks = [(at, v, f"{called(kind)}, after block {at}: {v:.2f}") for at, v in enumerate(values)]
            figure.series(kind, marks, size=5, line=2)
            figure.said.append(f"{called(kind)}: {values[-1]:.2f} after the last block")
        figure.axes.set_ylim(top=1.03)
    return figure


def _by_rate(story: Story) -> dict[str, list[Mark]]:
    rates = _marks(story, lambda s: s.speed.get("forward_images_per_second"), "{:,.0f} images/s")
    level = story.results.teacher_accuracy
    if rates and story.cost is not None and level is not None:
        views = story.cost.teacher_rate
        rates["teacher"] = [(views, level, f"the teacher: {share(level, ' %')}, {views:,.0f} images/s")]
    return rates


def _by_bytes(story: Story) -> dict[str, list[Mark]]:
    return _marks(story, lambda s: story.labels.bytes_read.get(s.kind), "{:.1f} bytes a view")


def _marks(story: Story, cost: Callable[[StudentResult], float | None], form: str) -> dict[str, list[Mark]]:
    """Of each kind what each student costs, and what it reached."""
    found: dict[str, list[Mark]] = {}
    for s in story.students:
        if (x := cost(s)) is not None:
            said = f"{called(s.kind)}, seed {s.seed}: {share(s.best, ' %')}, {form.format(x)}"
            found.setdefault(s.kind, []).append((x, s.best, said))
    return found


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"
