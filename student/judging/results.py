"""How are a student's scores told: a table for the eye, files for programs, figures for reports?

Metrics are sorted JSON without times or places, so that the same student judged again leaves the same bytes. Speed is
not so, and has a file of its own.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path

from pipeline.durable.file import write_json, write_text
from pipeline.processes.machine import machine
from pipeline.views.recipe import Recipe
from student.checkpoints.trained import Saved
from student.judging.metrics import ClassRow, Scores, class_rows


def write_metrics(
    path: Path, saved: Saved, recipe: Recipe, scores: Mapping[str, Scores], speed: Mapping[str, object]
) -> list[Path]:
    """Write the metrics to `path`, and the speed into a file beside it, since it differs each time; both files."""
    described = {
        "model": saved.spec.model,
        "image_size": recipe.image_size,
        "crop_pct": recipe.crop_pct,
        "epoch": saved.epoch,
        "step": saved.step,
        "parameters": sum(weight.numel() for weight in saved.student.parameters()),
        "settings": _settings(saved),
    }
    summaries = {
        name: score.summary()
        | {"reliability": {answer: tally.reliability() for answer, tally in score.tallies.items()}}
        for name, score in scores.items()
    }
    return [
        write_json(path, {**described, **summaries}),
        write_json(speed_path(path), {**speed, "machine": machine()}),
    ]


def _settings(saved: Saved) -> dict[str, object]:
    """The flags that it was trained with, without a place: the file of --init by its name."""
    init = saved.settings.get("init")
    return {**saved.settings, "init": init and Path(init).name, "keep": saved.keep}


def speed_path(path: Path) -> Path:
    """The file of the speed, beside the metrics; only ``.json`` is taken off their name, and not the .2 of ``v1.2``."""
    return path.with_name(f"{path.name.removesuffix('.json')}.speed.json")


def table(scores: Mapping[str, Scores]) -> str:
    """The scores as a table for the terminal, with a line for each answer."""
    taught = any("teacher" in score.answers for score in scores.values())
    lines = [f"{'':32}{'top-1':>8}{'top-5':>8}{'loss':>9}{'ece':>9}{'= teacher' if taught else '':>11}".rstrip()]
    for student, score in scores.items():
        agreement = score.agreement()
        for answer, tally in score.tallies.items():
            found = tally.summary()
            name = f"{student} {answer.replace('_', ' by ')}"
            lines.append(
                f"{name:32}{_percent(found['top1']):>8}{_percent(found['top5']):>8}{_plain(found['loss']):>9}"
                f"{_plain(found['ece']):>9}{_percent(agreement.get((answer, 'teacher'))):>11}".rstrip()
            )
        if ("class", "distillation") in agreement:
            lines.append(f"{student}: the heads agree on {_percent(agreement['class', 'distillation'])} %")
    return "\n".join(lines)


def write_classes(path: Path, score: Scores, names: tuple[str, ...] | None) -> Path:
    """The table of classes for every answer, as CSV, or as JSON where the name ends so."""
    rows = [
        {"answer": answer, **dataclasses.asdict(row)}
        for answer, tally in score.tallies.items()
        for row in class_rows(tally, names)
    ]
    if path.suffix == ".json":
        return write_json(path, rows)
    text = io.StringIO()
    fields = ["answer", *(field.name for field in dataclasses.fields(ClassRow))]
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_text(path, text.getvalue())


def draw(scores: Mapping[str, Scores], folder: Path, names: tuple[str, ...] | None) -> list[Path]:
    """Figures of the answer that a user would take: both heads fused, or the only one."""
    from student.judging import plots  # only now: it brings matplotlib, which is an extra

    drawn: list[Path] = []
    for student, score in scores.items():
        answer = "fused_logits" if "fused_logits" in score.tallies else "class"
        tally = score.tallies[answer]
        if not int(tally.labelled):
            continue
        title = f"{student}, {answer.replace('_', ' by ')}"
        rows = class_rows(tally, names)
        where = {kind: folder / f"{student}_{kind}.png" for kind in ("reliability", "classes", "confusion")}
        drawn.append(plots.reliability(tally, where["reliability"], title))
        drawn.append(plots.classes(rows, where["classes"], title))
        if len(tally.confusion_KK):
            drawn.append(plots.confusion(tally, [row.name for row in rows], where["confusion"], title))
    return drawn


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
