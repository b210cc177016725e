"""How much of the teacher's speed is left once views are rendered, answers encoded, written and committed?

The bare loop is the strictest one: the model alone, on normalised float batches that lie in memory. Beside it a run of
`label_missing`, of one view a row and of eight: rendered by a worker process, answered, encoded densely, made durable.
They take turns within the run: after every few batches the run is laid aside, its worker stopped, and the bare loop has
as many. So the clock of neither meets another minute of the machine than the other's; what a run costs once (the first
batch that is waited for, the last commit) is in no turn, and is told apart.

On a CPU the worker takes its time from the teacher's own cores, so the teacher is a heavy one; a GPU's does not notice
it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.bench import Bench
from benchmarks.labels_at_hand import card_of, manifest_of
from benchmarks.photographs import CLASSES
from benchmarks.race import Contestant, Race, Turn, timed
from benchmarks.report import Table, grid
from pipeline.labelling.environment import describe_environment
from pipeline.labelling.fill import label_missing
from pipeline.models.device import PRECISIONS
from pipeline.rendering.drift import draw_witnesses
from pipeline.store.manifest import TeacherCard
from pipeline.store.writer import StoreWriter
from pipeline.teacher.teacher import Launched, Teacher, Then

BARE = "bare forward loop, tensors in memory"
OURS = {1: "teacher_logits, one view a row", 8: "teacher_logits, eight views a row, decoded once"}
COUNT, BATCH, TURN = 1024, 32, 2
"""Views of a run, and of a batch; batches of a turn"""
TINY_COUNT, TINY_BATCH = 16, 1


def measure(bench: Bench) -> Table:
    """Two runs, each with the bare loop between its batches."""
    count, batch = (TINY_COUNT, TINY_BATCH) if bench.tiny else (COUNT, BATCH)
    model = timm.create_model(bench.teacher, pretrained=False, num_classes=CLASSES).eval()
    model = model.requires_grad_(False).to(memory_format=torch.channels_last)
    card = card_of(bench.teacher, precision=bench.precision, batch=batch)
    bare = bare_loop(model, bench.precision, TURN, batch)
    bare()  # the first pass of a model is slow
    rows, figures = [], {}
    for views, name in OURS.items():
        teacher = TakingTurns(model, card, bare)
        apart = run(bench, teacher, count // views, views)
        result = Race({BARE: tuple(teacher.bare), name: tuple(teacher.ours)})
        share = result.ratio(name, BARE)
        rates = (f"{result.rate(who).median:.2f}" for who in (BARE, name))
        rows.append([name, *rates, share.text(".3f"), str(result.rounds), f"{apart:.2f}"])
        figures[f"{name}, share of bare"] = share.median
    return Table(
        name="labelling",
        title=f"Labelling with {bench.teacher} in {bench.precision}, batches of {batch}",
        columns=("what", "bare loop, views/s", "views/s", "of the bare loop", "rounds", "once a run, s"),
        rows=grid(rows),
        figures=figures,
        notes=(
            f"Runs of {count} views, {TURN} batches a turn; medians of ratios within a round. Random weights, which "
            "change no time; one worker. Once a run: until the first batch came, and after the last answer.",
        ),
    )


class TakingTurns(Teacher):
    """A teacher that lays its run aside after every few batches, the workers too, and lets the bare loop run."""

    def __init__(self, model: nn.Module, card: TeacherCard, bare: Contestant) -> None:
        super().__init__(model, card, torch.device("cpu"))
        self.ours: list[Turn] = []
        self.bare: list[Turn] = []
        self._bare, self._batches = bare, 0
        self._began = self._busy = 0.0
        self.first = self.last = 0.0
        """When the first batch came, and when the last was answered"""

    def launch(self, pixels_BHWC: NDArray[np.uint8], *then: Then) -> Launched:
        """As a teacher does, but for the pauses."""
        if self._batches % TURN == 0:
            if not self._batches:
                self.first = time.perf_counter()
            else:
                views = TURN * self.card.batch_size
                self.ours.append(Turn(time.perf_counter() - self._began, time.process_time() - self._busy, views))
            with _standing_still():
                self.bare.append(timed(self._bare))
            self._began, self._busy = time.perf_counter(), time.process_time()
        self._batches += 1
        answer = super().launch(pixels_BHWC, *then)
        self.last = time.perf_counter()
        return answer


def run(bench: Bench, teacher: TakingTurns, rows: int, views: int) -> float:
    """Label a store; the seconds before the first batch and after the last."""
    folder = bench.scratch(f"labelling-{views}")
    index = bench.photographs.indexed(folder / "data", rows)
    manifest = manifest_of(index, "dense", unit_rows=rows, card=teacher.card)
    witness = draw_witnesses(manifest.recipe, index)
    with StoreWriter.open(
        folder / "s.zarr", manifest, index, views, witness=lambda: witness, environment=describe_environment
    ) as store:
        begun = time.perf_counter()
        label_missing(store, teacher, workers=1, shown=False)
        ended = time.perf_counter()
    del teacher.bare[len(teacher.ours) :]  # before the last turn, which nobody timed
    return teacher.first - begun + ended - teacher.last


@contextmanager
def _standing_still() -> Iterator[None]:
    """While in here the workers do not run."""
    workers = [worker.pid for worker in multiprocessing.active_children() if worker.pid]
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)


def bare_loop(model: nn.Module, precision: str, batches: int, batch: int) -> Contestant:
    """The model and nothing else."""
    x_BCHW = torch.randn(batch, 3, 224, 224).to(memory_format=torch.channels_last)
    forward = forward_of(model, precision, "cpu")

    def turn() -> int:
        for _ in range(batches):
            forward(x_BCHW)
        return batches * batch

    return turn


def forward_of(model: nn.Module, precision: str, device: str) -> Callable[[Tensor], Tensor]:
    """Inference at this precision."""

    @torch.inference_mode()
    def forward(x_BCHW: Tensor) -> Tensor:
        with torch.autocast(device, PRECISIONS[precision], enabled=precision != "fp32"):
            answer: Tensor = model(x_BCHW)
        return answer

    return forward
