"""Is every byte of a finished store what was written, and does it mean what it must?

Reads everything: COMPLETE, metadata, index, witnesses, receipts, and every unit, whose bytes are held to their digests
and whose values to their meaning (classes that there are, ranks in order, masses that are possible). Where a reader
stops at the first fault, this goes on and tells all of them. It changes nothing.

Shapes: B rows of a unit, K kept classes, T temperatures, W witnesses.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.durable import canonical
from pipeline.durable.canonical import NotCanonicalError
from pipeline.durable.objects import Objects, is_temporary, open_objects
from pipeline.errors import UserError
from pipeline.proofs.proof import SKETCH, kept_of
from pipeline.store.arrays import ArraySpec
from pipeline.store.contents import fetch, get_record, object_keys
from pipeline.store.layout import GAUGE_KEY, Layout, Unit
from pipeline.store.reader import decode, find_complete, read_index, read_whole, require_agreement, root_layout
from pipeline.store.receipts import BASE_KEY, COMPLETE_KEY, Base, Digest, UnitTable, unit_keys, unit_receipt

Told = Callable[[int, int], None]
"""Told how much is done, and of how much"""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a store that is not as it must be: where, and what."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def audit(where: str | Path, progress: Told = lambda _, __: None) -> list[Finding]:
    """Everything that is off in a store. `progress` is told how many units have been read, and of how many."""
    objects = open_objects(where)
    try:
        base, table = find_complete(objects)
    except UserError as error:
        return [_finding(objects, COMPLETE_KEY, error)]
    findings = _check_base(objects, base)
    try:
        layout = root_layout(objects, base)
        require_agreement(objects, layout, base, table)
    except UserError as error:
        rest = f"not read further, {table.views * table.runs} units are left out ({error})"
        return [*findings, Finding(objects.name, rest)]
    findings += _check_metadata(objects, layout, base)
    findings += _check_index(objects, layout, base, findings)
    findings += _check_witness(objects, layout, base, table, findings)
    findings += _check_gauge(objects)
    findings += _check_units(objects, layout, base, table, progress)
    return findings + _check_extra(objects, layout)


def _finding(objects: Objects, key: str, error: Exception) -> Finding:
    """An error as a finding: the message without the place it begins with, and without the advice it ends in."""
    text = str(error).removeprefix(f"{objects.name}/").removeprefix(key).lstrip(": ")
    return Finding(f"{objects.name}/{key}", text.split(" Run teacher_logits")[0])


def _check_base(objects: Objects, base: Base) -> list[Finding]:
    findings = []
    for key, digest in base.objects.items():
        try:
            fetch(objects, key, digest)
        except UserError as error:
            findings.append(_finding(objects, key, error))
    if get_record(objects, BASE_KEY) != base.to_bytes():
        findings.append(Finding(f"{objects.name}/{BASE_KEY}", "is not what COMPLETE says of it"))
    return findings


def _check_metadata(objects: Objects, layout: Layout, base: Base) -> list[Finding]:
    """What COMPLETE vouches for must be what this program writes."""
    return [
        Finding(f"{objects.name}/{key}", "is not what this program writes for the manifest in zarr.json")
        for key, data in layout.metadata().items()
        if Digest.of(data) != base.objects[key]
    ]


def _told(objects: Objects, findings: Iterable[Finding], arrays: Mapping[str, ArraySpec]) -> bool:
    """Has a fault of one of these arrays been told already?"""
    return not {f"{objects.name}/{key}" for key in object_keys(arrays)}.isdisjoint(f.where for f in findings)


def _check_index(objects: Objects, layout: Layout, base: Base, findings: list[Finding]) -> list[Finding]:
    if _told(objects, findings, layout.index_arrays()):
        return []
    try:
        read_index(objects, layout, base, anew=True)
    except UserError as error:
        return [_finding(objects, "index", error)]
    return []


def _check_witness(
    objects: Objects, layout: Layout, base: Base, table: UnitTable, told: list[Finding]
) -> list[Finding]:
    """The checksum beside the label of a witness must be that of its pixels."""
    arrays = layout.witness_arrays()
    if _told(objects, told, arrays):
        return []
    try:
        found = {name: read_whole(objects, spec, base) for name, spec in arrays.items()}
    except UserError as error:
        return [_finding(objects, "witness", error)]
    findings = []
    checksums: dict[Unit, NDArray[Any] | None] = {}
    for row, view, pixels_HWC in zip(found["rows"].tolist(), found["views"].tolist(), found["pixels"], strict=True):
        run, place = divmod(row, layout.manifest.unit_rows)
        unit = Unit(view, run)
        if view >= table.views or run >= table.runs or row < 0 or view < 0:
            findings.append(Finding(f"{objects.name}/witness", f"row {row}, view {view} is not in the store"))
            continue
        if unit not in checksums:
            checksums[unit] = _checksums(objects, layout, table, unit)
        crc_B = checksums[unit]
        now = kept_of(layout.manifest.luma, pixels_HWC)
        if crc_B is not None and place < len(crc_B) and int(crc_B[place]) != now:
            kind = "checksum" if layout.manifest.luma == SKETCH else "crc32c"
            what = f"row {row}, view {view}: its pixels have {kind} {now:08x}, {int(crc_B[place]):08x} is stored"
            findings.append(Finding(f"{objects.name}/witness", what))
    return findings


def _check_gauge(objects: Objects) -> list[Finding]:
    """What is told about the keep decides nothing, but it must be what was written."""
    data = get_record(objects, GAUGE_KEY)
    try:
        if data is not None:
            canonical.unseal(data)
    except NotCanonicalError as error:
        return [_finding(objects, GAUGE_KEY, error)]
    return []


def _checksums(objects: Objects, layout: Layout, table: UnitTable, unit: Unit) -> NDArray[Any] | None:
    spec = layout.unit_arrays()["crc"]
    key = spec.key(unit.view, unit.run)
    start, stop = layout.rows_of(unit)
    try:
        data = fetch(objects, key, table[unit]["crc"])
        crc_B: NDArray[Any] = decode(objects, spec, key, data, stop - start)[0]
    except UserError:
        return None  # told with its unit
    return crc_B


def _check_units(objects: Objects, layout: Layout, base: Base, table: UnitTable, progress: Told) -> list[Finding]:
    arrays = layout.unit_arrays()

    def check(unit: Unit) -> list[Finding]:
        findings, found = [], {}
        digests, (start, stop) = table[unit], layout.rows_of(unit)
        for (name, spec), key in zip(arrays.items(), unit_keys(arrays, unit), strict=True):
            try:
                data = fetch(objects, key, digests[name], str(unit))
                found[name] = decode(objects, spec, key, data, stop - start)[0]
            except UserError as error:
                findings.append(_finding(objects, key, error))
        receipt = unit_receipt(unit, base.contract, dict(zip(unit_keys(arrays, unit), digests.values(), strict=True)))
        if get_record(objects, unit.receipt_key) != receipt:
            findings.append(Finding(f"{objects.name}/{unit.receipt_key}", "is not what COMPLETE says of it"))
        if not findings:
            findings += [Finding(f"{objects.name} ({unit})", what) for what in _meaningless(layout, found, start)]
        return findings

    findings: list[Finding] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for number, part in enumerate(pool.map(check, layout.units()), start=1):
            findings += part
            progress(number, table.views * table.runs)
    return findings


def _meaningless(layout: Layout, found: Mapping[str, NDArray[Any]], first: int) -> Iterator[str]:
    """What no teacher's answer can be, with the first row that it is said of."""
    classes = layout.manifest.num_classes
    yield from _say(f"argmax is no class of {classes}", found["argmax"] >= classes, first)
    for what, bad in layout.manifest.keep.flaws(found, classes, layout.manifest.temperatures):
        yield from _say(what, bad, first)


def _say(what: str, bad: NDArray[np.bool_], first: int) -> Iterator[str]:
    rows = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
    if len(rows):
        yield f"{what} in {len(rows)} rows, the first is row {first + int(rows[0])}"


def _check_extra(objects: Objects, layout: Layout) -> list[Finding]:
    arrays = layout.unit_arrays()
    known = {BASE_KEY, COMPLETE_KEY, GAUGE_KEY} | layout.metadata().keys()
    known |= object_keys(layout.base_arrays())
    for unit in layout.units():
        known |= {unit.receipt_key, *unit_keys(arrays, unit)}
    return [
        Finding(
            f"{objects.name}/{key}",
            "was left by a run that was killed" if is_temporary(key) else "is not of this store",
        )
        for key in objects.sizes()
        if key not in known
    ]
