"""How much of the teacher's speed is left once views are rendered, answers encoded, written and committed?

The bare loop is the strictest one: the model alone, on normalised float batches that lie in memory. Beside it the same
number of views through `label_missing`, of one view a row and of eight: rendered by a worker process, answered, encoded
densely, made durable. On a CPU the worker takes its time from the teacher's own cores, so the teacher is a heavy one; a
GPU's does not notice it.

A turn begins with the fork of the worker, after which each page that the teacher writes is copied once, and ends with
the last commit: about a second, which a run pays once. So a turn is long.
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
from pipeline.labelling import label_missing
from pipeline.store import LabelStore
from pipeline.teacher import PRECISIONS, Teacher
from pipeline.witness import draw_witnesses

BARE = "bare forward loop, tensors in memory"
OURS = {1: "teacher_logits, one view a row", 8: "teacher_logits, eight views a row, decoded once"}
COUNT, BATCH = 512, 32
TINY_COUNT, TINY_BATCH = 8, 1


def measure(bench: Bench) -> Table:
    """Race them."""
    count, batch = (TINY_COUNT, TINY_BATCH) if bench.tiny else (COUNT, BATCH)
    model = timm.create_model(bench.teacher, pretrained=False, num_classes=CLASSES).eval()
    model = model.requires_grad_(False).to(memory_format=torch.channels_last)
    teacher = Teacher(model, card_of(bench.teacher, precision=bench.precision, batch=batch), torch.device("cpu"))
    fresh = {name: FreshStores(bench, count // views, views, teacher) for views, name in OURS.items()}
    runs: dict[str, Contestant] = {
        BARE: bare_loop(model, bench.precision, count // batch, batch),
        **{name: labelling(stores, teacher) for name, stores in fresh.items()},
    }
    result = race(runs, seconds=bench.seconds, fewest=bench.fewest, before=fresh)
    rows = [[name, f"{result.rate(name).median:.2f}", result.ratio(name, BARE).text(".3f")] for name in runs]
    return Table(
        name="labelling",
        title=f"Labelling with {bench.teacher} in {bench.precision}, batches of {batch}",
        columns=("what", "views/s", "of the bare loop"),
        rows=grid(rows),
        figures={f"{name}, share of bare": result.ratio(name, BARE).median for name in fresh},
        notes=(
            f"{result.rounds} rounds of {count} views in turn; random weights, which change no time; 1 worker, "
            "started within the turn.",
        ),
    )


class FreshStores:
    """An empty store for each turn, opened outside of it."""

    def __init__(self, bench: Bench, rows: int, views: int, teacher: Teacher) -> None:
        self.folder, self.numbers, self.views = bench.scratch(f"labelling-{views}"), itertools.count(), views
        self.index = bench.photographs.indexed(self.folder / "data", rows)
        self.manifest = manifest_of(self.index, "dense", unit_rows=rows, card=teacher.card)
        self.witness = draw_witnesses(self.manifest.recipe, self.index)
        self.store: LabelStore

    def __call__(self) -> None:
        path = self.folder / f"{next(self.numbers)}.zarr"
        self.store = LabelStore.open_writing(path, self.manifest, self.index, self.views, witness=lambda: self.witness)


def labelling(stores: FreshStores, teacher: Teacher) -> Contestant:
    """A store a turn."""

    def turn() -> int:
        with stores.store as store:
            label_missing(store, teacher, workers=1, shown=False)
        return store.rows * store.views

    return turn


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
