"""COMPLETE is read as bytes: whatever passes is what JSON says and what would be written, and nothing else passes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.durable import canonical
from pipeline.durable.canonical import NotCanonicalError
from pipeline.errors import StoreError
from pipeline.store import digest_list as digests
from pipeline.store.digest_list import read_units
from pipeline.store.layout import Unit
from pipeline.store.receipts import Base, Contract, Digest, UnitTable, complete, read_complete

BASE = Base(contract=Contract(manifest="m", index="i"), views=3, objects={"zarr.json": Digest(7, "ab" * 32)})
LENGTHS = st.sampled_from([0, 1, 9, 10, 123_456, 10**15 - 1]) | st.integers(0, 10**15 - 1)
UNITS = st.integers(1, 4).flatmap(
    lambda per_unit: st.lists(
        st.lists(st.tuples(LENGTHS, st.binary(min_size=32, max_size=32)), min_size=per_unit, max_size=per_unit),
        min_size=1,
        max_size=5,
    )
)


def text_of(units: Any) -> bytes:
    """As JSON writes it."""
    return json.dumps(
        [[f"{length} {digest.hex()}" for length, digest in unit] for unit in units], separators=(",", ":")
    ).encode()


@settings(max_examples=40, deadline=None)
@given(UNITS, st.sampled_from([1, 2, 1 << 16]))
def test_what_is_written_is_read(units: Any, block: int) -> None:
    before, digests.BLOCK = digests.BLOCK, block
    try:
        found = read_units(memoryview(text_of(units)), len(units[0]))
    finally:
        digests.BLOCK = before
    assert found is not None
    flat = [pair for unit in units for pair in unit]
    assert found[0].tolist() == [length for length, _ in flat]
    assert [row.tobytes() for row in found[1]] == [digest for _, digest in flat]


@settings(max_examples=300, deadline=None)
@given(UNITS, st.data())
def test_a_changed_text_is_read_as_json_reads_it_or_not_at_all(units: Any, data: st.DataObject) -> None:
    text = bytearray(text_of(units))
    at, kind = data.draw(st.integers(0, len(text) - 1)), data.draw(st.sampled_from(["replace", "insert", "remove"]))
    byte = data.draw(st.sampled_from(b'0123456789abcdefAF" ,[]{}\\-+.\n\x00\xff'))
    text[at : at + (kind != "insert")] = b"" if kind == "remove" else bytes([byte])
    per_unit = data.draw(st.sampled_from([len(units[0]), 1, 2]))
    if (found := read_units(memoryview(text), per_unit)) is None:
        return
    expected = json.loads(text)
    assert json.dumps(expected, separators=(",", ":")).encode() == text
    assert {len(unit) for unit in expected} == {per_unit}
    pairs = zip(found[0].tolist(), found[1], strict=True)
    assert [f"{length} {row.tobytes().hex()}" for length, row in pairs] == [said for unit in expected for said in unit]


@pytest.fixture(scope="module")
def whole() -> bytes:
    table = UnitTable(BASE.views, 4, ["argmax", "crc"])
    for number, unit in enumerate(table.missing()):
        table[unit] = [Digest(10**number, canonical.sha256(bytes([number, at]))) for at in range(2)]
    data = complete(BASE, table)
    base, read = read_complete(data)
    assert base == BASE and read.missing() == [] and read.texts() == table.texts()
    assert [read[unit] for unit in read.finished()] == [table[unit] for unit in table.finished()]
    assert read.total_lengths() == table.total_lengths() and Unit(2, 3) in read
    return data


def test_no_byte_may_change(whole: bytes) -> None:
    for at in range(len(whole)):
        for byte in {whole[at] ^ 1, ord("0"), ord('"')} - {whole[at]}:
            with pytest.raises((NotCanonicalError, StoreError)):
                read_complete(whole[:at] + bytes([byte]) + whole[at + 1 :])
    for data in (b"", whole[:-1], whole + b"\n", whole + whole, b" " + whole):
        with pytest.raises(NotCanonicalError):
            read_complete(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": []}, "it does not list 3 × 4 units"),
        ({"units": [["1 " + "ab" * 32, "1 " + "ab" * 32]] * 11}, "it does not list 3 × 4 units"),
        ({"units": [["01 " + "ab" * 32, "1 " + "ab" * 32]] * 12}, "it does not list 3 × 4 units"),
        ({"units": [["1 " + "AB" * 32, "1 " + "ab" * 32]] * 12}, "it does not list 3 × 4 units"),
        ({"units": [[1, "1 " + "ab" * 32]] * 12}, "it does not list 3 × 4 units"),
        ({"units": {"0": []}}, "it does not list 3 × 4 units"),
        ({"arrays": []}, "it has no arrays, runs and units"),
        ({"arrays": ["argmax"]}, "it does not list 3 × 4 units"),
        ({"runs": 2**40}, "it does not list 3 × 1099511627776 units"),
        ({"runs": 0}, "it has no arrays, runs and units"),
        ({"runs": True}, "it has no arrays, runs and units"),
        ({"more": 1}, "it has no arrays, runs and units"),
        ({"zzz": ',"units":'}, "it does not list 3 × 4 units"),
        ({"base": {**BASE.record(), ',"units":': 1}}, "it has other fields"),
        ({"format": {"name": "of tomorrow", "version": 9}}, "of tomorrow|version 9"),
    ],
)
def test_a_right_seal_on_something_else_does_not_help(whole: bytes, change: dict[str, Any], message: str) -> None:
    record = {**canonical.unseal(whole), **change}
    with pytest.raises((NotCanonicalError, StoreError), match=message):
        read_complete(canonical.seal(record))


def test_reading_keeps_forty_bytes_an_object() -> None:
    found = read_units(memoryview(text_of([[(5, bytes(32))]] * 1000)), 1)
    assert found is not None and sum(array.nbytes for array in found) == 40_000
    assert found[0].dtype == np.int64
