"""Is this a finished store, whole and of one piece?

COMPLETE says what must be there. A reader checks at once, in this order, that COMPLETE is sealed; that the root
``zarr.json`` has the digest in it, and every ``zarr.json`` is byte for byte what this program writes for the manifest
in the root; that COMPLETE and the metadata speak of the same store; and that every object has its size. What an object
holds is checked whenever it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.durable.canonical import NotCanonicalError
from pipeline.durable.objects import Objects
from pipeline.errors import StoreError
from pipeline.shards.index import SampleIndex
from pipeline.shards.index_file import OtherContentError
from pipeline.store.arrays import ArraySpec, DamagedError
from pipeline.store.layout import Layout
from pipeline.store.receipts import (
    COMPLETE_KEY,
    REMEDY,
    Base,
    Contract,
    Digest,
    UnitTable,
    fetch,
    get_record,
    read_complete,
    unit_keys,
    units_in,
)
from pipeline.store.recovery import object_keys, read_base, stored_layout


def find_complete(objects: Objects) -> tuple[Base, UnitTable]:
    """What COMPLETE says, or why there is none."""
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
    """COMPLETE and zarr.json must speak of the same store."""
    manifest = layout.manifest
    keys = object_keys(layout.index_arrays()) | object_keys(layout.witness_arrays())
    agree = (
        base.contract == Contract(manifest=manifest.fingerprint(), index=manifest.index_digest)
        and (base.views, table.runs, list(table.arrays)) == (layout.views, layout.runs, list(layout.unit_arrays()))
        and base.objects.keys() == keys | layout.metadata().keys()
    )
    if not agree:
        raise StoreError(f"{objects.name}: {COMPLETE_KEY} and zarr.json are of two stores. {REMEDY}")


def require_sizes(objects: Objects, layout: Layout, base: Base, table: UnitTable) -> dict[str, int]:
    """Every object must be there, with as many bytes as were written; what is there."""
    sizes = objects.sizes()
    for key, digest in base.objects.items():
        _require_size(objects, sizes, key, digest.length, "")
    arrays = layout.unit_arrays()
    for unit in table.units():
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
        return SampleIndex.from_blocks(
            layout.urls, layout.class_names, wanted, lengths, blocks, label_key=layout.label_key, anew=anew
        )
    except OtherContentError as other:
        raise StoreError(
            f"{objects.name}: its index has digest {other.found[:12]}, its manifest names {wanted[:12]}. {REMEDY}"
        ) from None


def read_whole(objects: Objects, spec: ArraySpec, base: Base) -> NDArray[Any]:
    """An array that is no unit's: all of its objects."""
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
