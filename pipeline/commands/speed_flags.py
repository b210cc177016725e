"""Which flags change how fast a command runs, and nothing else?

They have environment defaults (``DISTILL_DEVICE``, ``DISTILL_WORKERS``, …), so that they can stay out of ``dvc.yaml``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import click
from click.core import ParameterSource

from pipeline.commands.cache_flags import cache_options
from pipeline.commands.command import options
from pipeline.commands.gather import gather
from pipeline.commands.places import SHARDS


def default_workers() -> int:
    """Processes that may run at once on this machine, as the scheduler grants them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast a command runs: on which device, and with how many processes that draw views, started how."""

    device: str
    workers: int
    start_method: str | None

    def shared_by(self, local_world: int) -> Speed:
        """The same for one of several ranks on this node; they share the cores unless --workers was given."""
        given = click.get_current_context().get_parameter_source("workers") is not ParameterSource.DEFAULT
        return self if given else replace(self, workers=max(1, self.workers // local_world))


shards_option = click.option(
    "--shards",
    "shards",
    type=SHARDS,
    multiple=True,
    required=True,
    help="WebDataset tars: a folder of them, paths, globs, {000..003} braces or URLs; may be given several times.",
)


device_option = click.option(
    "--device",
    default="auto",
    envvar="DISTILL_DEVICE",
    show_default=True,
    help="cuda, cuda:N, mps, cpu, or auto for the best one here. Changes speed, and the last bits of logits.",
)


workers_option = click.option(
    "--workers",
    type=click.IntRange(0, 1024),
    default=default_workers,
    envvar="DISTILL_WORKERS",
    show_default="one a core",
    help="Processes that render views; 0 renders in this one. Changes speed only.",
)


start_method_option = click.option(
    "--start-method",
    type=click.Choice(["fork", "forkserver", "spawn"]),
    default=None,
    envvar="DISTILL_START_METHOD",
    help="How workers are started. Default: fork for local shards on Linux, else forkserver or spawn.",
)


speed_options = options(device_option, workers_option, start_method_option, cache_options, gather("speed", Speed))
"""What changes speed alone, which arrives as `speed`."""
