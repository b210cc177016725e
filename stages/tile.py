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
from pipeline.commands.speed_flags import default_workers
from pipeline.packing.retiling import retile
from pipeline.packing.tiled import tiled_text
from pipeline.packing.writing import Effort
from pipeline.shards.patterns import expand


@command()
@click.option(
    "--shards",
    type=SHARDS,
    multiple=True,
    required=True,
    help="Shards to tile; braces, globs, URLs.",
)
@click.option("--out", type=OutputFolder(), required=True, help="New folder for the tiled shards.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=default_workers,
    envvar="DISTILL_WORKERS",
    show_default="one a core",
    help="Processes that tile; 0 works in this one. Changes speed only.",
)
def main(shards: tuple[str, ...], out: Path, workers: int) -> None:
    """Rewrite the JPEGs of shards so that a crop costs what it covers: the same pixels, keys, classes and order.

    \b
    Example:
      python -m stages.tile --shards 'data/train/*.tar' --out data/train-tiled
    """
    require_new_folder(out)
    summary = retile(expand(shards), out, effort=Effort(workers=workers, progress=True))
    megabytes = sum(shard.bytes for shard in summary.shards) / 1e6
    size = f"{summary.images:,} images in {len(summary.shards)} tars, {megabytes:,.1f} MB"
    click.echo(f"shards: {out} ({size}; {tiled_text(summary.images, summary.whole)})")


if __name__ == "__main__":
    main()
