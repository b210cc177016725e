"""What did the students of a preset gain from the teacher? Paired over seeds, from what `dvc repro` left.

    cp params.charts.yaml params.yaml && dvc repro
    python -m benchmarks.gain charts --preset params.charts.yaml

Reads reports/students/KIND-SEED.json, writes benchmarks/results/NAME.md and .json. Runs nothing itself.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from benchmarks.evidence.statistic import more, paired
from benchmarks.evidence.tables import labels_said, spread, top1
from benchmarks.report import RESULTS, Circumstances, Table, grid, load_average, write
from pipeline.commands.command import command
from pipeline.errors import UserError

HEAD = "fused_logits"


@command()
@click.argument("name")
@click.option("--preset", required=True, type=click.Path(path_type=Path, exists=True), help="What was run.")
@click.option("--reports", type=click.Path(path_type=Path), default=Path("reports"), help="What it left.")
@click.option("--pictures", default="drawn by stages.demo_images", help="Of what it was run.")
@click.option("--note", "notes", multiple=True, help="What else is to be said.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="Folder for the table.")
def main(name: str, preset: Path, reports: Path, pictures: str, notes: tuple[str, ...], out: Path) -> None:
    """Write the table of a preset's students."""
    notes = (*labels(reports), *notes)
    found = table(name, f"What {preset.name} gains", read(reports), teacher(reports), notes)
    click.echo(found.text())
    line = f"cp {preset.name} params.yaml && dvc repro && python -m benchmarks.gain {name} --preset {preset.name}"
    write(found, Circumstances(command=line, photographs=pictures, load_before=load_average()), out)


def read(reports: Path) -> dict[str, dict[int, float]]:
    """Top-1 of both heads fused: kind of student → seed → share."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for path in sorted((reports / "students").glob("*-*.json")):
        kind, _, seed = path.stem.rpartition("-")
        if seed.isdecimal():
            found[kind][int(seed)] = top1(json.loads(path.read_text(encoding="utf-8")), HEAD)
    if "none" not in found:
        raise UserError(f"{reports}/students has no student none-0.json to compare with. Run `dvc repro` first.")
    return dict(found)


def teacher(reports: Path) -> float | None:
    """The fitted teacher's own top-1 on the held-out pictures."""
    path = reports / "teacher.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    value = record.get("val_top1")
    return None if value is None else float(value)


def labels(reports: Path) -> Iterator[str]:
    """How sure and how right the teacher was on the views that students learned from."""
    path = reports / "labels-train.json"
    if path.exists():
        yield f"Its labels: {labels_said(json.loads(path.read_text(encoding='utf-8')))}."


def table(
    name: str, title: str, kinds: Mapping[str, Mapping[int, float]], teacher: float | None, notes: tuple[str, ...]
) -> Table:
    """A row a kind, against the students without a teacher, seed by seed."""
    rows, figures, base = [], dict[str, float](), kinds["none"]
    for kind in sorted(kinds, key=lambda kind: (kind != "none", kind)):
        scores = kinds[kind]
        both = sorted(set(scores) & set(base))
        if kind == "none":
            told = ["", ""]
        elif not both:
            told = ["no seed in common", ""]
        else:
            effect = paired([100 * scores[seed] for seed in both], [100 * base[seed] for seed in both])
            told = [effect.text(), more(effect)]
        rows.append([kind, spread([100 * value for value in scores.values()]), *told])
        figures |= {f"{kind}, seed {seed}": value for seed, value in scores.items()}
    seeds = ", ".join(map(str, sorted(base)))
    own = [] if teacher is None else [f"The teacher's own top-1: {100 * teacher:.1f} %."]
    return Table(
        name=name,
        title=title,
        columns=("", "both heads fused", "against none, 95 % interval", "a gain"),
        rows=grid(rows),
        figures=figures,
        notes=(
            f"Top-1 on held-out pictures in %, mean ± standard deviation over seeds {seeds}; differences seed by seed.",
            *own,
            *notes,
        ),
    )


if __name__ == "__main__":
    main()
