"""How are views shown to people? One line of cells a row: the picture itself, then its views, each with its captions.

Views are shown as they are (small ones enlarged by whole factors, without smoothing). Under each view a bar says how
much of it is its own (dark) and how much is its partner's (light). Captions go on in a second line, then are cut short.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

PAPER: Colour = (250, 250, 247)
INK: Colour = (35, 35, 40)
PALE: Colour = (120, 120, 128)
GOOD: Colour = (20, 110, 60)
BAD: Colour = (176, 58, 20)
OWN: Colour = (52, 92, 140)
OTHER: Colour = (226, 164, 84)
EMPTY: Colour = (232, 232, 228)
MARGIN, GAP, BAR, LINE, TEXT = 24, 16, 6, 17, 12
SMALLEST, LARGEST = 192, 288
"""Side of a shown view: smaller ones are enlarged, larger ones reduced."""


@dataclass(frozen=True, slots=True)
class Caption:
    """A line of text under a picture."""

    text: str
    colour: Colour = PALE


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A picture with the lines of text under it."""

    pixels_HWC: Pixels
    captions: Sequence[Caption]
    own: float | None = None
    """Share of the view that is its own; None draws no bar."""


def contact_sheet(title: str, subtitle: str, legend: Sequence[Caption], rows: Sequence[Sequence[Cell]]) -> Image.Image:
    """All cells on one page; every row has the same number of them. The legend, one line, explains the colours."""
    side = _shown_side(rows[0][-1].pixels_HWC.shape[0])
    lines = max(len(_wrapped(cell.captions, side)) for cells in rows for cell in cells)
    wide, tall = side + GAP, side + BAR + 6 + lines * LINE + GAP
    head = MARGIN + 28 + LINE * (2 if legend else 1) + GAP
    page = Image.new("RGB", (2 * MARGIN + len(rows[0]) * wide - GAP, head + len(rows) * tall + MARGIN - GAP), PAPER)
    pen = ImageDraw.Draw(page)
    _write(pen, (MARGIN, MARGIN), Caption(title, INK), page.width - 2 * MARGIN, size=18)
    _write(pen, (MARGIN, MARGIN + 28), Caption(subtitle), page.width - 2 * MARGIN)
    _explain(pen, (MARGIN, MARGIN + 28 + LINE), legend)
    for line, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            _place(page, pen, cell, (MARGIN + column * wide, head + line * tall), side)
    return page


def _place(page: Image.Image, pen: ImageDraw.ImageDraw, cell: Cell, corner: tuple[int, int], side: int) -> None:
    left, top = corner
    picture = _fitted(cell.pixels_HWC, side)
    pen.rectangle((left, top, left + side - 1, top + side - 1), EMPTY)
    page.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))
    if cell.own is not None:
        middle = left + round(cell.own * side)
        bar = (top + side + 2, top + side + 1 + BAR)
        pen.rectangle((left, bar[0], left + side - 1, bar[1]), OTHER)
        if middle > left:
            pen.rectangle((left, bar[0], middle - 1, bar[1]), OWN)
    for number, caption in enumerate(_wrapped(cell.captions, side)):
        _write(pen, (left, top + side + BAR + 6 + number * LINE), caption, side)


def _wrapped(captions: Sequence[Caption], width: int) -> list[Caption]:
    """Captions that are too long continue on a second line."""
    return [Caption(part, caption.colour) for caption in captions for part in _lines(caption.text, width, 2)]


def _lines(text: str, width: int, most: int, size: int = TEXT) -> list[str]:
    """So many lines at most; the last is cut short where it would run over. Every letter of the font is as wide."""
    return textwrap.wrap(text, int(width / _font(size).getlength("x")), max_lines=most, placeholder="…")


def _explain(pen: ImageDraw.ImageDraw, place: tuple[int, int], legend: Sequence[Caption]) -> None:
    left, top = place
    for entry in legend:
        pen.rectangle((left, top + 4, left + 2 * BAR, top + 3 + BAR), entry.colour)
        pen.text((left + 3 * BAR, top), entry.text, PALE, _font(TEXT))
        left += 5 * BAR + round(_font(TEXT).getlength(entry.text))


def _shown_side(side: int) -> int:
    return side * -(-SMALLEST // side) if side < SMALLEST else min(side, LARGEST)


def _fitted(pixels_HWC: Pixels, side: int) -> Image.Image:
    """The picture, as large as fits: enlarged by a whole factor, or reduced."""
    picture = Image.fromarray(np.ascontiguousarray(pixels_HWC))
    longest = max(picture.size)
    if longest <= side:
        return picture.resize(
            (picture.width * (side // longest), picture.height * (side // longest)), Image.Resampling.NEAREST
        )
    size = tuple(max(1, round(length * side / longest)) for length in picture.size)
    return picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)


def _write(pen: ImageDraw.ImageDraw, place: tuple[int, int], caption: Caption, width: int, *, size: int = TEXT) -> None:
    for text in _lines(caption.text, width, 1, size):
        pen.text(place, text, caption.colour, _font(size))


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib: it has most alphabets, for the names of classes."""
    import matplotlib as mpl  # only now: it is an extra

    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf", size)
