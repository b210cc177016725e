"""Accuracy against images a second, as in the paper's first figure: students of several widths, and two convnets.

All of them learn from the same pictures, in the same recipe and as many epochs: students without a teacher and with
its soft labels, a RegNetY and a MobileNetV2 of timm's from the true labels. One run of `stages.frontier` then judges
them all on the held-out pictures and times them in turns, on one machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from benchmarks.evidence.experiments import NONE, SOFT, WITHOUT_TOKEN, Experiment, Row
from benchmarks.evidence.lab import RECIPE, Lab, small_regnety
from benchmarks.evidence.scales import Flags
from benchmarks.evidence.statistic import paired
from benchmarks.evidence.steps import Step, in_order
from benchmarks.evidence.tables import read, spread, teachers_said
from benchmarks.report import Table, grid
from stages.comparing.place import Place
from stages.comparing.place import frontier as mark_frontier

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOBILENET: Flags = ("--model", "mobilenetv2_035", "--model-arg", "output_stride=8")
COLUMNS = ("", "parameters", "top-1, %", "against no teacher, 95 % interval", "images/s", "on the frontier")
KINDS = {"no teacher": ("#9fb6cd", "o-"), "soft labels": ("#1f3a5f", "o-"), "convnet": ("#c0504d", "s")}


def frontier(lab: Lab) -> Experiment:
    """Students of half the width, the usual and twice that, and two convnets."""
    store, scale, rows = lab.store(lab.teacher()), lab.scale, list[Row]()
    for factor in (0.5, 1, 2):
        width, heads = round(factor * scale.width), max(1, round(factor * scale.heads))
        size: Flags = () if factor == 1 else ("--width", str(width), "--heads", str(heads))
        for name, title, flags in (("no teacher", "none-plain", NONE), ("soft labels", "soft-plain", SOFT)):
            runs = lab.students(title, store, *flags, *WITHOUT_TOKEN, *size)
            rows.append(Row(name=f"ViT of width {width}, {name}", scores=runs, base=flags is NONE))
    for name, model in (("RegNetY", small_regnety(depth=6, width=24, group=8)), ("MobileNetV2", MOBILENET)):
        rows.append(Row(name=f"{name}, convnet", scores=tuple(_convnet(lab, name, model)), base=True))
    measured = _measured(lab, rows)
    return Experiment(
        title="Accuracy against images a second",
        rows=tuple(Row(name=row.name, scores=row.scores, about=(measured,), base=row.base) for row in rows),
        kind="frontier",
        notes=(
            f"All learn from the same {scale.labelled:,} pictures under the same recipe for {scale.epochs} epochs. "
            "Accuracy is that of the mean over seeds, with its standard deviation; the rate is the median over seeds "
            "of the median of five turns in batches of 32, one thread, drawing left out. Frontier: no faster row is "
            "as accurate.",
        ),
    )


def _convnet(lab: Lab, name: str, model: Flags) -> Iterator[Step]:
    """One for each seed, from the students' pictures and true labels."""
    scale = lab.scale
    epochs = str(scale.epochs)
    more = ("--epochs", epochs, "--val-every", epochs, "--batch", str(scale.batch), "--lr", "0.002")
    for seed in lab.seeds:
        flags = (*model, *RECIPE, *scale.strong, *more, "--seed", str(seed))
        yield from lab.fitted(f"{name.lower()}-{seed}", flags, rows=scale.labelled).needs


def _measured(lab: Lab, rows: Sequence[Row]) -> Step:
    """All of them, judged and timed by one command."""
    judged, models = lab.judged(), [step for row in rows for step in row.scores]
    students = (step.path for step in models if step.module == "student.train")
    teachers = (part for step in models if step.module != "student.train" for part in ("--teacher", step.path))
    line = (*students, *teachers, "--shards", f"{judged.path}/*.tar", "--workers", "0", "--precision", "fp32")
    return Step("stages.frontier", "all", line, (judged, *models), ".json")


def table(name: str, experiment: Experiment, work: Path, seeds: Sequence[int]) -> Table:
    """The rows, once all models have been measured together."""
    if not experiment.steps()[-1].done(work):
        return Table(name=name, title=experiment.title, columns=COLUMNS, rows=())
    places = _places(experiment, work)
    marked = _on_frontier({row.name: places[row.name] for row in experiment.rows})
    rows, figures, base = [], dict[str, float](), list[float]()
    for row in experiment.rows:
        top1 = [place["top1"] for place in places[row.name]]
        base = top1 if row.base else base
        gain = "" if row.base else paired([100 * value for value in top1], [100 * value for value in base]).text()
        rate = _rate(places[row.name])
        size = f"{places[row.name][0]['parameters']:,}"
        shown = spread([100 * value for value in top1])
        rows.append([row.name, size, shown, gain, f"{rate:,.0f}", "yes" if row.name in marked else ""])
        figures |= {f"{row.name}, seed {seed}": value for seed, value in zip(seeds, top1, strict=True)}
        figures[f"{row.name}, images/s"] = rate
    notes = (*experiment.notes, *teachers_said(in_order(experiment.steps()), work))
    return Table(name=name, title=experiment.title, columns=COLUMNS, rows=grid(rows), figures=figures, notes=notes)


def draw(experiment: Experiment, work: Path) -> Figure:
    """A dot a row; students of one kind are joined."""
    from matplotlib.figure import Figure  # an extra, which only pictures need

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes, places = figure.subplots(), _places(experiment, work)
    for kind, (colour, style) in KINDS.items():
        rows = [row for row in experiment.rows if row.name.endswith(kind)]
        points = [(_rate(places[row.name]), 100 * _top1(places[row.name])) for row in rows]
        axes.plot(*zip(*sorted(points), strict=True), style, color=colour, label=kind)
        for row, point in zip(rows, points, strict=True) if kind != "no teacher" else ():  # they lie below the others
            axes.annotate(row.name.split(",")[0], point, xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="images a second, one thread", ylabel="top-1 on held-out pictures, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _places(experiment: Experiment, work: Path) -> dict[str, list[dict[str, Any]]]:
    """What was measured of each row, seed by seed."""
    by_path = {place["name"]: place for place in read(experiment.rows[0].about[0], work)}
    return {row.name: [by_path[step.path] for step in row.scores] for row in experiment.rows}


def _on_frontier(places: dict[str, list[dict[str, Any]]]) -> set[str]:
    means = [Place(**{**found[0], "name": name, "top1": _top1(found), "images_per_second": _rate(found)})
             for name, found in places.items()]  # fmt: skip
    return {place.name for place in mark_frontier(means) if place.on_frontier}


def _rate(places: Sequence[dict[str, Any]]) -> float:
    return median(float(place["images_per_second"]) for place in places)


def _top1(places: Sequence[dict[str, Any]]) -> float:
    return fmean(float(place["top1"]) for place in places)
