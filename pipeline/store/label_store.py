"""Where do the teacher's answers live, and how do a writer and a reader know that they are whole?

    with LabelStore.open_writing("store.zarr", manifest, index, views=10) as store:     # makes, resumes, mends or grows
        for unit in store.missing():
            store.write(unit, labels_of(unit))
        store.finish()

    store = LabelStore.open_finished("store.zarr")       # refuses one without COMPLETE, or with an object of other size
    labels = store.read(view=3, run=0)                   # bytes are held to their digest before they are decoded

`pipeline.store.layout` says which arrays there are, `pipeline.store.receipts` what vouches for their objects,
`pipeline.store.recovery` what is kept when a store is opened for writing, `pipeline.store.reading` what a reader
checks, `pipeline.store.arrays` how blocks become bytes, and `pipeline.durable.objects` how bytes become durable.
docs/store-format.md is the same for people.

An opened store holds no file and no thread (a writer holds the lock), so a reader may be forked and pickled.

Shapes: B rows of a unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.durable.canonical import NotCanonicalError
from pipeline.durable.objects import Objects, is_temporary, open_objects
from pipeline.errors import MismatchError, StoreError, UserError
from pipeline.labels.soft_labels import SoftLabels
from pipeline.shards.index import SampleIndex
from pipeline.store.layout import Layout
from pipeline.store.manifest import Manifest
from pipeline.store.reading import (
    decode,
    find_complete,
    find_layout,
    read_index,
    read_whole,
    require_agreement,
    require_sizes,
    with_components,
)
from pipeline.store.receipts import (
    COMPLETE_KEY,
    REMEDY,
    Base,
    Digest,
    Unit,
    UnitTable,
    complete,
    fetch,
    get_record,
    read_unit_receipt,
    unit_keys,
    unit_receipt,
    units_in,
)
from pipeline.store.recovery import Wanted, read_base, recover, stored_layout
from pipeline.store.unit_labels import UnitLabels, require_fit
from pipeline.store.witness import Witness


class LabelStore:
    """A store that is finished and read, or open and written. Made by its class methods."""

    def __init__(self, objects: Objects, layout: Layout, base: Base, table: UnitTable) -> None:
        layout = with_components(objects, layout, base)
        self.objects, self.layout, self.base, self.table = objects, layout, base, table
        self.arrays = layout.unit_arrays()
        self.writable = False
        self._index: SampleIndex | None = None
        self._lock = ExitStack()

    # ---- opening

    @classmethod
    def open_finished(cls, path: str | Path, *, look: bool = True) -> LabelStore:
        """For readers: everything must be there, in the size that was written; contents are checked when read.

        Without `look` it is not looked for all objects: one process of a run does, and lists them once.
        """
        objects = open_objects(path)
        base, table = find_complete(objects)
        layout = find_layout(objects, base)
        require_agreement(objects, layout, base, table)
        if look:
            require_sizes(objects, layout, base, table)
        return cls(objects, layout, base, table)

    @classmethod
    def open_writing(
        cls,
        path: str | Path,
        manifest: Manifest,
        index: SampleIndex,
        views: int,
        *,
        witness: Callable[[], Witness],
        environment: Callable[[], Mapping[str, str]],
        answers: Callable[[NDArray[np.int64]], NDArray[np.uint16]] | None = None,
        recheck: bool = False,
    ) -> LabelStore:
        """For the one writer: make the store, or go on with what is there; `missing()` is what is left to do.

        A store that has more views keeps them, and `views` says so. One of another contract is a `ContractError`.

        `witness` gives the views that are kept in full, where they are not there yet, and `environment` tells on what
        a new store is made. `answers` gives the codes about view 0 of some rows, where the keep must be fitted to them.

        With `recheck` every finished object is read, and what is not as it was written is missing, too.
        """
        if manifest.rows != len(index) or manifest.index_digest != index.digest():
            raise MismatchError(
                f"the manifest is of {manifest.rows} rows with digest {manifest.index_digest[:12]}, the index has "
                f"{len(index)} with {index.digest()[:12]}. Make the manifest from this index."
            )
        if views < 1:
            raise MismatchError(f"a store of {views} views holds nothing to learn. Ask for --views 1 or more.")
        objects = open_objects(path)
        wanted = Wanted(
            manifest=manifest, index=index, views=views, draw_witness=witness, environment=environment,
            answers=answers, recheck=recheck,
        )  # fmt: skip
        with ExitStack() as lock:
            lock.enter_context(objects.lock())
            found = recover(objects, wanted)
            store = cls(objects, found.layout, found.base, found.table)
            store.writable = True
            store._index = index
            store._lock = lock.pop_all()
        return store

    @classmethod
    def attach(cls, path: str | Path) -> LabelStore:
        """For further writers of a store that one process has opened: they sweep nothing that may be another's."""
        objects = open_objects(path)
        base = read_base(objects)
        layout = stored_layout(objects, base)
        if base is None or layout is None:
            raise StoreError(f"{objects.name} has not been begun, or its base is damaged. Start teacher_logits first.")
        store = cls(objects, layout, base, UnitTable(layout.views, layout.runs, list(layout.unit_arrays())))
        store.writable = True
        store.refresh()
        return store

    @classmethod
    def stored_index(cls, path: str | Path) -> SampleIndex | None:
        """The index that a store carries, finished or not; None where there is none, or it is damaged."""
        objects = open_objects(path)
        base = read_base(objects)
        layout = None if base is None else stored_layout(objects, base)
        if base is None or layout is None:
            return None
        try:
            return read_index(objects, layout, base)
        except UserError:
            return None

    def __enter__(self) -> LabelStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the lock, if this is the writer."""
        self.writable = False
        self._lock.close()

    def __getstate__(self) -> dict[str, Any]:
        assert not self.writable, "a store that is open for writing stays in its process"
        return {**self.__dict__, "_index": None, "_lock": None}  # the index is read again where it is needed

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=ExitStack())

    # ---- what it is

    @property
    def name(self) -> str:
        """Where it is."""
        return self.objects.name

    @property
    def manifest(self) -> Manifest:
        """The contract that its labels were made under."""
        return self.layout.manifest

    @property
    def environment(self) -> Mapping[str, str]:
        """What it was begun on; decides nothing."""
        return self.layout.environment

    @property
    def views(self) -> int:
        """Views of every row."""
        return self.layout.views

    @property
    def rows(self) -> int:
        """Rows of the data."""
        return self.manifest.rows

    @property
    def runs(self) -> int:
        """Runs of rows; units of one view."""
        return self.layout.runs

    @property
    def index(self) -> SampleIndex:
        """The rows: read, and checked, when first asked for."""
        if self._index is None:
            self._index = read_index(self.objects, self.layout, self.base)
        return self._index

    def units(self) -> list[Unit]:
        """All units, view after view."""
        return list(self.table.units())

    def missing(self) -> list[Unit]:
        """Those that are not finished."""
        return self.table.missing()

    def rows_of(self, unit: Unit) -> tuple[int, int]:
        """First row, and the one after the last."""
        assert 0 <= unit.view < self.views and 0 <= unit.run < self.runs, f"{unit} is not in {self.name}"
        start = unit.run * self.manifest.unit_rows
        return start, min(start + self.manifest.unit_rows, self.rows)

    def bytes_per_view(self) -> dict[str, float]:
        """Bytes on the disk of each array, over the views that are finished."""
        count = sum(stop - start for start, stop in map(self.rows_of, self.table.finished()))
        return {name: total / max(count, 1) for name, total in self.table.total_lengths().items()}

    # ---- reading

    def read(self, view: int, run: int, *, luma: bool = True) -> UnitLabels:
        """The labels of a unit; without `luma` the thumbnails, which are most of the bytes, are left out."""
        names = [name for name in self.arrays if luma or name != "luma"]
        found = self.read_arrays(view, run, names)
        return UnitLabels(labels=SoftLabels.from_arrays(found), crc_B=found["crc"], luma_B16=found.get("luma"))

    def read_arrays(self, view: int, run: int, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Some arrays of a unit, [B, …] each; only their objects are read."""
        unit = Unit(view, run)
        start, stop = self.rows_of(unit)
        if unit not in self.table:
            raise StoreError(f"{self.name}: {unit} has not been written. Run teacher_logits until it is finished.")
        digests, found = self.table[unit], {}
        for name in names:
            spec = self.arrays[name]
            data = fetch(self.objects, spec.key(view, run), digests[name], str(unit))
            found[name] = decode(self.objects, spec, spec.key(view, run), data, stop - start)[0]
        return found

    def witness(self) -> Witness:
        """The views that are kept in full."""
        arrays = self.layout.witness_arrays()
        found = {name: read_whole(self.objects, spec, self.base) for name, spec in arrays.items()}
        return Witness(row_W=found["rows"], view_W=found["views"], pixels_WHWC=found["pixels"])

    # ---- writing

    def write(self, unit: Unit, labels: UnitLabels) -> None:
        """Commit a unit: its objects, then its receipt. Again with the same labels is harmless, with others refused."""
        assert self.writable, "the store is not open for writing"
        start, stop = self.rows_of(unit)
        require_fit(labels, self.arrays, rows=stop - start, num_classes=self.manifest.num_classes)
        arrays = labels.arrays()
        keys = dict(zip(self.arrays, unit_keys(self.arrays, unit), strict=True))
        data = {keys[name]: spec.encode(arrays[name][None]) for name, spec in self.arrays.items()}
        digests = {key: Digest.of(part) for key, part in data.items()}
        receipt = unit_receipt(unit, self.base.contract, digests)
        if not self._is_written(unit, receipt):
            for key, part in data.items():
                self.objects.put(key, part)
            if not self.objects.put_new(unit.receipt_key, receipt):
                self._is_written(unit, receipt)
        self.table[unit] = list(digests.values())

    def _is_written(self, unit: Unit, receipt: bytes) -> bool:
        there = get_record(self.objects, unit.receipt_key)
        if there is not None and there != receipt:
            raise StoreError(
                f"{self.name}: {unit} has been written before, with other labels. Two processes label it on devices or "
                "with settings that differ; end one of them, and run teacher_logits again."
            )
        return there is not None

    def refresh(self) -> None:
        """Take note of units that other processes have committed."""
        for unit in units_in(self.objects.sizes("receipts")):
            if unit.view < self.views and unit.run < self.runs and unit not in self.table:
                data = get_record(self.objects, unit.receipt_key)
                keys = unit_keys(self.arrays, unit)
                try:
                    self.table[unit] = read_unit_receipt(data or b"", unit, self.base.contract, keys)
                except NotCanonicalError as error:
                    raise StoreError(f"{self.name}/{unit.receipt_key}: {error}. {REMEDY}") from error

    def finish(self) -> None:
        """Mark the store as complete, once nothing is missing; from here on it can be read."""
        assert self.writable, "the store is not open for writing"
        self.refresh()
        missing = self.missing()
        if missing:
            raise StoreError(
                f"{self.name}: {len(missing)} of {self.views * self.runs} units are missing, first {missing[0]}. "
                "Run teacher_logits again: it does what is missing."
            )
        sizes = require_sizes(self.objects, self.layout, self.base, self.table)
        left = list(filter(is_temporary, sizes))  # of writers that were killed while others went on
        for key in left:
            if "/" in key:  # a unit's
                self.objects.delete(key)
        self._put_complete()
        for key in left:
            if "/" not in key:  # perhaps that of another which finishes as well; it may go now that COMPLETE stands
                self.objects.delete(key)

    def _put_complete(self) -> None:
        record = complete(self.base, self.table)
        if get_record(self.objects, COMPLETE_KEY) == record:
            return
        try:
            self.objects.put(COMPLETE_KEY, record)
        except StoreError as error:  # another that finishes takes our temporary name away, but only if COMPLETE stands
            swept = isinstance(error.__cause__, FileNotFoundError)
            if not swept or get_record(self.objects, COMPLETE_KEY) != record:
                raise
