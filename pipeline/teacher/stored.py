"""Which teacher filled this store, loaded again as it was then?

Everything but the weights stands in the store's manifest: size, statistics, precision, batch, classes. What is loaded
is held to all of it, its weights included; only the name may differ, since files move.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipeline.errors import MismatchError
from pipeline.store.reader import StoreReader
from pipeline.teacher.loading import load_teacher
from pipeline.teacher.teacher import Teacher


def load_stored_teacher(
    store: StoreReader, *, name: str | None = None, weights: Path | None = None, device: str, precision: str = "auto"
) -> Teacher:
    """The teacher that the manifest names, or a refusal; `precision` is the stored one unless another is asked for."""
    card = store.manifest.teacher
    teacher = load_teacher(
        name or card.name,
        view_size=store.manifest.recipe.image_size,
        weights=weights,
        device=device,
        precision=card.precision if precision == "auto" else precision,
        batch_size=card.batch_size,
        input_size=str(card.input_size),
        mean=card.mean,
        std=card.std,
        class_map=store.manifest.class_map,
    )
    same = dataclasses.replace(teacher.card, name=card.name)
    if (same.weights_sha256, same.classes) != (card.weights_sha256, card.classes):
        raise MismatchError(
            f"{store.name} was labelled by weights {card.weights_sha256[:12]} ({card.name}, {card.classes} classes), "
            f"this teacher has {same.weights_sha256[:12]} ({same.classes} classes). Give its own with --weights."
        )
    if same != card:
        then, now = dataclasses.asdict(card), dataclasses.asdict(same)
        others = [f"{field} {then[field]} then, {now[field]} now" for field in then if then[field] != now[field]]
        raise MismatchError(
            f"{store.name} was labelled by another teacher: {'; '.join(others)}. Give the stored values."
        )
    return teacher
