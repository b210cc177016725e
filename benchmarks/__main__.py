"""Measure, print, and write benchmarks/results.

python -m benchmarks                                        # every table
python -m benchmarks render --photos FOLDER --seconds 20    # one of them
"""

from __future__ import annotations

import importlib
import logging
import shlex
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.bench import Bench
from benchmarks.photographs import load
from benchmarks.report import RESULTS, Circumstances, Table, load_average, write
from pipeline.commands.command import command
from pipeline.errors import UserError

TABLES = (
    *("render", "loaders", "checks", "labelling", "student_step", "online", "sizes", "memory", "startup", "growth"),
    *("profile", "packing", "tiles", "advice", "codecs"),
)
ALONE = ("guard", "gpu", "device_plans")


@command()
@click.argument("tables", nargs=-1, type=click.Choice([*TABLES, *ALONE]), metavar="[TABLE]...")
@click.option(
    "--photographs",
    "--photos",
    "photos",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of JPEGs.  [default: painted pictures]",
)
@click.option("--seconds", type=click.FloatRange(min=0), default=20.0, help="For each contestant of a race.")
@click.option("--workers", type=click.IntRange(min=1), default=2, help="Processes of each loader.")
@click.option("--teacher", default="regnety_160", help="timm model beside the students, with random weights.")
@click.option("--weights", type=click.Path(path_type=Path, exists=True), help="tf_efficientnet_lite0, for real logits.")
@click.option(
    "--logits", type=click.Path(path_type=Path, exists=True), multiple=True, metavar="STORE_OR_NPY",
    help="Dense answers for codecs: one store, or one to fit on and one to measure.",
)  # fmt: skip
@click.option("--students", default="tiny,small,base", help="DeiT sizes with commas between them.")
@click.option("--batch", type=click.IntRange(min=1), default=8, help="Views of a step beside a teacher.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="bf16", help="Of teachers and students.")
@click.option("--device", help="Of gpu: cuda, or cpu to try it out with --small.")
@click.option("--small", is_flag=True, help="Of gpu: small models, few pictures, nothing compiled; does it run?")
@click.option("--minutes", type=click.FloatRange(min=0), default=8.0, help="Of gpu: what does not fit in is left out.")
@click.option("--picture-cache", type=click.Path(path_type=Path, file_okay=False), help="Of gpu: a fast folder.")
@click.option(
    "--earlier", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="GPU_JSON",
    help="Of gpu: results whose rows are not measured again, so that the table can be made in slices.",
)  # fmt: skip
@click.option("--with-litdata", is_flag=True, help="Install litdata outside the project's environment and race it.")
@click.option(
    "--out", type=click.Path(path_type=Path),
    help="For the results.  [default: benchmarks/results; nowhere with painted pictures or --small]",
)  # fmt: skip
@click.option("--tiny", is_flag=True, help="As small as it runs, for the tests; the figures mean nothing.")
def main(tables: tuple[str, ...], photos: Path | None, out: Path | None, students: str, **flags: Any) -> None:
    """Race ours and the peers on the same photographs and write tables; all of them by default.

    Tables: render, loaders, checks, labelling, student_step, online, sizes, memory, startup, growth, profile, packing,
    tiles, advice, codecs; guard (pass or fail), gpu and device_plans (CUDA) run when they are named.

    \b
    Example:
      python -m benchmarks render loaders --photos data/photos --seconds 20
    """
    for talkative in ("pipeline", "litdata"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    if flags["small"]:
        students, flags["teacher"] = "toy", "test_efficientnet"
    if out is None and photos is not None and not flags["small"]:
        out = RESULTS
    photographs = load(photos, most=8 if flags["tiny"] or flags["small"] else None)
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:
        for number, name in enumerate(tables or TABLES):
            folder = Path(scratch) / f"{number}"
            folder.mkdir()
            around = Circumstances(command=line_of(name), photographs=photographs.about, load_before=load_average())
            told = partial(_write, around=around, folder=out)
            kept = tuple(students.split(","))
            bench = Bench(photographs=photographs, folder=folder, students=kept, told=told, **flags)
            table = run(name, bench)
            click.echo(f"\n## {table.title}\n\n{table.text()}\n")
            if not bench.tiny:
                told(table)
    if out is None:
        click.echo(
            "not written: figures of painted pictures, or of --small, are for you alone (--out FOLDER writes them)"
        )
    elif not flags["tiny"]:
        click.echo(f"written to {out.name}: {', '.join(f'{name}.md' for name in tables or TABLES)}")


def _write(table: Table, around: Circumstances, folder: Path | None) -> None:
    """Published figures are of photographs, and of a whole run: others are left where they are asked for alone."""
    if folder is not None:
        write(table, around, folder)


def run(name: str, bench: Bench) -> Table:
    """One table; what is not known is a user's error."""
    if name not in (*TABLES, *ALONE):
        raise UserError(f"no table is called {name!r}. Known: {', '.join((*TABLES, *ALONE))}.")
    table: Table = importlib.import_module(f"benchmarks.{name}").measure(bench)
    return table


def line_of(name: str) -> str:
    """What to type to measure this table again; folders of this machine are left out."""
    kept: list[str] = []
    skip = False
    for word in sys.argv[1:]:
        if not skip and word not in (*TABLES, *ALONE) and word not in ("--out",):
            kept.append(
                "FOLDER"
                if kept
                and kept[-1] in ("--photos", "--photographs", "--picture-cache", "--weights", "--logits", "--earlier")
                else word
            )
        skip = word == "--out"
    return shlex.join(["python", "-m", "benchmarks", name, *kept])


if __name__ == "__main__":
    main()
