"""Judge a trained student: each head and both fused, against the truth, the teacher and each other.

    python -m student.evaluate --checkpoint runs/student --shards 'data/val/*.tar' --out metrics.json --plots plots/

Under torchrun every rank judges its part of the pictures, each picture once, and the counts are added up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline import cli
from student import results
from student.ranks import joined
from student.saved import open_saved
from student.scoring import PRECISIONS, Judge, open_evaluation_set

RANK_SECONDS = 1800.0


@cli.command()
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    required=True,
    help="A run directory of student.train, or one of its checkpoint files.",
)
@click.option(
    "--which", type=click.Choice(["last", "best"]), default="last", help="Which checkpoint of a run directory."
)
@cli.shards_option
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="JSON file for the metrics.")
@click.option("--plots", "plot_dir", type=click.Path(path_type=Path, file_okay=False), help="Folder for figures (PNG).")
@click.option(
    "--per-class", type=click.Path(path_type=Path, dir_okay=False), help="Table of the classes (.csv or .json)."
)
@click.option(
    "--logits",
    type=click.Path(path_type=Path),
    help="A label store of these shards, labelled with --recipe none: adds agreement with the teacher.",
)
@click.option("--ema/--no-ema", default=None, help="Judge the moving average, too.  [default: where there is one]")
@click.option(
    "--crop-pct",
    type=click.FloatRange(0.01, 1),
    help="Share of the short side that the centre crop keeps.  [default: 0.875]",
)
@click.option("--batch", type=click.IntRange(min=1), default=256, help="Pictures a forward pass. Changes speed only.")
@click.option(
    "--precision", type=click.Choice(list(PRECISIONS)), default="fp32", help="Arithmetic of the forward pass."
)
@cli.speed_options
def main(**flags: Any) -> None:
    """Measure a trained student on shards: accuracy, loss, calibration and agreement of both heads.

    \b
    Example:
      python -m student.evaluate --checkpoint runs/student --shards 'data/val/*.tar' --out metrics.json
    """
    saved = open_saved(flags["checkpoint"], flags["which"])
    students = {"student": saved.student}
    if flags["ema"] or (flags["ema"] is None and saved.ema is not None):
        students["ema"] = saved.weights(ema=True)
    pictures = open_evaluation_set(
        flags["shards"], saved, crop_pct=flags["crop_pct"], logits=flags["logits"], workers=flags["workers"]
    )
    speed_flags = {name: flags[name] for name in ("batch", "workers", "start_method")}
    with joined(flags["device"], RANK_SECONDS) as ranks:
        judge = Judge(students, saved, ranks, flags["precision"])
        scores = judge.score(
            pictures.batches(ranks, **speed_flags),
            num_classes=saved.spec.num_classes,
            teacher=pictures.teaching is not None,
        )
    if not ranks.main:
        return
    run = {"device": str(ranks.device), "world": ranks.world, "precision": flags["precision"], **speed_flags}
    speed = {**judge.speed(), **run}
    click.echo(results.table(scores))
    click.echo(f"{speed['images_per_second']:,} images/s, {speed['forward_images_per_second']:,} in the forward pass")
    written: list[Path] = []
    if flags["out"]:
        written += results.write_metrics(flags["out"], saved, pictures.recipe, scores, speed)
    if flags["per_class"]:
        written.append(results.write_classes(flags["per_class"], scores["student"], saved.class_names))
    if flags["plot_dir"]:
        written += results.draw(scores, flags["plot_dir"], saved.class_names)
    if written:
        click.echo(f"wrote {', '.join(map(str, written))}")


if __name__ == "__main__":
    main()
