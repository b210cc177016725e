"""Make tiled shards of shards that there are: the same rows, and a crop costs what it covers.

    python -m stages.tile --shards 'data/train/*.tar' --out data/train-tiled

`pipeline.packing.retiling` says how. Labels that were stored for the one set of shards serve for the other.
"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.command import command
from pipeline.commands.outputs import require_new_folder
from pipeline.commands.places import SHARDS, OutputFolder
from pipeline.commands.speed_flags import workers_option
from pipeline.packing.retiling import retile
from pipeline.packing.tiled import tiled_text
from pipeline.packing.writing import PackSpeed
from pipeline.shards.patterns import expand
from pipeline.shards.sidecars import size_text


@command()
@click.option(
    "--shards",
    type=SHARDS,
    multiple=True,
    required=True,
    help="Shards to tile; braces, globs, URLs.",
)
@click.option("--out", type=OutputFolder(), required=True, help="New folder for the tiled shards.")
@workers_option("tile; 0 works in this one")
def main(shards: tuple[str, ...], out: Path, workers: int) -> None:
    """Rewrite the JPEGs of shards so that a crop costs what it covers: the same pixels, keys, classes and order.

    \b
    Example:
      python -m stages.tile --shards 'data/train/*.tar' --out data/train-tiled
    """
    require_new_folder(out)
    summary = retile(expand(shards), out, speed=PackSpeed(workers=workers, progress=True))
    size = size_text(summary.images, summary.shards)
    click.echo(f"shards: {out} ({size}; {tiled_text(summary.images, summary.whole)})")


if __name__ == "__main__":
    main()
