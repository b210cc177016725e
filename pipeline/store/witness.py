"""Which views does a store keep in full?

A couple of hundred: view 0 of rows that are spread evenly over the data. Which ones depends on the number of rows
alone, so a store that grows by views keeps its witnesses. They are drawn again before anything is learned.

Shapes: W witnesses, H W sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WITNESSES = 200


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Witness:
    """Views whose pixels are kept in full, so that another machine can draw them again and compare."""

    row_W: NDArray[np.int64]
    view_W: NDArray[np.int64]
    pixels_WHWC: NDArray[np.uint8]

    def __post_init__(self) -> None:
        assert len(self.row_W) == len(self.view_W) == len(self.pixels_WHWC)

    def __len__(self) -> int:
        return len(self.row_W)


def witness_rows(rows: int, wanted: int = WITNESSES) -> NDArray[np.int64]:
    """The rows whose view 0 is kept: evenly spread, by the number of rows alone."""
    count = min(rows, wanted)
    return np.arange(count, dtype=np.int64) * rows // count
