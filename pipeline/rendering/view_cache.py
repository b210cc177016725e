"""Which views need not be drawn, because somebody on this node has drawn them before?

A store's views are few, and a student of many epochs sees each of them many times: those of 30 views ten times in 300
epochs. `CachedRenderer` stands in front of a `Renderer`, reads what a `ViewCache` holds, has the rest drawn, and leaves
it there for the next time, for all processes of the node and for later runs.

A view is kept as a picture of its own (`pipeline.picture_cache`), with checksums for its bands of rows, in a folder
that is named after everything that decides its pixels. Whoever draws for a store holds every view to the checksum
beside the teacher's answer as before, however it came to be.

Shapes: B views asked for, K of them kept, N new.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.picture_cache.decoder import decoder, policy
from pipeline.picture_cache.entry import Picture
from pipeline.picture_cache.kept import PictureCache
from pipeline.picture_cache.of_index import ASKED, bounded
from pipeline.proofs.checksums import checksum, samples, thumbnails
from pipeline.rendering.effort import Effort
from pipeline.rendering.renderer import Image, Ints, Rendered, Renderer
from pipeline.rendering.ring import LUMA
from pipeline.shards.index import SampleIndex
from pipeline.shards.rows import require_class_once
from pipeline.spread import from_end_to_end
from pipeline.views.mixing import plan_mixing
from pipeline.views.recipe import Recipe

HERE = Path(__file__).parent
VIEWS = HERE.parent / "views"
NO_PIXELS = ("__init__", "drift", "effort", "loader", "node_caches", "ring", "view_cache")
"""Modules of this room that decide no pixel."""


@cache
def drawer() -> bytes:
    """Eight bytes that name whatever decides a view's pixels: the decoder, torch and OpenCV, and our own drawing."""
    known = [decoder().hex(), torch.__version__, cv2.__version__, policy(HERE, but=NO_PIXELS), policy(VIEWS)]
    return hashlib.sha256("\n".join(known).encode()).digest()[:8]


@dataclass(frozen=True, slots=True)
class ViewCache:
    """Drawn views of one recipe and index on this node; may be pickled, and used after a fork."""

    kept: PictureCache
    data: int
    """Which recipe and which pictures: eight bytes of a digest of both."""
    side: int
    reads: bool = True
    """Whether what is kept is believed; a teacher labels what was drawn now."""

    def read(self, row: int, view: int) -> Image | None:
        """The pixels of a view; None where they are not here."""
        shown = self.kept.crop(self.picture(row, view), None) if self.reads else None
        return None if shown is None else shown.pixels_HWC

    def keep(self, row: int, view: int, image_HWC: Image) -> None:
        """Take a view in, if there is room."""
        self.kept.keep(self.picture(row, view), image_HWC)

    @property
    def fills(self) -> bool:
        """Whether there is room for another view."""
        return self.kept.used() + bytes_of_view(self.side) <= self.kept.limit and self.kept.takes

    def picture(self, row: int, view: int) -> Picture:
        """A view as a picture: it has no payload, so its row and its number stand in place of crc and length."""
        return Picture(payload_crc=row, length=view, key_hash=self.data, width=self.side, height=self.side)


def views_in(
    folder: Path, limit: int, recipe: Recipe, index: SampleIndex, views: int, *, labelled_only: bool = False,
    reads: bool = True,
) -> ViewCache:  # fmt: skip
    """The cache in that folder, ready; what `views` views of each row (or of each that has a label) take, and what it
    can hold, is told."""
    data = hashlib.sha256(f"{recipe.fingerprint()}\n{index.digest()}".encode()).digest()[:8]
    kept = PictureCache(folder, limit, made_by=drawer(), what="views").prepared()
    found, row_R = ViewCache(kept, int.from_bytes(data), recipe.image_size, reads), np.arange(len(index))
    if labelled_only:
        row_R = row_R[index.classes >= 0]
    count = views * len(row_R)
    asked = from_end_to_end(count, ASKED).tolist()
    some = [found.picture(int(row_R[at % len(row_R)]), at // len(row_R)) for at in asked]
    bounded(kept, count, count * bytes_of_view(recipe.image_size), some, made="drawn")
    return found


def bytes_of_view(side: int) -> int:
    """What a view takes on a disk."""
    return Picture(payload_crc=0, length=0, key_hash=0, width=side, height=side).disk_bytes


class CachedRenderer:
    """Draws as its renderer does, but for what was drawn before; for one thread."""

    def __init__(self, renderer: Renderer, cache: ViewCache) -> None:
        self._renderer, self._cache, self._effort = renderer, cache, Effort()

    def render(self, row_B: Ints, view_B: Ints, out_BHWC: Image) -> Rendered:
        """Bring these views of these rows into `out_BHWC`; checksums and thumbnails of what is there."""
        crc_B, luma_B16 = np.zeros(len(row_B), np.uint32), np.zeros((len(row_B), LUMA), np.uint8)
        kept_K, new_N = self._found(row_B, view_B, out_BHWC, crc_B, luma_B16)
        if not len(new_N):
            return Rendered(crc_B, luma_B16)
        new_NHWC = np.empty((len(new_N), *out_BHWC.shape[1:]), np.uint8) if len(kept_K) else out_BHWC
        drawn = self._drawn(row_B[new_N], view_B[new_N], new_NHWC)
        if len(kept_K):
            out_BHWC[new_N] = new_NHWC
        crc_B[new_N], luma_B16[new_N] = drawn.crc_B, drawn.luma_B16
        return Rendered(crc_B, luma_B16, drawn.bad_rows)

    def take_effort(self) -> Effort:
        """What was drawn or read since this was last asked, and what it cost."""
        spent, self._effort = self._effort, Effort()
        spent.views, spent.seconds = spent.found, spent.finding + spent.saving
        spent.add(self._renderer.take_effort())
        return spent

    def _found(
        self, row_B: Ints, view_B: Ints, out_BHWC: Image, crc_B: NDArray[np.uint32], luma_B16: Image
    ) -> tuple[Ints, Ints]:
        """Bring what is kept into its place, with its checksums; the places of those, and of the others."""
        begun = perf_counter()
        found_B = np.fromiter(map(self._read, row_B.tolist(), view_B.tolist(), out_BHWC), bool, len(row_B))
        kept_K, new_N = np.flatnonzero(found_B), np.flatnonzero(~found_B)
        if len(kept_K):
            crc_B[kept_K] = [checksum(out_BHWC[slot]) for slot in kept_K]
            luma_B16[kept_K] = thumbnails([samples(out_BHWC[slot]) for slot in kept_K])
        self._effort.found += len(kept_K)
        self._effort.finding += perf_counter() - begun
        return kept_K, new_N

    def _read(self, row: int, view: int, into_HWC: Image) -> bool:
        """Whether a view was kept; then it is in its place."""
        image_HWC = self._cache.read(row, view)
        if image_HWC is None:
            return False
        require_class_once(self._renderer.index, self._renderer.files, row)
        into_HWC[:] = image_HWC
        return True

    def _drawn(self, row_N: Ints, view_N: Ints, into_NHWC: Image) -> Rendered:
        """Draw what is new, and keep it; but nothing of a picture that could not be decoded."""
        drawn = self._renderer.render(row_N, view_N, into_NHWC)
        begun = perf_counter()
        for slot in np.flatnonzero(self._sound(row_N, view_N, drawn.bad_rows)):
            self._cache.keep(int(row_N[slot]), int(view_N[slot]), into_NHWC[slot])
        self._effort.saving += perf_counter() - begun
        return drawn

    def _sound(self, row_N: Ints, view_N: Ints, bad_rows: tuple[int, ...]) -> NDArray[np.bool_]:
        """Which views have no bad picture in them, neither their own nor their partner's."""
        if not bad_rows:
            return np.ones(len(row_N), bool)
        partner_N = plan_mixing(self._renderer.recipe, len(self._renderer.index), row_N, view_N).partner_B
        return ~(np.isin(row_N, bad_rows) | np.isin(partner_N, bad_rows))
