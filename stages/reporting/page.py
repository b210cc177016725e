"""What is a page made of, and how does it become one HTML file?

A page is an opening and parts; a part is a title over blocks (texts, findings, figures, tables, pictures, folded texts,
downloads). All HTML is in the template ``page.html``, all style in ``page.css``, which becomes part of the page:
nothing is loaded from anywhere, and there is no script. Whatever is put into the template is text, and never markup,
but for the figures that matplotlib drew.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import jinja2

from stages.reporting.figures import Drawing
from stages.reporting.gallery import Shelf, data_uri

HERE = Path(__file__).parent
SMALL = 100
"""Pictures of fewer pixels a side are shown as the pixels that they are."""


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the figures say, and what to do about it; `good` is None where it is neither."""

    text: str
    remedy: str = ""
    good: bool | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """A list of them."""

    kind: ClassVar[str] = "findings"
    found: Sequence[Finding]


@dataclass(frozen=True, slots=True)
class Figures:
    """One figure or two side by side, and what there is to see in them."""

    kind: ClassVar[str] = "figures"
    drawings: Sequence[Drawing]
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of a table; `colour` marks what it is about."""

    head: str
    cells: Sequence[str]
    colour: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Figures with their names; the first column names the rows."""

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Row]
    words: bool = False
    """Whether the cells are words rather than figures"""


@dataclass(frozen=True, slots=True)
class Shelves:
    """Pictures with what is said about each."""

    kind: ClassVar[str] = "shelves"
    shelves: Sequence[Shelf]

    @property
    def columns(self) -> int:
        """As many as the longest row of pictures has, so that no place stays empty for all."""
        return min(8, max(len(shelf.tiles) for shelf in self.shelves))


@dataclass(frozen=True, slots=True)
class Fold:
    """A text that is opened by those who want it."""

    kind: ClassVar[str] = "fold"
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Downloads:
    """Files that the page carries inside, by their names."""

    kind: ClassVar[str] = "downloads"
    files: Sequence[tuple[str, bytes]]


Block = Text | Findings | Figures | Table | Shelves | Fold | Downloads


@dataclass(frozen=True, slots=True)
class Part:
    """A titled part of the page."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A number that one sees first."""

    name: str
    colour: str
    number: str
    beside: str
    below: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """The headline (its middle is stressed), what was compared, and the result in a few numbers."""

    headline: tuple[str, str, str]
    lead: str
    more: str
    cards: Sequence[Card] = field(default_factory=tuple)
    made: str


def render(opening: Opening, parts: Sequence[Part]) -> str:
    """The whole file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"picture": data_uri, "base64": lambda data: base64.b64encode(data).decode("ascii")}
    style = (HERE / "page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(opening=opening, parts=parts, style=style, small=SMALL) + "\n"
