"""Are these the views that were labelled? The one comparison; who asks says in words what follows from it.

A view is the labelled one if what a store would keep of it (`proof`) is what is stored. Where a drift is accepted, and
the store says how its views looked, it is the labelled one if it looks so still.

Shapes: B views.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.proofs.proof import apart, how_far, kept, most_apart
from pipeline.store.manifest import Luma


@dataclass(frozen=True, slots=True)
class Seen:
    """The pixels of views that were drawn here, by their checksums and thumbnails."""

    crc_B: NDArray[np.uint32]
    luma_B16: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Labelled:
    """What a store has kept of the pixels of its views, and in which form."""

    luma: Luma
    crc_B: NDArray[np.uint32]
    luma_B16: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What came of comparing views that were drawn here with those that were labelled."""

    luma: Luma
    crc_B: NDArray[np.uint32]
    """The four bytes that the store would keep of what was drawn"""
    changed_B: NDArray[np.bool_]
    """Whether any pixel is another"""
    off_B: NDArray[np.int64] | None
    """How far a view is from how it looked; None where that is not known"""
    other_B: NDArray[np.bool_]
    """Whether this is another view than the labelled one"""

    @property
    def first(self) -> int | None:
        """The place of the first view that is another; None where all are the labelled ones."""
        return int(self.other_B.argmax()) if self.other_B.any() else None

    @property
    def unlike(self) -> NDArray[np.bool_]:
        """Whether a view looks otherwise than a drift explains; nowhere, where looks are not known."""
        return np.zeros(len(self.crc_B), np.bool_) if self.off_B is None else self.off_B > most_apart(self.luma)

    def how_far(self, at: int) -> str:
        """How far a view is from how it looked, in words; empty where that is not known."""
        return "" if self.off_B is None else how_far(self.luma, int(self.off_B[at]))


def compare_views(drawn: Seen, labelled: Labelled, *, accept_drift: bool = False) -> Compared:
    """Hold each view that was drawn to the one that was labelled: by its pixels, or under drift by its looks."""
    luma = labelled.luma
    crc_B, _ = kept(luma, drawn.crc_B, drawn.luma_B16)
    changed_B = crc_B != labelled.crc_B
    off_B = apart(luma, labelled.crc_B, labelled.luma_B16, drawn.luma_B16)
    other_B = off_B > most_apart(luma) if accept_drift and off_B is not None else changed_B
    return Compared(luma=luma, crc_B=crc_B, changed_B=changed_B, off_B=off_B, other_B=other_B)
