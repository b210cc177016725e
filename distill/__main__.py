"""Distil a teacher that runs once into students that never meet it.

distill pack --images photos/train --out data/train
distill COMMAND --help
python -m distill COMMAND …      # the same, where the script is not on the PATH, and under torchrun
"""

from __future__ import annotations

import click

from distill import __version__
from distill.commands import commands


class InOrder(click.Group):
    """Lists its commands in the order in which they are used."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """The names of all commands in the order of the table."""
        return list(self.commands)


@click.group(
    cls=InOrder,
    commands=commands(),
    context_settings={"max_content_width": 110},
    epilog="Each explains itself: distill COMMAND --help.",
)
@click.version_option(__version__, prog_name="distill")
def main() -> None:
    """Distil a teacher that runs once into students that never meet it.

    \b
    Example:
      distill pack --images photos/train --out data/train
      distill label --shards 'data/train/*.tar' --model regnety_160 --out store.zarr
      distill train --logits store.zarr --out runs/student
    """


if __name__ == "__main__":
    main()
