"""How are the teacher's answers written, so that whatever is killed loses only what it had in hand?

    with StoreWriter.open("store.zarr", manifest, index, views=10, …) as store:     # makes, resumes, mends or grows
        for unit in store.missing():
            store.write(unit, labels_of(unit))
        labels = store.finish()                                                     # from here on it can be read

One process opens a store, under its lock, and sweeps it; others may `attach` to it or `follow` it once it has, and
write beside it: no two units share an object, and whoever writes a unit twice must write the same. Finishing is safe
for each of them, since COMPLETE is a function of the receipts.

`pipeline.store.recovery` says what is kept when a store is opened, docs/store-format.md for people what is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from pipeline.durable.canonical import NotCanonicalError
from pipeline.durable.objects import Objects, is_temporary, open_objects
from pipeline.errors import MismatchError, StoreError
from pipeline.labels.codes import Answers
from pipeline.shards.index import SampleIndex
from pipeline.store.contents import REMEDY, get_record, read_base, stored_layout, unit_receipts
from pipeline.store.layout import Layout, Unit
from pipeline.store.manifest import Manifest
from pipeline.store.reader import OpenStore, StoreReader, require_sizes
from pipeline.store.receipts import (
    COMPLETE_KEY,
    Base,
    Digest,
    UnitTable,
    complete,
    read_unit_receipt,
    unit_keys,
    unit_receipt,
    units_in,
)
from pipeline.store.recovery import Wanted, recover
from pipeline.store.unit_labels import UnitLabels, require_fit
from pipeline.store.witness import Witness


class StoreWriter(OpenStore):
    """A store that is open for writing. Made by its class methods; stays in its process."""

    def __init__(
        self, objects: Objects, layout: Layout, base: Base, table: UnitTable, index: SampleIndex | None = None
    ) -> None:
        super().__init__(objects, layout, base, table, index)
        self._lock, self._closed = ExitStack(), False

    # ---- opening

    @classmethod
    def open(
        cls,
        path: str | Path,
        manifest: Manifest,
        index: SampleIndex,
        views: int,
        *,
        witness: Callable[[], Witness],
        environment: Callable[[], Mapping[str, str]],
        answers: Answers | None = None,
        recheck: bool = False,
    ) -> StoreWriter:
        """For the one that holds the lock: make the store, or go on with what is there.

        A store that has more views keeps them, and `layout` says so. One of another contract is a `ContractError`.

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
            store = cls(objects, found.layout, found.base, found.table, index)
            store._lock = lock.pop_all()
        return store

    @classmethod
    def attach(cls, objects: Objects) -> StoreWriter:
        """For a further writer of what one has opened and swept: it knows what is missing, and may finish the store."""
        store = cls._begun(objects)
        if store is None:
            raise StoreError(f"{objects.name} has not been begun, or its base is damaged. Start teacher_logits first.")
        store.refresh()
        return store

    @classmethod
    def follow(cls, objects: Objects) -> StoreWriter:
        """For a further writer that is told which units to write: it does not look what others have written."""
        store = cls._begun(objects)
        if store is None:
            raise StoreError(f"{objects.name} has no base that can be read here. --out must be where all ranks see it.")
        return store

    @classmethod
    def _begun(cls, objects: Objects) -> StoreWriter | None:
        """The store as if nothing were written but its base; None where that is not there."""
        base = read_base(objects)
        layout = stored_layout(objects, base)
        if base is None or layout is None:
            return None
        return cls(objects, layout, base, UnitTable(layout.views, layout.runs, list(layout.unit_arrays())))

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write nothing from here on, and let go of the lock where it is held."""
        self._closed = True
        self._lock.close()

    def __reduce__(self) -> NoReturn:
        raise AssertionError("a store that is open for writing stays in its process")

    def missing(self) -> list[Unit]:
        """The units that are left to write, as far as it is known here (see `refresh`)."""
        return self._table.missing()

    # ---- writing

    def write(self, unit: Unit, labels: UnitLabels) -> None:
        """Commit a unit: its objects, then its receipt. Again with the same labels is harmless, with others refused."""
        assert not self._closed, "the store is not open for writing"
        start, stop = self.layout.rows_of(unit)
        require_fit(labels, self._arrays, rows=stop - start, num_classes=self.manifest.num_classes)
        arrays = labels.arrays()
        keys = dict(zip(self._arrays, unit_keys(self._arrays, unit), strict=True))
        data = {keys[name]: spec.encode(arrays[name][None]) for name, spec in self._arrays.items()}
        digests = {key: Digest.of(part) for key, part in data.items()}
        receipt = unit_receipt(unit, self._base.contract, digests)
        there = get_record(self._objects, unit.receipt_key)
        if there is None:
            for key, part in data.items():
                self._objects.put(key, part)
            if not self._objects.put_new(unit.receipt_key, receipt):
                there = get_record(self._objects, unit.receipt_key)
                if there != receipt:  # the other's objects were replaced by these: the next run does the unit again
                    self._objects.delete(unit.receipt_key)
            else:
                there = receipt
        if there != receipt:
            raise StoreError(
                f"{self.name}: {unit} has been written before, with other labels. Two processes label it on devices or "
                "with settings that differ; end one of them, and run teacher_logits again."
            )
        self._table[unit] = list(digests.values())

    def refresh(self) -> None:
        """Look which units other processes have committed since, so that `missing` knows of them."""
        there = units_in(self._objects.sizes("receipts"))
        new = [u for u in there if u.view < self.layout.views and u.run < self.layout.runs and u not in self._table]
        for unit, data in unit_receipts(self._objects, new):
            try:
                self._table[unit] = read_unit_receipt(data, unit, self._base.contract, unit_keys(self._arrays, unit))
            except NotCanonicalError as error:
                raise StoreError(f"{self.name}/{unit.receipt_key}: {error}. {REMEDY}") from error

    def finish(self) -> StoreReader:
        """Mark the store as complete, once nothing is missing; what was written, to be read from here on."""
        assert not self._closed, "the store is not open for writing"
        self.refresh()
        self._require_all(self.missing())
        sizes = require_sizes(self._objects, self.layout, self._base, self._table)
        self._require_all([unit for unit in self.layout.units() if unit.receipt_key not in sizes])
        left = list(filter(is_temporary, sizes))  # of writers that were killed while others went on
        for key in left:
            if "/" in key:  # a unit's
                self._objects.delete(key)
        record = complete(self._base, self._table)
        if get_record(self._objects, COMPLETE_KEY) != record:
            self._objects.put(COMPLETE_KEY, record)
        for key in left:
            if "/" not in key:  # perhaps that of another which finishes as well, and writes its record again
                self._objects.delete(key)
        return StoreReader(self._objects, self.layout, self._base, self._table, self._index)

    def _require_all(self, missing: Sequence[Unit]) -> None:
        if missing:
            raise StoreError(
                f"{self.name}: {len(missing)} of {self.layout.views * self.layout.runs} units are missing, first "
                f"{missing[0]}. Run teacher_logits again: it does what is missing."
            )
