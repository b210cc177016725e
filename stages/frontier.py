"""How accurate is each model, and how many images a second does it take here? Students and teachers, in one plot.

    python -m stages.frontier runs/small runs/large --teacher runs/teacher --shards 'data/val/*.tar' --plot frontier.png

A RUN is a run directory of `student.train` (its last checkpoint is taken, both heads fused), or a folder that
`student.export` wrote. Every model sees the pictures at its own size (centre crop), and all of them run in one process
on one device, in turns: what slows the machine down for a while slows all of them. A rate is the median of the turns;
drawing pictures is no part of it. A model is on the frontier where no faster one is as accurate.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch

from pipeline.commands.command import command
from pipeline.commands.gather import gather
from pipeline.commands.places import InputPath, ResultFile
from pipeline.commands.speed_flags import Speed, shards_option, speed_options
from pipeline.durable.file import write_json, write_with
from pipeline.errors import TeacherError, require_packages
from pipeline.progress import Progress
from pipeline.rendering.loader import Loader, requests_of
from pipeline.shards.index import SampleIndex, scan
from pipeline.shards.patterns import expand
from pipeline.teacher.loading import load_teacher
from pipeline.teacher.teacher import Teacher
from pipeline.views.recipe import Recipe
from stages.comparing.place import Place, frontier, table

PACKAGES = Path(__file__).parents[1]
"""The folder of this project's packages: `python -m` finds them from there, wherever this command was started."""
WARM_UP = 2
"""Batches of each model that are not timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that takes part: a student or a teacher, and how it answers."""

    name: str
    kind: str
    """student or teacher"""
    side: int
    """Of the pictures that it is shown."""
    answer: Teacher


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How each model is timed: in which batches and precision, in how many turns of how many seconds."""

    batch: int
    turns: int
    seconds: float
    precision: str


@command()
@click.argument("runs", nargs=-1, type=InputPath(exists=True, file_okay=False), metavar="RUN...")
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    help="A folder of stages.fit_teacher, or a model of timm's with these classes. May be given several times.",
)
@shards_option
@click.option("--batch", type=click.IntRange(min=1), default=32, help="Pictures of one forward pass.")
@click.option("--turns", type=click.IntRange(min=1), default=5, help="How often each model is timed.")
@click.option("--seconds", type=click.FloatRange(min=0.01), default=1.0, help="Length of a turn.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", help="Of all models.")
@click.option("--out", type=ResultFile(".json"), help="JSON file for the figures.")
@click.option("--plot", type=ResultFile(".png"), help="PNG file for the picture.")
@speed_options
@gather("trial", Trial)
def main(
    runs: tuple[Path, ...], teachers: tuple[str, ...], shards: tuple[str, ...], trial: Trial, speed: Speed,
    out: Path | None, plot: Path | None,
) -> None:  # fmt: skip
    """Measure accuracy against images a second, of students and teachers on one machine.

    \b
    Example:
      python -m stages.frontier runs/small runs/large --teacher runs/teacher --shards 'data/val/*.tar'
    """
    if plot:
        require_packages("--plot", "matplotlib", extra="report")
    if not runs and not teachers:
        raise TeacherError("There is nothing to measure: name run directories, or models with --teacher.")
    index = scan(expand(shards), workers=speed.workers)
    if not (index.classes >= 0).any():
        raise TeacherError("No row of --shards has a label, so nothing can be called right. Give labelled shards.")
    with tempfile.TemporaryDirectory(prefix="frontier-") as folder:
        models = [*_students(runs, Path(folder), trial, speed), *_teachers(teachers, trial, speed)]
    places = frontier(measure(models, index, trial, speed))
    click.echo(f"{table(places)}\n\n{_machine(models[0].answer)}")
    if out:
        click.echo(f"wrote {write_json(out, [asdict(place) for place in places])}")
    if plot:
        from stages.comparing.plot import draw  # only now: it brings matplotlib, which is an extra

        click.echo(f"wrote {write_with(plot, lambda path: path.write_bytes(draw(places)))}")


def _machine(answer: Teacher) -> str:
    """What the rates are of."""
    device = answer.device
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads of a CPU"
    )
    return f"on {name}, {answer.card.precision}"


def _students(runs: Sequence[Path], folder: Path, trial: Trial, speed: Speed) -> Iterator[Model]:
    for number, run in enumerate(runs):
        exported = run if (run / "config.json").exists() else _exported(run, folder / str(number))
        yield _model(str(run), "student", f"local-dir:{exported}", trial, speed)


def _exported(run: Path, folder: Path) -> Path:
    """The run as a folder of timm's, by the student's own command."""
    line = [sys.executable, "-m", "student.export", "--checkpoint", str(run.absolute()), "--out", str(folder)]
    done = subprocess.run([*line, "--log-level", "error"], capture_output=True, text=True, cwd=PACKAGES)
    if done.returncode:
        said = done.stderr.strip().removeprefix("error: ") or f"ended with {done.returncode}"
        raise TeacherError(f"{run} cannot be exported: {said}")
    return folder


def _teachers(names: Sequence[str], trial: Trial, speed: Speed) -> Iterator[Model]:
    for name in names:
        yield _model(name, "teacher", f"local-dir:{name}" if Path(name).is_dir() else name, trial, speed)


def _model(name: str, kind: str, timm_name: str, trial: Trial, speed: Speed) -> Model:
    answer = load_teacher(timm_name, view_size=1, device=speed.device, precision=trial.precision)
    return Model(name=name, kind=kind, side=answer.card.input_size, answer=answer)


def measure(models: Sequence[Model], index: SampleIndex, trial: Trial, speed: Speed) -> list[Place]:
    """Run each model over the pictures of an index, and say how accurate and how fast it is."""
    for model in models:
        model.answer.require_classes_of(index)
    right = [_top1(model, index, trial.batch, speed) for model in models]
    rates = _rates(models, trial)
    return [
        Place(
            name=model.name,
            kind=model.kind,
            side=model.side,
            parameters=model.answer.parameters,
            top1=top1,
            images_per_second=round(statistics.median(rate), 1),
            slowest=round(min(rate), 1),
            fastest=round(max(rate), 1),
        )
        for model, top1, rate in zip(models, right, rates, strict=True)
    ]


def _top1(model: Model, index: SampleIndex, batch: int, speed: Speed) -> float:
    labelled_R = np.flatnonzero(index.classes >= 0)
    recipe = Recipe.preset("none", image_size=model.side)
    right = 0
    with (
        Loader(recipe, index, batch=batch, workers=speed.workers, start_method=speed.start_method) as loader,
        Progress(Path(model.name).name, len(labelled_R), "images") as progress,
    ):
        for slot in loader.render(requests_of(labelled_R, 0, batch)):
            right += int((model.answer(slot.pixels_BHWC).argmax(-1) == index.classes[slot.row_B]).sum())
            progress.advance(len(slot.row_B))
    return round(right / len(labelled_R), 6)


def _rates(models: Sequence[Model], trial: Trial) -> list[list[float]]:
    """Images a second, a value a turn; the models take turns."""
    pixels = [
        np.random.default_rng(0).integers(0, 256, (trial.batch, m.side, m.side, 3), dtype=np.uint8) for m in models
    ]
    for model, pixels_BHWC in zip(models, pixels, strict=True):
        for _ in range(WARM_UP):
            model.answer(pixels_BHWC)
    found: list[list[float]] = [[] for _ in models]
    for _ in range(trial.turns):
        for model, pixels_BHWC, rates in zip(models, pixels, found, strict=True):
            begun, count = time.perf_counter(), 0
            while (taken := time.perf_counter() - begun) < trial.seconds:
                model.answer(pixels_BHWC)
                count += trial.batch
            rates.append(count / taken)
    return found


if __name__ == "__main__":
    main()
