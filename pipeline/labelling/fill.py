"""How does a store get filled? Missing units are rendered, answered by the teacher and committed, until none is left.

    label_missing(store, teacher, workers=…)

Work is handed out in *tasks* (`pipeline.labelling.tasks`): some missing views of one run of rows. The views of a task
are rendered together, batch of rows by batch of rows, so that each picture is decoded once for all of them; each view
is still its own unit with its own batches (consecutive rows of one view), which is why nothing about the store depends
on what was computed together.

Three things overlap: workers render ahead, the teacher answers, and one thread encodes, writes and commits. A GPU has
the next two batches queued behind the one that it computes (`pipeline.models.stream`), and reads pixels where the
workers drew them; a slot of theirs is handed back when its copy has left it.

Shapes: B views of a batch, H W sides.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.feeding.watch import Watch
from pipeline.labelling.coding import Coding, coding_of
from pipeline.labelling.tasks import Handout, Task, tasks_of
from pipeline.labels.soft_labels import SoftLabels
from pipeline.models.stream import registered
from pipeline.picture_cache.kept import PictureCache
from pipeline.progress import Progress
from pipeline.proofs.proof import Luma, kept
from pipeline.rendering.loader import Loader, Request
from pipeline.rendering.ring import Slot
from pipeline.rendering.view_cache import ViewCache
from pipeline.shards.index import SampleIndex
from pipeline.store.layout import Unit
from pipeline.store.unit_labels import UnitLabels
from pipeline.store.writer import StoreWriter
from pipeline.teacher.teacher import Launched, Teacher

log = logging.getLogger(__name__)

AHEAD = 2
"""Batches under way behind the one whose answer is used, on a device that computes apart"""


def label_missing(
    store: StoreWriter,
    teacher: Teacher,
    *,
    workers: int,
    start_method: str | None = None,
    views_together: int = 8,
    tasks: Iterable[Task] | None = None,
    index: SampleIndex | None = None,
    handout: Handout | None = None,
    shown: bool = True,
    tell: Callable[[int], None] = lambda _: None,
    pictures: PictureCache | None = None,
    view_cache: ViewCache | None = None,
) -> list[int]:
    """Fill what `tasks` name (all that is missing, where none are given).

    `index` says where the shards lie, if not where the store has them. With a `handout` the progress, if it is `shown`,
    is that of all ranks; rank 0 waits for the others to end, and the answer is which of them were lost. `tell` hears
    of the views that are answered here.
    """
    planned = tasks_of(store.missing(), views_together) if tasks is None else tasks
    handout = handout or Handout()
    batch = store.manifest.teacher.batch_size
    with _progress(store, shown) as progress:
        loader = Loader(
            store.manifest.recipe, index or store.index, batch=batch, workers=workers, together=views_together,
            start_method=start_method, pictures=pictures, view_cache=view_cache,
        )  # fmt: skip
        coding = coding_of(store.manifest, apart=teacher.stream.apart)
        with loader, registered(loader.ring.memory, teacher.device), Commits(store, coding) as commits:
            batches = loader.render(_requests(store, planned, batch))
            watch = Watch(loader, teacher.device, told=shown)
            for answer in _answers(teacher, coding, batches, watch):
                commits.take(answer)
                slot = answer.slot
                tell(len(slot.row_B))
                progress.advance(
                    handout.count(len(slot.row_B)), note=f"waited {100 * loader.waited / progress.elapsed:.0f}%"
                )

        def counted(views: int) -> None:
            progress.advance(views)
            tell(0)

        return handout.settle(counted)


def _progress(store: StoreWriter, shown: bool) -> Progress:
    """Over the whole store."""
    views = store.manifest.rows * store.layout.views
    return Progress("teacher", views, "views", done=views - store.layout.rows_in(store.missing()), shown=shown)


def _requests(store: StoreWriter, tasks: Iterable[Task], batch: int) -> Iterator[Request]:
    """The batches of each task: for each stretch of rows, one batch a view."""
    for task in tasks:
        start, stop = store.layout.rows_of(Unit(task.views[0], task.run))
        for first in range(start, stop, batch):
            row_B = np.arange(first, min(first + batch, stop))
            for view in task.views:
                yield row_B, np.full(len(row_B), view)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the teacher said about one batch, coded as far as its device does it."""

    slot: Slot
    """Without its pixels"""
    parts: tuple[NDArray[Any], ...]
    launched: Launched


def _answers(teacher: Teacher, coding: Coding, batches: Iterable[Slot], watch: Watch) -> Iterator[Answer]:
    """Each batch with its answer; a device that computes apart has the next ones under way while one is used."""
    under_way: deque[tuple[Slot, Launched]] = deque()

    def oldest() -> Answer:
        slot, launched = under_way.popleft()
        return Answer(slot, teacher.collect(launched, slot.name_of), launched)

    for slot in batches:
        with watch.working():
            launched = teacher.launch(slot.pixels_BHWC, coding.there)
        watch.took(len(slot.row_B))
        under_way.append((slot.answers(), launched))
        if len(under_way) > AHEAD * teacher.stream.apart:
            yield oldest()
    while under_way:
        yield oldest()


@dataclass(slots=True)
class Gathering:
    """The answers about one unit that have come in so far, batch by batch."""

    labels: list[SoftLabels] = field(default_factory=list)
    crcs: list[NDArray[np.uint32]] = field(default_factory=list)
    lumas: list[NDArray[np.uint8]] = field(default_factory=list)
    rows: int = 0

    def whole(self, luma: Luma) -> UnitLabels:
        """The answers about all rows of the unit, in their order, with the checksums in the form that `luma` names."""
        crc_B, luma_B16 = kept(luma, np.concatenate(self.crcs), np.concatenate(self.lumas))
        return UnitLabels(labels=SoftLabels.concatenate(self.labels), crc_B=crc_B, luma_B16=luma_B16)


class Commits:
    """Encodes, gathers and commits in one thread of its own; an error there stops the run at the next batch."""

    def __init__(self, store: StoreWriter, coding: Coding, ahead: int = 4) -> None:
        self.store, self.coding, self.ahead = store, coding, ahead
        self._open: dict[Unit, Gathering] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._pending: list[Future[None]] = []
        self._grey: set[int] = set()

    def __enter__(self) -> Commits:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._settle(0)
        finally:
            self._thread.shutdown(cancel_futures=True)

    def take(self, answer: Answer) -> None:
        """Hand over one batch of answers; waits where too many are not committed yet."""
        slot = answer.slot
        self._tell_grey(slot)
        run = int(slot.row_B[0]) // self.store.manifest.unit_rows
        self._pending.append(self._thread.submit(self._add, Unit(int(slot.view_B[0]), run), answer))
        self._settle(self.ahead)

    def _tell_grey(self, slot: Slot) -> None:
        """Name each row that is drawn grey, once."""
        for row in sorted(set(slot.row_B[slot.bad_B > 0].tolist()) - self._grey):
            log.warning(
                "row %d (%r) cannot be decoded: a grey picture stands in for it", row, self.store.index.key(row)
            )
            self._grey.add(row)

    def _settle(self, most: int) -> None:
        while len(self._pending) > most:
            self._pending.pop(0).result()

    def _add(self, unit: Unit, answer: Answer) -> None:
        slot, gathering = answer.slot, self._open.setdefault(unit, Gathering())
        gathering.labels.append(self.coding.labels(answer.parts, answer.launched.logits, slot.name_of))
        gathering.crcs.append(slot.crc_B)
        gathering.lumas.append(slot.luma_B16)
        gathering.rows += len(slot.row_B)
        start, stop = self.store.layout.rows_of(unit)
        if gathering.rows == stop - start:
            self.store.write(unit, self._open.pop(unit).whole(self.store.manifest.luma))
