"""Which row is which: its shard, its key, its class, where its payload lies, and how to know that it is still the same?

One scan reads every shard from end to end (`pipeline.samples`, in as many processes as asked for; the result does not
depend on them) and joins what it finds, in the order of the shards, into a few flat arrays: 14 million rows are 14
million entries in each, and no objects. Row r is entry r; the rows of shard s are ``shard_starts[s]`` up to
``shard_starts[s + 1]``; the key of row r is ``key_bytes[key_starts[r]:key_starts[r + 1]]``.

An index may also come out of a store that somebody else wrote, so every index is checked when it is made: types,
lengths, order, and that every payload lies inside its shard. `digest` names the content without the places of shards.

Shapes: S shards, R rows.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import google_crc32c
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.cache import cache
from pipeline.draws import key_hash
from pipeline.errors import MismatchError, ShardError
from pipeline.images import MAX_PIXELS
from pipeline.packed import class_names_beside, digests_beside, require_class_names
from pipeline.pool import ordered_map
from pipeline.progress import Progress
from pipeline.remote import is_remote
from pipeline.samples import MAX_CLASSES, MAX_PAYLOAD, SHOWN, ShardRows, read_shard
from pipeline.shards import ShardFiles, local_path
from pipeline.tar import MAX_NAME

log = logging.getLogger(__name__)

DTYPES: Mapping[str, np.dtype[Any]] = {
    "shard_sizes": np.dtype("<i8"),
    "shard_starts": np.dtype("<i8"),
    "key_bytes": np.dtype("u1"),
    "key_starts": np.dtype("<i8"),
    "key_hash": np.dtype("<u8"),
    "classes": np.dtype("<i4"),
    "offsets": np.dtype("<i8"),
    "lengths": np.dtype("<i8"),
    "payload_crc": np.dtype("<u4"),
    "widths": np.dtype("<i4"),
    "heights": np.dtype("<i4"),
}
PER_ROW = ("key_hash", "classes", "offsets", "lengths", "payload_crc", "widths", "heights")
MAX_SHARD_BYTES = 1 << 60
HASHES_CHECKED = 1000
FEW_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampleIndex:
    """What is in the shards."""

    ARRAYS: ClassVar[tuple[str, ...]] = tuple(DTYPES)

    urls: tuple[str, ...]
    """Where the shards lie, in order."""
    class_names: tuple[str, ...] | None
    """The name of each class, where they are known."""
    shard_sizes: NDArray[np.int64]
    """[S] bytes of each shard."""
    shard_starts: NDArray[np.int64]
    """[S+1] first row of each shard."""
    key_bytes: NDArray[np.uint8]
    """All keys, UTF-8, one after another."""
    key_starts: NDArray[np.int64]
    """[R+1] where each key begins."""
    key_hash: NDArray[np.uint64]
    """[R] what a row's draws are keyed by."""
    classes: NDArray[np.int32]
    """[R] class number; -1 is unlabelled."""
    offsets: NDArray[np.int64]
    """[R] first byte of the payload in its shard."""
    lengths: NDArray[np.int64]
    """[R] bytes of the payload."""
    payload_crc: NDArray[np.uint32]
    """[R] crc32c of the payload."""
    widths: NDArray[np.int32]
    """[R] pixels; 0 where the header cannot be read."""
    heights: NDArray[np.int32]
    """[R] pixels; 0 where the header cannot be read."""

    def __post_init__(self) -> None:
        for name, dtype in DTYPES.items():
            array = getattr(self, name)
            _require(isinstance(array, np.ndarray) and array.ndim == 1, f"{name} is not one row of numbers")
            _require(array.dtype == dtype, f"{name} is of type {array.dtype}, not {dtype}")
            fixed = np.ascontiguousarray(array).view()
            fixed.flags.writeable = False
            object.__setattr__(self, name, fixed)
        _check_shards(self)
        _check_keys(self)
        _check_payloads(self)
        _check_classes(self)

    def __len__(self) -> int:
        return len(self.classes)

    def key(self, row: int) -> str:
        """The key of a row."""
        return self.key_bytes[self.key_starts[row] : self.key_starts[row + 1]].tobytes().decode()

    def shard_of(self, rows: ArrayLike) -> NDArray[np.int64]:
        """The shard of each row."""
        return np.asarray(np.searchsorted(self.shard_starts, rows, side="right") - 1, np.int64)

    @property
    def num_classes(self) -> int:
        """How many classes there are: as many as have names, or else up to the highest number."""
        return len(self.class_names) if self.class_names else int(self.classes.max()) + 1

    def files(self) -> ShardFiles:
        """The shards, held to the sizes that they had when they were indexed."""
        return ShardFiles(self.urls, self.shard_sizes.tolist())

    def payload(self, files: ShardFiles, row: int) -> bytes:
        """The bytes of a row's image, once they are what they were when it was indexed."""
        shard = int(self.shard_of(row))
        data = files.read(shard, int(self.offsets[row]), int(self.lengths[row]))
        found, known = google_crc32c.value(data), int(self.payload_crc[row])
        if found != known:
            raise ShardError(
                f"{files.urls[shard]}: the image of row {row} ({self.key(row)!r}) has crc32c {found:08x}, and had "
                f"{known:08x} when it was indexed: the shard was changed or damaged. Restore it."
            )
        return data

    def digest(self) -> str:
        """The sha256 of everything but where the shards lie and what the classes are called."""
        digest = hashlib.sha256(b"sample index 1\n")
        for name, array in self.arrays().items():
            digest.update(f"{name} {array.dtype.str} {len(array)}\n".encode())
            digest.update(array.data)
        return digest.hexdigest()

    def moved_to(self, urls: Sequence[str]) -> SampleIndex:
        """The same rows in shards that lie elsewhere now."""
        if len(urls) != len(self.urls):
            raise MismatchError(
                f"{len(urls)} shards are named, {len(self.urls)} were indexed ({self.urls[0]} …). Name the same "
                "shards, in the same order."
            )
        for url, old, size in zip(urls, self.urls, self.shard_sizes.tolist(), strict=True):
            found = _size_of(url)
            if found != size:
                raise MismatchError(
                    f"{url} has {found:,} bytes, the shard that was indexed ({old}) had {size:,}. Name the same "
                    "shards, in the same order."
                )
        return replace(self, urls=tuple(urls))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays by name, in a fixed order."""
        return {name: getattr(self, name) for name in DTYPES}

    @classmethod
    def from_arrays(
        cls, urls: Sequence[str], class_names: Sequence[str] | None, arrays: Mapping[str, NDArray[Any]]
    ) -> SampleIndex:
        """The index that has these arrays, once they fit together."""
        _require(set(arrays) == set(DTYPES), f"it has {', '.join(sorted(arrays))}; needed are {', '.join(DTYPES)}")
        names = None if class_names is None else tuple(class_names)
        return cls(urls=tuple(urls), class_names=names, **arrays)


def _require(true: bool | np.bool_, what: str) -> None:
    if not true:
        raise ShardError(f"the index of the shards is damaged: {what}. Scan the shards again.")


def _size_of(url: str) -> int:
    if is_remote(url):
        return cache().known(url).size
    try:
        return local_path(url).stat().st_size
    except OSError as error:
        raise ShardError(f"{url} cannot be read: {error.strerror}. Name the shards where they are now.") from None


def _check_shards(index: SampleIndex) -> None:
    urls, sizes, starts, rows = index.urls, index.shard_sizes, index.shard_starts, len(index.classes)
    _require(len(urls) > 0 and all(isinstance(url, str) and url for url in urls), "it names no shards")
    _require(len(set(urls)) == len(urls), "it names a shard twice")
    _require(len(sizes) == len(urls), f"it has {len(urls)} shards and {len(sizes)} sizes")
    _require(len(starts) == len(urls) + 1, f"it has {len(urls)} shards and {len(starts)} first rows")
    _require(sizes.min() > 0 and sizes.max() <= MAX_SHARD_BYTES, "a shard has an impossible size")
    _require(starts[0] == 0 and starts[-1] == rows, f"its shards do not hold rows 0 to {rows}")
    _require(np.all(starts[1:] > starts[:-1]), "the rows of its shards are out of order")
    for name in PER_ROW:
        _require(len(getattr(index, name)) == rows, f"{name} has {len(getattr(index, name))} entries for {rows} rows")


def _check_keys(index: SampleIndex) -> None:
    data, starts = index.key_bytes, index.key_starts
    _require(len(starts) == len(index) + 1, f"key_starts has {len(starts)} entries for {len(index)} rows")
    _require(starts[0] == 0 and starts[-1] == len(data), "its keys do not fill key_bytes")
    _require(np.all(starts[1:] > starts[:-1]), "a key is empty, or keys are out of order")
    _require(np.max(starts[1:] - starts[:-1]) <= MAX_NAME, f"a key has over {MAX_NAME} bytes")
    _require(data.min() >= 0x20 and not np.any(data == 0x7F), "a key has a control character")
    _require(not np.any(data[starts[:-1]] & 0xC0 == 0x80), "a key begins inside a character")
    try:
        data.tobytes().decode()
    except UnicodeDecodeError:
        _require(False, "a key is not UTF-8")
    for row in range(0, len(index), max(1, len(index) // HASHES_CHECKED)):
        _require(index.key_hash[row] == key_hash(index.key(row)), f"key_hash of row {row} is not that of its key")


def _check_payloads(index: SampleIndex) -> None:
    size_R = np.repeat(index.shard_sizes, np.diff(index.shard_starts))
    offset_R, length_R = index.offsets, index.lengths
    _require(offset_R.min() >= 0 and length_R.min() >= 0, "a payload lies before its shard")
    _require(length_R.max() <= MAX_PAYLOAD, f"a payload has over {MAX_PAYLOAD:,} bytes")
    _require(np.all(offset_R <= size_R - length_R), "a payload lies outside its shard")
    apart = offset_R[1:] >= offset_R[:-1] + length_R[:-1]
    apart[index.shard_starts[1:-1] - 1] = True
    _require(np.all(apart), "payloads overlap, or are out of order")
    width_R, height_R = index.widths.astype(np.int64), index.heights.astype(np.int64)
    _require(width_R.min() >= 0 and height_R.min() >= 0, "a picture has a negative size")
    _require(np.array_equal(width_R == 0, height_R == 0), "a picture has a width without a height")
    _require(np.max(width_R * height_R) <= MAX_PIXELS, f"a picture has over {MAX_PIXELS:,} pixels")


def _check_classes(index: SampleIndex) -> None:
    highest = int(index.classes.max())
    _require(index.classes.min() >= -1 and highest < MAX_CLASSES, f"classes must lie in -1 to {MAX_CLASSES - 1:,}")
    if index.class_names is not None:
        names = index.class_names
        _require(len(names) > 0 and all(isinstance(name, str) for name in names), "its class names are no names")
        require_class_names(names, "the index")
        _require(highest < len(names), f"it has class {highest} and names for {len(names)} classes")


def scan(urls: Sequence[str], *, workers: int = 0, progress: bool = False) -> SampleIndex:
    """Read all shards once, from end to end; `workers` processes (0: this one) change the speed only."""
    names, digests = class_names_beside(urls), digests_beside(urls)
    jobs = [(url, digests.get(url)) for url in urls]
    parts: list[ShardRows] = []
    with Progress("scan", len(urls), "shards") if progress else nullcontext() as bar:
        for part in ordered_map(_read_job, jobs, workers=min(workers, len(jobs)) if len(jobs) > 1 else 0):
            parts.append(part)
            if bar is not None:
                bar.advance(note=f"{sum(len(part.classes) for part in parts):,} rows")
    index = _joined(urls, names, parts)
    for warning in _warnings(index, names, parts):
        log.warning("%s", warning)
    log.info(
        "%d rows in %d shards, %d classes, %d unlabelled", len(index), len(urls), index.num_classes, _missing(index)
    )
    return index


def _read_job(job: tuple[str, str | None]) -> ShardRows:
    return read_shard(*job)


def _joined(urls: Sequence[str], names: tuple[str, ...] | None, parts: Sequence[ShardRows]) -> SampleIndex:
    """One index from the rows of each shard; `names` that are too few are left out."""
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("key_bytes", *PER_ROW)}
    enough = names is not None and int(columns["classes"].max()) < len(names)
    return SampleIndex(
        urls=tuple(urls),
        class_names=names if enough else None,
        shard_sizes=np.array([part.size for part in parts], np.int64),
        shard_starts=_starts(np.array([len(part.classes) for part in parts], np.int64)),
        key_starts=_starts(np.concatenate([part.key_lengths for part in parts])),
        **columns,
    )


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _warnings(index: SampleIndex, names: tuple[str, ...] | None, parts: Sequence[ShardRows]) -> Iterator[str]:
    """What is probably not as it was meant, though it can be worked with."""
    if (bad := sum(part.bad_images for part in parts)) > 0:
        shown = "; ".join(list(itertools.chain.from_iterable(part.bad_examples for part in parts))[:SHOWN])
        yield f"{bad} images have no readable header, and will be refused when they are drawn: {shown}"
    if names is not None and index.class_names is None:
        yield f"class {index.classes.max()} occurs, and classes.json names {len(names)}: the names are not used"
    if (shared := len(index) - len(np.unique(index.key_hash))) > 0:
        yield f"{shared} rows have the key of another row, and so its crops: give the rows of all shards their own keys"
    changes, expected = class_changes(index.classes)
    if changes < expected / 2:
        yield (
            f"the shards look sorted by class: it changes {changes:,} times from row to row, a shuffle gives about "
            f"{expected:,.0f}. Mixing partners are near rows, so shuffle before packing"
        )


def class_changes(class_R: NDArray[np.int32]) -> tuple[int, float]:
    """How often the class changes from one labelled row to the next, and how often it would after a shuffle.

    A shuffle of n rows with shares p of the classes gives about (n - 1)(1 - Σp²). Below `FEW_ROWS` chance decides, and
    nothing is expected.
    """
    labelled_R = class_R[class_R >= 0]
    if len(labelled_R) < FEW_ROWS:
        return 0, 0.0
    shares = np.bincount(labelled_R) / len(labelled_R)
    return int(np.count_nonzero(np.diff(labelled_R))), float((len(labelled_R) - 1) * (1 - np.sum(shares**2)))


def _missing(index: SampleIndex) -> int:
    return int(np.count_nonzero(index.classes < 0))
