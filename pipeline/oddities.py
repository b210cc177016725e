"""What of a scan is probably not as it was meant, though it can be worked with?

Shapes: R rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.samples import SHOWN, ShardRows

FEW_ROWS = 64


class Scanned(Protocol):
    """What is asked of an index."""

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
        """Where the user says that the classes stand"""

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
