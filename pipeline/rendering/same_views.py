"""Are these the views that were labelled? The one comparison; who asks says in words what follows from it.

A view is the labelled one if its checksum is the stored one. Where a drift is accepted, and the thumbnails of both are
known, it is the labelled one if no part of its thumbnail is further off than `TOLERANCE` levels.

Shapes: B views.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 2
"""Levels of a thumbnail. In 89,102 trials a drift was at most 0.22, another image at least 6, another view 21."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The pixels of some views, by their checksums and perhaps their thumbnails."""

    crc_B: NDArray[np.uint32]
    luma_B16: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What came of comparing views that were drawn here with those that were labelled."""

    changed_B: NDArray[np.bool_]
    """Whether any pixel is another"""
    levels_B: NDArray[np.int64] | None
    """The largest step of a thumbnail; None where one of the two has none"""
    other_B: NDArray[np.bool_]
    """Whether this is another view than the labelled one"""

    @property
    def first(self) -> int | None:
        """The place of the first view that is another; None where all are the labelled ones."""
        return int(self.other_B.argmax()) if self.other_B.any() else None


def compare_views(drawn: Seen, labelled: Seen, *, accept_drift: bool = False) -> Compared:
    """Hold each view that was drawn to the one that was labelled: by its checksum, or under drift by its thumbnail."""
    changed_B = drawn.crc_B != labelled.crc_B
    levels_B = None
    if drawn.luma_B16 is not None and labelled.luma_B16 is not None:
        levels_B = np.abs(drawn.luma_B16.astype(np.int64) - labelled.luma_B16).max(axis=1)
    other_B = levels_B > TOLERANCE if accept_drift and levels_B is not None else changed_B
    return Compared(changed_B=changed_B, levels_B=levels_B, other_B=other_B)
