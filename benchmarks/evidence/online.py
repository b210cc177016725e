"""The same training with the teacher in the loop: what offline distillation is compared with.

    python -m benchmarks.evidence.online --logits store.zarr --teacher MODEL --teacher-weights FILE --out runs/online

All flags of ``student.train``; order, views, loss and student are its own. The store says what the views are; its
labels are put aside, and a teacher that sees the very pixels of each batch answers in their place. For hard and for
soft distillation from dense logits, on one process.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pipeline import cli
from pipeline.errors import MismatchError
from pipeline.labels import Keep, encode
from pipeline.store import LabelStore
from pipeline.teacher import Teacher, load_teacher
from student import checkpoint, flags
from student.data import Feed, Step
from student.device import teacher_labels
from student.launch import Places, launched
from student.loop import exit_code, fit
from student.ranks import Stop, joined
from student.settings import Settings

KEEP = Keep.parse("dense")


@cli.command()
@click.option("--teacher", required=True, help="As --model of stages.teacher_logits.")
@click.option("--teacher-weights", type=click.Path(path_type=Path), help="As --weights of stages.teacher_logits.")
@click.option("--teacher-precision", default="auto", help="As --precision of stages.teacher_logits.")
@flags.places_options
@flags.model_options
@flags.loss_options
@flags.recipe_options
@flags.running_options
@cli.speed_options
def main(
    teacher: str, teacher_weights: Path | None, teacher_precision: str, timeout: float, device: str, **given: Any
) -> None:  # fmt: skip
    """Train a student beside its teacher."""
    names = {field.name for field in dataclasses.fields(Places)}
    places = Places(**{name: value for name, value in given.items() if name in names})
    settings = Settings(**{name: value for name, value in given.items() if name not in names})
    with joined(device, timeout) as ranks, Stop().listening() as stop, launched(places, settings, ranks, stop) as run:
        if run is not None:
            run.feed = Answered(
                run.feed, _teacher_of(places.logits, teacher, teacher_weights, teacher_precision, device)
            )  # fmt: skip
            fit(run)
    click.echo(f"{checkpoint.path_of(places.out)}")
    if run is not None and run.stopped:
        sys.exit(exit_code(run))


class Answered(Feed):
    """The steps of a feed, with a live teacher's answers."""

    def __init__(self, stored: Feed, teacher: Teacher) -> None:
        self.__dict__.update(stored.__dict__)
        self.teacher = teacher

    def steps(self, epoch: int, step: int, epochs: int) -> Iterator[Step]:
        """Each step once the teacher has looked at it; its answers go through the same codes as stored ones."""
        for found in super().steps(epoch, step, epochs):
            logits_BC = self.teacher(found.pixels_BHWC.cpu().numpy())
            labels = encode(logits_BC, KEEP, self.temperatures)
            yield dataclasses.replace(found, teacher=teacher_labels(labels, self.temperatures, self.ranks.device))


def _teacher_of(logits: str, name: str, weights: Path | None, precision: str, device: str) -> Teacher:
    """The teacher that filled the store; another one is refused."""
    card = LabelStore.open_finished(logits).manifest
    teacher = load_teacher(
        name,
        view_size=card.recipe.image_size,
        weights=weights,
        device=device,
        precision=precision,
        batch_size=card.teacher.batch_size,
    )
    if teacher.card.weights_sha256 != card.teacher.weights_sha256:
        raise MismatchError(
            f"--teacher {name} has weights {teacher.card.weights_sha256[:12]}…, {logits} was labelled by "
            f"{card.teacher.name} with {card.teacher.weights_sha256[:12]}…. Name the same teacher."
        )
    return teacher


if __name__ == "__main__":
    main()
