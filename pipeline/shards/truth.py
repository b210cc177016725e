"""Where does a sample say which class it is of, and what does it say?

Without a word from the user it is ``cls``, an integer in ASCII, or else ``label`` of ``json``. `--label-key` names
another place: ``class`` is a key of the json, ``.txt`` (with its dot) a field of its own. What stands there is the
number of a class, or, where the classes have names (`--classes`, or classes.json beside the shards), one of the names.
A text of digits is always a number, whatever the classes are called. A sample that says nothing has class -1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pipeline.errors import ShardError
from pipeline.shards.tar import TarMember

MAX_JSON = 1024 * 1024
MAX_NUMBER, MAX_NAME = 64, 4096
"""Bytes of a text that holds a number; and of one that may hold a name"""
MAX_CLASSES = 1 << 20
SHOWN = 5

INTEGER = re.compile(rb"\s*([+-]?[0-9]{1,10})\s*")
FIELD = re.compile(r"\.[a-z0-9_]+(\.[a-z0-9_]+)*")

Fields = Mapping[str, TarMember]
Read = Callable[[TarMember, int], bytes]
"""The bytes of a member, of which so many are allowed"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRule:
    """How the class of a sample is found: where it stands, and which names classes have."""

    key: str | None = None
    """A key of the json, or a field with a dot before it; None for ``cls``, or else ``label`` of the json"""
    names: tuple[str, ...] | None = None
    """What the classes are called, in the order of their numbers"""
    assumed: bool = False
    """Whether the names are those of a student, say, and what stands beside the shards goes before them"""

    def __post_init__(self) -> None:
        if self.key is not None and not (self.key.strip() and (self.key[0] != "." or FIELD.fullmatch(self.key))):
            raise ShardError(
                f"--label-key {self.key!r} names no place. Give a key of the json members, such as class, or a field "
                "with a dot before it, such as .txt."
            )

    def class_of(self, fields: Fields, read: Read) -> int:
        """The class of a sample; a ValueError says what is wrong with it."""
        return self.number_of(self.said(fields, read))

    def said(self, fields: Fields, read: Read) -> int | str:
        """What a sample says: a number, -1 for nothing, or the name of a class."""
        for kind, key in self._places():
            member = one_of(fields, (kind,))
            if member is not None:
                data = read(member, MAX_JSON if key else MAX_NUMBER if self.names is None else MAX_NAME)
                try:
                    return self._in_text(data) if key is None else self._in_json(data, key)
                except ValueError as error:
                    raise ValueError(f"{member.name!r} {error}") from None
        return -1

    def number_of(self, said: int | str) -> int:
        """The number of the class that a sample says, by number or by name; ValueError where there is none."""
        if isinstance(said, str):
            numbers = _numbers(self.names or ())
            if said not in numbers:
                raise ValueError(f"is of class {said[:40]!r}, which is none of the {brief(self.names or ())}")
            return numbers[said]
        if not -1 <= said < MAX_CLASSES:
            raise ValueError(f"has class {said}; -1 (unlabelled) to {MAX_CLASSES - 1:,} are allowed")
        return said

    def _places(self) -> tuple[tuple[str, str | None], ...]:
        if self.key is None:
            return ("cls", None), ("json", "label")
        return ((self.key[1:], None),) if self.key[0] == "." else (("json", self.key),)

    def _in_text(self, data: bytes) -> int | str:
        if match := INTEGER.fullmatch(data):
            return int(match[1])
        if self.names is None:
            named = ". If it is the name of a class, give all names in order by --classes FILE" if data.strip() else ""
            raise ValueError(f"holds {data[:40]!r}, which is no integer{named}")
        return data.decode(errors="replace").strip()

    def _in_json(self, data: bytes, key: str) -> int | str:
        """The class under a key of a JSON object; an object without it (or with null) has none."""
        pairs = _json(data)
        values = [value for name, value in pairs if name == key] if isinstance(pairs, _Pairs) else []
        if len(values) > 1:
            raise ValueError(f"has the key {key!r} {len(values)} times: {str(values)[:60]}")
        value = values[0] if values else None
        if value is None:
            return -1
        if isinstance(value, str) and self.names is not None:
            return value
        if isinstance(value, bool) or not isinstance(value, int):
            named = ". Give the names of the classes in order by --classes FILE" if isinstance(value, str) else ""
            raise ValueError(f"has the {key} {str(value)[:40]!r}, which is no integer{named}")
        return value


@lru_cache(4)
def _numbers(names: tuple[str, ...]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


PLAIN = LabelRule()
"""What holds without a word from the user"""


class _Pairs(list[Any]):
    """A JSON object as its pairs, so that a key that comes twice is seen."""


def _json(data: bytes) -> Any:
    try:
        return json.loads(data, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON: {str(error)[:100]}") from None


def one_of(fields: Fields, kinds: Sequence[str]) -> TarMember | None:
    """The field that is one of `kinds`, or else the only one that ends so."""
    found = [name for name in fields if name in kinds]
    found = found or [name for name in fields if name.rpartition(".")[2] in kinds]
    if len(found) > 1:
        raise ValueError(f"has {len(found)} fields where one is needed: {', '.join(sorted(found))}")
    return fields[found[0]] if found else None


def json_keys(fields: Fields, read: Read) -> set[str]:
    """What the json of a sample without a class has instead, for a message."""
    try:
        member = one_of(fields, ("json",))
        pairs = _json(read(member, MAX_JSON)) if member is not None else ()
    except (ValueError, ShardError):  # this is for a message, and must not refuse anything
        return set()
    return {str(name)[:40] for name, _ in pairs} if isinstance(pairs, _Pairs) else set()


def brief(names: Sequence[str]) -> str:
    """How many names there are, and the first few."""
    return f"{len(names)} classes ({', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''})"
