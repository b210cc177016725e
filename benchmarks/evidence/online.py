"""The same training with the teacher in the loop: what offline distillation is compared with.

    python -m benchmarks.evidence.online --logits store.zarr --teacher MODEL --teacher-weights FILE --out runs/online

All flags of ``student.train``; order, views, loss and student are its own. The store says what the views are; its
labels are put aside, and the teacher that gave them sees the very pixels of each batch and answers in their place; its
size, statistics, precision and class map are the store's. For hard and for soft distillation from dense logits, on one
process.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from pipeline.commands.command import command
from pipeline.commands.speed_flags import Speed, speed_options
from pipeline.errors import UserError
from pipeline.labels.keeps import parse_keep
from pipeline.labels.soft_labels import encode
from pipeline.store.reader import StoreReader
from pipeline.teacher.stored import load_stored_teacher
from pipeline.teacher.teacher import Teacher
from student.checkpoints.run_folder import path_of
from student.feed.feed import Feed, Step
from student.feed.tensors import teacher_labels
from student.learning.settings import Settings
from student.ranks.ranks import Stop, joined
from student.run import flags
from student.run.launch import launched
from student.run.loop import exit_code, fit
from student.run.resume import Places

KEEP = parse_keep("dense")


@command()
@click.option("--teacher", help="The teacher, where it has another name now.  [default: the stored name]")
@click.option("--teacher-weights", type=click.Path(path_type=Path), help="As --weights of stages.teacher_logits.")
@click.option("--teacher-precision", default="auto", help="Must be the store's, which is the default.")
@flags.places_options
@flags.model_options
@flags.loss_options
@flags.recipe_options
@flags.running_options
@speed_options
def main(
    teacher: str | None, teacher_weights: Path | None, teacher_precision: str, timeout: float, speed: Speed,
    **given: Any,
) -> None:  # fmt: skip
    """Train a student beside its teacher."""
    _require_one_process()
    names = {field.name for field in dataclasses.fields(Places)}
    places = Places(
        workers=speed.workers, start_method=speed.start_method,
        **{name: value for name, value in given.items() if name in names},
    )  # fmt: skip
    settings = Settings(**{name: value for name, value in given.items() if name not in names})
    with (
        joined(speed.device, timeout) as ranks,
        Stop().listening() as stop,
        launched(places, settings, ranks, stop) as run,
    ):
        if run is not None:
            live = load_stored_teacher(
                StoreReader.open(places.logits), name=teacher, weights=teacher_weights, device=speed.device,
                precision=teacher_precision,
            )  # fmt: skip
            run.feed = Answered(run.feed, live)
            fit(run)
    click.echo(f"{path_of(places.out)}")
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
            labels = encode(self._logits(found.pixels_BHWC.cpu().numpy()), KEEP, self.temperatures)
            yield dataclasses.replace(found, teacher=teacher_labels(KEEP, labels, self.temperatures, self.ranks.device))

    def _logits(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """In batches as large as those of the store: the last bits of an answer depend on how many are asked for."""
        size = self.teacher.card.batch_size
        return np.concatenate([self.teacher(pixels_BHWC[at : at + size]) for at in range(0, len(pixels_BHWC), size)])


def _require_one_process() -> None:
    if (world := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        raise UserError(
            f"This is rank {os.environ.get('RANK')} of {world}, and a live teacher answers in batches of one process: "
            "others would be other bits. Start it without torchrun."
        )


if __name__ == "__main__":
    main()
