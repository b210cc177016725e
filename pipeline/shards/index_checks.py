"""Do these arrays make an index of samples, and what is known of them once that is proven?

An index may come out of a store that somebody else wrote, so its arrays are checked before anything is looked up in
them: types, lengths, order, and that every payload lies inside its shard. The check goes through the rows once, a block
at a time, and notes on the way what is asked for at every start (`Facts`); no process should have to look through
millions of rows for that again. `Proof` keeps the arrays and what is known of them together, so that an index that
differs in its places only (`pipeline.shards.same_pictures`), or that another process has checked, is not checked once
more.

`content_digest` names the content. `oddities` says what can be worked with, and is probably not as it was meant.

Shapes: S shards, R rows.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ShardError
from pipeline.pictures.images import MAX_PIXELS
from pipeline.shards.samples import MAX_PAYLOAD, SHOWN, ShardRows, key_hash
from pipeline.shards.tar import MAX_NAME
from pipeline.shards.truth import MAX_CLASSES

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
MEANINGS: Mapping[str, str] = {
    "shard_sizes": "bytes of each shard, in the order of the group's `urls`",
    "shard_starts": "first row of each shard; one entry more than shards",
    "key_bytes": "the keys of all rows, UTF-8, one after the other",
    "key_starts": "first byte of each row's key; one entry more than rows",
    "key_hash": "blake2b of the key, 8 bytes, little-endian",
    "classes": "true class of each row, -1 where there is none",
    "offsets": "first byte of the picture in its shard",
    "lengths": "bytes of the picture",
    "payload_crc": "crc32c of these bytes",
    "widths": "of the picture, in pixels; 0 where its header cannot be read",
    "heights": "of the picture, in pixels; 0 where its header cannot be read",
}
"""What each array holds: one line for whoever opens a store with plain Zarr"""

PER_ROW = ("key_hash", "classes", "offsets", "lengths", "payload_crc", "widths", "heights")
MAX_SHARD_BYTES = 1 << 60
HASHES_CHECKED = 1000
FEW_ROWS = 64
BLOCK = 1 << 20
"""Rows that are checked at once: what a check allocates does not grow with the data"""

Arrays = Mapping[str, NDArray[Any]]
Lengths = Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is asked of an index at every start, found in the one look through all rows."""

    highest_class: int
    unlabelled: int
    """Rows without a class"""


class Proof:
    """Arrays that make an index, and what is known of them. The arrays are read-only."""

    def __init__(self, arrays: Arrays, facts: Facts) -> None:
        self.arrays, self.facts = arrays, facts

    @classmethod
    def of(cls, arrays: Arrays) -> Proof:
        """Check that arrays fit together, and keep what was found; a ShardError says what is wrong."""
        fixed = {name: _fixed(name, arrays[name]) for name in DTYPES}
        return cls(fixed, prove(fixed))

    @cached_property
    def digest(self) -> str:
        """The `content_digest` of the arrays."""
        return content_digest(lengths_of(self.arrays), lambda name: (self.arrays[name].data,))

    @property
    def nbytes(self) -> int:
        """How many bytes all arrays take together."""
        return size_of(lengths_of(self.arrays))

    def is_of(self, arrays: Arrays) -> bool:
        """Whether it is these very arrays that were checked, and not equal ones."""
        return all(arrays[name] is array for name, array in self.arrays.items())

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for array in self.arrays.values():
            array.flags.writeable = False  # a pickle forgets it


def require(true: bool | np.bool_, what: str) -> None:
    """Raise a ShardError that says what is wrong with the index, unless the condition holds."""
    if not true:
        raise ShardError(f"the index of the shards is damaged: {what}. Scan the shards again.")


def lengths_of(arrays: Arrays) -> dict[str, int]:
    """Entries of each array, in their fixed order."""
    return {name: len(arrays[name]) for name in DTYPES}


def size_of(lengths: Lengths) -> int:
    """Bytes of arrays of these lengths."""
    return sum(length * DTYPES[name].itemsize for name, length in lengths.items())


def content_digest(lengths: Lengths, parts: Callable[[str], Iterable[Any]]) -> str:
    """The sha256 of arrays whose bytes come in parts: of everything but where the shards lie and their classes' names.

    Stores are held to it: it must never change.
    """
    digest = hashlib.sha256(b"sample index 1\n")
    for name, dtype in DTYPES.items():
        digest.update(f"{name} {dtype.str} {lengths[name]}\n".encode())
        for part in parts(name):
            digest.update(part)
    return digest.hexdigest()


def prove(arrays: Arrays, after_block: Callable[[], None] = lambda: None) -> Facts:
    """Look through all rows of arrays of the right types; a ShardError says what is wrong with them."""
    _check_shards(arrays)
    _check_keys(arrays, after_block)
    _check_payloads(arrays, after_block)
    return _check_classes(arrays["classes"])


def _fixed(name: str, array: NDArray[Any]) -> NDArray[Any]:
    dtype = DTYPES[name]
    require(isinstance(array, np.ndarray) and array.ndim == 1, f"{name} is not one row of numbers")
    require(array.dtype == dtype, f"{name} is of type {array.dtype}, not {dtype}")
    fixed = np.ascontiguousarray(array).view()
    fixed.flags.writeable = False
    return fixed


def _blocks(count: int, after: Callable[[], None] = lambda: None) -> Iterator[tuple[int, int]]:
    for start in range(0, count, BLOCK):
        yield start, min(start + BLOCK, count)
        after()


def _check_shards(arrays: Arrays) -> None:
    sizes, starts, rows = arrays["shard_sizes"], arrays["shard_starts"], len(arrays["classes"])
    require(len(sizes) > 0 and rows > 0, "it has no shards, or no rows")
    require(len(starts) == len(sizes) + 1, f"it has {len(sizes)} shards and {len(starts)} first rows")
    require(sizes.min() > 0 and sizes.max() <= MAX_SHARD_BYTES, "a shard has an impossible size")
    require(starts[0] == 0 and starts[-1] == rows, f"its shards do not hold rows 0 to {rows}")
    require(np.all(starts[1:] > starts[:-1]), "the rows of its shards are out of order")
    for name in PER_ROW:
        require(len(arrays[name]) == rows, f"{name} has {len(arrays[name])} entries for {rows} rows")


def _check_keys(arrays: Arrays, after_block: Callable[[], None]) -> None:
    data, starts, rows = arrays["key_bytes"], arrays["key_starts"], len(arrays["classes"])
    require(len(starts) == rows + 1, f"key_starts has {len(starts)} entries for {rows} rows")
    require(starts[0] == 0 and starts[-1] == len(data), "its keys do not fill key_bytes")
    for first, last in _blocks(rows, after_block):
        lengths = np.diff(starts[first : last + 1])
        require(np.all(starts[first + 1 : last + 1] > starts[first:last]), "a key is empty, or keys are out of order")
        require(lengths.max() <= MAX_NAME, f"a key has over {MAX_NAME} bytes")
    for first, last in _blocks(rows, after_block):
        text = data[starts[first] : starts[last]]
        require(text.min() >= 0x20 and not np.any(text == 0x7F), "a key has a control character")
        require(not np.any(data[starts[first:last]] & 0xC0 == 0x80), "a key begins inside a character")
    apart = max(1, rows // HASHES_CHECKED)
    for first, last in _blocks(rows, after_block):
        _check_text(data[starts[first] : starts[last]])
        for row in range(first + -first % apart, last, apart):
            key = data[starts[row] : starts[row + 1]].tobytes().decode()
            require(arrays["key_hash"][row] == key_hash(key), f"key_hash of row {row} is not that of its key")


def _check_text(text: NDArray[np.uint8]) -> None:
    """Of keys that follow one another. None begins inside a character, so what holds for all holds for each."""
    try:
        text.tobytes().decode()
    except UnicodeDecodeError:
        require(False, "a key is not UTF-8")


def _check_payloads(arrays: Arrays, after_block: Callable[[], None]) -> None:
    sizes, starts = arrays["shard_sizes"], arrays["shard_starts"]
    for first, last in _blocks(len(arrays["classes"]), after_block):
        size_R = np.repeat(sizes, np.diff(np.clip(starts, first, last)))
        offset_R, length_R = arrays["offsets"][first:last], arrays["lengths"][first:last]
        require(offset_R.min() >= 0 and length_R.min() >= 0, "a payload lies before its shard")
        require(length_R.max() <= MAX_PAYLOAD, f"a payload has over {MAX_PAYLOAD:,} bytes")
        require(np.all(offset_R <= size_R - length_R), "a payload lies outside its shard")
        _check_pictures(arrays["widths"][first:last], arrays["heights"][first:last])
        next_R = arrays["offsets"][first + 1 : last + 1]
        apart = next_R >= (offset_R + length_R)[: len(next_R)]
        ends = starts[1:-1] - 1
        apart[ends[(ends >= first) & (ends < last)] - first] = True
        require(np.all(apart), "payloads overlap, or are out of order")


def _check_pictures(width_R: NDArray[np.int32], height_R: NDArray[np.int32]) -> None:
    require(width_R.min() >= 0 and height_R.min() >= 0, "a picture has a negative size")
    require(np.array_equal(width_R == 0, height_R == 0), "a picture has a width without a height")
    most = np.max(width_R.astype(np.int64) * height_R)
    require(most <= MAX_PIXELS, f"a picture has over {MAX_PIXELS:,} pixels")


def _check_classes(class_R: NDArray[np.int32]) -> Facts:
    highest = int(class_R.max())
    require(class_R.min() >= -1 and highest < MAX_CLASSES, f"classes must lie in -1 to {MAX_CLASSES - 1:,}")
    unlabelled = sum(int(np.count_nonzero(class_R[first:last] < 0)) for first, last in _blocks(len(class_R)))
    return Facts(highest_class=highest, unlabelled=unlabelled)


class Scanned(Protocol):
    """What `oddities` asks of an index."""

    @property
    def classes(self) -> NDArray[np.int32]:
        """[R] class number; -1 is unlabelled"""

    @property
    def key_hash(self) -> NDArray[np.uint64]:
        """[R] what a row's draws are keyed by"""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The name of each class, where they are known"""

    @property
    def label_key(self) -> str | None:
        """The name of the entry that the user says has the class; None where the usual ones are read."""

    def __len__(self) -> int: ...


def oddities(index: Scanned, names: tuple[str, ...] | None, parts: Sequence[ShardRows]) -> Iterator[str]:
    """What is probably not as it was meant, though it can be worked with."""
    if bool((index.classes < 0).all()):
        yield _unlabelled(index, parts)
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


def _unlabelled(index: Scanned, parts: Sequence[ShardRows]) -> str:
    """That no row has a class, and where it may stand instead."""
    hints = sorted({hint for part in parts for hint in part.hints})
    keys, fields = ([hint for hint in hints if (hint[0] == ".") is dotted] for dotted in (False, True))
    looked = f"under {index.label_key}" if index.label_key else "in .cls, or under label in .json"
    has = [f"json members with the keys {', '.join(keys)}"] if keys else []
    has += [f"members {', '.join(fields)}"] if fields else []
    others = f" The samples have {' and '.join(has)}: if the class stands there, name it by --label-key." if has else ""
    return (
        f"NO ROW HAS A CLASS: {len(index):,} rows, and none has one {looked}. A student would learn from the teacher "
        f"alone, and no accuracy can be measured.{others}"
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
