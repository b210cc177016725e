"""Do the shards, drawn again here, and the teacher, asked again, still say what the store says?

Some views, spread evenly over the store, are drawn again and held to their checksums (or, where a drift is accepted,
to their thumbnails). Where the teacher is asked too, they are whole batches of its run, because the last bits of its
logits depend on what else is in a batch; its answers are encoded as they were for the store, and compared as stored.

Shapes: B views of a request, C classes, K kept classes, T temperatures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.inspection.audit import Finding
from pipeline.labels.codes import SCALE
from pipeline.labels.dense import Dense
from pipeline.labels.soft_labels import SoftLabels, encode
from pipeline.proofs.same_views import Labelled, Seen, compare_views
from pipeline.rendering.loader import Loader
from pipeline.rendering.ring import Slot
from pipeline.shards.index import SampleIndex
from pipeline.store.layout import Unit
from pipeline.store.reader import StoreReader
from pipeline.store.unit_labels import UnitLabels

Ask = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
T = TypeVar("T")

_A_UNIT = 16
"""Views of a unit that are drawn, where there are units enough"""

_A_REQUEST = 64


@dataclass(frozen=True, slots=True)
class Request:
    """Rows of one unit that are to be drawn again."""

    unit: Unit
    row_B: NDArray[np.int64]


@dataclass(slots=True)
class Recheck:
    """What came of drawing views again, and of asking the teacher again: counts, and the largest differences."""

    views: int = 0
    changed: int = 0
    """Views whose checksum is another"""
    thumbnail_levels: int = 0
    """The largest step between a thumbnail then and now, where thumbnails are kept"""
    other_looks: int = 0
    """Views that do not look as they did, by their thumbnails or sketches: more than a drift"""
    asked: int = 0
    """Views that the teacher was asked about"""
    argmax_changes: int = 0
    largest_deviation: float = 0.0
    """Of a logit, in logits: of a stored one, or the least that must have moved for another class to be the largest"""
    largest_lse_deviation: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """All counts and differences as plain values; the findings are left out."""
        return {name: value for name, value in asdict(self).items() if name != "findings"}


def spread(store: StoreReader, count: int) -> list[Request]:
    """`count` views (or all there are) in requests of one unit each, evenly over units and over the rows in them."""
    units = _evenly(store.layout.units(), max(1, count // _A_UNIT))
    starts = np.cumsum([0, *(stop - start for start, stop in map(store.layout.rows_of, units))])
    places = np.array(_evenly(range(int(starts[-1])), count), np.int64)
    requests = []
    for unit, first, end in zip(units, starts[:-1], starts[1:], strict=True):
        row_B = places[(places >= first) & (places < end)] - first + store.layout.rows_of(unit)[0]
        requests += [Request(unit, row_B[at : at + _A_REQUEST]) for at in range(0, len(row_B), _A_REQUEST)]
    return requests


def spread_batches(store: StoreReader, count: int) -> list[Request]:
    """At least `count` views (or all there are) in whole batches of the teacher's run, evenly over the store."""
    size = store.manifest.teacher.batch_size
    places = [(unit, first) for unit in store.layout.units() for first in range(*store.layout.rows_of(unit), size)]
    chosen = _evenly(places, -(-count // size))
    return [Request(unit, np.arange(first, min(first + size, store.layout.rows_of(unit)[1]))) for unit, first in chosen]


def _evenly(things: Sequence[T], count: int) -> list[T]:
    """That many of them, or all, from the middles of equal stretches."""
    count = min(count, len(things))
    return [things[(2 * number + 1) * len(things) // (2 * count)] for number in range(count)]


def recheck(
    store: StoreReader,
    index: SampleIndex,
    requests: Sequence[Request],
    *,
    workers: int,
    start_method: str | None = None,
    accept_drift: bool = False,
    ask: Ask | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Recheck:
    """Draw the requested views again and compare; with `ask`, also what the teacher says about them."""
    result = Recheck()
    if not requests:
        return result
    batch = max(len(request.row_B) for request in requests)
    with Loader(store.manifest.recipe, index, batch=batch, workers=workers, start_method=start_method) as loader:
        slots = loader.render((r.row_B, np.full(len(r.row_B), r.unit.view)) for r in requests)
        for request, slot, stored in zip(requests, slots, _stored(store, requests), strict=True):
            _compare_pixels(result, store, index, request, slot, stored, accept_drift)
            if ask is not None:
                _compare_answers(result, store, ask(slot.pixels_BHWC), stored.labels)
            progress(len(request.row_B))
    return result


def _stored(store: StoreReader, requests: Sequence[Request]) -> Iterator[UnitLabels]:
    """What the store says about the rows of each request; a unit is read once for requests that follow each other."""
    unit, whole = None, None
    for request in requests:
        if request.unit != unit or whole is None:
            unit, whole = request.unit, store.read(request.unit.view, request.unit.run)
        place_B = request.row_B - store.layout.rows_of(unit)[0]
        luma_B16 = None if whole.luma_B16 is None else whole.luma_B16[place_B]
        yield UnitLabels(labels=whole.labels.take(place_B), crc_B=whole.crc_B[place_B], luma_B16=luma_B16)


def _compare_pixels(
    result: Recheck,
    store: StoreReader,
    index: SampleIndex,
    request: Request,
    slot: Slot,
    stored: UnitLabels,
    accept_drift: bool,
) -> None:
    found = compare_views(
        Seen(slot.crc_B, slot.luma_B16),
        Labelled(store.manifest.luma, stored.crc_B, stored.luma_B16),
        accept_drift=accept_drift,
    )
    result.views += len(found.changed_B)
    result.changed += int(found.changed_B.sum())
    result.other_looks += int(found.unlike.sum())
    if stored.luma_B16 is not None and found.off_B is not None:
        result.thumbnail_levels = max(result.thumbnail_levels, int(found.off_B.max(initial=0)))
    for at in np.flatnonzero(found.other_B).tolist():
        row, looks = int(request.row_B[at]), found.how_far(at)
        result.findings.append(
            Finding(
                f"{store.name}: view {request.unit.view}, row {row} (key {index.key(row)!r})",
                f"drawn here it has checksum {found.crc_B[at]:08x}, {stored.crc_B[at]:08x} is stored"
                + (f", and {looks}" if looks else ""),
            )
        )


def _compare_answers(result: Recheck, store: StoreReader, logits_BC: NDArray[np.float32], stored: SoftLabels) -> None:
    manifest = store.manifest
    result.asked += len(stored)
    result.argmax_changes += int((logits_BC.argmax(axis=1) != stored.argmax_B).sum())
    chosen_B1 = np.take_along_axis(logits_BC, stored.argmax_B[:, None].astype(np.int64), axis=1)
    lead = float((logits_BC.max(axis=1, keepdims=True) - chosen_B1).max(initial=0))
    result.largest_deviation = max(result.largest_deviation, lead / 2)  # two logits have shared the way
    if manifest.keep.kind == "argmax":
        return
    now = encode(logits_BC, manifest.keep, manifest.temperatures)
    known = manifest.keep.codes(stored.arrays())
    if known is not None:
        step = known.steps_from(encode(logits_BC, Dense()).parts["logits"])
        result.largest_deviation = max(result.largest_deviation, step * SCALE)
    if "lse" in stored.parts:
        apart = float(np.abs(now.parts["lse"] - stored.parts["lse"]).max())
        result.largest_lse_deviation = max(result.largest_lse_deviation, apart)
