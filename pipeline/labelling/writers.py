"""How do the processes of a run get a store into their hands, each in its role?

    first, alone, one slice     opens the store for writing and keeps it; lets ranks in once it is swept
    first of several slices     opens it, so that it is swept, lets the others in, and then attaches like them
    later slices                attach: they know what is missing, and any of them may finish the store
    ranks that follow           follow: they do what they are handed, and do not ask what is missing

Finishing is safe for any writer: COMPLETE is a function of the receipts, it is put whole, and while a writer has its
seat (`pipeline.durable.writer_lock`) nobody sweeps.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.durable.objects import Objects, open_objects
from pipeline.durable.writer_lock import SAY_S, Seat, seated
from pipeline.labelling.environment import describe_environment
from pipeline.labels.codes import Answers
from pipeline.processes.world import Place
from pipeline.proofs.proof import SKETCH, Luma
from pipeline.rendering.drift import draw_witnesses
from pipeline.shards.index import SampleIndex
from pipeline.shards.same_pictures import bytes_of, moved_to
from pipeline.store.contents import read_base, stored_layout
from pipeline.store.manifest import Manifest
from pipeline.store.writer import StoreWriter


@contextlib.contextmanager
def leading_seat(objects: Objects, place: Place, wait_s: float) -> Iterator[Seat]:
    """The seat of a process that leads: alone, or the next of several slices."""
    with seated(objects.seat(), alone=place.slices == 1, follows=False, wait_s=wait_s) as seat:
        yield seat


@contextlib.contextmanager
def leading_writer(
    objects: Objects, place: Place, seat: Seat, open_writing: Callable[[], StoreWriter]
) -> Iterator[StoreWriter]:
    """The store of a process that leads and has its seat; `open_writing` is called if this is the first."""
    if seat.first and place.slices == 1:
        with open_writing() as store:
            if place.world > 1:
                seat.share()
            yield store
        return
    if seat.first:
        open_writing().close()
        seat.share()
    with StoreWriter.attach(objects) as store:
        yield store


@contextlib.contextmanager
def following_writer(objects: Objects, wait_s: float) -> Iterator[tuple[StoreWriter, Seat]]:
    """The store of a rank that follows, and its seat; what is missing is not known to it, and need not be."""
    with (
        seated(objects.seat(), alone=False, follows=True, wait_s=wait_s) as seat,
        StoreWriter.follow(objects) as store,
    ):
        yield store, seat


class Telling:
    """Says of a process that labels how it gets on, now and then, for those who look (`student.status`)."""

    def __init__(self, seat: Seat, place: Place) -> None:
        self._seat, self._views, self._begun, self._said = seat, -1, 0.0, -math.inf
        self._place = {name: getattr(place, name) for name in ("rank", "world", "slice", "slices")}

    def __call__(self, views: int) -> None:
        """So many more views were answered. The rate is over what follows the first batch, which waits for workers."""
        now = time.monotonic()
        if self._views < 0:
            self._views, self._begun = 0, now
        else:
            self._views += views
        if now >= self._said + SAY_S:
            self._said = now
            rate = self._views / (now - self._begun) if self._views else None
            self._seat.say({**self._place, "state": "labels", "rate": rate})


def open_to_label(
    out: str | Path, manifest: Manifest, index: SampleIndex, views: int, *, answers: Answers | None = None,
    recheck: bool = False,
) -> StoreWriter:  # fmt: skip
    """The store, open for the one writer, with witnesses that are drawn here where it has none.

    `answers` are those of the teacher, for a keep that is fitted to them (`pipeline.labelling.first_answers`).
    """
    return StoreWriter.open(
        out,
        manifest,
        index,
        views,
        witness=partial(draw_witnesses, manifest.recipe, index),
        environment=describe_environment,
        answers=answers,
        recheck=recheck,
    )


def luma_for(out: str | Path, asked: bool | None) -> Luma:
    """How it is kept how views look: as asked for; else as in the store that is there; else by sketches."""
    if asked is not None:
        return asked
    objects = open_objects(out)
    layout = stored_layout(objects, read_base(objects))
    return SKETCH if layout is None else layout.manifest.luma


def index_at(index: SampleIndex, urls: tuple[str, ...]) -> SampleIndex:
    """The index with its shards at these places; sizes are checked as shards are opened, and not by every rank here.

    Other shards of the same pictures are told by the first.
    """
    if index.urls == urls:
        return index
    same = bytes_of(urls[0]) == index.shard_sizes[0]
    return replace(index, urls=urls) if same else moved_to(index, urls)
