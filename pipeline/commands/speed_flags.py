"""Which flags change how fast a command runs, and nothing else?

They have environment defaults (``DISTILL_DEVICE``, ``DISTILL_WORKERS``, …), so that they can stay out of ``dvc.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import click
from click.core import ParameterSource

from pipeline.commands.cache_flags import cache_options
from pipeline.commands.command import options
from pipeline.commands.gather import gather
from pipeline.commands.places import SHARDS
from pipeline.processes.machine import granted_cores


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


def workers_option(what: str, *, most: int | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The flag --workers; `what` its processes do, and what 0 of them mean."""
    return click.option(
        "--workers",
        type=click.IntRange(0, most),
        default=granted_cores,
        envvar="DISTILL_WORKERS",
        show_default="one a core",
        help=f"Processes that {what}. Changes speed only.",
    )


render_workers_option = workers_option("render views; 0 renders in this one", most=1024)


start_method_option = click.option(
    "--start-method",
    type=click.Choice(["fork", "forkserver", "spawn"]),
    default=None,
    envvar="DISTILL_START_METHOD",
    help="How workers are started. Default: fork for local shards on Linux, else forkserver or spawn.",
)


speed_options = options(
    device_option, render_workers_option, start_method_option, cache_options, gather("speed", Speed)
)
"""What changes speed alone, which arrives as `speed`."""
