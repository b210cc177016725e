"""Which flags name a trained student? The same ones for every command that reads one."""

from __future__ import annotations

import click

from pipeline.commands.command import Finite, options
from pipeline.commands.places import InputPath

SMALLER_BATCH = "Give a smaller --batch: it changes speed only."
"""What helps where a device's memory is too small."""

checkpoint_options = options(
    click.option(
        "--checkpoint",
        type=InputPath(),
        required=True,
        help="A run directory of student.train, or one of its checkpoint files.",
    ),
    click.option(
        "--which", type=click.Choice(["last", "best"]), default="last", help="Which checkpoint of a run directory."
    ),
)

batch_option = click.option(
    "--batch", type=click.IntRange(min=1), default=256, help="Pictures a forward pass. Changes speed only."
)

bad_image_option = click.option(
    "--on-bad-image",
    type=click.Choice(["refuse", "grey"]),
    default="refuse",
    help="What an image that cannot be decoded does: stop with its key, or count as a plain grey picture.",
)

timeout_option = click.option(
    "--timeout",
    type=Finite(min=1),
    default=1800.0,
    envvar="DISTILL_TIMEOUT",
    help="Seconds that a process waits for the others, who may be slower, before it gives up.",
)

crop_option = click.option(
    "--crop-pct",
    type=Finite(0.01, 1),
    help="Share of the short side that the centre crop keeps.  [default: 0.875]",
)
