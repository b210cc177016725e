"""What will labelling cost, and when does it pay? From a short measured sample, before anything is written.

A few batches are rendered and answered as the real run would do it, each part timed alone: the slower of the two sets
the pace, since they overlap. Bytes come from the sample's labels, encoded as the store encodes them.

Break-even: online distillation runs the teacher once per view that a student trains on; here it runs once per stored
view. With V views and students of E epochs the teacher's work is paid back after V / E students.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.feeding.watch import measured
from pipeline.labelling.fill import AHEAD
from pipeline.labels.codes import quantise
from pipeline.labels.soft_labels import SoftLabels, encode
from pipeline.picture_cache.of_index import bytes_of_all
from pipeline.progress import duration
from pipeline.proofs.proof import kept
from pipeline.rendering.loader import Loader, Request
from pipeline.rendering.ring import Slot
from pipeline.rendering.view_cache import bytes_of_view
from pipeline.shards.index import SampleIndex
from pipeline.store.manifest import Manifest
from pipeline.store.unit_labels import UnitLabels, encoded_sizes
from pipeline.teacher.teacher import Launched, Teacher

SECONDS = 4.0
BATCHES = 4
EPOCHS = 300
TOGETHER = 8
"""Views that share one decode, unless --views-together says otherwise"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a labelling will cost: how many views, how fast each part is, how many bytes a view takes."""

    views: int
    rows: int
    render_rate: float
    teacher_rate: float
    bytes_per_view: dict[str, float]
    picture_bytes: int = 0
    """Of all pictures, decoded."""
    cached_rate: float = 0.0
    """Views a second that would be rendered of pictures that the node has decoded before."""
    drawn_bytes: int = 0
    """Of one view, drawn, on a disk."""

    @property
    def seconds(self) -> float:
        """How long the whole run will take; rendering and answering overlap, so the slower of the two counts."""
        return self.views * self.rows / min(self.render_rate, self.teacher_rate)

    @property
    def saved(self) -> float:
        """Seconds of this run that a picture cache would save: all decoding but the first of each picture."""
        passes = -(-self.views // TOGETHER)
        cached = self.views * self.rows / min(self.cached_rate, self.teacher_rate)
        return max(0.0, self.seconds - cached) * (passes - 1) / passes

    def _pictures(self) -> str:
        """When it pays to keep decoded pictures."""
        if not self.cached_rate:
            return "no picture was decoded"
        gain = f"{duration(self.saved)} of this run" if self.saved >= 1 else "nothing of this run, but of its students'"
        return (
            f"{self.picture_bytes / 1e6:,.1f} MB decoded, {self.picture_bytes / self.rows / 1e3:,.0f} kB each; from a "
            f"--picture-cache {self.cached_rate:,.0f} views/s would be rendered, which saves {gain}"
        )

    def text(self) -> str:
        """The estimate as lines for the terminal: sizes, rates, time, and after how many students it pays."""
        total = self.views * self.rows
        size = sum(self.bytes_per_view.values())
        parts = ", ".join(f"{name} {value * total / 1e6:,.1f} MB" for name, value in self.bytes_per_view.items())
        online = self.rows * EPOCHS / self.teacher_rate
        slower = "rendering" if self.render_rate < self.teacher_rate else "the teacher"
        return "\n".join(
            [
                f"views        {self.views} × {self.rows:,} rows = {total:,}",
                f"store        {size * total / 1e6:,.1f} MB ({size:.1f} bytes a view: {parts})",
                f"rendering    {self.render_rate:,.0f} views/s (measured)",
                f"teacher      {self.teacher_rate:,.0f} views/s (measured)",
                f"pictures     {self._pictures()}",
                f"drawn        {self.drawn_bytes * total / 1e6:,.1f} MB, {self.drawn_bytes / 1e3:,.0f} kB each: what a "
                "--view-cache takes, from which students read a view that was drawn before",
                f"time         {duration(self.seconds)}, set by {slower}",
                f"break-even   a student of {EPOCHS} epochs with the teacher beside it spends {duration(online)} "
                f"on the teacher; this store costs {duration(total / self.teacher_rate)} of it once: it pays after "
                f"{self.views / EPOCHS:.2g} students of {EPOCHS} epochs",
                "dry run: nothing was written",
            ]
        )


def estimate(
    manifest: Manifest,
    index: SampleIndex,
    teacher: Teacher,
    *,
    views: int,
    workers: int,
    start_method: str | None = None,
) -> Cost:
    """Measure a few batches of the work, and say what all of it will cost; nothing is written."""
    batch = min(manifest.teacher.batch_size, len(index))
    loader = Loader(
        manifest.recipe, index, batch=batch, workers=workers, together=min(views, TOGETHER), start_method=start_method
    )
    with loader:
        pixels, answers = _render(loader, _sample(index, views, batch))
        spent = loader.effort
        found = measured(loader, spent, views=spent.views, seconds=spent.seconds, working=0.0)
    logits, rate = _answer(teacher, pixels)
    if (fitting := manifest.keep.fitting) is not None:
        codes_NC = quantise(np.concatenate(logits), lambda at: f"view {at} of the sample")
        manifest = replace(manifest, keep=fitting.fit(codes_NC))
    crc_B, luma_B16 = kept(
        manifest.luma,
        np.concatenate([slot.crc_B for slot in answers]),
        np.concatenate([slot.luma_B16 for slot in answers]),
    )
    labels = SoftLabels.concatenate([encode(part, manifest.keep, manifest.temperatures) for part in logits])
    sample = UnitLabels(labels=labels, crc_B=crc_B, luma_B16=luma_B16)
    return Cost(
        views=views,
        rows=len(index),
        render_rate=found.draws,
        teacher_rate=rate,
        bytes_per_view=encoded_sizes(manifest, sample),
        picture_bytes=bytes_of_all(index),
        cached_rate=found.draws_cached if spent.opened else 0.0,
        drawn_bytes=bytes_of_view(manifest.recipe.image_size),
    )


def _render(loader: Loader, requests: Iterator[Request]) -> tuple[list[NDArray[np.uint8]], list[Slot]]:
    """The first few batches. One worker draws several in a row: the clock here would say little of all of them."""
    pixels: list[NDArray[np.uint8]] = []
    answers: list[Slot] = []
    slots = loader.render(requests)
    next(slots)
    begun = time.perf_counter()
    for slot in slots:
        if len(pixels) < BATCHES:
            pixels.append(slot.pixels_BHWC.copy())
            answers.append(slot.answers())
        if time.perf_counter() - begun > SECONDS:
            break
    loader.close()  # what was asked for ahead is not waited for
    return pixels, answers


def teacher_rate(teacher: Teacher, pixels: list[NDArray[np.uint8]]) -> float:
    """How many views a second the teacher answers, asked about these batches again and again for some seconds."""
    return _answer(teacher, pixels)[1]


def _answer(teacher: Teacher, pixels: list[NDArray[np.uint8]]) -> tuple[list[NDArray[np.float32]], float]:
    """The teacher's answers to those batches, and views a second after a first one, queued as in a run."""
    teacher(pixels[0])
    begun, count = time.perf_counter(), 0
    logits: list[NDArray[np.float32]] = []
    under_way: deque[Launched] = deque()
    for part in itertools.cycle(pixels):
        under_way.append(teacher.launch(part))
        if len(under_way) > AHEAD * teacher.stream.apart:
            logits.append(teacher.collect(under_way.popleft())[0])
            count += len(logits[-1])
        if len(logits) >= len(pixels) and time.perf_counter() - begun >= SECONDS:
            break
    return logits[: len(pixels)], count / (time.perf_counter() - begun)


def _sample(index: SampleIndex, views: int, batch: int) -> Iterator[Request]:
    """Batches of rows from all over the data, each in several views, without end."""
    starts = np.linspace(0, len(index) - batch, 16).astype(int).tolist()
    for start in itertools.cycle(starts):
        for view in range(min(views, TOGETHER)):
            yield np.arange(start, start + batch), np.full(batch, view)
