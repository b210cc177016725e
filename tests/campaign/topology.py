"""Do the views of an epoch depend on how they are drawn: by how many ranks, workers, at once, started how?

An epoch of the student's order is shared out to the ranks; each rank asks a loader of its own for its shares, so many
views at once, from so many workers, forked or spawned. What comes back is put together in the order of the batches: one
stream of (row, view, checksum), and one digest for all topologies. The checksums are also those of the store.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.rendering.loader import Loader, Request
from pipeline.store.reader import StoreReader
from student.feed.order import Batch, Order
from student.learning.settings import Settings
from student.run.launch import views_of
from tests.campaign.tally import Scale, Tally
from tests.small_students import make_store

TITLE = "topology {world 1, 2, 4} × {workers 0, 1, 2, 5} × {batch 1, 7, 32} × {fork, spawn}"
SHOWS = "one digest"
WORLDS, WORKERS, BATCHES, STARTS = (1, 2, 4), (0, 1, 2, 5), (1, 7, 32), ("fork", "spawn")
EPOCH = 1
Case = tuple[int, int, int, str]
REDUCED: tuple[Case, ...] = (
    (1, 0, 1, "fork"),
    (2, 1, 7, "fork"),
    (4, 2, 32, "fork"),
    (2, 5, 7, "fork"),
    (1, 1, 32, "spawn"),
)


def run(scale: Scale, place: Path) -> Tally:
    """Every topology, or some."""
    tally = Tally()
    store = StoreReader.open(make_store(place, rows=100))
    cases = list(itertools.product(WORLDS, WORKERS, BATCHES, STARTS))
    np.random.default_rng(scale.seed).shuffle(cases)  # or a part of them would have something in common
    chosen = scale.some(cases, len(REDUCED)) if scale.share else list(REDUCED)
    wanted = _digest(_stored(store))
    for case in chosen:
        found = _digest(stream(store, *case))
        tally.case(silent=None if found == wanted else f"world, workers, batch, start {case}: {found}, not {wanted}")
    tally.note(f"the digest of all {len(chosen)} streams, and of the store's own checksums: {wanted}")
    return tally


def stream(store: StoreReader, world: int, workers: int, batch: int, start: str) -> Iterator[tuple[int, int, int]]:
    """(row, view, checksum) of an epoch, in the order of training."""
    order = _order(store)
    drawn = []
    for rank in range(world):
        shares = [order.batch(EPOCH, step).share(rank, world) for step in range(order.steps)]
        with Loader(order.recipe, store.index, batch=batch, workers=workers, start_method=start) as loader:
            requests = [request for share in shares for request in _pieces(share, batch)]
            answers = [crc for slot in loader.render(requests) for crc in slot.crc_B.tolist()]
        drawn.append(iter(answers))
    for step in range(order.steps):
        for rank in range(world):
            share = order.batch(EPOCH, step).share(rank, world)
            for row, view in zip(share.row_B.tolist(), share.view_B.tolist(), strict=True):
                yield row, view, next(drawn[rank])


def _order(store: StoreReader) -> Order:
    return views_of(store, Settings(batch=32, epochs=2, views=store.layout.views)).order


def _pieces(share: Batch, batch: int) -> Iterator[Request]:
    for start in range(0, len(share), batch):
        yield share.row_B[start : start + batch], share.view_B[start : start + batch]


def _stored(store: StoreReader) -> Iterator[tuple[int, int, int]]:
    """The same stream by the checksums beside the labels."""
    order = _order(store)
    crc_VR = np.stack(
        [np.concatenate([store.read(v, r).crc_B for r in range(store.layout.runs)]) for v in range(store.layout.views)]
    )
    for step in range(order.steps):
        batch = order.batch(EPOCH, step)
        for row, view in zip(batch.row_B.tolist(), batch.view_B.tolist(), strict=True):
            yield row, view, int(crc_VR[view, row])


def _digest(views: Iterator[tuple[int, int, int]]) -> str:
    return f"{zlib.crc32(b''.join(struct.pack('<qqI', *view) for view in views)):08x}"


def sabotage(place: Path) -> Tally:
    """A rank takes its neighbour's share: another digest."""
    tally = Tally()
    store = StoreReader.open(make_store(place, rows=100))
    views = list(stream(store, 1, 0, 32, "fork"))
    wrong = _digest(iter([*views[1:], views[0]]))
    tally.case(silent=None if wrong == _digest(iter(views)) else "another order has another digest")
    return tally
