"""Which rows does one shard hold?

Members are grouped as webdataset groups them: the key is the path up to the first dot of the file's name, the field is
what follows it (``a.b/c.d.jpg`` is key ``a.b/c``, field ``d.jpg``), and the fields of one key stand next to each
other. Names that begin with a dot, have none, or are ``__meta__`` are no samples. A row needs exactly one image field
(jpg, jpeg, png or webp; a field of just that name goes before one that only ends so) and may have a class, which
`pipeline.shards.truth` finds in ``cls`` or ``json``. Without one it has class -1. No other field is read.

The payload of a row is read once: for its crc32c and for the size in its header. Everything lands in flat arrays, so
that a row costs bytes and not objects.

Shapes: R rows.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ImageError, ShardError
from pipeline.pictures.formats import FORMATS
from pipeline.pictures.images import size_of
from pipeline.shards.files import local_path
from pipeline.shards.tar import TarMember, members
from pipeline.shards.truth import PLAIN, LabelRule, json_keys, one_of

IMAGE_FIELDS = tuple(field for known in FORMATS for field in known.fields)
MAX_PAYLOAD = 256 * 1024 * 1024
BUFFER = 1 << 20
SHOWN = 5
HINTS = 20

NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
META = re.compile(r"__[^/]*__($|/)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The members of one key, by field (in lower case)."""

    key: str
    fields: dict[str, TarMember]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRows:
    """The rows of one shard, in order, as arrays [R]; `key_bytes` is all keys one after another."""

    size: int
    key_bytes: NDArray[np.uint8]
    key_lengths: NDArray[np.int64]
    key_hash: NDArray[np.uint64]
    classes: NDArray[np.int32]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    payload_crc: NDArray[np.uint32]
    widths: NDArray[np.int32]
    heights: NDArray[np.int32]
    bad_images: int
    """Rows whose image header cannot be read."""
    bad_examples: tuple[str, ...]
    """The first few of them, with the reason."""
    named: bool = False
    """Whether a class goes by its name, and not by its number."""
    hints: tuple[str, ...] = ()
    """Where the class of rows without one may stand: keys of their json, and their other fields (with a dot)."""


def key_hash(key: str | bytes) -> int:
    """The 64-bit identity that a sample's draws are keyed by: the first bytes of its BLAKE2b digest, little-endian."""
    data = key.encode() if isinstance(key, str) else key
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def key_hashes(keys: Iterable[bytes]) -> NDArray[np.uint64]:
    """The `key_hash` of each of these keys, as one array."""
    return np.fromiter((key_hash(key) for key in keys), np.uint64)


def read_shard(url: str, sha256: str | None = None, rule: LabelRule = PLAIN) -> ShardRows:
    """Read one shard from end to end; with `sha256`, only after the whole file has been held to it."""
    try:
        with io.BufferedReader(local_path(url).open("rb", buffering=0), BUFFER) as file:
            size = os.fstat(file.fileno()).st_size
            if sha256 is not None:
                _require_digest(file, url, sha256)
            rows = _Rows(url=url, file=file, rule=rule)
            for sample in samples(file, url, size):
                rows.add(sample)
            return rows.done(size)
    except OSError as error:
        raise ShardError(f"{url} cannot be read: {error.strerror or error}.") from None


def samples(file: BinaryIO, url: str, size: int) -> Iterator[Sample]:
    """The samples of a shard that is open as `file`, in its order: each a key, and its members by field."""
    named = (_key_and_field(member) for member in members(file, url, size))
    for key, group in itertools.groupby((item for item in named if item is not None), lambda item: item[0]):
        fields: dict[str, TarMember] = {}
        for _, name, member in group:
            if name in fields:
                raise ShardError(f"{url}: sample {key!r} has two members {name!r}. Pack it again with one of each.")
            fields[name] = member
        yield Sample(key=key, fields=fields)


def samples_between(file: BinaryIO, url: str, size: int, start: int, stop: int) -> dict[str, dict[str, TarMember]]:
    """The fields, by key, whose headers stand in a part of a shard; it must begin with a header."""
    found: dict[str, dict[str, TarMember]] = {}
    for item in map(_key_and_field, members(file, url, size, start, stop)):
        if item is not None:
            found.setdefault(item[0], {})[item[1]] = item[2]
    return found


def _key_and_field(member: TarMember) -> tuple[str, str, TarMember] | None:
    match = None if META.match(member.name) else NAME.fullmatch(member.name)
    return (match[1], match[2].lower(), member) if match else None


def _require_digest(file: io.BufferedReader[io.FileIO], url: str, sha256: str) -> None:
    found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ShardError(
            f"{url} is not as it was packed: its sha256 is {found[:12]}…, pack.json says {sha256[:12]}…. "
            "Restore the shard or pack again; delete pack.json to accept the shard as it is."
        )


@dataclass(slots=True, kw_only=True)
class _Rows:
    """Columns that grow, a row at a time."""

    url: str
    file: BinaryIO
    rule: LabelRule
    key_bytes: bytearray = field(default_factory=bytearray)
    key_ends: array[int] = field(default_factory=lambda: array("q", (0,)))
    numbers: array[int] = field(default_factory=lambda: array("q"))
    bad_images: int = 0
    bad_examples: list[str] = field(default_factory=list)
    named: bool = False
    hints: set[str] = field(default_factory=set)

    def add(self, sample: Sample) -> None:
        """Read the payload and the class of one sample."""
        image = self._image_of(sample)
        payload = self._read(sample, image, MAX_PAYLOAD)
        width, height = self._size(sample, payload)
        crc = google_crc32c.value(payload)
        self.key_bytes += sample.key.encode()
        self.key_ends.append(len(self.key_bytes))
        self.numbers.extend((self._class_of(sample), image.offset, image.size, crc, width, height))

    def done(self, size: int) -> ShardRows:
        """The rows so far, once no key has come twice."""
        if not self.numbers:
            raise ShardError(
                f"{self.url} holds no samples. A sample is an image such as 000.jpg with 000.cls beside it."
            )
        classes, offsets, lengths, crcs, widths, heights = np.array(self.numbers, np.int64).reshape(-1, 6).T
        ends = np.array(self.key_ends, np.int64)
        hashes = key_hashes(self._key(row) for row in range(len(classes)))
        self._require_distinct(hashes)
        return ShardRows(
            size=size,
            key_bytes=np.array(self.key_bytes, np.uint8),
            key_lengths=ends[1:] - ends[:-1],
            key_hash=hashes,
            classes=classes.astype(np.int32),
            offsets=offsets.copy(),
            lengths=lengths.copy(),
            payload_crc=crcs.astype(np.uint32),
            widths=widths.astype(np.int32),
            heights=heights.astype(np.int32),
            bad_images=self.bad_images,
            bad_examples=tuple(self.bad_examples),
            named=self.named,
            hints=tuple(sorted(self.hints)),
        )

    def _key(self, row: int) -> bytes:
        return bytes(self.key_bytes[self.key_ends[row] : self.key_ends[row + 1]])

    def _require_distinct(self, hashes: NDArray[np.uint64]) -> None:
        order = np.argsort(hashes, kind="stable")
        same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        for first, second in zip(order[same], order[same + 1], strict=True):
            if self._key(first) == self._key(second):
                raise ShardError(
                    f"{self.url}: the key {self._key(first).decode()!r} comes twice (samples {first} and {second}): "
                    "the shard was joined wrongly, or its members are not next to each other. Pack it again."
                )

    def _image_of(self, sample: Sample) -> TarMember:
        try:
            image = one_of(sample.fields, IMAGE_FIELDS)
        except ValueError as error:
            raise self._error(sample, str(error)) from None
        if image is None:
            found = ", ".join(sorted(sample.fields)[:10])
            raise self._error(sample, f"has no image (only: {found}); one of {', '.join(IMAGE_FIELDS)} is needed")
        return image

    def _read(self, sample: Sample, member: TarMember, limit: int) -> bytes:
        if member.size > limit:
            raise self._error(sample, f"{member.name!r} has {member.size:,} bytes; {limit:,} are allowed")
        self.file.seek(member.offset)
        data = self.file.read(member.size)
        if len(data) != member.size:
            raise self._error(sample, "ends early: the shard is being written, or was cut while it was read")
        return data

    def _size(self, sample: Sample, payload: bytes) -> tuple[int, int]:
        try:
            return size_of(payload)
        except ImageError as error:
            self.bad_images += 1
            if self.bad_images <= SHOWN:
                self.bad_examples.append(f"{self.url}, {sample.key!r}: {error}")
            return 0, 0

    def _class_of(self, sample: Sample) -> int:
        def read(member: TarMember, limit: int) -> bytes:
            return self._read(sample, member, limit)

        try:
            said = self.rule.said(sample.fields, read)
            number = self.rule.number_of(said)
        except ValueError as error:
            raise self._error(sample, str(error)) from None
        self.named |= isinstance(said, str)
        if number < 0 and len(self.hints) < HINTS:
            others = {f".{name}" for name in sample.fields if name.rpartition(".")[2] not in (*IMAGE_FIELDS, "json")}
            self.hints |= json_keys(sample.fields, read) | others
        return number

    def _error(self, sample: Sample, what: str) -> ShardError:
        return ShardError(f"{self.url}: sample {sample.key!r}: {what}.")
