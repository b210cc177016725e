"""How do the processes of a run get a store into their hands, each in its role?

    first, alone, one slice     opens the store for writing and keeps it; lets ranks in once it is swept
    first of several slices     opens it, so that it is swept, lets the others in, and then attaches like them
    later slices                attach: they know what is missing, and any of them may finish the store
    ranks that follow           attach without asking what is missing: they do what they are handed

Finishing is safe for any writer: COMPLETE is a function of the receipts, it is put whole, and while a writer has its
seat (`pipeline.durable.writer_lock`) nobody sweeps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.durable.objects import open_objects
from pipeline.durable.writer_lock import Seat, seated
from pipeline.errors import StoreError
from pipeline.labelling.environment import describe_environment
from pipeline.labelling.first_answers import Answers
from pipeline.processes.world import Place
from pipeline.rendering.drift import draw_witnesses
from pipeline.shards.index import SampleIndex
from pipeline.store.label_store import LabelStore
from pipeline.store.manifest import Manifest
from pipeline.store.receipts import UnitTable
from pipeline.store.recovery import read_base, stored_layout


@contextlib.contextmanager
def leading_seat(out: str | Path, place: Place, wait_s: float) -> Iterator[Seat]:
    """The seat of a process that leads: alone, or the next of several slices."""
    with seated(open_objects(out), alone=place.slices == 1, follows=False, wait_s=wait_s) as seat:
        yield seat


@contextlib.contextmanager
def led(out: str | Path, place: Place, seat: Seat, open_writing: Callable[[], LabelStore]) -> Iterator[LabelStore]:
    """The store of a process that leads; `open_writing` is called if this is the first."""
    if seat.first and place.slices == 1:
        with open_writing() as store:
            if place.world > 1:
                seat.share()
            yield store
        return
    if seat.first:
        open_writing().close()
        seat.share()
    with LabelStore.attach(out) as store:
        yield store


@contextlib.contextmanager
def followed(out: str | Path, wait_s: float) -> Iterator[LabelStore]:
    """The store of a rank that follows; what is missing is not known to it, and need not be."""
    objects = open_objects(out)
    with seated(objects, alone=False, follows=True, wait_s=wait_s):
        base = read_base(objects)
        layout = stored_layout(objects, base)
        if base is None or layout is None:
            raise StoreError(f"{objects.name} has no base that can be read here. --out must be where all ranks see it.")
        table = UnitTable(layout.views, layout.runs, list(layout.unit_arrays()))
        with LabelStore(objects, layout, base, table) as store:
            store.writable = True
            yield store


def open_to_label(
    out: str | Path, manifest: Manifest, index: SampleIndex, views: int, *, answers: Answers | None = None,
    recheck: bool = False,
) -> LabelStore:  # fmt: skip
    """The store, open for the one writer, with witnesses that are drawn here where it has none.

    `answers` are those of the teacher, for a keep that is fitted to them (`pipeline.labelling.first_answers`).
    """
    return LabelStore.open_writing(
        out,
        manifest,
        index,
        views,
        witness=partial(draw_witnesses, manifest.recipe, index),
        environment=describe_environment,
        answers=answers,
        recheck=recheck,
    )


def index_at(index: SampleIndex, urls: tuple[str, ...]) -> SampleIndex:
    """The index with its shards at these places; sizes are checked as shards are opened, and not by every rank here."""
    return index if index.urls == urls else replace(index, urls=urls)
