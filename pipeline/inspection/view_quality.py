"""Is every stored view as well labelled as the next, and are labels that the teacher did not learn from as good?

For each view: how often the teacher's class is that of the (larger part of the) picture, on rows with a label. Only a
few runs of rows are read where there are many, the same ones for every view.

Shapes: B rows of a run.
"""

from __future__ import annotations

import numpy as np

from pipeline.shards.index import SampleIndex
from pipeline.spread import from_end_to_end
from pipeline.store.layout import Unit
from pipeline.store.reader import StoreReader
from pipeline.views.mixing import plan_mixing

MOST_ROWS = 50_000
MOST_VIEWS = 64


def accuracy_per_view(store: StoreReader, index: SampleIndex) -> list[tuple[int, float]]:
    """(view, top-1) of up to so many views, spread over all of them; empty without labels."""
    runs = from_end_to_end(store.layout.runs, max(1, MOST_ROWS // store.manifest.unit_rows)).tolist()
    views = from_end_to_end(store.layout.views, MOST_VIEWS).tolist()
    found = [(view, _accuracy(store, index, view, runs)) for view in views]
    return [(view, value) for view, value in found if value is not None]


def _accuracy(store: StoreReader, index: SampleIndex, view: int, runs: list[int]) -> float | None:
    right = labelled = 0
    for run in runs:
        row_B = np.arange(*store.layout.rows_of(Unit(view, run)))
        mixing = plan_mixing(store.manifest.recipe, len(index), row_B, np.full(len(row_B), view))
        truth_B = index.classes[np.where(mixing.lam_B >= 0.5, row_B, mixing.partner_B)]
        argmax_B = store.read_arrays(view, run, ["argmax"])["argmax"]
        known_B = truth_B >= 0
        right += int((argmax_B[known_B] == truth_B[known_B]).sum())
        labelled += int(known_B.sum())
    return right / labelled if labelled else None
