"""How do plan and payloads become pixels?

`Renderer.render` draws any mix of rows and views into the slots of one uint8 array, and says what it drew (checksum and
thumbnail of each). Each step has one meaning, written down elsewhere, and what is drawn for a (row, view) does not
depend on what else is in the call:

    decode    `pipeline.pictures.images`, once a row and call, and of a tiled picture only what the call's views need
              (`pipeline.pictures.parts`); kept in a cache of bounded size between calls (`pipeline.rendering.decoded`),
              and on the node where one is given (`pipeline.picture_cache`)
    geometry  cut, antialiased resize by torch (its uint8 kernel: integer weights, the same bits on every processor, at
              most two levels from Pillow's), mirror
    pixels    `pipeline.rendering.operations`, then `pipeline.rendering.noise` in the erased box
    mixing    a pair is mixed from its two base views, in exact integers

The base views of a row are drawn one after another, straight into their slots; the base view of a partner that is not
in the call goes to scratch memory. As soon as both of a pair are there they are mixed, and proven while they are still
in the processor's cache. One thread does all of it: workers call `torch.set_num_threads(1)` and `cv2.setNumThreads(0)`,
which change no pixel.

Shapes: B views, S the side of a view, H × W a picture, C = 3 channels, N × M the samples of a thumbnail.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.picture_cache.kept import PictureCache
from pipeline.pictures.parts import Box, Shown
from pipeline.proofs.checksums import checksum, samples, thumbnails
from pipeline.rendering.decoded import DecodedRows
from pipeline.rendering.effort import Effort
from pipeline.rendering.noise import erase
from pipeline.rendering.operations import apply
from pipeline.shards.files import ShardFiles
from pipeline.shards.index import SampleIndex
from pipeline.views.mixing import Kind
from pipeline.views.plan import ViewPlan, plan_views
from pipeline.views.recipe import Recipe

Image = NDArray[np.uint8]
Ints = NDArray[np.int64]

CACHE_BYTES = 96 << 20
GREY = 128
"""The level of what stands in for a picture that cannot be decoded."""
_RESIZE = {True: torch.ops.aten._upsample_bicubic2d_aa.out, False: torch.ops.aten._upsample_bilinear2d_aa.out}


@dataclass(frozen=True, slots=True)
class Rendered:
    """What became known of views while they were drawn: checksums, thumbnails, and which rows were bad."""

    crc_B: NDArray[np.uint32]
    luma_B16: NDArray[np.uint8]
    bad_rows: tuple[int, ...] = ()
    """Rows (partners included) that could not be decoded and were drawn grey, where the recipe allows it."""


class Renderer:
    """Draws views of one index by one recipe; for one thread."""

    def __init__(
        self, recipe: Recipe, index: SampleIndex, files: ShardFiles, *, cache_bytes: int = CACHE_BYTES,
        pictures: PictureCache | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self.index, self.files = recipe, index, files
        self._pictures = DecodedRows(recipe, index, files, cache_bytes, pictures)
        self._spare_HWC = np.empty((recipe.image_size, recipe.image_size, 3), np.uint8)

    def render(self, row_B: Ints, view_B: Ints, out_BHWC: Image) -> Rendered:
        """Draw these views of these rows into `out_BHWC`; checksums and thumbnails of what was drawn."""
        side = self.recipe.image_size
        assert out_BHWC.shape == (len(row_B), side, side, 3) and out_BHWC.dtype == np.uint8
        assert out_BHWC.flags.c_contiguous and out_BHWC.flags.writeable
        begun = perf_counter()
        bases, repeats = self._bases(np.asarray(row_B, np.int64), np.asarray(view_B, np.int64), out_BHWC)
        proof = _Proof(out_BHWC)
        box = _boxes(bases)
        for base in sorted(bases, key=lambda base: base.row):
            self._draw(base, box[base.row], proof)
        for slot, first in repeats.items():
            proof.repeat(slot, first)
        self._pictures.effort.views += len(row_B)
        self._pictures.effort.seconds += perf_counter() - begun
        return proof.rendered()

    def take_effort(self) -> Effort:
        """What was drawn since this was last asked, and what it cost."""
        taken, self._pictures.effort = self._pictures.effort, Effort()
        return taken

    def _draw(self, base: _BaseView, box: Box, proof: _Proof) -> None:
        """Draw a base view; mix and prove it, and the other one, once both are there."""
        picture = self._pictures.get(base.row, box)
        if picture is None:
            proof.bad_rows.add(base.row)
        _draw_base(base, picture, self.recipe.seed)
        other = base.other
        if other is None:
            proof.take(base)
        elif other.drawn:
            _mix(base, other, self._spare_HWC)
            proof.take(base)
            proof.take(other)
            base.other = other.other = None  # a cycle would keep the pixels' memory alive

    def _bases(self, row_B: Ints, view_B: Ints, out_BHWC: Image) -> tuple[list[_BaseView], dict[int, int]]:
        """What is to be drawn, each with the one it is mixed with; and which slots repeat an earlier one."""
        plan = plan_views(self.recipe, self.index, row_B, view_B)
        found: dict[tuple[int, int], _BaseView] = {}
        repeats: dict[int, int] = {}
        for base in _BaseView.of(plan, out_BHWC):
            first = found.setdefault((base.row, base.view), base)
            if first is not base:
                repeats[base.slot] = first.slot
        bases = list(found.values())
        apart = []
        for base in bases:
            partner = (int(plan.mixing.partner_B[base.slot]), base.view)
            if base.kind != Kind.NONE and partner in found:
                base.other = found[partner]
            elif base.kind != Kind.NONE:
                apart.append((base, partner))
        return bases + self._partners_of(apart), repeats

    def _partners_of(self, apart: list[tuple[_BaseView, tuple[int, int]]]) -> list[_BaseView]:
        """The partners of these base views, which are not in the call: they are drawn on scratch memory."""
        if not apart:
            return []
        row_N, view_N = np.array([partner for _, partner in apart], np.int64).T
        scratch_NHWC = np.empty((len(apart), *self._spare_HWC.shape), np.uint8)
        partners = list(_BaseView.of(plan_views(self.recipe, self.index, row_N, view_N), scratch_NHWC))
        for partner, (base, _) in zip(partners, apart, strict=True):
            partner.slot, partner.other, base.other = -1, base, partner
        return partners


@dataclass(slots=True, eq=False)
class _BaseView:
    """One base view to be drawn: its plan in plain numbers, where it goes, and whom it is mixed with."""

    slot: int
    """Its place in the call; -1 is scratch memory."""
    image_HWC: Image
    row: int
    view: int
    key: int
    crop: list[int]
    resize: list[int]
    offset: list[int]
    flip: bool
    cubic: bool
    pad: int
    operations: list[tuple[int, int, bool]]
    erased: list[int]
    kind: int
    own: float
    box: list[int]
    other: _BaseView | None = None
    drawn: bool = False

    @classmethod
    def of(cls, plan: ViewPlan, image_BHWC: Image) -> Iterator[_BaseView]:
        """The base views of a plan, in its order."""
        mixing = plan.mixing
        arrays = (plan.row_B, plan.view_B, plan.key_B, plan.crop_B4, plan.resize_B2, plan.offset_B2, plan.flip_B)
        columns = [array.tolist() for array in (*arrays, plan.cubic_B)]
        layers = [array.tolist() for array in (plan.op_BL, plan.argument_BL, plan.op_cubic_BL)]
        operations = [[step for step in zip(*lists, strict=True) if step[0]] for lists in zip(*layers, strict=True)]
        ends = [array.tolist() for array in (plan.erase_B4, mixing.kind_B, mixing.lam_B, mixing.box_B4)]
        pads = [plan.pad] * len(plan)
        lists = zip(range(len(plan)), image_BHWC, *columns, pads, operations, *ends, strict=True)
        return (cls(*values) for values in lists)


def _boxes(bases: Iterable[_BaseView]) -> dict[int, Box]:
    """The box of each row that all of its views lie in."""
    edges: dict[int, tuple[int, int, int, int]] = {}
    for base in bases:
        top, left, height, width = base.crop
        first, start, last, stop = edges.get(base.row, (top, left, 0, 0))
        edges[base.row] = min(first, top), min(start, left), max(last, top + height), max(stop, left + width)
    return {row: (top, left, bottom - top, right - left) for row, (top, left, bottom, right) in edges.items()}


def _draw_base(base: _BaseView, picture: Shown | None, seed: int) -> None:
    """The base view: everything but mixing."""
    image_HWC = base.image_HWC
    if picture is None:
        image_HWC[:] = GREY
    else:
        _cut(base, picture.cut(base.crop), image_HWC)
    if base.flip:
        cv2.flip(image_HWC, 1, dst=image_HWC)
    for op, argument, cubic in base.operations:
        apply(op, argument, image_HWC, cubic=cubic)
    if base.erased[2]:
        erase(image_HWC, base.erased, base.key, base.view, seed)
    base.drawn = True


def _cut(base: _BaseView, part_HWC: Image, image_HWC: Image) -> None:
    """Resize the cut, and where the whole picture was resized, take the view's square out of it."""
    if base.resize == list(image_HWC.shape[:2]) and not base.pad:
        resize(part_HWC, image_HWC, cubic=base.cubic)
        return
    whole_HWC = np.empty((*base.resize, 3), np.uint8)
    resize(part_HWC, whole_HWC, cubic=base.cubic)
    if base.pad:
        whole_HWC = np.pad(whole_HWC, ((base.pad, base.pad), (base.pad, base.pad), (0, 0)), mode="reflect")
    (top, left), side = base.offset, len(image_HWC)
    image_HWC[:] = whole_HWC[top : top + side, left : left + side]


def resize(part_HWC: Image, into_HWC: Image, *, cubic: bool) -> None:
    """Antialiased resize from any part of a picture straight into contiguous memory."""
    source = torch.from_numpy(part_HWC[None]).permute(0, 3, 1, 2)
    target = torch.from_numpy(into_HWC[None]).permute(0, 3, 1, 2)
    _RESIZE[cubic](source, into_HWC.shape[:2], False, None, None, out=target)


def _mix(base: _BaseView, other: _BaseView, spare_HWC: Image) -> None:
    """Mix two base views with each other, in place: λ · own + (1 − λ) · the other's, for both."""
    if base.kind == Kind.CUTMIX:
        top, left, height, width = base.box
        box = (slice(top, top + height), slice(left, left + width))
        spare_HWC[box] = base.image_HWC[box]
        base.image_HWC[box] = other.image_HWC[box]
        other.image_HWC[box] = spare_HWC[box]
        return
    own_HWC, other_HWC = base.image_HWC, other.image_HWC
    cv2.addWeighted(own_HWC, base.own, other_HWC, 1.0 - base.own, 0.0, dst=spare_HWC)
    cv2.addWeighted(other_HWC, base.own, own_HWC, 1.0 - base.own, 0.0, dst=other_HWC)
    own_HWC[:] = spare_HWC


class _Proof:
    """Checksums and samples of finished views, taken while their pixels are still in the processor's cache."""

    def __init__(self, out_BHWC: Image) -> None:
        self.out_BHWC = out_BHWC
        self.crc_B = np.zeros(len(out_BHWC), np.uint32)
        self.sample_B: list[Image] = [np.empty((0, 0), np.uint8)] * len(out_BHWC)
        self.bad_rows: set[int] = set()

    def take(self, base: _BaseView) -> None:
        if base.slot >= 0:
            self.crc_B[base.slot] = checksum(base.image_HWC)
            self.sample_B[base.slot] = samples(base.image_HWC)

    def repeat(self, slot: int, first: int) -> None:
        self.out_BHWC[slot] = self.out_BHWC[first]
        self.crc_B[slot], self.sample_B[slot] = self.crc_B[first], self.sample_B[first]

    def rendered(self) -> Rendered:
        return Rendered(self.crc_B, thumbnails(self.sample_B), tuple(sorted(self.bad_rows)))
