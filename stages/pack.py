"""Make WebDataset shards of a folder of images.

    python -m stages.pack --images photos/train --out data/train

List the images and their classes, check every one of them, and write shuffled shards that are the same bytes each time;
`pipeline.packing.sources` and `pipeline.packing.writing` say how.
"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.class_flags import read_class_list
from pipeline.commands.command import command
from pipeline.commands.outputs import require_new_folder
from pipeline.commands.places import InputPath, OutputFolder
from pipeline.commands.speed_flags import workers_option
from pipeline.packing.sources import SourceError, Sources, from_folders
from pipeline.packing.table import from_table
from pipeline.packing.tiled import tiled_text
from pipeline.packing.writing import PackOptions, PackSpeed, pack
from pipeline.shards.sidecars import PackSummary, size_text


@command()
@click.option("--images", type=InputPath(), help="Folder with one folder of images per class.")
@click.option("--out", type=OutputFolder(), required=True, help="New folder for the shards.")
@click.option("--csv", "table", type=InputPath(), help="Lines of path,class in place of class folders.")
@click.option(
    "--unlabelled",
    type=InputPath(),
    multiple=True,
    metavar="DIR",
    help="Folder of images without a class (-1), inside --images or elsewhere; may be given several times.",
)
@click.option("--classes", type=InputPath(), help="classes.json or text file that fixes class numbers.")
@click.option("--samples-per-shard", type=click.IntRange(min=1), default=1000, help="Most rows that a shard may have.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, help="Seed of the shuffle.")
@click.option(
    "--max-side", type=click.IntRange(min=8), help="Shrink images whose longest side is over this, in pixels."
)
@click.option("--quality", type=click.IntRange(1, 100), default=95, help="JPEG quality of images that are made anew.")
@click.option(
    "--tiled",
    is_flag=True,
    help="Write JPEGs so that a crop costs what it covers: the same pixels, about five per cent more bytes.",
)
@click.option(
    "--on-bad",
    type=click.Choice(["error", "skip"]),
    default="error",
    help="What an image that cannot be used does: stop before anything is written, or be listed in rejected.csv.",
)
@click.option(
    "--if-changed",
    type=click.Choice(["refuse", "rebuild"]),
    default="refuse",
    help="Shards of other images or options (or damaged ones) are refused with what differs; or packed anew, and then "
    "set aside.",
)
@workers_option("check and write; 0 works in this one")
def main(
    images: Path | None,
    out: Path,
    table: Path | None,
    unlabelled: tuple[Path, ...],
    classes: Path | None,
    samples_per_shard: int,
    seed: int,
    max_side: int | None,
    quality: int,
    tiled: bool,
    on_bad: str,
    if_changed: str,
    workers: int,
) -> None:
    """Pack a folder of images into shuffled, byte-reproducible WebDataset shards.

    \b
    Example:
      python -m stages.pack --images photos/train --out data/train --max-side 500
      python -m stages.pack --images photos/val --out data/val --classes data/train/classes.json
    """
    require_new_folder(out)
    sources = _list(images, table, unlabelled, classes, out)
    options = PackOptions(
        samples_per_shard=samples_per_shard, seed=seed, max_side=max_side, quality=quality, tiled=tiled
    )
    speed = PackSpeed(workers=workers, progress=True)
    how = {"skip_bad": on_bad == "skip", "rebuild": if_changed == "rebuild"}
    click.echo(_told(out, pack(sources, out, options, speed=speed, **how)))


def _list(
    images: Path | None, table: Path | None, unlabelled: tuple[Path, ...], classes: Path | None, out: Path
) -> Sources:
    if images is None and table is None and not unlabelled:
        raise click.UsageError("nothing to pack: give --images, --csv or --unlabelled.")
    if table is not None and unlabelled:
        raise click.UsageError("--unlabelled does not go with --csv: list those images in it, with an empty class.")
    folders = [folder.resolve() for folder in (images, *unlabelled) if folder is not None]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise SourceError(f"{twice[0]} is named twice, and its pictures would be packed twice. Name it once.")
    for folder in filter(None, (images, *unlabelled)):
        if out.resolve().is_relative_to(folder.resolve()):
            raise SourceError(f"--out {out} lies in {folder}, and would be packed itself. Choose another --out.")
    names = None if classes is None else read_class_list(classes)
    return from_folders(images, unlabelled, names) if table is None else from_table(table, images, names)


def _told(out: Path, summary: PackSummary) -> str:
    """One line that names what was made, and what is in it."""
    counts = sorted(summary.per_class.values()) or [0]
    spread = f"{counts[0]:,}" if counts[0] == counts[-1] else f"{counts[0]:,} to {counts[-1]:,}"
    parts = [f"{len(summary.per_class)} classes of {spread}", f"{summary.unlabelled:,} unlabelled"]
    if summary.remade:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(summary.remade.items()))
        parts.append(f"made anew: {reasons}")
    if summary.whole is not None:
        parts.append(tiled_text(summary.images, summary.whole))
    if summary.rejected:
        parts.append(f"{summary.rejected:,} rejected (rejected.csv)")
    return f"shards: {out} ({size_text(summary.images, summary.shards)}; {'; '.join(parts)})"


if __name__ == "__main__":
    main()
