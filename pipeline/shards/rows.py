"""Is a row in its shard still what it was when it was indexed?

An image is held to its crc32c, and once to its class, when it is read (`payload_of`). But a training reads the last
image after an epoch, and a labelling that has nothing left to do reads none: so whoever opens an index that a store
carries looks at the classes of some thousand rows first, evenly spread, without their images (`require_unchanged`); and
the names that stand beside the shards must be those of the index. Shards at URLs are left to the reading of their rows:
a look would fetch them.

How is the class of one row found, if the shard is not read from end to end? The members of a row stand next to each
other, around its image. So its class is in what lies between the image before it and the image after it, a few hundred
bytes as a rule:

    … image of row r-1 | rest of r-1, what of r goes before its image | image of row r | rest of r, what of r+1 … | …
                       before                                         image                                      after

A glance at the names and sizes in there finds the class of a plain tar in a few microseconds. Where that is not the
class that is expected, the headers are walked as strictly as a scan does, and what that finds holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

import google_crc32c
import numpy as np

from pipeline.errors import MismatchError, ShardError
from pipeline.remote.client import is_remote
from pipeline.shards.files import ShardFiles
from pipeline.shards.index import SampleIndex
from pipeline.shards.samples import samples_between
from pipeline.shards.sidecars import class_names_beside
from pipeline.shards.tar import BLOCK, TarMember
from pipeline.shards.truth import LabelRule, brief
from pipeline.spread import firsts

MOST = 8192
"""Rows that are looked at when an index is opened: a second's work at most"""
AT_ONCE = 8192
"""Bytes that are read of a gap at first: more than the members of a label take as a rule"""
PLAIN_KINDS = b"0\x00"


class ChangedRowError(ShardError):
    """A row says another class than it did when it was indexed, or nothing that can be understood."""


def payload_of(index: SampleIndex, files: ShardFiles, row: int) -> bytes:
    """The bytes of a row's image, once they and, at the first time, its class are what they were when indexed."""
    shard = int(index.shard_of(row))
    data = files.read(shard, int(index.offsets[row]), int(index.lengths[row]))
    found, known = google_crc32c.value(data), int(index.payload_crc[row])
    if found != known:
        raise ShardError(
            f"{files.urls[shard]}: the image of row {row} ({index.key(row)!r}) has crc32c {found:08x}, and had "
            f"{known:08x} when it was indexed: the shard was changed or damaged. Restore it."
        )
    require_class_once(index, files, row)
    return data


def require_class_once(index: SampleIndex, files: ShardFiles, row: int) -> None:
    """Refuse, at the first time, a row whose class in its shard is no longer the one that was indexed."""
    if files.first_time(row):
        require_class(index, files, row)


def require_class(index: SampleIndex, files: ShardFiles, row: int) -> None:
    """Refuse a row whose class in its shard is no longer the one that was indexed; its image is not read."""
    place, known = RowBytes.of(index, row), int(index.classes[row])
    found = class_at(files, place, index.label_rule, known)
    if found != known:
        raise ChangedRowError(
            f"{files.urls[place.shard]}: row {row} ({place.key!r}) has {_class_text(found, index.class_names)}, and "
            f"had {_class_text(known, index.class_names)} when it was indexed: the shard was changed. Restore it, or "
            "label these shards anew under another --out."
        )


def _class_text(number: int, names: tuple[str, ...] | None) -> str:
    return "no class" if number < 0 else f"class {number}{f' ({names[number]})' if names else ''}"


def require_unchanged(index: SampleIndex, *, most: int = MOST) -> None:
    """Refuse shards in which classes, or their names, are not those that were indexed."""
    require_names(index)
    for error in changed_rows(index, most):
        raise error


def changed_rows(index: SampleIndex, most: int | None = None) -> Iterator[ChangedRowError]:
    """What is wrong with each row whose class is another now; `most` rows are looked at, or all of them."""
    far = np.array([is_remote(url) for url in index.urls])
    rows = range(len(index)) if most is None else firsts(len(index), most).tolist()
    with index.files() as files:
        for row in rows:
            if not far[index.shard_of(row)]:
                try:
                    require_class(index, files, row)
                except ChangedRowError as error:
                    yield error


def require_names(index: SampleIndex) -> None:
    """Refuse a classes.json beside the shards that names other classes than it did."""
    if index.class_names is None or any(map(is_remote, index.urls)):
        return
    beside = class_names_beside(index.urls)
    if beside is not None and beside != index.class_names:
        raise MismatchError(
            f"classes.json beside {index.urls[0]} names {brief(beside)}, the store was made when it named "
            f"{brief(index.class_names)}. Restore it, or label these shards anew under another --out."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBytes:
    """Where in its shard the bytes of a row lie, and those of its neighbours."""

    shard: int
    key: str
    before: int
    """The end of the image before it; 0 where there is none"""
    image: int
    """Its own image"""
    length: int
    after: int
    """The image after it, or the end of the shard"""

    @classmethod
    def of(cls, index: SampleIndex, row: int) -> RowBytes:
        """Where a row of an index stands: its image, and the images around it."""
        shard = int(index.shard_of(row))
        first, last = (int(start) for start in index.shard_starts[shard : shard + 2])
        return cls(
            shard=shard,
            key=index.key(row),
            before=0 if row == first else int(index.offsets[row - 1] + index.lengths[row - 1]),
            image=int(index.offsets[row]),
            length=int(index.lengths[row]),
            after=int(index.shard_sizes[shard]) if row + 1 == last else int(index.offsets[row + 1]),
        )

    def gaps(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The two stretches in which the row's other members lie: before its image, and after it."""
        own_end = self.image + self.length
        return (-(-self.before // BLOCK) * BLOCK, self.image), (-(-own_end // BLOCK) * BLOCK, self.after)


def class_at(files: ShardFiles, place: RowBytes, rule: LabelRule, expected: int) -> int:
    """The class that the shard says now; a ShardError where it cannot be made out."""
    windows = [_Window(files, place.shard, start, stop) for start, stop in place.gaps()]
    if _glance(windows, place.key, rule) == expected:
        return expected
    return _walk(windows, place, rule)


class _Window:
    """A stretch of a shard as a file, of which the first bytes are at hand."""

    def __init__(self, files: ShardFiles, shard: int, start: int, stop: int) -> None:
        self.files, self.shard, self.start, self.stop = files, shard, start, stop
        self.data = files.read(shard, start, max(0, min(stop - start, AT_ONCE)))
        self.at = start

    def seek(self, position: int) -> None:
        self.at = position

    def read(self, count: int) -> bytes:
        first = self.at - self.start
        if first >= 0 and first + count <= len(self.data):
            return self.data[first : first + count]
        return self.files.read(self.shard, self.at, count)

    def member(self, member: TarMember, limit: int) -> bytes:
        if member.size > limit:
            raise ValueError(f"{member.name!r} has {member.size:,} bytes; {limit:,} are allowed")
        self.seek(member.offset)
        return self.read(member.size)


def _glance(windows: list[_Window], key: str, rule: LabelRule) -> int | None:
    """The class, if all headers are plain ones and at hand."""
    fields: dict[str, TarMember] = {}
    wanted = f"{key}.".encode()
    try:
        for window in windows:
            data, at = window.data, 0
            if len(data) < window.stop - window.start:
                return None
            while at < len(data) and data[at]:
                if data[at + 156] not in PLAIN_KINDS or data[at + 345]:
                    return None
                name, size = data[at : at + 100].split(b"\0", 1)[0], int(data[at + 124 : at + 136].rstrip(b" \0"), 8)
                if name.startswith(wanted):
                    offset = window.start + at + BLOCK
                    fields[name[len(wanted) :].decode().lower()] = TarMember(name=key, offset=offset, size=size)
                at += BLOCK + -(-size // BLOCK) * BLOCK
        return rule.class_of(fields, windows[0].member)
    except (ValueError, IndexError):
        return None


def _walk(windows: list[_Window], place: RowBytes, rule: LabelRule) -> int:
    """The same by the strict reader."""
    files, url, fields = windows[0].files, windows[0].files.urls[place.shard], dict[str, TarMember]()
    for window in windows:
        file, size = cast(BinaryIO, window), files.size_of(place.shard)
        fields |= samples_between(file, url, size, window.start, window.stop).get(place.key, {})
    try:
        return rule.class_of(fields, windows[0].member)
    except ValueError as error:
        raise ChangedRowError(
            f"{url}: sample {place.key!r}: {error}: the shard was changed since it was indexed. Restore it."
        ) from None
