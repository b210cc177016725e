"""How is a record written so that one value has exactly one text, and a changed byte is noticed?

Canonical JSON: keys sorted, no spaces, ASCII, one final newline. What is read must be, byte for byte, what would be
written; so a change that leaves the value alone (a space, an order of keys) does not pass either. A *sealed* record
also carries the SHA-256 of itself without that field, so damage is told from a record that says something else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pipeline.errors import first_line

SEAL = "sha256"


class NotCanonicalError(ValueError):
    """Bytes that are not the canonical text of any record."""


def one_line(value: object) -> bytes:
    """The canonical JSON of a value as ASCII bytes, without the newline that ends a file."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def dump(value: object) -> bytes:
    """The bytes of a value as canonical JSON, of which there is one text alone, with a newline at the end."""
    return one_line(value) + b"\n"


def load(data: bytes) -> dict[str, Any]:
    """The record that these bytes are the canonical text of; NotCanonicalError where they are that of none."""
    try:
        value = json.loads(data.decode("ascii"))
        same = isinstance(value, dict) and dump(value) == data
    except (ValueError, RecursionError) as error:
        raise NotCanonicalError(f"not JSON as this program writes it ({first_line(error, 80)})") from error
    if not same:
        raise NotCanonicalError("JSON, but not the bytes that this program writes for it")
    return dict(value)


def seal(record: Mapping[str, object]) -> bytes:
    """The canonical text of a record that also holds the SHA-256 of itself without that field."""
    assert SEAL not in record
    return dump({**record, SEAL: sha256(dump(record))})


def unseal(data: bytes) -> dict[str, Any]:
    """The record of a sealed text, without its digest; NotCanonicalError where the digest does not fit."""
    record = load(data)
    if record.pop(SEAL, None) != sha256(dump(record)):
        raise NotCanonicalError("its own digest does not fit what it says")
    return record


def sha256(data: bytes | memoryview) -> str:
    """The SHA-256 of some bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
