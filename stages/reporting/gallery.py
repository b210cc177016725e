"""Which pictures does a report show, and what is said about each?

Views: a few rows, spread over the data, each as it is and as the teacher saw it, with the teacher's answer (and the
other picture's share, where two are mixed). Held-out pictures: those on which the plain and the distilled student
disagree, and some that nobody recognises, always the first ones in the order of the rows: nothing is picked by hand.

Pictures become data URIs (WebP), so that the page is one file.

Shapes: B pictures, H W sides, N held-out rows.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ImageError
from pipeline.labels.soft_labels import SoftLabels
from pipeline.pictures.images import decode
from pipeline.rendering.renderer import GREY, Renderer
from pipeline.shards.index import SampleIndex
from pipeline.shards.rows import payload_of
from pipeline.store.reader import StoreReader
from pipeline.views.mixing import Kind, plan_mixing
from pipeline.views.recipe import Recipe
from stages.reporting.contact_sheet import BAD, GOOD, PALE, Caption, Cell, contact_sheet
from stages.reporting.results import Results, called

Pixels = NDArray[np.uint8]
Answer = tuple[int, float | None]
"""A class, and its probability where the store's keep tells it."""
LARGEST = 160
"""Longest side of a picture on the page, in pixels."""
SMALL = 100
"""Pictures of fewer pixels a side are shown as the pixels that they are."""


@dataclass(frozen=True, slots=True)
class Word:
    """What the teacher, a student or the data says about a picture; it is coloured by `right`."""

    who: str
    says: str
    right: bool | None = None


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture and the words that stand under it."""

    name: str
    """What it is, for people who cannot see it; the words stand beside it as text"""
    pixels_HWC: Pixels
    words: tuple[Word, ...]

    @property
    def small(self) -> bool:
        """Whether the picture is so small that its pixels are shown enlarged, as squares."""
        return bool(max(self.pixels_HWC.shape[:2]) < SMALL)

    @property
    def uri(self) -> str:
        """The picture as a ``data:`` address, which a page can hold."""
        bgr_HWC = np.ascontiguousarray(self.pixels_HWC[:, :, ::-1])
        done, data = cv2.imencode(".webp", bgr_HWC, [cv2.IMWRITE_WEBP_QUALITY, 85])
        assert done
        return f"data:image/webp;base64,{base64.b64encode(data.tobytes()).decode('ascii')}"


@dataclass(frozen=True, slots=True)
class Shelf:
    """A row of pictures under one title."""

    title: str
    tiles: tuple[Tile, ...]


def view_shelves(store: StoreReader, index: SampleIndex, *, rows: int, views: int) -> list[Shelf]:
    """For rows from all over the data: the picture of the row, and its first views with the teacher's answers."""
    shown = min(views, store.layout.views)
    chosen = _chosen(index, rows)
    row_B, view_B = np.repeat(chosen, shown), np.tile(np.arange(shown), len(chosen))
    pixels_BHWC = rendered(store.manifest.recipe, index, row_B, view_B)
    words = _view_words(store, index, row_B, view_B)
    shelves = []
    for number, row in enumerate(chosen.tolist()):
        part = slice(number * shown, (number + 1) * shown)
        pixels_HWC, decoded = original(index, row)
        said = Word("the picture", "" if decoded else "cannot be decoded")
        picture = Tile(f"row {row:,} as it is", _fitted(pixels_HWC), (said,))
        seen = enumerate(zip(pixels_BHWC[part], words[part], strict=True))
        tiles = [Tile(f"row {row:,}, view {view}", _fitted(p), w) for view, (p, w) in seen]
        shelves.append(Shelf(f"Row {row:,}: {_name(index, row)}", (picture, *tiles)))
    return shelves


def original(index: SampleIndex, row: int) -> tuple[Pixels, bool]:
    """A row's picture as it is, and True; or, where it cannot be decoded, grey as the recipe draws it, and False."""
    try:
        return decode(payload_of(index, index.files(), row)), True
    except ImageError:
        return np.full((64, 64, 3), GREY, np.uint8), False


def _chosen(index: SampleIndex, rows: int) -> NDArray[np.int64]:
    """Rows spread over the data, half of them with a label where there are both kinds; those first."""
    known, unknown = np.flatnonzero(index.classes >= 0), np.flatnonzero(index.classes < 0)
    with_label = rows if not len(unknown) else min(-(-rows // 2), len(known))
    parts = ((known, with_label), (unknown, rows - with_label))
    picked = [
        part[np.unique(np.linspace(0, len(part) - 1, count + 2)[1:-1].astype(int))]
        for part, count in parts
        if len(part)
    ]
    return np.concatenate(picked)


def rendered(recipe: Recipe, index: SampleIndex, row_B: NDArray[np.int64], view_B: NDArray[np.int64]) -> Pixels:
    """These views, drawn as the teacher and the students see them."""
    side = recipe.image_size
    pixels_BHWC = np.empty((len(row_B), side, side, 3), np.uint8)
    Renderer(recipe, index, index.files()).render(row_B, view_B, pixels_BHWC)
    return pixels_BHWC


def _view_words(
    store: StoreReader, index: SampleIndex, row_B: NDArray[np.int64], view_B: NDArray[np.int64]
) -> list[tuple[Word, ...]]:
    mixing = plan_mixing(store.manifest.recipe, len(index), row_B, view_B)
    answers, _ = stored(store, row_B, view_B)
    words = []
    for at, row in enumerate(row_B.tolist()):
        partner = int(mixing.partner_B[at])
        mixed: tuple[Word, ...] = ()
        if mixing.kind_B[at] != Kind.NONE:
            share = 100 * float(mixing.lam_B[at])
            mixed = (
                Word(f"{share:.0f} % of it is", _name(index, row)),
                Word(f"{100 - share:.0f} % of it is", _name(index, partner)),
            )
        named, sure = answers[at][0]
        known = {int(index.classes[row]), int(index.classes[partner])} - {-1}
        words.append((*mixed, Word(_sure(sure), class_name(index, named), named in known if known else None)))
    return words


def _sure(share: float | None) -> str:
    return "the teacher says" if share is None else f"teacher, {100 * share:.0f} % sure"


def stored(
    store: StoreReader, row_B: NDArray[np.int64], view_B: NDArray[np.int64]
) -> tuple[list[list[Answer]], NDArray[np.uint32]]:
    """The teacher's class for each view and, where it is stored, the second likeliest one; and all checksums."""
    run_B, place_B = np.divmod(row_B, store.manifest.unit_rows)
    answers: list[list[Answer]] = [[] for _ in row_B]
    crc_B = np.empty(len(row_B), np.uint32)
    for view, run in sorted(set(zip(view_B.tolist(), run_B.tolist(), strict=True))):
        unit = store.read(view, run, luma=False)
        here = np.flatnonzero((view_B == view) & (run_B == run))
        crc_B[here] = unit.crc_B[place_B[here]]
        for at, said in zip(here.tolist(), _likeliest(store, unit.labels.take(place_B[here])), strict=True):
            answers[at] = said
    return answers, crc_B


def _likeliest(store: StoreReader, labels: SoftLabels) -> list[list[Answer]]:
    keep, temperatures = store.manifest.keep, store.manifest.temperatures
    tops = labels.argmax_B.tolist()
    if keep.lacks(1.0, temperatures) is not None:
        return [[(top, None)] for top in tops]
    events = keep.events(labels.arrays(), 1.0, temperatures)
    found: list[list[Answer]] = []
    for top, classes, shares in zip(tops, events.index_BK.tolist(), events.prob_BK.tolist(), strict=True):
        share = dict(zip(classes, shares, strict=True))
        others = sorted((c for c in share if c != top), key=lambda c: -share[c])
        found.append([(c, share.get(c, 0.0)) for c in (top, *others[:1])])
    return found


def held_out_shelves(results: Results, store: StoreReader, index: SampleIndex, *, most: int) -> list[Shelf]:
    """Held-out pictures, sorted by which students recognise them; none where the students' answers were not kept."""
    gains = results.gains()
    seeds = set.intersection(*({s.seed for s in results.of(kind) if s.answers} for kind in results.kinds))
    if not seeds or not gains:
        return []
    judged = {
        s.kind: s.answers for kind in results.kinds for s in results.of(kind) if s.answers and s.seed == min(seeds)
    }
    first = judged[results.kinds[0]]
    named = {"teacher": first["teacher"]} if "teacher" in first else {}
    named |= {kind: answers["named"] for kind, answers in judged.items()}
    right = {kind: named_N == first["truth"] for kind, named_N in named.items()}
    best = max(gains, key=lambda kind: gains[kind].mean)
    groups = {
        f"The student of {called(best)} is right, the plain one is not": right[best] & ~right["none"],
        f"The plain student is right, that of {called(best)} is not": right["none"] & ~right[best],
        "Nobody is right": ~np.any(list(right.values()), axis=0),
    }
    shelves = []
    for title, chosen_N in groups.items():
        shown = np.flatnonzero(chosen_N)[:most]
        pixels_BHWC = rendered(store.manifest.recipe, index, first["row"][shown], np.zeros(len(shown), np.int64))
        tiles = []
        for pixels_HWC, at in zip(pixels_BHWC, shown.tolist(), strict=True):
            answers = [Word(called(k), class_name(index, int(n[at])), bool(right[k][at])) for k, n in named.items()]
            truth = Word("truth", class_name(index, int(first["truth"][at])))
            tiles.append(Tile(f"held-out row {first['row'][at]:,}", _fitted(pixels_HWC), (truth, *answers)))
        if tiles:
            shelves.append(Shelf(f"{title}: {int(chosen_N.sum()):,} of {len(chosen_N):,}", tuple(tiles)))
    return shelves


def class_name(index: SampleIndex, number: int) -> str:
    """The name of a class, or its number where it has none; cut to 40 characters."""
    name = index.class_names[number] if index.class_names else str(number)
    return name if len(name) <= 40 else f"{name[:39]}…"


def _name(index: SampleIndex, row: int) -> str:
    return "without a label" if index.classes[row] < 0 else class_name(index, int(index.classes[row]))


def _fitted(pixels_HWC: Pixels) -> Pixels:
    """No larger than the page needs."""
    scale = LARGEST / max(pixels_HWC.shape[:2])
    if scale >= 1:
        return pixels_HWC
    size = (max(1, round(pixels_HWC.shape[1] * scale)), max(1, round(pixels_HWC.shape[0] * scale)))
    return np.asarray(cv2.resize(pixels_HWC, size, interpolation=cv2.INTER_AREA), np.uint8)


def contact_sheet_of(shelves: Sequence[Shelf]) -> bytes:
    """The views of some rows on one page (PNG), with what is said about each."""
    rows = [[Cell(pixels_HWC=tile.pixels_HWC, captions=_captions(tile)) for tile in shelf.tiles] for shelf in shelves]
    data = io.BytesIO()
    contact_sheet("What the teacher saw", "; ".join(shelf.title for shelf in shelves), [], rows).save(data, "PNG")
    return data.getvalue()


def _captions(tile: Tile) -> list[Caption]:
    tones = {None: PALE, True: GOOD, False: BAD}
    return [Caption(f"{word.who}: {word.says}" if word.says else word.who, tones[word.right]) for word in tile.words]
