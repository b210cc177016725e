"""Which class does one row have in its shard now, if the shard is not read from end to end?

The members of a row stand next to each other, around its image. So its class is in what lies between the image before
it and the image after it, a few hundred bytes as a rule:

    … image of row r-1 | rest of r-1, what of r goes before its image | image of row r | rest of r, what of r+1 … | …
                       before                                         image                                      after

A glance at the names and sizes in there finds the class of a plain tar in a few microseconds. Where that is not the
class that is expected, the headers are walked as strictly as a scan does, and what that finds holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, cast

from pipeline.errors import ShardError
from pipeline.shards.files import ShardFiles
from pipeline.shards.samples import samples_between
from pipeline.shards.tar import BLOCK, TarMember
from pipeline.shards.truth import LabelRule

AT_ONCE = 8192
"""Bytes that are read of a gap at first: more than the members of a label take as a rule"""
PLAIN_KINDS = b"0\x00"


class ChangedRowError(ShardError):
    """A row says another class than it did when it was indexed, or nothing that can be understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a row stands in its shard, in bytes."""

    shard: int
    key: str
    before: int
    """The end of the image before it; 0 where there is none"""
    image: int
    """Its own image"""
    length: int
    after: int
    """The image after it, or the end of the shard"""

    def gaps(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """From where headers begin, to where the next image does."""
        own_end = self.image + self.length
        return (-(-self.before // BLOCK) * BLOCK, self.image), (-(-own_end // BLOCK) * BLOCK, self.after)


def class_at(files: ShardFiles, place: Place, rule: LabelRule, expected: int) -> int:
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


def _walk(windows: list[_Window], place: Place, rule: LabelRule) -> int:
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
