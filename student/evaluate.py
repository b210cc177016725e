"""Judge a trained student: each head and both fused, against the truth, the teacher and each other.

    python -m student.evaluate --checkpoint runs/student --shards 'data/val/*.tar' --out metrics.json --plots plots/

Under torchrun rank 0 scans the shards for all; every rank judges its part of the pictures, each picture once, and the
counts are added up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.commands.class_flags import label_options, take_rule
from pipeline.commands.command import command, require_no_other_file
from pipeline.commands.outputs import require_suffix
from pipeline.commands.speed_flags import shards_option, share_workers, speed_options
from pipeline.errors import require_packages
from pipeline.models.device import PRECISIONS
from pipeline.models.out_of_memory import within_memory
from pipeline.processes.world import Place
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
from student.ranks.ranks import joined


@command()
@checkpoint_options
@shards_option
@label_options
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON file for the metrics; images/s go to NAME.speed.json beside it.",
)
@click.option(
    "--predictions",
    "answers",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Table (.npz) of the class that each head names for each picture.",
)
@click.option("--plots", "plot_dir", type=click.Path(path_type=Path, file_okay=False), help="Folder for figures (PNG).")
@click.option(
    "--per-class", type=click.Path(path_type=Path, dir_okay=False), help="Table of the classes (.csv or .json)."
)
@click.option(
    "--logits",
    metavar="STORE",
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
def main(**flags: Any) -> None:
    """Measure a trained student on shards: accuracy, loss, calibration and agreement of both heads.

    \b
    Example:
      python -m student.evaluate --checkpoint runs/student --shards 'data/val/*.tar' --out metrics.json
    """
    require_suffix(flags["per_class"], "--per-class", ".csv", ".json")
    if flags["plot_dir"]:
        require_packages("--plots", "matplotlib", extra="report")
    require_no_other_file(flags["out"], "--out")
    rule = take_rule(flags)
    saved = open_saved(flags["checkpoint"], flags["which"])
    students = _students(saved, flags["ema"])
    flags["workers"] = share_workers(flags["workers"], Place.among_ranks().local_world)
    chosen = {name: flags[name] for name in ("crop_pct", "on_bad_image", "logits", "workers")}
    speed = {name: flags[name] for name in ("batch", "workers", "start_method")}
    with joined(flags["device"], flags["timeout"]) as ranks, within_memory(ranks.device, SMALLER_BATCH):
        pictures = open_evaluation_set(flags["shards"], saved, ranks, rule=rule, **chosen)
        judge = Judge(students, saved, ranks, flags["precision"])
        batches = pictures.batches(ranks, **speed)
        teacher, predictions = pictures.teaching is not None, Predictions() if flags["answers"] else None
        scores = judge.score(batches, num_classes=saved.spec.num_classes, teacher=teacher, predictions=predictions)
        named = predictions.table() if predictions else None
    if ranks.main:
        speed |= {"device": str(ranks.device), "world": ranks.world, "precision": flags["precision"], **judge.speed()}
        _report(flags, saved, pictures, scores, speed, named)


def _students(saved: Saved, ema: bool | None) -> dict[str, Student]:
    averaged = {"ema": saved.weights(ema=True)} if ema or (ema is None and saved.ema is not None) else {}
    return {"student": saved.student, **averaged}


def _report(
    flags: dict[str, Any],
    saved: Saved,
    pictures: EvaluationSet,
    scores: dict[str, Scores],
    speed: dict[str, Any],
    named: Table | None,
) -> None:
    click.echo(results.table(scores))
    click.echo(f"{speed['images_per_second']:,} images/s, {speed['forward_images_per_second']:,} in the forward pass")
    written: list[Path] = []
    if flags["out"]:
        written += results.write_metrics(flags["out"], saved, pictures.recipe, scores, speed)
    if named is not None:
        written.append(write_predictions(flags["answers"], named))
    if flags["per_class"]:
        written.append(results.write_classes(flags["per_class"], scores["student"], saved.class_names))
    if flags["plot_dir"]:
        written += results.draw(scores, flags["plot_dir"], saved.class_names)
    if written:
        click.echo(f"wrote {', '.join(map(str, written))}")


if __name__ == "__main__":
    main()
