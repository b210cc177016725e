"""What can a store serve, and in which order is it asked?"""

from __future__ import annotations

from pipeline.errors import MismatchError, StudentError
from pipeline.shards.index import SampleIndex
from pipeline.store.reader import StoreReader
from student.feed.order import Order


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


def order_of(
    store: StoreReader, index: SampleIndex, *, batch: int, seed: int, views: int | None, repeats: int,
    labelled_only: bool,
) -> Order:  # fmt: skip
    """The sequence of steps: of all rows, or of those that have a true label."""
    manifest = store.manifest
    used = store.layout.views if views is None else views
    if not 1 <= used <= store.layout.views:
        raise MismatchError(
            f"views is {used}, and {store.name} has {store.layout.views}. Ask for 1 to {store.layout.views}."
        )
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
