"""Judge a trained student: each head and both fused, against the truth, the teacher and each other.

    python -m student.evaluate --checkpoint runs/student --shards 'data/val/*.tar' --out metrics.json --plots plots/

Under torchrun rank 0 scans the shards for all; every rank judges its part of the pictures, each picture once, and the
counts are added up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pipeline.commands.class_flags import label_options
from pipeline.commands.command import command
from pipeline.commands.gather import gather
from pipeline.commands.places import STORE, OutputFolder, ResultFile
from pipeline.commands.speed_flags import Speed, shards_option, speed_options
from pipeline.errors import require_packages
from pipeline.models.device import PRECISIONS
from pipeline.models.out_of_memory import within_memory
from pipeline.processes.world import Place
from pipeline.shards.truth import LabelRule
from student.checkpoints.flags import (
    SMALLER_BATCH,
    bad_image_option,
    batch_option,
    checkpoint_options,
    crop_option,
    timeout_option,
)
from student.checkpoints.trained import Saved, open_saved
from student.judging import results
from student.judging.metrics import Scores
from student.judging.predictions import Predictions, Table, write_predictions
from student.judging.scoring import EvaluationSet, Judge, open_evaluation_set
from student.network.model import Student
from student.ranks.ranks import Ranks, joined


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What is written, and where; each field is called as its flag."""

    out: Path | None
    answers: Path | None
    per_class: Path | None
    plot_dir: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Which pictures are looked at, and how; each field is called as its flag."""

    shards: tuple[str, ...]
    rule: LabelRule
    logits: str | None
    crop_pct: float | None
    on_bad_image: str

    def open(self, saved: Saved, ranks: Ranks, workers: int) -> EvaluationSet:
        """The rows that `saved` is judged on, seen through the recipe that suits this student."""
        return open_evaluation_set(
            self.shards, saved, ranks, rule=self.rule, logits=self.logits, crop_pct=self.crop_pct,
            on_bad_image=self.on_bad_image, workers=workers,
        )  # fmt: skip


@command()
@checkpoint_options
@shards_option
@label_options
@click.option(
    "--out",
    type=ResultFile(dir_okay=False),
    help="JSON file for the metrics; images/s go to NAME.speed.json beside it.",
)
@click.option(
    "--predictions",
    "answers",
    type=ResultFile(dir_okay=False),
    help="Table (.npz) of the class that each head names for each picture.",
)
@click.option("--plots", "plot_dir", type=OutputFolder(file_okay=False), help="Folder for figures (PNG).")
@click.option(
    "--per-class", type=ResultFile(".csv", ".json", dir_okay=False), help="Table of the classes (.csv or .json)."
)
@click.option(
    "--logits",
    type=STORE,
    help="A label store of these shards, labelled with --recipe none: adds agreement with the teacher.",
)
@click.option("--ema/--no-ema", default=None, help="Judge the moving average, too.  [default: where there is one]")
@crop_option
@bad_image_option
@batch_option
@click.option(
    "--precision", type=click.Choice(list(PRECISIONS)), default="fp32", help="Arithmetic of the forward pass."
)
@speed_options
@timeout_option
@gather("written", Results)
@gather("pictures", Pictures)
def main(
    checkpoint: Path, which: str, pictures: Pictures, written: Results, ema: bool | None, batch: int, precision: str,
    speed: Speed, timeout: float,
) -> None:  # fmt: skip
    """Measure a trained student on shards: accuracy, loss, calibration and agreement of both heads.

    \b
    Example:
      python -m student.evaluate --checkpoint runs/student --shards 'data/val/*.tar' --out metrics.json
    """
    if written.plot_dir:
        require_packages("--plots", "matplotlib", extra="report")
    saved = open_saved(checkpoint, which)
    students = _students(saved, ema)
    speed = speed.shared_by(Place.among_ranks().local_world)
    how: dict[str, Any] = {"batch": batch, "workers": speed.workers, "start_method": speed.start_method}
    with joined(speed.device, timeout) as ranks, within_memory(ranks.device, SMALLER_BATCH):
        found = pictures.open(saved, ranks, speed.workers)
        judge = Judge(students, saved, ranks, precision)
        batches = found.batches(ranks, **how)
        teacher, predictions = found.teaching is not None, Predictions() if written.answers else None
        scores = judge.score(batches, num_classes=saved.spec.num_classes, teacher=teacher, predictions=predictions)
        named = predictions.table() if predictions else None
    if ranks.main:
        how |= {"device": str(ranks.device), "world": ranks.world, "precision": precision, **judge.speed()}
        _report(written, saved, found, scores, how, named)


def _students(saved: Saved, ema: bool | None) -> dict[str, Student]:
    averaged = {"ema": saved.weights(ema=True)} if ema or (ema is None and saved.ema is not None) else {}
    return {"student": saved.student, **averaged}


def _report(
    asked: Results,
    saved: Saved,
    pictures: EvaluationSet,
    scores: dict[str, Scores],
    speed: dict[str, Any],
    named: Table | None,
) -> None:
    click.echo(results.table(scores))
    click.echo(f"{speed['images_per_second']:,} images/s, {speed['forward_images_per_second']:,} in the forward pass")
    written: list[Path] = []
    if asked.out:
        written += results.write_metrics(asked.out, saved, pictures.recipe, scores, speed)
    if asked.answers and named is not None:
        written.append(write_predictions(asked.answers, named))
    if asked.per_class:
        written.append(results.write_classes(asked.per_class, scores["student"], saved.class_names))
    if asked.plot_dir:
        written += results.draw(scores, asked.plot_dir, saved.class_names)
    if written:
        click.echo(f"wrote {', '.join(map(str, written))}")


if __name__ == "__main__":
    main()
