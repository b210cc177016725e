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
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.proofs.checksums import luma
from pipeline.proofs.proof import TOLERANCE
from pipeline.rendering.renderer import Renderer
from pipeline.shards.index import SampleIndex
from pipeline.store.witness import WITNESSES, Witness, witness_rows
from pipeline.views.recipe import Recipe

_TOGETHER = 16


class HasWitness(Protocol):
    """A store from which the witness views can be read."""

    def witness(self) -> Witness:
        """The witness views, which the store keeps in full."""
        ...


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
    return Witness(row_W=row_W, view_W=view_W, pixels_WHWC=_draw(renderer, row_W, view_W, recipe.image_size))


def check_witnesses(store: HasWitness, renderer: Renderer) -> Drift:
    """Draw the witness views of a store again, and say how far they are from what it keeps."""
    then = store.witness()
    return drift_of(then, _drawn(renderer, then))


def requests_for(witness: Witness, most: int = _TOGETHER) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The witnesses as rows and views, a few at a time, and never more than `most`."""
    step = min(_TOGETHER, most)
    for start in range(0, len(witness), step):
        part = slice(start, start + step)
        yield witness.row_W[part], witness.view_W[part]


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


def _drawn(renderer: Renderer, witness: Witness) -> Iterator[NDArray[np.uint8]]:
    for row_N, view_N in requests_for(witness):
        yield _draw(renderer, row_N, view_N, witness.pixels_WHWC.shape[1])


def _draw(renderer: Renderer, row_W: NDArray[np.int64], view_W: NDArray[np.int64], side: int) -> NDArray[np.uint8]:
    pixels_WHWC = np.empty((len(row_W), side, side, 3), np.uint8)
    for start in range(0, len(row_W), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        renderer.render(row_W[part], view_W[part], pixels_WHWC[part])
    return pixels_WHWC


def _largest_step(old: NDArray[np.uint8], new: NDArray[np.uint8]) -> int:
    return int(np.abs(old.astype(np.int16) - new.astype(np.int16)).max(initial=0))
