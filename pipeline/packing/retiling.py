"""How do shards that there are become tiled ones, with nothing else changed?

Each tar is copied, header by header and byte for byte; only the image of a sample that can be tiled
(`pipeline.packing.tiled`) is put in its place, and the size and the checksum in its header are written anew. So keys,
classes, names, their order and all other members stay as they are. The folder appears whole, under the names of the
shards, with a ``pack.json`` that has the digest of each, and with the ``classes.json`` of the old ones.

The *fingerprint* is the sha256 of all that decides the bytes: tiling the same again finds it and does nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from pipeline.durable.file import json_text
from pipeline.durable.folder import LOCK, claimed
from pipeline.errors import ShardError
from pipeline.packing.out_folder import is_finished
from pipeline.packing.tiled import tiled
from pipeline.packing.writing import PackSpeed, write_pieces
from pipeline.pictures.jpeg_tiling import SPAN, SPANS
from pipeline.processes.ordered_map import ordered_map
from pipeline.progress import Progress
from pipeline.remote.client import is_remote
from pipeline.shards.files import local_path
from pipeline.shards.samples import IMAGE_FIELDS, MAX_PAYLOAD, Sample, samples
from pipeline.shards.sidecars import (
    CLASSES_FILE,
    PACK_FILE,
    ShardSummary,
    class_names_beside,
    classes_json,
    digests_beside,
)
from pipeline.shards.tar import BLOCK, TarMember

FORMAT = 1
COPIED = 1 << 20
SIZE, CHECKSUM = slice(124, 136), slice(148, 156)
"""Fields of a tar's header"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileSummary:
    """What the pack.json beside tiled shards says: of which pictures, in which shards."""

    fingerprint: str
    images: int
    whole: dict[str, int]
    """Pictures that could not be tiled, by the reason."""
    shards: tuple[ShardSummary, ...]

    def to_json(self) -> bytes:
        """The text of pack.json: sorted, and without times and places."""
        shards = {
            shard.name: {"bytes": shard.bytes, "rows": shard.rows, "sha256": shard.sha256} for shard in self.shards
        }
        record = {**asdict(self), "shards": shards, "options": {"tiled": True}}
        return json_text(record, escaped=True).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A shard that is to be copied: from where, and to where."""

    url: str
    sha256: str | None
    """What pack.json says of it."""
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What became known of a shard while it was copied."""

    sha256: str
    """Of the old one."""
    summary: ShardSummary
    whole: Counter[str]


def retile(urls: Sequence[str], out: Path, *, speed: PackSpeed | None = None) -> TileSummary:
    """Make `out` the tiled shards of these, or find that it already is."""
    speed = speed or PackSpeed()
    names = [_name_of(url) for url in urls]
    _require_apart(urls, names, out)
    known, classes = digests_beside(urls), class_names_beside(urls)
    if is_finished(out):
        return _found_finished(urls, names, out, classes)
    with claimed(out) as staging:
        if is_finished(out):  # by another process meanwhile
            return _found_finished(urls, names, out, classes)
        jobs = [
            Job(url=url, sha256=known.get(url), path=staging.path / name) for url, name in zip(urls, names, strict=True)
        ]
        try:
            copied = list(_each(jobs, speed))
            summary = TileSummary(
                fingerprint=fingerprint(names, [shard.sha256 for shard in copied], classes),
                images=sum(shard.summary.rows for shard in copied),
                whole=dict(sum((shard.whole for shard in copied), Counter())),
                shards=tuple(shard.summary for shard in copied),
            )
            if classes is not None:
                staging.write(CLASSES_FILE, classes_json(classes))
            staging.write(PACK_FILE, summary.to_json())
            staging.finish()
        except OSError as error:
            what = error.strerror or str(error)
            raise ShardError(f"{out} cannot be written: {what}. Nothing was kept; mend that and run again.") from error
    return summary


def fingerprint(
    names: Sequence[str], digests: Sequence[str], classes: Sequence[str] | None, *, span: int = SPAN
) -> str:
    """The sha256 of the old shards' names and digests, and of how they are tiled."""
    record = {"format": FORMAT, "span": span, "shards": list(zip(names, digests, strict=True)), "classes": classes}
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def copy_tiled(job: Job) -> Copied:
    """Write the tiled copy of one shard, and flush it to disk."""
    try:
        with local_path(job.url).open("rb") as file:
            found = _digest_of(file)
            if job.sha256 not in (None, found):
                raise ShardError(
                    f"{job.url} is not as it was packed: its sha256 is {found[:12]}…, pack.json says "
                    f"{str(job.sha256)[:12]}…. Restore the shard or pack again; delete pack.json to accept it as it is."
                )
            copy = _Copy(file, job.url, os.fstat(file.fileno()).st_size)
            summary = write_pieces(job.path, 0, copy.pieces())
    except OSError as error:
        raise ShardError(f"{job.url} cannot be tiled: {error.strerror or error}.") from error
    summary = ShardSummary(name=summary.name, rows=copy.rows, bytes=summary.bytes, sha256=summary.sha256)
    return Copied(sha256=found, summary=summary, whole=copy.whole)


class _Copy:
    """The bytes of a tar with its images tiled, and what was found on the way."""

    def __init__(self, file: BinaryIO, url: str, size: int) -> None:
        self.file, self.url, self.size = file, url, size
        self.rows, self.whole = 0, Counter[str]()

    def pieces(self) -> Iterator[bytes]:
        """The bytes of the copy in order: tiled images, and what lies between them as it was."""
        place = 0
        for sample in samples(self.file, self.url, self.size):
            image = _image_of(sample)
            if image is None:
                continue
            self.rows += 1
            head, payload, reason = self._tiled(image)
            if reason is not None:
                self.whole[reason] += 1
                continue
            yield from self._between(place, image.offset - BLOCK)
            yield head
            yield payload + bytes(-len(payload) % BLOCK)
            place = image.offset + image.size + -image.size % BLOCK
        yield from self._between(place, self.size)

    def _tiled(self, image: TarMember) -> tuple[bytes, bytes, str | None]:
        """Header and data of a member; or why it stays."""
        if image.size > MAX_PAYLOAD:
            return b"", b"", "large"
        self.file.seek(image.offset - BLOCK)
        block = self.file.read(BLOCK + image.size)
        made = tiled(block[BLOCK:])
        head = _resized(block[:BLOCK], image.size, len(made.payload))
        return head or b"", made.payload, made.whole or (None if head else "its size stands in a pax header")

    def _between(self, start: int, stop: int) -> Iterator[bytes]:
        while start < stop:
            self.file.seek(start)
            data = self.file.read(min(COPIED, stop - start))
            if not data:
                raise ShardError(f"{self.url} ends early: it is being written, or was cut while it was read.")
            yield data
            start += len(data)


def _image_of(sample: Sample) -> TarMember | None:
    """The image that a scan takes; None where it takes none or refuses the sample."""
    found = [name for name in sample.fields if name in IMAGE_FIELDS]
    found = found or [name for name in sample.fields if name.rpartition(".")[2] in IMAGE_FIELDS]
    return sample.fields[found[0]] if len(found) == 1 else None


def _resized(header: bytes, old: int, new: int) -> bytes | None:
    """A member's header with another size; None where the size does not stand in it as usual."""
    if header[SIZE] not in (b"%011o\0" % old, b"%011o " % old, b"%012o" % old):
        return None
    block = bytearray(header)
    block[SIZE], block[CHECKSUM] = b"%011o\0" % new, b" " * 8
    block[CHECKSUM] = b"%06o\0 " % sum(block)
    return bytes(block)


def _digest_of(file: BinaryIO) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _name_of(url: str) -> str:
    """What the shard is called in a folder."""
    if not is_remote(url):
        return Path(url).name
    name = url.partition("?")[0].rpartition("/")[2]
    return unquote(name) if url.startswith(("http://", "https://")) else name


def _require_apart(urls: Sequence[str], names: Sequence[str], out: Path) -> None:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise ShardError(f"two of the shards are called {twice}, and would lie in one folder. Tile each folder alone.")
    for url, name in zip(urls, names, strict=True):
        if "/" in name or name in ("", ".", "..", LOCK, PACK_FILE, CLASSES_FILE):
            raise ShardError(f"{url}: a shard cannot be called {name!r}. Give it another name.")
        if not is_remote(url) and Path(url).resolve().parent == out.resolve():
            raise ShardError(f"--out {out} is the folder of {name} itself. Name a new folder.")


def _each(jobs: Sequence[Job], speed: PackSpeed) -> Iterator[Copied]:
    with Progress("tile", len(jobs), "shards", shown=speed.progress) as progress:
        rows = 0
        for copied in ordered_map(copy_tiled, jobs, workers=min(speed.workers, len(jobs))):
            yield copied
            rows += copied.summary.rows
            progress.advance(note=f"{rows:,} images")


def _found_finished(urls: Sequence[str], names: Sequence[str], out: Path, classes: Sequence[str] | None) -> TileSummary:
    """What is there already, once it is what this run would make."""
    summary = _read(out)
    digests = [_local_digest(local_path(url)) for url in urls]
    if summary.fingerprint not in (fingerprint(names, digests, classes, span=span) for span in SPANS):
        raise ShardError(f"{out} was tiled from other shards. Remove it, or choose another --out.")
    for shard in summary.shards:
        if _local_digest(out / shard.name) != shard.sha256:
            raise ShardError(f"{out / shard.name} is not as it was tiled. Remove {out}, and tile again.")
    (out / LOCK).unlink(missing_ok=True)  # of a run that was killed in its very last step
    return summary


def _read(out: Path) -> TileSummary:
    """What the pack.json in a folder says; it must be as `to_json` writes it."""
    data = (out / PACK_FILE).read_bytes()
    try:
        content = json.loads(data)
        content.pop("options")
        shards = tuple(ShardSummary(name=name, **entry) for name, entry in content["shards"].items())
        summary = TileSummary(**{**content, "shards": shards})
        same = summary.to_json() == data
    except (TypeError, KeyError, AttributeError, ValueError):
        same = False
    if not same:
        raise ShardError(f"{out} holds shards that were not made by tiling others. Choose another --out.")
    return summary


def _local_digest(path: Path) -> str:
    """The sha256 of a file; empty where there is none."""
    try:
        with path.open("rb") as file:
            return _digest_of(file)
    except OSError:
        return ""
