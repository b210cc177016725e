"""Are these the views that were labelled? The one comparison; who asks says in words what follows from it.

A view is the labelled one if its checksum is the stored one: all 32 bits, also where half of them are a sketch
(`pipeline.rendering.proof`). Where a drift is accepted, and it is known how both look, it is the labelled one if no
part of its thumbnail is further off than `TOLERANCE` levels, or if each part of the sketch fits within as many.

Shapes: B views.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.rendering.proof import kept, parts_apart
from pipeline.store.manifest import SKETCH

TOLERANCE = 2
"""Levels of a thumbnail: what decoders differ by, but where an operation makes a jump of a step (decision 0195)"""


@dataclass(frozen=True, slots=True)
class Seen:
    """The pixels of some views, by their checksums and perhaps their thumbnails."""

    crc_B: NDArray[np.uint32]
    luma_B16: NDArray[np.uint8] | None = None
    sketched: bool = False
    """Is the lower half of the checksums a sketch?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What came of comparing views that were drawn here with those that were labelled."""

    crc_B: NDArray[np.uint32]
    """Of what was drawn, in the form in which the labelled ones are stored"""
    changed_B: NDArray[np.bool_]
    """Whether any pixel is another"""
    levels_B: NDArray[np.int64] | None
    """The largest step of a thumbnail; None where one of the two has none"""
    parts_B: NDArray[np.int64] | None
    """How many of the 8 parts of a sketch do not fit; None where there is no sketch"""
    other_B: NDArray[np.bool_]
    """Whether this is another view than the labelled one"""

    @property
    def looks_other(self) -> NDArray[np.bool_] | None:
        """Whether it looks like another view; None where that cannot be told"""
        if self.parts_B is not None:
            return self.parts_B > 0
        return None if self.levels_B is None else self.levels_B > TOLERANCE

    @property
    def first(self) -> int | None:
        """The place of the first view that is another; None where all are the labelled ones."""
        return int(self.other_B.argmax()) if self.other_B.any() else None


def compare_views(drawn: Seen, labelled: Seen, *, accept_drift: bool = False) -> Compared:
    """Hold each view that was drawn to the one that was labelled: by its checksum, or under drift by its looks."""
    crc_B, levels_B, parts_B = drawn.crc_B, None, None
    if labelled.sketched:
        assert drawn.luma_B16 is not None, "sketches are made of thumbnails"
        crc_B, _ = kept(SKETCH, drawn.crc_B, drawn.luma_B16)
        parts_B = parts_apart(labelled.crc_B, drawn.luma_B16, TOLERANCE)
    elif drawn.luma_B16 is not None and labelled.luma_B16 is not None:
        levels_B = np.abs(drawn.luma_B16.astype(np.int64) - labelled.luma_B16).max(axis=1)
    changed_B = crc_B != labelled.crc_B
    found = Compared(crc_B=crc_B, changed_B=changed_B, levels_B=levels_B, parts_B=parts_B, other_B=changed_B)
    looks_B = found.looks_other if accept_drift else None
    return found if looks_B is None else replace(found, other_B=looks_B)
