"""What did the teacher say, in full, about view 0 of some rows of a dense store?

Shapes: N rows, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.store.reader import StoreReader


def stored_codes(store: StoreReader, row_N: NDArray[np.int64]) -> NDArray[np.uint16]:
    """The codes of all classes [N, C]; each unit is read once."""
    found_NC = np.empty((len(row_N), store.manifest.num_classes), np.uint16)
    run_N, place_N = np.divmod(row_N, store.manifest.unit_rows)
    for run in np.unique(run_N).tolist():
        inside_N = run_N == run
        found_NC[inside_N] = store.read_arrays(0, run, ["logits"])["logits"][place_N[inside_N]]
    return found_NC
