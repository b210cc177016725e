"""Are the classes in the shards still those of the index, as far as a look at the start can tell?

Every row is held to its crc32c and its class when its image is first read. But a training reads the last image after an
epoch, and a labelling that has nothing left to do reads none: so whoever opens an index that a store carries looks at
the classes of some thousand rows first, evenly spread, without their images. And the names that stand beside the
shards must be those of the index. Shards at URLs are left to the reading of their rows: a look would fetch them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.errors import MismatchError
from pipeline.remote.client import is_remote
from pipeline.shards.index import SampleIndex
from pipeline.shards.rows import ChangedRowError
from pipeline.shards.sidecars import class_names_beside
from pipeline.shards.truth import brief

MOST = 8192
"""Rows that are looked at when an index is opened: a second's work at most"""


def require_unchanged(index: SampleIndex, *, most: int = MOST) -> None:
    """Refuse shards in which classes, or their names, are not those that were indexed."""
    require_names(index)
    for error in changed_rows(index, most):
        raise error


def changed_rows(index: SampleIndex, most: int | None = None) -> Iterator[ChangedRowError]:
    """What is wrong with each row whose class is another now; `most` rows are looked at, or all of them."""
    far = np.array([is_remote(url) for url in index.urls])
    count = len(index) if most is None else min(most, len(index))
    with index.files() as files:
        for number in range(count):
            row = number * len(index) // count
            if not far[index.shard_of(row)]:
                try:
                    index.require_class(files, row)
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
