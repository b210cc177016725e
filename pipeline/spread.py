"""Which few of many stand for all of them? Evenly spread ones, by the two numbers alone.

Shapes: N chosen ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def firsts(many: int, few: int) -> NDArray[np.int64]:
    """The first of each of `few` equal stretches of 0 … `many` - 1, or all. What stores hold depends on these."""
    count = min(many, few)
    first_N: NDArray[np.int64] = np.arange(count, dtype=np.int64) * many // count
    return first_N


def from_end_to_end(many: int, few: int) -> NDArray[np.int64]:
    """So `few` of 0 … `many` - 1, or all, with the first and the last among them."""
    return np.unique(np.linspace(0, many - 1, min(many, few)).astype(np.int64))
