"""The receipt: on one GPU, how much of the bare speed is left to whoever labels and trains?

    python -m benchmarks gpu --photographs DIR --workers 16                     # within eight minutes
    python -m benchmarks gpu --photographs DIR --picture-cache FAST_DIR
    python -m benchmarks gpu --photographs DIR --earlier benchmarks/results/gpu.json   # what it had no time for
    python -m benchmarks gpu --device cpu --small                               # does it run? Its figures mean nothing

Rows are measured in the order of what they tell, printed and written to the results at once (`benchmarks.receipt`). The
teacher: its bare forward pass, eager and compiled, and `teacher_logits` (drawing, answering, encoding, committing; from
the first answer to the last) at batches of 128 and 256, with one view and with eight views a decode. The students
(`benchmarks.gpu_students`) on the store that this makes. Weights are random, which changes no time. Needs what every
run needs, and a C++ compiler for torch.compile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from numpy.typing import NDArray

from benchmarks.bench import Bench
from benchmarks.gpu_students import Students, rate, settle
from benchmarks.labels_at_hand import card_of, manifest_of
from benchmarks.photographs import CLASSES
from benchmarks.receipt import Earlier, Found, Receipt
from benchmarks.report import Table
from pipeline.errors import UserError
from pipeline.labelling.fill import label_missing
from pipeline.labelling.tasks import tasks_of
from pipeline.labelling.writers import open_to_label
from pipeline.models.device import autocast, choose_device, make_repeatable, settle_precision
from pipeline.shards.index import SampleIndex
from pipeline.store.manifest import Manifest
from pipeline.store.reader import StoreReader
from pipeline.teacher.teacher import Launched, Teacher
from pipeline.views.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured."""

    rows: int = 8192
    views: int = 4
    unit_rows: int = 512
    batches: tuple[int, int] = (128, 256)
    short: int = 12_288
    """Views of a run of `teacher_logits` that makes no whole store"""
    compile_s: float = 45.0
    """What compiling a teacher takes, about"""
    side: int = 224
    mix_window: int = Recipe().mix_window


SMALL = Scale(rows=16, views=3, unit_rows=16, batches=(4, 8), short=16, compile_s=0.0, side=32, mix_window=4)


def measure(bench: Bench) -> Table:
    """All rows for which there is time."""
    scale = SMALL if bench.small else Scale()
    if not bench.small and not (torch.cuda.is_available() and (bench.device or "cuda").startswith("cuda")):
        raise UserError(
            "gpu measures on CUDA. Run it on a machine with an NVIDIA GPU and a CUDA build of torch; --small --device "
            "cpu tries out whether it runs."
        )
    device = choose_device(bench.device or "cuda")
    make_repeatable(device)
    precision = settle_precision("auto", device)
    title = f"On a GPU: {bench.teacher} and DeiT students, {precision}, {bench.workers} workers"
    notes = (
        "Random weights. 'Of the bare one': of the bare forward pass of that batch, compiled where that was measured; "
        "of the faster bare step of that student. Waiting: the share of the time that stood still for views. "
        "Memory: the most that torch had allocated. At: seconds since the start.",
    )
    receipt = Receipt(
        title=title,
        device=device,
        told=bench.told,
        seconds=60 * bench.minutes,
        notes=notes,
        earlier=Earlier.read(bench.earlier) if bench.earlier else None,
        pace=0.01 if bench.small else 1.0,
        patience=20.0 if bench.small else 1.0,  # small models compute for moments, on machines where others are at work
    )
    index = bench.photographs.indexed(bench.scratch("gpu"), scale.rows, per_shard=max(scale.rows // 16, 1))
    labelling = Labelling(bench, scale, index, device, precision, receipt)
    labelling.rows(scale.batches[0], makes_store=True)
    students = Students(bench, labelling.store(), labelling.teacher, receipt, precision)
    students.first_rows()
    labelling.rows(scale.batches[1])
    students.more_rows()
    return receipt.table()


class Labelling:
    """The teacher's rows."""

    def __init__(
        self, bench: Bench, scale: Scale, index: SampleIndex, device: torch.device, precision: str, receipt: Receipt
    ) -> None:
        self.bench, self.scale, self.index, self.device, self.receipt = bench, scale, index, device, receipt
        self.precision = precision
        torch.manual_seed(0)
        self.model = timm.create_model(bench.teacher, pretrained=False, num_classes=CLASSES)

    def rows(self, batch: int, *, makes_store: bool = False) -> None:
        """Bare, compiled, and end to end."""
        receipt = self.receipt
        eager = self.teacher(batch, compiled=False)
        bare = receipt.row(f"teacher, bare eager forward, batch {batch}", partial(self.bare, eager), takes=8)
        teacher, best = eager, bare
        if self.bench.small:
            receipt.skip(f"teacher, bare compiled forward, batch {batch}", "--small compiles nothing")
        else:
            compiled = self.teacher(batch, compiled=True)
            found = receipt.row(
                f"teacher, bare compiled forward, batch {batch}", partial(self.bare, compiled),
                takes=self.scale.compile_s, most=120,
            )  # fmt: skip
            teacher, best = (compiled, found) if found else (eager, bare)
        kind = "compiled" if teacher is not eager else "eager"
        for together in (1, 8):
            whole = makes_store and together == 1
            name = f"teacher_logits, {kind}, batch {batch}, {together} view{'s' * (together > 1)} a decode"
            path = self.store_path if whole else self.bench.scratch(f"labels-{batch}-{together}") / "store.zarr"
            views = self.scale.views if whole else 8
            if whole:
                path.parent.mkdir(parents=True, exist_ok=True)
            work = partial(self.label, path, teacher, together, views, whole, best)
            receipt.row(name, work, takes=25 if whole else 15, most=120)

    @property
    def store_path(self) -> Path:
        """Of what the students learn from."""
        return self.bench.folder / "gpu-store" / "store.zarr"

    def teacher(self, batch: int, *, compiled: bool) -> ClockedTeacher:
        """One with clocks."""
        card = card_of(self.bench.teacher, precision=self.precision, batch=batch)
        card = replace(card, input_size=self.scale.side)
        return ClockedTeacher(self.model, card, self.device, compiled=compiled)

    def manifest(self, teacher: Teacher) -> Manifest:
        """Of a store of its answers."""
        recipe, rows = Recipe(image_size=self.scale.side, mix_window=self.scale.mix_window), self.scale.unit_rows
        return manifest_of(self.index, "topk:10", unit_rows=rows, card=teacher.card, recipe=recipe)

    def bare(self, teacher: Teacher) -> Found:
        """Images a second of the model alone, on what lies on the device."""
        batch, side = teacher.card.batch_size, teacher.card.input_size
        with torch.inference_mode():  # the kind of tensor that a run has: its graph is then the run's, too
            x_BCHW = torch.randn(batch, 3, side, side, device=self.device).to(memory_format=torch.channels_last)
        begun = time.perf_counter()

        @torch.inference_mode()
        def forward() -> None:
            with autocast(self.device, teacher.precision):
                teacher._forward(x_BCHW)

        forward()
        settle(self.device)
        first = time.perf_counter() - begun
        speed = rate(forward, batch, self.device, 0.0 if self.bench.small else 3.0)
        return Found(text=f"{speed:,.0f} images/s (first after {first:.1f} s)", figure=speed)

    def label(
        self, path: Path, teacher: ClockedTeacher, together: int, views: int, whole: bool, bare: Found | None
    ) -> Found:
        """Fill a store, or a part of one."""
        manifest = self.manifest(teacher)
        with open_to_label(path, manifest, self.index, views) as store:
            tasks = tasks_of(store.missing(), together)
            if not whole:
                some = max(self.scale.short // (self.scale.unit_rows * together), 1)
                tasks = tasks[:some]
            teacher.start()
            label_missing(store, teacher, workers=self.bench.workers, views_together=together, tasks=tasks, shown=False)
            if whole:
                store.finish()
        speed = teacher.speed()
        return Found(text=f"{speed:,.0f} views/s", figure=speed, share=speed / bare.figure if bare else None)

    def store(self) -> StoreReader:
        """What the students learn from; made without ado where its row was broken off."""
        path = self.store_path
        if not (path / "COMPLETE").exists():
            eager = self.teacher(self.scale.batches[0], compiled=False)
            eager.start()
            path = self.bench.scratch("gpu-store-again") / "store.zarr"
            with open_to_label(path, self.manifest(eager), self.index, self.scale.views) as store:
                label_missing(store, eager, workers=self.bench.workers, shown=False)
                store.finish()
        return StoreReader.open(path)


class ClockedTeacher(Teacher):
    """Knows when its answers were there."""

    def start(self) -> None:
        """Forget what was."""
        self._answered: list[tuple[float, int]] = []

    def collect(self, launched: Launched, *name: Callable[[int], str]) -> tuple[NDArray[Any], ...]:
        """As a teacher does."""
        found = super().collect(launched, *name)
        self._answered.append((time.perf_counter(), len(found[0])))
        return found

    def speed(self) -> float:
        """Views a second between the first answer and the last."""
        (first, _), *others = self._answered
        return sum(count for _, count in others) / (others[-1][0] - first)
