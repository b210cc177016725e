"""Put an exported student, or a finished store, on the Hugging Face Hub.

    python -m student.push export OWNER/NAME
    python -m student.push store.zarr OWNER/NAME --private

A student becomes a model that ``timm.create_model("hf-hub:OWNER/NAME", pretrained=True)`` loads, a store a data set
that ``hf download`` brings to others, each with a card. Interrupted, the same command goes on; until it has ended
nobody sees anything new there.
"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.command import command
from pipeline.commands.places import InputPath


@command()
@click.argument("place", type=InputPath())
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="Make a repository that others cannot see, where it is not there yet.")
def main(place: Path, repository: str, private: bool) -> None:
    """Put an exported student, or a finished store, on the Hugging Face Hub, with its card.

    \b
    Example:
      python -m student.push export you/deit-tiny-flowers
    """
    from student.sharing.hub import push  # only now: --help needs none of it
    from student.sharing.parcel import parcel_of

    parcel = parcel_of(place, repository)
    click.echo(f"{push(parcel, repository, private=private)} ({len(parcel.files)} files)")


if __name__ == "__main__":
    main()
