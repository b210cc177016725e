"""What can a store serve, and in which order is it asked?"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import MismatchError, StudentError
from pipeline.shards.index import SampleIndex
from pipeline.shards.patterns import expand
from pipeline.shards.same_pictures import moved_to
from pipeline.store.reader import StoreReader
from student.feed.order import Order


def index_of(
    store: StoreReader, shards: str | Path | Sequence[str | Path], found: SampleIndex | None = None
) -> SampleIndex:
    """The rows of a store, where they lie now: as labelled, in these shards, or as somebody has `found` them."""
    if found is not None and found.digest() != store.index.digest():
        raise MismatchError(
            f"This index ({len(found):,} rows) is not of the shards that {store.name} ({len(store.index):,} rows) is "
            "of. Leave index out, and give shards= where they lie elsewhere now."
        )
    own = found or store.index
    patterns = [shards] if isinstance(shards, (str, Path)) else shards
    return moved_to(own, expand([str(pattern) for pattern in patterns])) if patterns else own


def require_usable(store: StoreReader, index: SampleIndex, *, accept_drift: bool) -> None:
    """Refuse shards with more classes than the store, and drift where the store keeps no thumbnails."""
    manifest = store.manifest
    if index.num_classes > manifest.num_classes:
        raise MismatchError(
            f"The shards have {index.num_classes} classes, the stored answers {manifest.num_classes}. "
            "Label again with a teacher of all classes, or with a class map."
        )
    if accept_drift and not manifest.luma:
        raise MismatchError(
            "--accept-drift holds every view to how it looked, and this store says nothing of that (--no-luma). "
            "Label again without --no-luma, or on this machine."
        )


def used_views(store: StoreReader, views: int | None) -> int:
    """How many of a store's views are used: those that are asked for, which must be there, or all."""
    there = store.layout.views
    if views is not None and not is_whole(views, least=1, below=there + 1):
        raise MismatchError(f"views is {views}, and {store.name} has {there}. Ask for 1 to {there}.")
    return there if views is None else views


def order_of(
    store: StoreReader, index: SampleIndex, *, batch: int, seed: int, views: int | None, repeats: int,
    labelled_only: bool,
) -> Order:  # fmt: skip
    """The sequence of steps: of all rows, or of those that have a true label."""
    manifest, used = store.manifest, used_views(store, views)
    if labelled_only and index.unlabelled == len(index):
        raise StudentError(
            f"None of the {len(index):,} rows has a true label, and --distill none learns from those alone. "
            "Use --distill hard or soft."
        )
    return Order(
        manifest.recipe,
        rows=manifest.rows,
        views=tuple(range(used)),
        run_rows=manifest.unit_rows,
        batch=batch,
        seed=seed,
        repeats=repeats,
        classes=index.classes if labelled_only and index.unlabelled > 0 else None,
    )


def is_whole(value: Any, *, least: int = 0, below: int = 2**63) -> bool:
    """Whether it is a whole number of a range; True and False are none."""
    try:
        return not isinstance(value, bool) and least <= operator.index(value) < below
    except TypeError:
        return False


def require_whole(name: str, value: Any, *, least: int = 0, below: int = 2**63) -> None:
    """Refuse what is no whole number, or lies out of its range, before it is computed with."""
    if not is_whole(value, least=least, below=below):
        wanted = f"of at least {least}" if below == 2**63 else f"from {least} to {below - 1}"
        raise StudentError(f"{name} is {value!r}. Give a whole number {wanted}.")
