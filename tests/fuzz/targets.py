"""What parses bytes from outside, as functions of bytes that may raise nothing but the named errors.

    tar       the walk over a tar's headers
    index     the rows of a shard: grouping, labels, image headers
    layout    the root zarr.json; the input is JSON, and is written canonically first, or nothing would get past that
    records   receipts and COMPLETE; likewise, and sealed
    chunks    the object of an array: its index, its chunks
    images    the size and the pixels of a payload, up to a megapixel

`seeds` are sound inputs of each; `mutated` changes one without a fuzzer's knowledge of what was reached.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.durable import canonical
from pipeline.durable.canonical import NotCanonicalError
from pipeline.errors import UserError
from pipeline.pictures import images
from pipeline.shards.samples import _Rows, samples
from pipeline.shards.tar import members
from pipeline.shards.truth import PLAIN
from pipeline.store.arrays import DamagedError
from pipeline.store.layout import Layout, Unit
from pipeline.store.receipts import Base, contract_of, read_complete, read_unit_receipt, unit_keys
from tests import pictures
from tests.faults import memory_disk
from tests.stores import finished, index_of, manifest_of

CORPUS = Path(__file__).parent / "corpus"
NAMED = (UserError, NotCanonicalError, DamagedError)
PIXELS = 1 << 20
INDEX = index_of(20)
MANIFEST = manifest_of(INDEX, "topk:2", unit_rows=16)
LAYOUT = Layout(
    manifest=MANIFEST,
    views=2,
    environment={},
    urls=INDEX.urls,
    class_names=None,
    key_bytes=len(INDEX.key_bytes),
    witnesses=3,
)


def tar(data: bytes) -> None:
    """Walk the archive."""
    found = list(members(io.BytesIO(data), "x.tar", len(data)))
    assert all(m.offset >= 0 and m.offset + m.size <= len(data) for m in found), "a member lies outside"


def index(data: bytes) -> None:
    """Read the rows of a shard."""
    rows = _Rows(url="x.tar", file=io.BytesIO(data), rule=PLAIN)
    for sample in samples(io.BytesIO(data), "x.tar", len(data)):
        rows.add(sample)
    rows.done(len(data))


def layout(data: bytes) -> None:
    """Read a root zarr.json, as it is and as it would be written."""
    with suppress(*NAMED):
        Layout.from_root(data)
    if (record := _record(data)) is not None:
        Layout.from_root(canonical.dump(record)).unit_arrays()


def records(data: bytes) -> None:
    """Read a record in every role that it could be given."""
    for read in (Base.from_bytes, read_complete, contract_of):
        with suppress(*NAMED):
            read(data)
    if (record := _record(data)) is None:
        return
    sealed = canonical.seal({name: value for name, value in record.items() if name != canonical.SEAL})
    for role in (Base.from_bytes, read_complete, contract_of, _unit_receipt):
        with suppress(*NAMED):
            role(sealed)


def _unit_receipt(data: bytes) -> None:
    contract = contract_of(data)
    read_unit_receipt(data, Unit(0, 0), contract, unit_keys(LAYOUT.unit_arrays(), Unit(0, 0)))


def chunks(data: bytes) -> None:
    """Decode an object as a block of each array."""
    for spec in (LAYOUT.unit_arrays()["argmax"], LAYOUT.unit_arrays()["lse"], LAYOUT.index_arrays()["offsets"]):
        with suppress(*NAMED):
            spec.decode(data, 16)


def image(data: bytes) -> None:
    """Decode a payload."""
    width, height = images.size_of(data, max_pixels=PIXELS)
    assert images.decode(data, max_pixels=PIXELS).shape == (height, width, 3)
    images.traits_of(data)


def _record(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
        canonical.dump(value)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "tar": tar, "index": index, "layout": layout, "records": records, "chunks": chunks, "images": image
}  # fmt: skip
JSON = ("layout", "records")


def attempt(target: str, data: bytes) -> None:
    """Run a target; any error that has no name escapes."""
    with suppress(*NAMED):
        TARGETS[target](data)


def seeds(target: str) -> list[bytes]:
    """Sound inputs, and everything that was ever found."""
    kept = sorted((CORPUS / target).glob("*")) if (CORPUS / target).exists() else []
    return [*_sound(target), *(path.read_bytes() for path in kept)]


def _sound(target: str) -> list[bytes]:
    if target == "images":
        return list(pictures.zoo(1, 24, 18).values())
    with memory_disk() as place:
        if target in ("tar", "index"):
            content = [*pictures.sample("a/0", pictures.jpeg(1, 16, 12), 3), *pictures.sample("n" * 120, b"x", None)]
            content += [("a/1.png", pictures.encoded(pictures.scene(1, 8, 8), "PNG")), ("a/1.json", b'{"label": 7}')]
            return [pictures.write_tar(place / f"{f}.tar", content, f).read_bytes() for f in (1, 2)]
        finished(place / "store.zarr", MANIFEST, INDEX, 2)
        keys = {
            "layout": ["zarr.json"],
            "records": ["COMPLETE", "receipts/base.json", "receipts/0/0.json"],
            "chunks": ["argmax/c.0.0", "lse/c.0.0.0", "index/offsets/c.0"],
        }[target]
        return [(place / "store.zarr" / key).read_bytes() for key in keys]


def mutated(target: str, data: bytes, generator: np.random.Generator) -> bytes:
    """The input with something else somewhere in it."""
    if target in JSON and generator.random() < 0.8:
        record = _record(data)
        if record is not None:
            return json.dumps(_mutated_value(record, generator)).encode()
    changed = bytearray(data)
    for _ in range(int(generator.integers(1, 5))):
        if not changed:
            break
        at, length = int(generator.integers(len(changed))), int(generator.integers(1, 40))
        match int(generator.integers(6)):
            case 0:
                changed[at] ^= 1 << int(generator.integers(8))
            case 1:
                changed[at : at + length] = generator.bytes(length)
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = changed[at : at + length]
            case 4:
                changed[at : at + length] = bytes([int(generator.choice([0, 48, 255]))]) * length
            case _:
                changed = changed[: int(generator.integers(len(changed)))]
    return bytes(changed)


STRANGE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 3, 2**31, 2**48 - 1, 2**63, 2**64, 10**30, 0.5, 1e308, "", "a", "\x00", "é", "topk:3"),
    *("dense", [], [1], [[]], {}, {"a": 1}, [0.1, 0.2, 0.3], ["a", "a"], "0" * 64, "1 " + "0" * 64),
)


def _mutated_value(value: Any, generator: np.random.Generator) -> Any:
    if isinstance(value, dict) and value and generator.random() < 0.95:
        name = list(value)[int(generator.integers(len(value)))]
        if generator.random() < 0.03:
            return {key: inner for key, inner in value.items() if key != name}
        return {**value, name: _mutated_value(value[name], generator)}
    if isinstance(value, list) and value and generator.random() < 0.9:
        at = int(generator.integers(len(value)))
        return [*value[:at], _mutated_value(value[at], generator), *value[at + 1 :]]
    if type(value) is int and generator.random() < 0.5:
        return value + int(generator.integers(-3, 4))
    return STRANGE[int(generator.integers(len(STRANGE)))]
