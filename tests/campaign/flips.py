"""Is any changed bit, or any object in another's place, ever read as what was written?

Every bit of every file of a small store is turned, one at a time; then each file is removed, emptied, cut, lengthened,
zeroed, put in place of each other, and replaced by the file of that name from another store. Each time a reader does
what a careful reader does, as far as it concerns the file: open the store, read the object. Receipts are not read by
readers of a finished store; for those, a writer must find that they do not vouch for anything. Of a second store, kept
as lowrank and with thumbnails, every file that the first has not is turned and damaged: its components, its arrays.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.durable.canonical import NotCanonicalError
from pipeline.durable.objects import open_objects
from pipeline.errors import StoreError
from pipeline.inspection.audit import audit
from pipeline.store import reader
from pipeline.store.contents import read_base
from pipeline.store.reader import StoreReader, find_complete, read_index
from pipeline.store.receipts import BASE_KEY, read_unit_receipt, unit_keys, unit_of
from tests.campaign.tally import Scale, Tally
from tests.damaged_stores import INDEX, MANIFEST, VIEWS, damage, files, read_everything
from tests.stores import finished, labels_of, manifest_of, open_writing, tree

TITLE = "bit flips in a small store (each byte × 8 bits); each object removed, emptied, cut, zeroed, swapped, foreign"
SHOWS = "0 silent"
LOWRANK = manifest_of(INDEX, "lowrank:3+5", luma=True)
KINDS = ("delete", "empty", "cut", "longer", "zero")

Reader = Callable[[], object]


def run(scale: Scale, place: Path) -> Tally:
    """Bits, then whole files."""
    tally, path = Tally(), place / "store.zarr"
    finished(path, MANIFEST, INDEX, VIEWS)
    total = sum(len((path / key).read_bytes()) for key in files(path)) * 8
    opened, generator = StoreReader.open(path), np.random.default_rng(scale.seed)
    for key in files(path):
        bits = len((path / key).read_bytes()) * 8
        wanted = scale.count(bits, min(bits, 24))
        chosen = range(bits) if wanted == bits else generator.choice(bits, wanted, replace=False).tolist()
        _flip(tally, path, key, chosen, reader_of(path, opened, key))
    flips = tally.count
    _replace(tally, place, path, scale)
    read_everything(path)
    tally.note(f"{flips:,} of {total:,} bits in {len(files(path))} files; {tally.count - flips:,} replaced files.")
    tally.note(_others(tally, place / "lowrank.zarr", set(files(path)), scale))
    return tally


def _others(tally: Tally, path: Path, known: set[str], scale: Scale) -> str:
    """Bits of, and damage to, the files of a lowrank store whose names are not known; what was done."""
    opened, generator = finished(path, LOWRANK, INDEX, VIEWS), np.random.default_rng(scale.seed)
    total, before = 0, tally.count
    for key in sorted(set(files(path)) - known):
        data = (path / key).read_bytes()
        total += 8 * len(data)
        wanted = scale.count(8 * len(data), min(8 * len(data), 12))
        chosen = generator.choice(8 * len(data), wanted, replace=False).tolist()
        read = reader_of(path, opened, key)
        _flip(tally, path, key, chosen, read)
        for kind in KINDS:
            damage(path / key, kind)
            changed = not (path / key).exists() or (path / key).read_bytes() != data
            if changed:
                tally.case(silent=_told(lambda: audited(path), f"{key} {kind}"))
            (path / key).write_bytes(data)
    audited(path)
    return f"{tally.count - before:,} faults in files of {total:,} bits that only a lowrank store has."


def audited(path: Path) -> None:
    """Open a store and read every byte of it, or say what is wrong."""
    StoreReader.open(path)
    if findings := audit(path):
        raise StoreError(str(findings[0]))


def reader_of(path: Path, opened: StoreReader, key: str) -> Reader:
    """What reads this file, and raises unless it is what was written."""
    objects = open_objects(path)
    if key == BASE_KEY:
        return lambda: read_base(objects) or _refuse()
    if unit := unit_of(key):
        keys = unit_keys(opened.layout.unit_arrays(), unit)
        contract = find_complete(objects)[0].contract
        return lambda: read_unit_receipt((path / key).read_bytes(), unit, contract, keys)
    if key == "COMPLETE" or key.endswith("zarr.json"):
        return lambda: StoreReader.open(path)
    array, _, block = key.rpartition("/c.")
    if array.startswith("index/"):
        base, _ = find_complete(objects)
        return lambda: read_index(objects, opened.layout, base)
    if array.startswith("components/"):
        return lambda: StoreReader.open(path)
    if array.startswith("witness/"):
        return opened.witness
    view, run_ = map(int, block.split(".")[:2])
    return lambda: opened.read_arrays(view, run_, [array])


def _refuse() -> None:
    raise NotCanonicalError("no base receipt that can be read")


def _flip(tally: Tally, path: Path, key: str, bits: range | list[int], read: Reader) -> None:
    read()  # or every refusal would be for another reason
    data = bytearray((path / key).read_bytes())
    descriptor = os.open(path / key, os.O_WRONLY)
    for bit in bits:
        byte, mask = divmod(bit, 8)
        os.pwrite(descriptor, bytes([data[byte] ^ 1 << mask]), byte)
        tally.case(silent=_told(read, f"{key}, bit {bit}"))
        os.pwrite(descriptor, data[byte : byte + 1], byte)
    os.close(descriptor)
    read()


def _told(read: Reader, what: str) -> str | None:
    """None where the reader is told; `read_everything` asserts that what it gets is what was written."""
    try:
        read()
    except (StoreError, NotCanonicalError):
        return None
    except AssertionError:
        return f"{what}: something else was read"
    return what


def _replace(tally: Tally, place: Path, path: Path, scale: Scale) -> None:
    before = {key: (path / key).read_bytes() for key in files(path)}
    stranger = _stranger(place / "stranger.zarr")
    cases: list[tuple[str, str, bytes | None]] = [(key, kind, None) for key in before for kind in KINDS]
    cases += [(key, f"taken from {other}", before[other]) for key in before for other in before if other != key]
    cases += [(key, "from another store", data) for key, data in stranger.items() if before.get(key) != data]
    for key, kind, data in scale.some(cases, 300):
        if data == before[key] or key not in before:
            continue
        if data is None:
            damage(path / key, kind)
        else:
            (path / key).write_bytes(data)
        if (path / key).exists() and (path / key).read_bytes() == before[key]:
            continue  # half of nothing, for example
        _judge(tally, path, key, kind)
        (path / key).write_bytes(before[key])


def _judge(tally: Tally, path: Path, key: str, kind: str) -> None:
    """A reader of everything must be told; receipts are the audit's."""
    if key.startswith("receipts/"):
        found = [finding.where for finding in audit(path)]
        tally.case(silent=None if f"{path}/{key}" in found else f"{key} {kind}: the audit is content")
    else:
        tally.case(silent=_told(lambda: read_everything(path), f"{key} {kind}"))


def _stranger(path: Path) -> dict[str, bytes]:
    """Every file of a store of the same shape, by another teacher."""
    manifest = dataclasses.replace(MANIFEST, teacher=dataclasses.replace(MANIFEST.teacher, name="x"))
    with open_writing(path, manifest, INDEX, VIEWS) as other:
        for unit in other.missing():
            other.write(unit, labels_of(MANIFEST, unit, salt=9))
        other.finish()
    return {key: data for key, data in tree(path).items() if not key.endswith("/")}


def sabotage(place: Path) -> Tally:
    """Digests are not compared: two exchanged objects must come through, and be noticed here."""
    tally, path = Tally(), place / "store.zarr"
    finished(path, MANIFEST, INDEX, VIEWS)
    one, other = path / "crc/c.0.0", path / "crc/c.1.0"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "fetch", lambda objects, key, *_: objects.get(key, 1 << 20))
        _judge(tally, path, "crc/c.0.0", "swapped")
    return tally
