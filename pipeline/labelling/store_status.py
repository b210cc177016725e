"""How far is the labelling of a store: what is finished, by whom, how fast, how long still?

From what lies there alone, on any machine that sees it, while others write it or after they were killed: the receipts
say what is finished, COMPLETE that all is, and each writer says of itself how it gets on. No lock is taken and no label
is read. Where objects are absent or of another size than was written, the store is damaged, and that is what is said.

A store that is written changes while it is listed. A unit's receipt is written after its objects, so what is missed is
looked for once more before it counts as absent.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.durable.objects import Objects, open_objects
from pipeline.durable.writer_lock import Writer
from pipeline.errors import StoreError
from pipeline.store.contents import object_keys, read_base, stored_layout
from pipeline.store.layout import Layout, Unit
from pipeline.store.manifest import Manifest
from pipeline.store.reader import StoreReader
from pipeline.store.receipts import BASE_KEY, COMPLETE_KEY, unit_keys, units_in

LATELY = 32
"""So many receipts tell how fast it went where no writer does"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatus:
    """How far a store is: what is done, how fast it goes, and who works at it."""

    name: str
    state: str
    """finished, labelling, waiting (for its first unit), stopped, or damaged"""
    views: int = 0
    rows: int = 0
    units: int = 0
    units_done: int = 0
    labels_done: int = 0
    """Of views × rows"""
    rate: float | None = None
    """Labels a second of all that work, or of the last that did"""
    last_s: float | None = None
    """Since the last unit was finished, where the medium says"""
    writers: tuple[Writer, ...] = ()
    why: str = ""
    """What is damaged"""

    @property
    def labels(self) -> int:
        """How many labels there will be when all units are finished."""
        return self.views * self.rows

    @property
    def left_s(self) -> float | None:
        """Seconds until all labels are there, at this rate; None while nobody works, or no rate is known."""
        if self.state != "labelling" or not self.rate:
            return None
        return (self.labels - self.labels_done) / self.rate


def store_status(place: str | Path) -> StoreStatus:
    """How far the store at a path or URL is; StoreError where there is none."""
    objects = open_objects(place)
    sizes, writers = objects.sizes(), tuple(objects.writers())
    if COMPLETE_KEY in sizes:
        return _finished(objects, writers)
    works = any(writer.works for writer in writers)
    if not sizes and not works:
        raise StoreError(f"{objects.name}: there is no label store, and nobody makes one.")
    base = read_base(objects)
    layout = None if base is None else stored_layout(objects, base)
    if base is None or layout is None:
        if works:
            return StoreStatus(name=objects.name, state="waiting", writers=writers)
        if BASE_KEY in sizes and "zarr.json" in sizes:
            why = f"{BASE_KEY} and zarr.json are not of one store"
            return StoreStatus(name=objects.name, state="damaged", writers=writers, why=why)
        raise StoreError(f"{objects.name} is not a label store, or it was hardly begun.")
    done = [unit for unit in units_in(sizes) if unit.view < layout.views and unit.run < layout.runs]
    return _unfinished(objects, layout, sizes, done, writers, works=works)


def standing(place: str | Path, manifest: Manifest, views: int) -> str:
    """What is there already of a labelling under this manifest, or what is in its way; nothing where no store is."""
    objects = open_objects(place)
    base = read_base(objects)
    layout = None if base is None else stored_layout(objects, base)
    if layout is None:
        return ""
    if found := layout.manifest.differences(manifest):
        return f"it was labelled under {'; '.join(found)}, so this is refused without --if-changed rebuild"
    done = [unit for unit in units_in(objects.sizes()) if unit.view < min(views, layout.views)]
    return f"{layout.rows_in(done):,} of {views * manifest.rows:,} labels are done"


def _finished(objects: Objects, writers: tuple[Writer, ...]) -> StoreStatus:
    """Whole, or damaged: opening it lists every object, and reads none but the metadata."""
    try:
        store = StoreReader.open(objects.name)
    except StoreError as error:
        return StoreStatus(name=objects.name, state="damaged", writers=writers, why=str(error))
    layout = store.layout
    return StoreStatus(
        name=objects.name, state="finished", views=layout.views, rows=layout.manifest.rows, writers=writers,
        units=layout.views * layout.runs, units_done=layout.views * layout.runs,
        labels_done=layout.views * layout.manifest.rows,
    )  # fmt: skip


def _unfinished(
    objects: Objects, layout: Layout, sizes: Mapping[str, int], done: list[Unit], writers: tuple[Writer, ...],
    *, works: bool,
) -> StoreStatus:  # fmt: skip
    absent = _absent(layout, sizes, done)
    if absent:
        absent = _absent(layout, objects.sizes(), done)
    damaged = bool(absent) and not works  # a writer that has just begun is about to find it out, and to mend it
    rates = [rate for w in writers if w.works and isinstance(rate := w.told.get("rate"), (int, float)) and rate > 0]
    lately = _lately(objects.folder, layout, done)
    return StoreStatus(
        name=objects.name,
        state=_state(damaged=damaged, works=works, begun=bool(done or rates)),
        views=layout.views,
        rows=layout.manifest.rows,
        units=layout.views * layout.runs,
        units_done=len(done),
        labels_done=layout.rows_in(done),
        rate=sum(rates) if rates else lately[0],
        last_s=lately[1],
        writers=writers,
        why=f"{absent[0]} is absent or empty, and its receipt is there. Label again: it is done anew."
        if damaged
        else "",
    )


def _state(*, damaged: bool, works: bool, begun: bool) -> str:
    if damaged:
        return "damaged"
    if not works:
        return "stopped"
    return "labelling" if begun else "waiting"


def _absent(layout: Layout, sizes: Mapping[str, int], done: Collection[Unit]) -> list[str]:
    """Objects that receipts speak of, or that stand before the first label, and that are not there."""
    arrays = layout.unit_arrays()
    wanted = {*layout.metadata(), *object_keys(layout.base_arrays())}
    for unit in done:
        wanted.update(unit_keys(arrays, unit))
    return sorted(key for key in wanted if sizes.get(key, 0) <= 0)


def _lately(folder: Path | None, layout: Layout, done: list[Unit]) -> tuple[float | None, float | None]:
    """Labels a second over the last receipts, and how long ago the last one was written, where files have times."""
    if folder is None or not done:
        return None, None
    times = []
    for unit in done:
        try:
            times.append(((folder / unit.receipt_key).stat().st_mtime, unit))
        except OSError:
            continue  # swept meanwhile
    times = sorted(times)[-LATELY:]
    if not times:
        return None, None
    ago = max(time.time() - times[-1][0], 0.0)
    took = times[-1][0] - times[0][0]
    labels = layout.rows_in(unit for _, unit in times[1:])
    return (labels / took if took > 0 else None), ago
