"""Which views does a store keep in full?

A couple of hundred: view 0 of rows that are spread evenly over the data. Which ones depends on the number of rows
alone, so a store that grows by views keeps its witnesses. They are drawn again before anything is learned.

Shapes: W witnesses, H W sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.spread import firsts
from pipeline.store.arrays import ArraySpec

WITNESSES = 200

PIXEL_BLOCK, COLUMN_BLOCK = 16, 1024
"""Witnesses in an object: their pixels; their rows and views"""


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

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its parts by the names under which `witness_arrays` lays them out."""
        return {"pixels": self.pixels_WHWC, "rows": self.row_W, "views": self.view_W}


def witness_arrays(count: int, side: int) -> dict[str, ArraySpec]:
    """The arrays that `count` witness views of `side` pixels take in a store."""
    pixels = ArraySpec(
        path="witness/pixels", axis=0, dtype=np.dtype(np.uint8), shape=(count, side, side, 3),
        block=(PIXEL_BLOCK, side, side, 3), rows=1, names=("witness", "y", "x", "channel"),
        attributes={"meaning": "the rendered view that the teacher saw, RGB"},
    )  # fmt: skip
    columns = {
        name: ArraySpec(
            path=f"witness/{name}", axis=0, dtype=np.dtype(np.int64), shape=(count,), block=(COLUMN_BLOCK,),
            rows=COLUMN_BLOCK, names=("witness",),
        )
        for name in ("rows", "views")
    }  # fmt: skip
    return {"pixels": pixels, **columns}


def witness_rows(rows: int, wanted: int = WITNESSES) -> NDArray[np.int64]:
    """The rows whose view 0 is kept: evenly spread, by the number of rows alone."""
    return firsts(rows, wanted)
