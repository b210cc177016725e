"""What stands under a store's keys, and is it what was written?

Nothing here believes more than it has looked at. A record is taken if it is sealed, and an object if it has its digest
(`fetch`, `whole`); that an object is there with its size (`listed`) is less, and costs no reading. What is damaged is
told apart from what is of another program (`require_ours`), because that must never be swept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pipeline.durable import canonical
from pipeline.durable.canonical import NotCanonicalError
from pipeline.durable.objects import Objects, is_temporary
from pipeline.errors import StoreError
from pipeline.progress import Progress
from pipeline.store.arrays import ArraySpec
from pipeline.store.layout import OURS, Layout, Unit, require_format
from pipeline.store.receipts import BASE_KEY, Base, Contract, Digest, contract_of

LARGEST_RECORD = 1 << 30

REMEDY = "Run teacher_logits --recheck on this store: it computes what is damaged. Or restore it from a copy."


def get_record(objects: Objects, key: str) -> bytes | None:
    """The bytes of the record under a key; None where there is none."""
    try:
        return objects.get(key, LARGEST_RECORD)
    except KeyError:
        return None


def unit_receipts(objects: Objects, units: Sequence[Unit]) -> Iterator[tuple[Unit, bytes]]:
    """The receipts of these units, as they stand there; a unit that has none is left out."""
    found = objects.get_many([unit.receipt_key for unit in units], LARGEST_RECORD)
    return ((unit, data) for unit, (_, data) in zip(units, found, strict=True) if data is not None)


def read_base(objects: Objects) -> Base | None:
    """The base receipt; None where there is none, or it is damaged. Another format is refused."""
    data = get_record(objects, BASE_KEY)
    try:
        return None if data is None else Base.from_bytes(data)
    except NotCanonicalError:
        return None
    except StoreError as error:
        raise StoreError(f"{objects.name}: {error}") from error


def stored_layout(objects: Objects, stored: Base | None) -> Layout | None:
    """What the root ``zarr.json`` says, where the base receipt vouches for it.

    A process that was killed while the store grew leaves a root of more views than the receipt: that one is known too.
    """
    data = get_record(objects, "zarr.json")
    if data is None:
        return None
    try:
        layout = Layout.from_root(data)
    except StoreError:
        return None
    if stored is None:
        return layout
    before = replace(layout, views=stored.views)
    return before if Digest.of(before.metadata()["zarr.json"]) == stored.objects.get("zarr.json") else None


def contract_at(objects: Objects, unit: Unit) -> Contract | None:
    """Which store the receipt of a unit belongs to; None where there is none, or it is damaged."""
    data = get_record(objects, unit.receipt_key)
    try:
        return None if data is None else contract_of(data)
    except NotCanonicalError:
        return None


def require_ours(objects: Objects, sizes: Mapping[str, int]) -> None:
    """A directory that has neither our root nor our base receipt may be swept only if each file in it could be ours."""
    foreign = [key for key in sizes if not (OURS.fullmatch(key) or is_temporary(key))]
    if foreign:
        raise StoreError(
            f"{objects.name} is not a label store: it has {foreign[0]}{' and others' if len(foreign) > 1 else ''}. "
            f"{_NEW_OUT}"
        )
    try:
        root = json.loads(get_record(objects, "zarr.json") or b"")
    except (ValueError, RecursionError):
        return  # never written, or cut or emptied by a crash
    try:
        require_format(root["attributes"]["format"])
    except (TypeError, KeyError):
        raise StoreError(f"{objects.name} is a Zarr store of another kind. {_NEW_OUT}") from None
    except StoreError as error:
        raise StoreError(f"{objects.name}: {error}") from error


_NEW_OUT = "Give an --out that is new or empty."


def fetch(objects: Objects, key: str, digest: Digest, what: str = "") -> bytes:
    """The bytes of an object, if they are those that were written; what is read is always checked."""
    named = f"{objects.name}/{key}" + (f" ({what})" if what else "")
    try:
        data = objects.get(key, max(digest.length, 1 << 20))
    except KeyError:
        raise StoreError(f"{named} is absent; {digest.length:,} bytes were written. {REMEDY}") from None
    if len(data) != digest.length:
        raise StoreError(f"{named} has {len(data):,} bytes; {digest.length:,} were written. {REMEDY}")
    found = canonical.sha256(data)
    if found != digest.sha256:
        raise StoreError(f"{named} has SHA-256 {found[:12]}; {digest.sha256[:12]} was written. {REMEDY}")
    return data


def listed(sizes: Mapping[str, int], items: list[tuple[str, Digest]]) -> list[bool]:
    """For each key and digest, whether there is an object of that size, by a listing: none is read."""
    return [sizes.get(key) == digest.length for key, digest in items]


def whole(
    objects: Objects, sizes: Mapping[str, int], items: list[tuple[str, Digest]], shown: str | None = None
) -> list[bool]:
    """Which objects are there with their digest? Hashing lets other threads run, so it takes as many as there are."""

    def check(item: tuple[str, Digest]) -> bool:
        key, digest = item
        if sizes.get(key) != digest.length:
            return False
        try:
            return Digest.of(objects.get(key, digest.length)) == digest
        except KeyError:
            return False

    found = []
    with (
        Progress(shown or "", len(items), "objects", shown=shown is not None) as progress,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
    ):
        for verdict in pool.map(check, items):
            found.append(verdict)
            progress.advance()
    return found


def object_keys(arrays: Mapping[str, ArraySpec]) -> set[str]:
    """The keys of all objects of these arrays, none of which is a unit's."""
    return {key for spec in arrays.values() for key in spec.object_keys()}
