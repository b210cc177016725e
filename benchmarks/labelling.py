"""How much of the teacher's speed is left once views are rendered, answers encoded, written and committed?

The bare loop is the strictest one: the model alone, on normalised float batches that lie in memory. Beside it the same
number of views through `label_missing`: rendered by worker processes, answered, encoded densely, made durable. On a CPU
the workers take their time from the teacher's own cores, so the teacher is a heavy one; a GPU's does not notice them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

from benchmarks.bench import Bench
from benchmarks.labels_at_hand import card_of, manifest_of
from benchmarks.photographs import CLASSES
from benchmarks.race import Contestant, race
from benchmarks.report import Table, grid
from pipeline.index import SampleIndex
from pipeline.labelling import label_missing
from pipeline.store import LabelStore
from pipeline.teacher import PRECISIONS, Teacher
from pipeline.witness import draw_witnesses

BARE, OURS = "bare forward loop, tensors in memory", "teacher_logits: render, answer, encode, commit"
ROWS, BATCH = 64, 32
TINY_ROWS, TINY_BATCH = 8, 4


def measure(bench: Bench) -> Table:
    """Race the two."""
    count, batch = (TINY_ROWS, TINY_BATCH) if bench.tiny else (ROWS, BATCH)
    index = bench.photographs.indexed(bench.scratch("labelling"), count)
    model = timm.create_model(bench.teacher, pretrained=False, num_classes=CLASSES).eval()
    model = model.requires_grad_(False).to(memory_format=torch.channels_last)
    teacher = Teacher(model, card_of(bench.teacher, precision=bench.precision, batch=batch), torch.device("cpu"))
    fresh = FreshStores(bench, index, teacher)

    def label() -> int:
        with fresh.store as store:
            label_missing(store, teacher, workers=1, shown=False)
        return count

    runs: dict[str, Contestant] = {BARE: bare_loop(model, bench.precision, count // batch, batch), OURS: label}
    result = race(runs, seconds=bench.seconds, fewest=bench.fewest, before={OURS: fresh})
    rows = [[name, f"{result.rate(name).median:.2f}", result.ratio(name, BARE).text(".3f")] for name in runs]
    return Table(
        name="labelling",
        title=f"Labelling with {bench.teacher} in {bench.precision}, batches of {batch}",
        columns=("what", "views/s", "of the bare loop"),
        rows=grid(rows),
        figures={"teacher_logits, share of bare": result.ratio(OURS, BARE).median},
        notes=(f"{result.rounds} rounds in turn; random weights, which change no time; 1 rendering worker.",),
    )


class FreshStores:
    """An empty store for each turn, opened outside of it."""

    def __init__(self, bench: Bench, index: SampleIndex, teacher: Teacher) -> None:
        self.folder, self.numbers, self.index = bench.scratch("labelling-stores"), itertools.count(), index
        self.manifest = manifest_of(index, "dense", unit_rows=len(index), card=teacher.card)
        self.witness = draw_witnesses(self.manifest.recipe, index)
        self.store: LabelStore

    def __call__(self) -> None:
        path = self.folder / f"{next(self.numbers)}.zarr"
        self.store = LabelStore.open_writing(path, self.manifest, self.index, 1, witness=lambda: self.witness)


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
