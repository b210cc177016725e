"""What does the teacher say about some views before any label is stored?

A keep may have to be fitted to answers in full (`pipeline.labels.lowrank`), and what it loses is measured against such
answers (`pipeline.inspection.gauge`). They are those about view 0 of some rows, as codes of all classes.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.codes import Answers, quantise
from pipeline.rendering.loader import Loader, requests_of
from pipeline.shards.index import SampleIndex
from pipeline.teacher.teacher import Teacher
from pipeline.views.recipe import Recipe


def answers_of(
    teacher: Teacher, recipe: Recipe, index: SampleIndex, *, workers: int, start_method: str | None = None
) -> Answers:
    """A function that gives a teacher's answers about rows; the teacher looks at them when it is called."""

    def answers(row_N: NDArray[np.int64]) -> NDArray[np.uint16]:
        batch = min(teacher.card.batch_size, max(len(row_N), 1))
        with Loader(recipe, index, batch=batch, workers=workers, start_method=start_method) as loader:
            slots = loader.render(requests_of(row_N, 0, batch))
            return np.concatenate([quantise(teacher(slot.pixels_BHWC), slot.name_of) for slot in slots])

    return answers
