"""Small stores, how to damage them, and what a run leaves of one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.durable import canonical
from pipeline.store.reader import StoreReader
from pipeline.store.receipts import COMPLETE_KEY
from tests.faults import Calls
from tests.stores import fill, index_of, labels_of, manifest_of, open_writing, same_labels, tree

INDEX = index_of(48)


MANIFEST = manifest_of(INDEX, "topk:2", luma=False, temperatures=(1.0,))


VIEWS = 2


def whole_run(path: Path, *, recheck: bool = False) -> None:
    with open_writing(path, MANIFEST, INDEX, VIEWS, recheck=recheck) as store:
        fill(store)
        store.finish()


def read_everything(path: Path) -> None:
    """What a careful reader does. Raises, or has found what was written."""
    store = StoreReader.open(path)
    assert store.index.digest() == INDEX.digest()
    assert store.manifest == MANIFEST
    assert len(store.witness()) == 3
    for unit in store.layout.units():
        assert same_labels(store.read(unit.view, unit.run), labels_of(MANIFEST, unit))


def files(path: Path) -> list[str]:
    return [key for key in sorted(tree(path)) if not key.endswith("/")]


def vouched_for(path: Path) -> set[str]:
    """The receipts, and what they list: all that may not be lost."""
    kept = set()
    for receipt in (path / "receipts").rglob("*.json"):
        kept |= {str(receipt.relative_to(path)), *json.loads(receipt.read_bytes())["objects"]}
    return kept | {"COMPLETE"}


def lose_the_rest(path: Path, generator: np.random.Generator) -> None:
    """What a crash of the machine does to files that were never flushed."""
    if not path.exists():
        return
    kept = vouched_for(path)
    for key in files(path):
        if key not in kept:
            damage(path / key, str(generator.choice(["leave", "empty", "cut", "zero", "delete"])))


def damage(path: Path, kind: str) -> None:
    data = path.read_bytes()
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "longer":
            path.write_bytes(data + b"\0")
        case "zero":
            path.write_bytes(bytes(len(data)))
        case "flip":
            path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        case "delete":
            path.unlink()


def count_calls(path: Path) -> int:
    with Calls().active() as calls:
        whole_run(path)
    return len(calls.made)


def reseal(path: Path, change: Callable[[dict[str, Any]], None], key: str = COMPLETE_KEY) -> None:
    record = canonical.unseal((path / key).read_bytes())
    change(record)
    (path / key).write_bytes(canonical.seal(record))


def replace_object(path: Path, key: str, data: bytes, *, array: str | None = None, unit: int = 0) -> None:
    """Put another object there, with a COMPLETE that vouches for it."""
    (path / key).write_bytes(data)
    text = f"{len(data)} {canonical.sha256(data)}"

    def change(record: dict[str, Any]) -> None:
        if array is None:
            record["base"]["objects"][key] = text
        else:
            record["units"][unit][record["arrays"].index(array)] = text

    reseal(path, change)
