"""Train a student from shards and stored labels.

    python -m student.train --logits stores/train.zarr --val-shards 'data/val/*.tar' --out runs/student
    torchrun --nproc-per-node 8 -m student.train --logits stores/train.zarr --out runs/student

The store knows its shards and its recipe, and decides what a view is and how it is mixed; the flags decide how the
student learns from it. Started again, the command goes on from the last checkpoint, on any number of processes.

Exit status: 0 finished (or it was), 143 stopped by SIGTERM and 130 by SIGINT, both with a checkpoint; 1 an error.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import fields, replace

import click

from pipeline.commands.cache_flags import kept_options
from pipeline.commands.command import command
from pipeline.commands.gather import gather
from pipeline.commands.speed_flags import Speed, speed_options
from pipeline.models.out_of_memory import within_memory
from pipeline.processes.world import Place
from pipeline.rendering.node_caches import NodeCaches
from student.checkpoints.run_folder import path_of
from student.learning.settings import Settings
from student.ranks.ranks import Stop, joined
from student.run import flags
from student.run.launch import launched
from student.run.loop import exit_code, fit
from student.run.resume import Places

PLACES = [field.name for field in fields(Places) if field.name not in ("workers", "start_method")]
"""Flags that are called as these fields; the others come with `speed`"""

SMALLER = (
    "Give a larger --accumulate (smaller micro-batches, the same gradient), or --precision bf16; a smaller --batch is "
    "another training."
)


@command(
    epilog="Example: python -m student.train --logits stores/train.zarr --val-shards 'data/val/*.tar' --epochs 300"
)
@flags.places_options
@flags.model_options
@flags.loss_options
@flags.recipe_options
@flags.running_options
@speed_options
@kept_options
@gather("caches", NodeCaches)
@gather("places", Places, *PLACES)
@gather("settings", Settings)
def main(places: Places, settings: Settings, timeout: float, speed: Speed) -> None:
    """Train a student with the labels of a store, as if the teacher stood beside it.

    Views are rendered here and proven to be those that the teacher saw. Ctrl-C and SIGTERM end the run with a
    checkpoint; the same command goes on from it.
    """
    speed = speed.shared_by(Place.among_ranks().local_world)
    places = replace(places, workers=speed.workers, start_method=speed.start_method)
    with joined(speed.device, timeout) as ranks, Stop().listening() as stop:
        if not ranks.main:
            logging.getLogger().setLevel(logging.WARNING)
        with within_memory(ranks.device, SMALLER), launched(places, settings, ranks, stop) as run:
            if run is not None:
                fit(run)
    if ranks.main:
        last = path_of(places.out)
        if run is None:
            click.echo(f"finished before: {last if places.resume == 'auto' else places.resume}")
        elif run.stopped:
            again = "the same command" + ("" if places.resume == "auto" else " without --resume")
            click.echo(f"stopped in epoch {run.epoch}, step {run.step}; {again} goes on from {last}")
        else:
            click.echo(f"{last}")
    if run is not None and run.stopped:
        sys.exit(exit_code(run))


if __name__ == "__main__":
    main()
