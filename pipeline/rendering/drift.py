"""Does this machine still draw the views that the teacher saw?

A store keeps some views in full (`pipeline.store.witness`). Before anything is learned from it, they are drawn again
and compared:

    identical    every pixel is the same
    drifted      pixels differ, but every 4 × 4 thumbnail is within `TOLERANCE` levels: another decoder or resize
    different    a thumbnail is further off: another picture, view or recipe

One pixel can differ by much under mere drift (solarising turns a step of 1 into a jump of 255), a mean over a sixteenth
of the view cannot; hence thumbnails decide, and the largest step of a pixel is only told.

Shapes: W witnesses, H W sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.proofs.checksums import luma
from pipeline.proofs.proof import TOLERANCE
from pipeline.rendering.loader import Request
from pipeline.rendering.renderer import Renderer
from pipeline.shards.index import SampleIndex
from pipeline.store.witness import WITNESSES, Witness, witness_rows
from pipeline.views.recipe import Recipe

_TOGETHER = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How the witness views are drawn here, compared with how they were drawn for the store."""

    checked: int
    changed: int
    """Witnesses with any other pixel"""
    levels: int
    """The largest step between a pixel then and now"""
    thumbnail_levels: int
    """The largest step between a thumbnail then and now"""
    different: tuple[int, ...]
    """Rows whose thumbnail is further off than the tolerance"""

    @property
    def kind(self) -> str:
        """The verdict in a word: identical, drifted (within the tolerance) or different."""
        return "different" if self.different else "drifted" if self.changed else "identical"

    def __str__(self) -> str:
        if self.kind == "identical":
            return f"all {self.checked} witness views are identical"
        if self.kind == "drifted":
            return (
                f"{self.changed} of {self.checked} witness views drifted by at most {self.levels} levels "
                f"({self.thumbnail_levels} in a thumbnail)"
            )
        rows = ", ".join(map(str, self.different[:5])) + (" …" if len(self.different) > 5 else "")
        return (
            f"{len(self.different)} of {self.checked} witness views are different: their thumbnails differ by up to "
            f"{self.thumbnail_levels} levels, {TOLERANCE} are allowed (view 0 of rows {rows})"
        )


def draw_witnesses(recipe: Recipe, index: SampleIndex, wanted: int = WITNESSES) -> Witness:
    """Draw the views that a store which is about to be made will keep in full."""
    row_W = witness_rows(len(index), wanted)
    view_W = np.zeros(len(row_W), np.int64)
    renderer = Renderer(recipe, index, index.files())
    pixels_WHWC = np.concatenate(list(_drawn(renderer, _parts(row_W, view_W), recipe.image_size)))
    return Witness(row_W=row_W, view_W=view_W, pixels_WHWC=pixels_WHWC)


def check_witnesses(then: Witness, renderer: Renderer) -> Drift:
    """Draw witness views again, and say how far they are from what a store keeps of them."""
    return drift_of(then, _drawn(renderer, requests_for(then), then.pixels_WHWC.shape[1]))


def requests_for(witness: Witness, most: int = _TOGETHER) -> Iterator[Request]:
    """The witnesses as rows and views, a few at a time, and never more than `most`."""
    return _parts(witness.row_W, witness.view_W, most)


def drift_of(then: Witness, drawn: Iterable[NDArray[np.uint8]]) -> Drift:
    """Compare witnesses with how they are drawn now: the pixels of each of `requests_for`, in order."""
    step_W = np.zeros(len(then), np.int64)
    thumbnail_W = np.zeros(len(then), np.int64)
    at = 0
    for now_NHWC in drawn:
        for new_HWC in now_NHWC:
            old_HWC = then.pixels_WHWC[at]
            if not np.array_equal(old_HWC, new_HWC):
                step_W[at] = _largest_step(old_HWC, new_HWC)
                thumbnail_W[at] = _largest_step(luma(old_HWC), luma(new_HWC))
            at += 1
    assert at == len(then), f"{at} of {len(then)} witnesses were drawn"
    return Drift(
        checked=len(then),
        changed=int((step_W > 0).sum()),
        levels=int(step_W.max(initial=0)),
        thumbnail_levels=int(thumbnail_W.max(initial=0)),
        different=tuple(then.row_W[thumbnail_W > TOLERANCE].tolist()),
    )


def _parts(row_W: NDArray[np.int64], view_W: NDArray[np.int64], most: int = _TOGETHER) -> Iterator[Request]:
    step = min(_TOGETHER, most)
    for start in range(0, len(row_W), step):
        yield row_W[start : start + step], view_W[start : start + step]


def _drawn(renderer: Renderer, requests: Iterable[Request], side: int) -> Iterator[NDArray[np.uint8]]:
    for row_N, view_N in requests:
        pixels_NHWC = np.empty((len(row_N), side, side, 3), np.uint8)
        renderer.render(row_N, view_N, pixels_NHWC)
        yield pixels_NHWC


def _largest_step(old: NDArray[np.uint8], new: NDArray[np.uint8]) -> int:
    return int(np.abs(old.astype(np.int16) - new.astype(np.int16)).max(initial=0))
