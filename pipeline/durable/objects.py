"""How do bytes get under a name so that they are either there, whole and for good, or not there at all?

Whatever instant a `put` is killed at, the name holds the old bytes, the new bytes, or nothing; a temporary name that
stays behind can be told by its form, and is swept by the store. `pipeline.durable.local` does that with the files of a
directory, `pipeline.durable.s3` with the objects of a bucket.

`Objects` is all that a store asks of its medium. A medium that keeps these promises takes one line in `open_objects`;
tests/pipeline/durable/test_conformance.py holds each medium to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from pipeline.durable.local import LocalObjects
from pipeline.durable.writer_lock import Seat, Writer
from pipeline.errors import StoreError

_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{16}")


class Objects(Protocol):
    """Named bytes under one root. Keys are relative, with slashes."""

    @property
    def name(self) -> str:
        """Where the objects are, as a user names it: a path or a URL."""
        ...

    @property
    def folder(self) -> Path | None:
        """The directory that one rename moves with all objects; None on a medium that cannot rename."""
        ...

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes of every object whose key starts with `prefix` (a directory, or nothing), in the order of the keys."""
        ...

    def get(self, key: str, limit: int) -> bytes:
        """The bytes of an object; KeyError where there is none; StoreError where it holds more than `limit`."""
        ...

    def get_many(self, keys: Iterable[str], limit: int) -> Iterator[tuple[str, bytes | None]]:
        """Each key with its bytes, in the order of `keys`; None where there is none, StoreError as in `get`.

        For many small objects: where each takes a journey, several are read at once and ahead of what is asked for.
        """
        ...

    def put(self, key: str, data: bytes) -> None:
        """Put these bytes under the key, atomically and durably, in place of any others."""
        ...

    def put_new(self, key: str, data: bytes) -> bool:
        """Put these bytes under the key if there is nothing yet; False where there is."""
        ...

    def delete(self, key: str) -> None:
        """Take an object away for good; that there is none is no error."""
        ...

    def lock(self) -> AbstractContextManager[None]:
        """Be the one writer, or a StoreError as soon as it is sure that another is."""
        ...

    def seat(self) -> Seat:
        """The right to write this store beside others (`writer_lock`), which the caller has yet to take."""
        ...

    def writers(self) -> list[Writer]:
        """Those who write, as they told of themselves, and whoever was killed while it did. It takes no lock."""
        ...


def open_objects(where: str | Path) -> Objects:
    """The objects at a path, or at an s3:// URL (which a `Path` writes with one slash)."""
    place = re.sub(r"^(s3a?):/+", r"\1://", str(where))
    if place.startswith(("s3://", "s3a://")):
        from pipeline.durable.s3 import S3Objects  # here, because most runs never need it

        return S3Objects(place)
    if "://" in place:
        raise StoreError(f"{where}: label stores are kept on a file system or in S3. Give a path, or s3://bucket/name.")
    return LocalObjects(Path(where))


def is_temporary(key: str) -> bool:
    """Whether a key is the name under which an unfinished `put` lies."""
    return _TEMPORARY.fullmatch(key.rpartition("/")[2]) is not None
