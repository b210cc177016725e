"""How do image files become shards that are whole, shuffled, and the same bytes every time?

1. Check: every image is read and fully decoded, so that all that cannot be used is known before anything is written.
2. Order: by the blake2b of each key under the seed, which depends on no other image and on no file system.
3. Write: shards of about equal row counts, into a folder beside the target; with `tiled`, payloads whose parts can be
   decoded alone (`pipeline.packing.tiled`).
4. Finish: everything is flushed to disk, ``pack.json`` says what was made, and the folder is renamed into place. A run
   that is killed before that leaves nothing in place, and what it leaves beside it the next run removes.

The *fingerprint* is the sha256 of all that decides the bytes: packing the same again finds it and does nothing.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from pipeline.durable import aside
from pipeline.durable.folder import LOCK, Staging, claimed
from pipeline.durable.local import flush
from pipeline.errors import ImageError, ShardError
from pipeline.packing.out_folder import REJECTED_FILE, is_finished, remove_shards
from pipeline.packing.payloads import Checked, check, measure, payload_of
from pipeline.packing.sources import Source, Sources
from pipeline.packing.tiled import tiled
from pipeline.processes.ordered_map import ordered_map
from pipeline.progress import Progress
from pipeline.shards.sidecars import CLASSES_FILE, PACK_FILE, PackSummary, ShardSummary, classes_json, read_pack
from pipeline.shards.tar import BLOCK

FORMAT = 1
TOGETHER = 16  # images that a worker checks for one message

Row = tuple[Source, Checked]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOptions:
    """The flags that decide what bytes the shards have, beside the images themselves."""

    samples_per_shard: int = 1000
    seed: int = 0
    max_side: int | None = None
    quality: int = 95
    tiled: bool = False

    def record(self) -> dict[str, int | None]:
        """What pack.json says of them: as it was before there was `tiled`, where that is not asked for."""
        return {name: value for name, value in asdict(self).items() if name != "tiled" or value}


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSpeed:
    """With how many processes pictures are read and written, and whether progress is shown: it changes no byte."""

    workers: int = 0
    progress: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardJob:
    """A shard that is to be written: its rows, and where."""

    path: Path
    rows: tuple[Row, ...]
    options: PackOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What became known of a shard while it was written."""

    summary: ShardSummary
    whole: Counter[str]
    """Payloads that could not be tiled, by the reason."""


def pack(
    sources: Sources, out: Path, options: PackOptions, *, skip_bad: bool = False, speed: PackSpeed | None = None,
    rebuild: bool = False,
) -> PackSummary:  # fmt: skip
    """Make `out` the shards of these images, or find that it already is; others are refused, or set aside."""
    speed = speed or PackSpeed()
    look = partial(_look, sources, out, options, skip_bad, speed, rebuild)
    seen = _record(out)
    known, why = look()
    if known is not None:
        return known
    with claimed(out) as staging:
        if _record(out) != seen:  # another process has finished meanwhile
            known, why = look()
        if known is not None:
            return known
        found = _each(partial(check, max_side=options.max_side), "check", sources.images, speed)
        rows = list(zip(sources.images, found, strict=True))
        _require_usable(rows, sources.class_names, skip_bad)
        try:
            written = list(_write(ordered(rows, options.seed), staging.path, options, speed))
            summary = _summary(sources, rows, written, options)
            _write_notes(staging, sources, rows, summary)
            if why is not None:  # only now, when what takes their place is whole
                aside.put_aside(out, why, folders=())
            staging.finish()
        except OSError as error:
            what = error.strerror or str(error)
            raise ShardError(f"{out} cannot be written: {what}. Nothing was kept; mend that and run again.") from error
    aside.keep_one(out, finished=lambda place: (place / PACK_FILE).exists(), remove=remove_shards)
    return summary


def ordered(rows: Iterable[Row], seed: int) -> list[Row]:
    """The rows that can be packed, in the order of a keyed hash of their keys."""
    salt = seed.to_bytes(8, "little")

    def place(row: Row) -> tuple[bytes, str]:
        key = row[0].key
        return hashlib.blake2b(key.encode(), digest_size=16, key=salt).digest(), key

    return sorted((row for row in rows if row[1].problem is None), key=place)


def fingerprint(sources: Sources, found: Iterable[Checked], options: PackOptions) -> str:
    """The sha256 of the images' bytes, keys and classes, and of the options."""
    record = {"format": FORMAT, "options": options.record(), "classes": sources.class_names}
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
    for source, checked in zip(sources.images, found, strict=True):
        digest.update(f"{source.key}\0{source.label}\0{checked.size}\0{checked.crc}\n".encode())
    return digest.hexdigest()


def write_shard(job: ShardJob) -> Written:
    """Write the shard of a job, and flush it to disk."""
    whole: Counter[str] = Counter()
    pieces = itertools.chain(_entries(job, whole), (bytes(2 * BLOCK),))
    return Written(summary=write_pieces(job.path, len(job.rows), pieces), whole=whole)


def write_pieces(path: Path, rows: int, pieces: Iterable[bytes]) -> ShardSummary:
    """Write the bytes of a shard, and flush them to disk."""
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        file.flush()
        flush(file.fileno())
    return ShardSummary(name=path.name, rows=rows, bytes=size, sha256=digest.hexdigest())


def _entries(job: ShardJob, whole: Counter[str]) -> Iterator[bytes]:
    for source, checked in job.rows:
        options = job.options
        payload = payload_of(source.path, checked, max_side=options.max_side, quality=options.quality)
        if options.tiled:
            made = tiled(payload)
            payload = made.payload
            whole.update(filter(None, (made.whole,)))
        for field, data in ((checked.extension, payload), ("cls", b"%d" % source.label)):
            info = tarfile.TarInfo(f"{source.key}.{field}")  # without time and owner: the same bytes everywhere
            info.size = len(data)
            yield info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")
            yield data + bytes(-len(data) % BLOCK)


def _each(
    function: Callable[[str], Checked], name: str, images: Sequence[Source], speed: PackSpeed
) -> Iterator[Checked]:
    """`function` of every image's path, in order."""
    batches = (
        [source.path for source in images[start : start + TOGETHER]] for start in range(0, len(images), TOGETHER)
    )
    with Progress(name, len(images), "images", shown=speed.progress) as progress:
        for some in ordered_map(partial(_each_of, function), batches, workers=speed.workers):
            yield from some
            progress.advance(len(some))


def _each_of(function: Callable[[str], Checked], paths: Sequence[str]) -> list[Checked]:
    return [function(path) for path in paths]


def _write(rows: Sequence[Row], folder: Path, options: PackOptions, speed: PackSpeed) -> Iterator[Written]:
    """Write all shards: as few as the limit allows, of about equal row counts."""
    count = -(-len(rows) // options.samples_per_shard)
    bounds = [number * len(rows) // count for number in range(count + 1)]
    jobs = (
        ShardJob(path=folder / f"{number:06d}.tar", rows=tuple(rows[start:stop]), options=options)
        for number, (start, stop) in enumerate(itertools.pairwise(bounds))
    )
    with Progress("write", len(rows), "images", shown=speed.progress) as progress:
        for written in ordered_map(write_shard, jobs, workers=min(speed.workers, count)):
            yield written
            progress.advance(written.summary.rows)


def _require_usable(rows: Sequence[Row], class_names: tuple[str, ...] | None, skip_bad: bool) -> None:
    """Refuse images that cannot be packed, all by name; with `skip_bad` only a class that would have none left."""
    bad = [f"  {source.name}: {checked.problem}" for source, checked in rows if checked.problem is not None]
    if bad and not skip_bad:
        raise ImageError(
            "\n".join((f"{len(bad)} of {len(rows)} images cannot be packed:", *bad))
            + "\nMend or remove them, or leave them out by --on-bad skip, which lists them in rejected.csv."
        )
    left = {source.label for source, checked in rows if checked.problem is None}
    gone = sorted({source.label for source, _ in rows} - left)
    if gone:
        names = ", ".join(_class_name(label, class_names) for label in gone)
        raise ImageError(f"no image of {names} can be packed:\n" + "\n".join(bad) + "\nMend them, or remove the class.")


def _class_name(label: int, class_names: tuple[str, ...] | None) -> str:
    if label < 0:
        return "unlabelled"
    return class_names[label] if class_names else str(label)


def _summary(sources: Sources, rows: Sequence[Row], written: Sequence[Written], options: PackOptions) -> PackSummary:
    good = [row for row in rows if row[1].problem is None]
    labels = Counter(source.label for source, _ in good)
    return PackSummary(
        fingerprint=fingerprint(sources, (checked for _, checked in rows), options),
        options=options.record(),
        images=len(good),
        unlabelled=labels.pop(-1, 0),
        rejected=len(rows) - len(good),
        remade=dict(Counter(reason for _, checked in good for reason in checked.remade)),
        per_class={_class_name(label, sources.class_names): count for label, count in labels.items()},
        shards=tuple(shard.summary for shard in written),
        whole=dict(sum((shard.whole for shard in written), Counter())) if options.tiled else None,
    )


def _write_notes(staging: Staging, sources: Sources, rows: Sequence[Row], summary: PackSummary) -> None:
    """The small files beside the shards; pack.json last."""
    if sources.class_names is not None:
        staging.write(CLASSES_FILE, classes_json(sources.class_names))
    bad = [(source.name, checked.problem) for source, checked in rows if checked.problem is not None]
    if bad:
        table = io.StringIO(newline="")
        csv.writer(table, lineterminator="\n").writerows([("path", "reason"), *sorted(bad)])
        staging.write(REJECTED_FILE, table.getvalue().encode(errors="backslashreplace"))
    staging.write(PACK_FILE, summary.to_json())


def _record(out: Path) -> bytes | None:
    with suppress(FileNotFoundError, NotADirectoryError):
        return (out / PACK_FILE).read_bytes()
    return None


def _look(
    sources: Sources, out: Path, options: PackOptions, skip_bad: bool, speed: PackSpeed, rebuild: bool
) -> tuple[PackSummary | None, str | None]:
    """What is there already, once it is what this run would make; or, with `rebuild`, why it is to be set aside."""
    if not is_finished(out):
        return None, None
    try:
        return _found_finished(sources, out, options, skip_bad, speed), None
    except ShardError as changed:
        if not rebuild:
            raise
        return None, str(changed)


def _found_finished(sources: Sources, out: Path, options: PackOptions, skip_bad: bool, speed: PackSpeed) -> PackSummary:
    """What is there already, once it is what this run would make."""
    known = read_pack(out)
    if known.options != options.record():
        asked = {name: value for name, value in asdict(options).items() if known.options.get(name, False) != value}
        told = "; ".join(f"{name} {known.options.get(name, False)} against {value}" for name, value in asked.items())
        raise ShardError(f"{out} was packed with other options ({told}). Remove it, or choose another --out.")
    found = fingerprint(sources, _each(measure, "compare", sources.images, speed), options)
    if found != known.fingerprint:
        raise ShardError(
            f"{out} was packed from other images or classes: {known.images + known.rejected:,} images then "
            f"({known.fingerprint[:12]}), {len(sources.images):,} now ({found[:12]}). Remove it, or choose another "
            "--out."
        )
    if known.rejected and not skip_bad:
        raise ImageError(
            f"{out} lacks {known.rejected} images that {REJECTED_FILE} lists. Allow that by --on-bad skip."
        )
    paths = [str(out / shard.name) for shard in known.shards]
    for shard, digest in zip(known.shards, ordered_map(_digest_of, paths, workers=speed.workers), strict=True):
        if digest != shard.sha256:
            raise ShardError(f"{out / shard.name} is not as it was packed. Remove {out}, and pack again.")
    (out / LOCK).unlink(missing_ok=True)  # of a run that was killed in its very last step
    return known


def _digest_of(path: str) -> str:
    """The sha256 of a file; empty where there is none."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
