"""What did the teacher answer, and may it be believed?

    store = StoreReader.open("store.zarr")       # refuses one without COMPLETE, or with an object of other size
    labels = store.read(view=3, run=0)           # bytes are held to their digest before they are decoded

COMPLETE says what must be there. A reader checks at once, in this order, that COMPLETE is sealed; that the root
``zarr.json`` has the digest in it, and every ``zarr.json`` is byte for byte what this program writes for the manifest
in the root; that COMPLETE and the metadata speak of the same store; and that every object has its size. What an object
holds is checked whenever it is read.

Shapes: B rows of a unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.durable.canonical import NotCanonicalError
from pipeline.durable.objects import Objects, open_objects
from pipeline.errors import StoreError, UserError
from pipeline.labels.soft_labels import SoftLabels
from pipeline.shards.index import SampleIndex, from_blocks
from pipeline.shards.index_file import OtherContentError
from pipeline.store.arrays import ArraySpec, DamagedError
from pipeline.store.contents import REMEDY, fetch, get_record, object_keys, read_base, stored_layout
from pipeline.store.layout import OURS, Layout, Unit
from pipeline.store.manifest import Manifest
from pipeline.store.receipts import COMPLETE_KEY, Base, Contract, Digest, UnitTable, read_complete, unit_keys, units_in
from pipeline.store.unit_labels import UnitLabels
from pipeline.store.witness import Witness


class OpenStore:
    """What is known of a store that is open, for reading or for writing."""

    def __init__(
        self, objects: Objects, layout: Layout, base: Base, table: UnitTable, index: SampleIndex | None = None
    ) -> None:
        self.layout = layout = with_components(objects, layout, base)
        self._objects, self._base, self._table, self._index = objects, base, table, index
        self._arrays = layout.unit_arrays()

    @property
    def name(self) -> str:
        """The path or URL of the store."""
        return self._objects.name

    @property
    def manifest(self) -> Manifest:
        """The contract that its labels were made under; how they are cut into units is in the `layout`."""
        return self.layout.manifest

    @property
    def index(self) -> SampleIndex:
        """The rows of the store; they are read and checked when first asked for."""
        if self._index is None:
            self._index = read_index(self._objects, self.layout, self._base)
        return self._index


class StoreReader(OpenStore):
    """A finished store. Holds no file and no thread, so it may be forked and pickled."""

    @classmethod
    def open(cls, path: str | Path, *, check_sizes: bool = True) -> StoreReader:
        """The store at a path or URL, if it is finished, whole and of one piece; contents are checked when read.

        Without `check_sizes` the objects are not listed: one process of a run does that, once for all.
        """
        objects = open_objects(path)
        base, table = find_complete(objects)
        layout = find_layout(objects, base)
        require_agreement(objects, layout, base, table)
        if check_sizes:
            require_sizes(objects, layout, base, table)
        return cls(objects, layout, base, table)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": None}  # read again where it is needed

    def bytes_per_view(self) -> dict[str, float]:
        """The bytes that each array takes up, for one view of one row."""
        views = self.layout.views * self.manifest.rows
        return {name: total / views for name, total in self._table.total_lengths().items()}

    def read(self, view: int, run: int, *, luma: bool = True) -> UnitLabels:
        """The labels of a unit; without `luma` the thumbnails, which are most of the bytes, are left out."""
        found = self.read_arrays(view, run, [name for name in self._arrays if luma or name != "luma"])
        return UnitLabels(labels=SoftLabels.from_arrays(found), crc_B=found["crc"], luma_B16=found.get("luma"))

    def read_arrays(self, view: int, run: int, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Some arrays of a unit, [B, …] each; only their objects are read."""
        unit = Unit(view, run)
        start, stop = self.layout.rows_of(unit)
        digests, found = self._table[unit], {}
        for name in names:
            spec = self._arrays[name]
            data = fetch(self._objects, spec.key(view, run), digests[name], str(unit))
            found[name] = decode(self._objects, spec, spec.key(view, run), data, stop - start)[0]
        return found

    def witness(self) -> Witness:
        """The witness views, whose pixels the store keeps in full: their rows, views and pixels."""
        arrays = self.layout.witness_arrays()
        found = {name: read_whole(self._objects, spec, self._base) for name, spec in arrays.items()}
        return Witness(row_W=found["rows"], view_W=found["views"], pixels_WHWC=found["pixels"])


def stored_index(path: str | Path) -> SampleIndex | None:
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


def find_complete(objects: Objects) -> tuple[Base, UnitTable]:
    """The base receipt and the table of units in COMPLETE; a StoreError says why there is none."""
    data = get_record(objects, COMPLETE_KEY)
    if data is None:
        raise StoreError(_why_unfinished(objects))
    try:
        return read_complete(data)
    except NotCanonicalError as error:
        raise StoreError(f"{objects.name}/{COMPLETE_KEY} is damaged: {error}. {REMEDY}") from error
    except StoreError as error:
        raise StoreError(f"{objects.name}: {error}") from error


def _why_unfinished(objects: Objects) -> str:
    sizes = objects.sizes()
    base = read_base(objects)
    layout = None if base is None else stored_layout(objects, base)
    if not sizes:
        return f"{objects.name}: there is no label store. Make one with python -m stages.teacher_logits --out …"
    if not any(map(OURS.fullmatch, sizes)):
        return f"{objects.name} holds no label store. Name what stages.teacher_logits wrote to --out."
    if base is None or layout is None:
        return f"{objects.name} is not a label store, or it was hardly begun: it has no {COMPLETE_KEY}. {REMEDY}"
    done, units = len(units_in(sizes)), base.views * layout.runs
    return f"{objects.name} is not finished: {done} of {units} units are there. Run teacher_logits again: it goes on."


def root_layout(objects: Objects, base: Base) -> Layout:
    """The layout that the root ``zarr.json`` is of, once it has its digest."""
    if "zarr.json" not in base.objects:
        raise StoreError(f"{objects.name}/{COMPLETE_KEY} does not list zarr.json. {REMEDY}")
    data = fetch(objects, "zarr.json", base.objects["zarr.json"])
    try:
        return Layout.from_root(data)
    except StoreError as error:
        raise StoreError(f"{objects.name}/{error}") from error


def find_layout(objects: Objects, base: Base) -> Layout:
    """The layout, once every ``zarr.json`` is byte for byte what this program writes for it."""
    layout = root_layout(objects, base)
    for key, data in layout.metadata().items():
        fetch(objects, key, Digest.of(data))
    return layout


def require_agreement(objects: Objects, layout: Layout, base: Base, table: UnitTable) -> None:
    """Refuse a store whose COMPLETE and whose metadata are of two different stores."""
    manifest = layout.manifest
    keys = object_keys(layout.base_arrays())
    agree = (
        base.contract == Contract(manifest=manifest.fingerprint(), index=manifest.index_digest)
        and (base.views, table.runs, list(table.arrays)) == (layout.views, layout.runs, list(layout.unit_arrays()))
        and base.objects.keys() == keys | layout.metadata().keys()
    )
    if not agree:
        raise StoreError(f"{objects.name}: {COMPLETE_KEY} and zarr.json are of two stores. {REMEDY}")


def require_sizes(objects: Objects, layout: Layout, base: Base, table: UnitTable) -> dict[str, int]:
    """The bytes of every object that is there; refused where one is absent, or has more or fewer than were written."""
    sizes = objects.sizes()
    for key, digest in base.objects.items():
        _require_size(objects, sizes, key, digest.length, "")
    arrays = layout.unit_arrays()
    for unit in layout.units():
        for key, digest in zip(unit_keys(arrays, unit), table[unit].values(), strict=True):
            _require_size(objects, sizes, key, digest.length, f" ({unit})")
    return sizes


def _require_size(objects: Objects, sizes: Mapping[str, int], key: str, length: int, what: str) -> None:
    found = sizes.get(key)
    if found is None:
        raise StoreError(f"{objects.name}/{key}{what} is absent; {length:,} bytes were written. {REMEDY}")
    if found != length:
        raise StoreError(f"{objects.name}/{key}{what} has {found:,} bytes; {length:,} were written. {REMEDY}")


def read_index(objects: Objects, layout: Layout, base: Base, *, anew: bool = False) -> SampleIndex:
    """The rows, if they are those that the manifest names.

    A large index is read once a node (`pipeline.shards.index_file`), unless it is to be read from this very store,
    `anew`.
    """
    specs, wanted = layout.index_arrays(), layout.manifest.index_digest
    lengths = {name: spec.shape[0] for name, spec in specs.items()}

    def blocks(name: str) -> Iterator[NDArray[Any]]:
        return _read_blocks(objects, specs[name], base)

    try:
        return from_blocks(
            layout.urls, layout.class_names, wanted, lengths, blocks, label_key=layout.label_key, anew=anew
        )
    except OtherContentError as other:
        raise StoreError(
            f"{objects.name}: its index has digest {other.found[:12]}, its manifest names {wanted[:12]}. {REMEDY}"
        ) from None


def with_components(objects: Objects, layout: Layout, base: Base) -> Layout:
    """The layout with a keep that knows what it was fitted to, read from the store; the same where nothing was."""
    fitting = layout.manifest.keep.fitting
    if fitting is None:
        return layout
    found = {name: read_whole(objects, spec, base) for name, spec in layout.component_arrays().items()}
    return replace(layout, manifest=replace(layout.manifest, keep=fitting.having(found)))


def read_whole(objects: Objects, spec: ArraySpec, base: Base) -> NDArray[Any]:
    """The values of an array that is no unit's, joined from all of its objects."""
    whole, at = np.empty(spec.shape, spec.dtype), 0
    for block in _read_blocks(objects, spec, base):
        whole[at : at + len(block)] = block
        at += len(block)
    return whole


def _read_blocks(objects: Objects, spec: ArraySpec, base: Base) -> Iterator[NDArray[Any]]:
    left = spec.shape[0]
    for key in spec.object_keys():
        rows = min(left, spec.block[0])
        yield decode(objects, spec, key, fetch(objects, key, base.objects[key]), rows)
        left -= rows


def decode(objects: Objects, spec: ArraySpec, key: str, data: bytes, rows: int) -> NDArray[Any]:
    """The first `rows` rows of a block; StoreError where the bytes are none."""
    try:
        return spec.decode(data, rows)
    except DamagedError as error:
        raise StoreError(f"{objects.name}/{key}: {error}. {REMEDY}") from error
