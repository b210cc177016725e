"""Run what a table stands on, and write it.

    python -m benchmarks.evidence distillation --data FOLDER --teachers FOLDER --work FOLDER
    python -m benchmarks.evidence --seeds 3,4,5 …           # every table, with other seeds
    python -m benchmarks.evidence tokens --commands         # only say what would be run
    python -m benchmarks.evidence distillation --minutes 8  # a slice: what is running then is stopped, and goes on
    python -m benchmarks.evidence distillation --finished   # only write the table of what is done
    python -m benchmarks.evidence --tables                  # only write the verdicts of all published tables

Killed, it goes on where it was; runs that several tables need are done once, and a table is written again after each,
with its picture, below WORK/tables. With --publish tables go to benchmarks/results/evidence and their pictures to
docs/evidence, in place of what is there; those of another scale into a folder of its name. What follows from published
tables is put into docs/evidence/verdicts.md, between two marks.
"""

from __future__ import annotations

import math
import shlex
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import click

from benchmarks.evidence import frontier
from benchmarks.evidence.catalogue import ALONE, EXPERIMENTS
from benchmarks.evidence.claims import write_verdicts
from benchmarks.evidence.experiments import Experiment
from benchmarks.evidence.lab import Lab
from benchmarks.evidence.pictures import prepare
from benchmarks.evidence.scales import SCALES
from benchmarks.evidence.steps import commands, run
from benchmarks.evidence.tables import table_of
from benchmarks.report import RESULTS, Circumstances, load_average, write
from pipeline.commands.command import command
from pipeline.errors import UserError

PLOTS = Path("docs/evidence")
PAGE = PLOTS / "verdicts.md"
LOAD = load_average()
OUT_OF_TIME = 75
"""Exit code where --minutes came first, and the same command goes on."""


@command(epilog=f"Tables: {', '.join(EXPERIMENTS)}; of photographs (--scale photographs): {', '.join(ALONE)}.")
@click.argument("tables", nargs=-1, type=click.Choice([*EXPERIMENTS, *ALONE]), metavar="[TABLE]...")
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Pictures.")
@click.option(
    "--teachers",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of resnet20.safetensors and resnet56.safetensors for CIFAR-10.  [default: fit RegNetYs here]",
)
@click.option("--work", type=click.Path(path_type=Path), default=Path("evidence"), help="For all that is made.")
@click.option("--scale", type=click.Choice(list(SCALES)), default="small", help="How large the runs are.")
@click.option("--seeds", default="0,1,2", help="Of the students, with commas between them.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, help="Commands at a time.")
@click.option("--minutes", type=click.FloatRange(min=0), help="Stop then, with what is running, to go on later.")
@click.option("--choosing", is_flag=True, help="Judge on pictures kept from the training part: to choose settings by.")
@click.option("--commands", "only_say", is_flag=True, help="Print the commands and run nothing.")
@click.option("--finished", is_flag=True, help="Write the tables of what is finished and run nothing.")
@click.option("--tables", "only_verdicts", is_flag=True, help=f"Write {PAGE} from published tables and run nothing.")
@click.option("--publish", "public", is_flag=True, help="Replace the published table and picture.")
def main(
    tables: tuple[str, ...], data: Path | None, teachers: Path | None, work: Path, scale: str, seeds: str, jobs: int,
    minutes: float | None, choosing: bool, only_say: bool, finished: bool, only_verdicts: bool, public: bool,
) -> None:  # fmt: skip
    """Reproduce the paper's claims in miniature, a table each; all tables by default."""
    if only_verdicts:
        write_verdicts(PAGE, RESULTS.relative_to(Path.cwd()) / "evidence")
        return
    if data is None:
        raise UserError("--data is missing: CIFAR-10 as sprites, or a folder with train/ and val/.")
    if public and choosing:
        raise UserError(
            "--publish and --choosing: settings are chosen by such tables, which are not of the test pictures."
        )
    until = math.inf if minutes is None else time.monotonic() + 60 * minutes
    work = work.absolute()
    of_scale = "" if scale == "small" else scale
    places = (RESULTS / "evidence" / of_scale, PLOTS / of_scale) if public else (work / "tables" / of_scale,) * 2
    pictures = prepare(data.resolve(), work)
    lab = Lab(
        pictures=pictures,
        work=work,
        scale=SCALES[scale].over(len(pictures)),
        seeds=tuple(int(seed) for seed in seeds.split(",")),
        weights=None if teachers is None else teachers.resolve(),
        choosing=choosing,
    )
    for name in tables or EXPERIMENTS:
        experiment = {**EXPERIMENTS, **ALONE}[name](lab)
        if only_say:
            click.echo("\n".join(commands(experiment.steps())))
            continue
        around = Circumstances(command=line_of(name), photographs=f"{data.name}, scale {scale}", load_before=LOAD)
        publish_now = partial(publish, name, experiment, lab, around, *places)
        if not finished and not run(experiment.steps(), work, jobs, until=until, after=publish_now):
            click.echo("stopped: the minutes are over; the same command goes on")
            sys.exit(OUT_OF_TIME)
        click.echo(publish_now())


def publish(name: str, experiment: Experiment, lab: Lab, around: Circumstances, out: Path, plots: Path) -> str:
    """Write the table of what is done so far, with its picture where matplotlib is installed (the extra `report`)."""
    made = frontier.table if experiment.kind == "frontier" else table_of
    table = made(name, experiment, lab.work, lab.seeds)
    if table.rows:
        write(table, around, out)
        if find_spec("matplotlib"):
            from benchmarks.evidence.plots import draw  # a GPU machine may have the run-time packages alone

            draw(name, experiment, lab.work, lab.seeds, plots)
    return f"\n## {table.title}\n\n{table.text()}\n"


def line_of(name: str) -> str:
    """This table's line, without the places of this machine and what only says how it was cut into parts."""
    said = iter(sys.argv[1:])
    given: list[str] = []
    for part in said:
        if part in ("--data", "--teachers", "--work"):
            next(said)
            given += [part, part.removeprefix("--").upper()]
        elif part in ("--jobs", "--minutes"):
            next(said)
        elif part not in (*EXPERIMENTS, *ALONE, "--finished", "--publish"):
            given.append(part)
    return shlex.join(["python", "-m", "benchmarks.evidence", name, *given])


if __name__ == "__main__":
    main()
