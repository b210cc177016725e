"""Run what a table stands on, and write it.

    python -m benchmarks.evidence distillation --data FOLDER --teachers FOLDER --work FOLDER
    python -m benchmarks.evidence --seeds 3,4,5 …           # every table, with other seeds
    python -m benchmarks.evidence tokens --commands         # only say what would be run

Killed, it goes on where it was; runs that several tables need are done once. Tables go to benchmarks/results/evidence,
their pictures to docs/evidence; those of another scale into a folder of its name there.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from benchmarks.evidence.experiments import ALONE, EXPERIMENTS
from benchmarks.evidence.lab import SCALES, Lab
from benchmarks.evidence.pictures import prepare
from benchmarks.evidence.plots import draw
from benchmarks.evidence.steps import commands, run
from benchmarks.evidence.tables import table_of
from benchmarks.report import RESULTS, Circumstances, load_average, write
from pipeline.commands.command import command

PLOTS = Path("docs/evidence")


@command()
@click.argument("tables", nargs=-1, type=click.Choice([*EXPERIMENTS, *ALONE]), metavar="[TABLE]...")
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True, file_okay=False), help="Pictures.")
@click.option(
    "--teachers",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of resnet20.safetensors and resnet56.safetensors for CIFAR-10.  [default: fit RegNetYs here]",
)
@click.option("--work", type=click.Path(path_type=Path), default=Path("evidence"), help="For all that is made.")
@click.option("--scale", type=click.Choice(list(SCALES)), default="small", help="How large the runs are.")
@click.option("--seeds", default="0,1,2", help="Of the students, with commas between them.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, help="Commands at a time.")
@click.option("--commands", "only_say", is_flag=True, help="Print the commands and run nothing.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the tables.")
@click.option("--plots", type=click.Path(path_type=Path), help="Folder for the pictures.")
def main(
    tables: tuple[str, ...], data: Path, teachers: Path | None, work: Path, scale: str, seeds: str, jobs: int,
    only_say: bool, out: Path | None, plots: Path | None,
) -> None:  # fmt: skip
    """Reproduce the paper's claims in miniature: distillation, teachers, recipe, efficiency, views, storage, online,
    resolution, tokens; all of them by default. packing needs photographs (--scale photographs)."""
    work = work.absolute()
    lab = Lab(
        pictures=prepare(data.absolute(), work),
        work=work,
        scale=SCALES[scale],
        seeds=tuple(int(seed) for seed in seeds.split(",")),
        weights=None if teachers is None else teachers.absolute(),
    )
    of_scale = "" if scale == "small" else scale
    for name in tables or EXPERIMENTS:
        experiment = {**EXPERIMENTS, **ALONE}[name](lab)
        if only_say:
            click.echo("\n".join(commands(experiment.steps())))
            continue
        before = load_average()
        run(experiment.steps(), work, jobs)
        table = table_of(name, experiment, work, lab.seeds)
        click.echo(f"\n## {table.title}\n\n{table.text()}\n")
        around = Circumstances(command=command(name), photographs=f"{data.name}, scale {scale}", load_before=before)
        write(table, around, out or RESULTS / "evidence" / of_scale)
        draw(name, experiment, work, plots or PLOTS / of_scale)


def command(name: str) -> str:
    """This table's line, without the places of this machine."""
    given = [part for part in sys.argv[1:] if part not in (*EXPERIMENTS, *ALONE)]
    for flag in ("--data", "--teachers", "--work", "--out", "--plots"):
        if flag in given:
            given[given.index(flag) + 1] = flag.removeprefix("--").upper()
    return shlex.join(["python", "-m", "benchmarks.evidence", name, *given])


if __name__ == "__main__":
    main()
