"""Which objects belong to a store, and what must be in them?

Three records, each canonical and sealed (`pipeline.durable.canonical`), none with a time in it:

    receipts/base.json           what stands before the first label: metadata, index, witness views
    receipts/<view>/<run>.json   one unit; written after its objects, so what has no receipt was never finished
    COMPLETE                     all of these in one, written when no unit is missing

Each lists objects as ``"<bytes> <SHA-256>"``. A reader needs COMPLETE alone. A receipt names the manifest and the index
that its unit belongs to, so one from another store does not fit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipeline.durable import canonical
from pipeline.durable.canonical import NotCanonicalError
from pipeline.store.arrays import ArraySpec
from pipeline.store.digest_list import Digests, read_units
from pipeline.store.layout import OURS, Unit, format_record, require_format

BASE_KEY = "receipts/base.json"
COMPLETE_KEY = "COMPLETE"
SHA256_BYTES = 32
UNITS, END = b',"units":', b"}\n"
"""How the last field of COMPLETE begins, and how COMPLETE ends"""


class Digest(NamedTuple):
    """What an object must be: so many bytes with this SHA-256."""

    length: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """The digest that an object of these bytes has."""
        return cls(len(data), canonical.sha256(data))

    def __str__(self) -> str:
        return f"{self.length} {self.sha256}"

    @classmethod
    def parse(cls, text: object) -> Digest:
        """The digest that a text stands for, as `str` makes it."""
        length, space, sha256 = text.partition(" ") if isinstance(text, str) else ("", "", "")
        hexadecimal = len(sha256) == 64 and set(sha256) <= set("0123456789abcdef")
        if not (space and hexadecimal and len(length) < 16 and length.isascii() and length.isdigit()):
            raise NotCanonicalError(f"{text!r:.80} is not a length and a SHA-256")
        return cls(int(length), sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """Which store a record belongs to: the digests of its manifest and its index."""

    manifest: str
    """`Manifest.fingerprint()`"""
    index: str
    """`SampleIndex.digest()`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The record of everything in a store that is no label: metadata, index, witnesses, and the number of views."""

    contract: Contract
    views: int
    objects: Mapping[str, Digest]

    def record(self) -> dict[str, object]:
        """The base receipt as JSON values."""
        return {
            "format": format_record(),
            "manifest": self.contract.manifest,
            "index": self.contract.index,
            "views": self.views,
            "objects": {key: str(digest) for key, digest in self.objects.items()},
        }

    @classmethod
    def from_record(cls, record: Any) -> Base:
        """The base receipt of a `record`; NotCanonicalError where it is none, StoreError for another format."""
        if not isinstance(record, dict):
            raise NotCanonicalError("it has no base")
        require_format(record.get("format"))
        views, objects = record.get("views"), record.get("objects")
        if type(views) is not int or views < 1 or not isinstance(objects, dict):
            raise NotCanonicalError("it has no views and objects")
        base = cls(
            contract=Contract(manifest=_text(record, "manifest"), index=_text(record, "index")),
            views=views,
            objects={key: Digest.parse(text) for key, text in objects.items()},
        )
        if base.record() != record or not all(OURS.fullmatch(key) for key in base.objects):
            raise NotCanonicalError("it has other fields or objects than a base receipt")
        return base

    def to_bytes(self) -> bytes:
        """The sealed bytes of the base receipt, which stand under `BASE_KEY`."""
        return canonical.seal(self.record())

    @classmethod
    def from_bytes(cls, data: bytes) -> Base:
        """The base receipt that these bytes are, with the errors of `from_record`."""
        return cls.from_record(canonical.unseal(data))


def unit_keys(arrays: Mapping[str, ArraySpec], unit: Unit) -> list[str]:
    """The keys of a unit's objects, in the order in which its receipt lists them."""
    return [spec.key(unit.view, unit.run) for spec in arrays.values()]


def unit_receipt(unit: Unit, contract: Contract, objects: Mapping[str, Digest]) -> bytes:
    """The bytes of a unit's receipt, which is written last and says what its objects must be."""
    return canonical.seal(
        {
            "unit": {"view": unit.view, "run": unit.run},
            "manifest": contract.manifest,
            "index": contract.index,
            "objects": {key: str(digest) for key, digest in objects.items()},
        }
    )


def contract_of(receipt: bytes) -> Contract:
    """Which store a base or unit receipt belongs to; NotCanonicalError where it is not sealed."""
    record = canonical.unseal(receipt)
    return Contract(manifest=_text(record, "manifest"), index=_text(record, "index"))


def read_unit_receipt(data: bytes, unit: Unit, contract: Contract, keys: Sequence[str]) -> list[Digest]:
    """The digests of the unit's objects in the order of `keys`; NotCanonicalError where it is not its receipt."""
    objects = canonical.unseal(data).get("objects")
    if not isinstance(objects, dict) or set(objects) != set(keys):
        raise NotCanonicalError(f"it does not list the objects of {unit}")
    digests = [Digest.parse(objects[key]) for key in keys]
    if unit_receipt(unit, contract, dict(zip(keys, digests, strict=True))) != data:
        raise NotCanonicalError(f"it is not the receipt of {unit} in this store")
    return digests


class UnitTable:
    """The digests of all units' objects, as arrays: a store has up to a million of them."""

    def __init__(self, views: int, runs: int, arrays: Sequence[str]) -> None:
        self.arrays = tuple(arrays)
        self._lengths_VRA = np.full((views, runs, len(arrays)), -1, np.int64)
        self._digests_VRAD = np.zeros((views, runs, len(arrays), SHA256_BYTES), np.uint8)

    @classmethod
    def full(cls, views: int, runs: int, arrays: Sequence[str], digests: Digests) -> UnitTable:
        """The table whose units are all finished, with these lengths and SHA-256s, view after view."""
        table = cls(0, 0, arrays)
        table._lengths_VRA = digests[0].reshape(views, runs, -1)
        table._digests_VRAD = digests[1].reshape(views, runs, -1, SHA256_BYTES)
        return table

    @property
    def views(self) -> int:
        """How many views the store has, finished or not."""
        return self._lengths_VRA.shape[0]

    @property
    def runs(self) -> int:
        """How many runs of rows the store has."""
        return self._lengths_VRA.shape[1]

    def __contains__(self, unit: Unit) -> bool:
        return bool(self._lengths_VRA[unit.view, unit.run, 0] >= 0)

    def __getitem__(self, unit: Unit) -> dict[str, Digest]:
        """The digests of a finished unit, by array."""
        lengths = self._lengths_VRA[unit.view, unit.run].tolist()
        digests = self._digests_VRAD[unit.view, unit.run]
        return {
            name: Digest(length, digest.tobytes().hex())
            for name, length, digest in zip(self.arrays, lengths, digests, strict=True)
        }

    def __setitem__(self, unit: Unit, digests: Sequence[Digest]) -> None:
        together = bytes.fromhex("".join(digest.sha256 for digest in digests))
        self._digests_VRAD[unit.view, unit.run] = np.frombuffer(together, np.uint8).reshape(-1, SHA256_BYTES)
        self._lengths_VRA[unit.view, unit.run] = [digest.length for digest in digests]

    def missing(self) -> list[Unit]:
        """The units that are not finished, view after view."""
        return [Unit(view, run) for view, run in np.argwhere(self._lengths_VRA[:, :, 0] < 0).tolist()]

    def finished(self) -> list[Unit]:
        """The units that are finished, view after view."""
        return [Unit(view, run) for view, run in np.argwhere(self._lengths_VRA[:, :, 0] >= 0).tolist()]

    def total_lengths(self) -> dict[str, int]:
        """Bytes of all finished units, by array."""
        totals = np.clip(self._lengths_VRA, 0, None).sum(axis=(0, 1)).tolist()
        return dict(zip(self.arrays, totals, strict=True))

    def texts(self) -> list[list[str]]:
        """The digests of every unit as texts, an inner list each, as COMPLETE lists them."""
        lengths = self._lengths_VRA.reshape(-1).tolist()
        together = self._digests_VRAD.tobytes().hex()
        texts = [
            f"{length} {together[at : at + 2 * SHA256_BYTES]}"
            for length, at in zip(lengths, range(0, len(together), 2 * SHA256_BYTES), strict=True)
        ]
        return [texts[at : at + len(self.arrays)] for at in range(0, len(texts), len(self.arrays))]


def complete(base: Base, table: UnitTable) -> bytes:
    """The bytes of COMPLETE: the record of the base and of every unit, sealed."""
    assert not table.missing()
    record = {"base": base.record(), "arrays": list(table.arrays), "runs": table.runs, "units": table.texts()}
    return canonical.seal({"format": format_record(), **record})


def read_complete(data: bytes) -> tuple[Base, UnitTable]:
    """The inverse; NotCanonicalError where it says something else, StoreError for another format.

    The units are nearly all of it, and the last field; they are read by themselves (`pipeline.store.digest_list`).
    """
    at = data.find(UNITS)
    record = _head_of(data, at) if at >= 0 else None
    if record is None:
        require_format(canonical.unseal(data).get("format"))
        raise NotCanonicalError("it has no arrays, runs and units")
    require_format(record.get("format"))
    base = Base.from_record(record.get("base"))
    runs, arrays = record.get("runs"), record.get("arrays")
    if type(runs) is not int or runs < 1 or arrays is None or not _is_texts(arrays):
        raise NotCanonicalError("it has no arrays, runs and units")
    units = memoryview(data)[at + len(UNITS) : -len(END)]
    found = read_units(units, len(arrays))
    if found is None or len(found[0]) != base.views * runs * len(arrays):
        raise NotCanonicalError(f"it does not list {base.views} × {runs} units")
    return base, UnitTable.full(base.views, runs, arrays, found)


def _head_of(data: bytes, at: int) -> dict[str, Any] | None:
    """All but the units, if the seal is right; None where the fields are others than those that `complete` writes."""
    try:
        record = canonical.load(data[:at] + END)
    except NotCanonicalError:
        return None
    seal = record.pop(canonical.SEAL, None)
    field = f',"{canonical.SEAL}":"{seal}"'.encode()
    if record.keys() != {"arrays", "base", "format", "runs"} or not data[:at].endswith(field) or not data.endswith(END):
        return None
    sealed = hashlib.sha256(data[: at - len(field)])
    sealed.update(memoryview(data)[at:])
    return record if sealed.hexdigest() == seal else None


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise NotCanonicalError(f"it has no {name}")
    return value


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def unit_of(receipt_key: str) -> Unit | None:
    """The unit whose receipt stands there, if the key is one that `Unit.receipt_key` gives."""
    parts = receipt_key.removesuffix(".json").split("/")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts[1:]):
        return None
    unit = Unit(int(parts[1]), int(parts[2]))
    return unit if unit.receipt_key == receipt_key else None


def units_in(keys: Iterable[str]) -> list[Unit]:
    """The units that have a receipt among these keys, whatever is in it."""
    return sorted(unit for unit in map(unit_of, keys) if unit is not None)
