"""How is a figure drawn once, and yet read on a phone, in print, in the dark and in slides?

Matplotlib draws each figure. As SVG it stands in the page: its words stay words, its colours become the page's (each
colour of the palette below is replaced by a CSS variable of its name), its marks say their figures when pointed at, and
a text says what it shows to those who do not see it. As PNG the same figure goes to slides and to `dvc plots show`, in
colours that hold on white and on black. Figures are as wide as a phone; a wide screen sets two side by side.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from stages.reporting.results import called

PALETTE = {
    "dim": "#7d8590", "none": "#8b92a0", "hard": "#4f8df0", "soft": "#e8762f", "teacher": "#35a572",
    "ink": "#3a3d44", "other1": "#a06cd5", "other2": "#2a9fb0", "other3": "#d1568f", "other4": "#9a8b1f",
}  # fmt: skip
"""Each is the page's variable of this name, and must not be written in any other way."""
INK = PALETTE["dim"]
WIDTH = 4.7
"""In inches: 338 points, which a phone shows as they are"""
STYLE: Any = {
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    **{f"axes.{part}": INK for part in ("labelcolor", "edgecolor", "titlecolor")},
    **{f"axes.spines.{side}": False for side in ("top", "right")},
    "axes.titlelocation": "left", "axes.titlesize": 11, "font.size": 10, "font.family": "DejaVu Sans",
    "legend.frameon": False, "legend.fontsize": 9, "svg.fonttype": "none", "svg.hashsalt": "report",
}  # fmt: skip
TURNS = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."))
MOST_INSIDE = 4
"""Entries of a legend that do not hide what is drawn"""
MOST_MARKS = 40
"""On a line: more could not be pointed at, and would make the page large"""
Mark = tuple[float, float, str]
"""A point, and what it says"""


class Drawing:
    """A Matplotlib figure with one pair of axes, a tooltip for each mark, and a text for people who cannot see it."""

    def __init__(
        self, name: str, colours: Mapping[str, str], *, about: str = "", height: float = 3.0, grid: Any = "both",
        percent: str = "", whole: int = 0, **words: str,
    ) -> None:  # fmt: skip
        """Axes in the page's style: `percent` names those in per cent, `whole` is how many steps the x axis has."""
        self._colours = {"teacher": "teacher", **colours}
        self.name, self.about, self.said = name, about or words.get("title", ""), list[str]()
        self.figure = Figure(figsize=(WIDTH, height), layout="constrained")
        self.axes = self.figure.subplots()
        self.axes.set(**words, axisbelow=True)
        if grid:
            self.axes.grid(axis=grid, color=INK, alpha=0.2, linewidth=0.8)
        for axis in (getattr(self.axes, f"{letter}axis") for letter in percent):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
            axis.set_major_locator(MaxNLocator(5))
        if whole:
            self.axes.xaxis.set_major_locator(MaxNLocator(whole, integer=True))
        self._tips: list[str] = []

    def tip(self, artist: Artist, text: str) -> None:
        """Show this text when somebody points at this mark."""
        artist.set_gid(f"tip-{len(self._tips)}-{self.name}")
        artist.set_in_layout(False)  # or hundreds of marks are measured to find that they fit
        self._tips.append(text)

    def series(self, kind: str, marks: Sequence[Mark], *, size: float, line: float = 0.0, **style: Any) -> None:
        """Draw a mark for each point, with a line through them where `line` is its width, in the colour of `kind`."""
        style = {"color": self.tone(kind), "markersize": size, "markeredgewidth": 0, **style}
        marker, dashes = self._turn(kind)
        step = -(-len(marks) // MOST_MARKS) if line and marks else 1
        for x, y, text in marks[(len(marks) - 1) % step :: step]:
            self.tip(self.axes.plot([x], [y], marker=marker, **style)[0], text)
        of_line: Any = {"linewidth": line, "zorder": 1.9, "linestyle": dashes} if line else {"ls": "", "marker": marker}
        through = marks if line else ()
        self.axes.plot([x for x, *_ in through], [y for _, y, _ in through], **style, **of_line, label=called(kind))

    def tone(self, kind: str) -> str:
        """The colour of a kind of student, or of the teacher."""
        return PALETTE[self._colours.get(kind, "dim")]

    def _turn(self, kind: str) -> tuple[str, str]:
        """The marker and the line that tell it from kinds of the same colour."""
        alike = [other for other, colour in self._colours.items() if colour == self._colours.get(kind)] or [kind]
        return TURNS[alike.index(kind) % len(TURNS)]

    def categories(self, names: Sequence[str], least: float = -0.5) -> None:
        """Give the vertical axis a step for each name, the first at the top; `least` is where it begins."""
        self.axes.set_yticks(range(len(names)), names)
        self.axes.set_ylim(len(names) - 0.5, least)
        self.axes.tick_params(axis="y", length=0)

    def png(self) -> bytes:
        """The figure as a PNG for slides; the same figure gives the same bytes."""
        return self._saved(format="png", dpi=160, metadata={"Software": None})

    def svg(self) -> str:
        """The figure as SVG for the page: in the page's colours, and with ids that no other figure of it has."""
        text = self._saved(format="svg", metadata={"Date": None}).decode()
        text = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
        text = re.sub(r' (?:xmlns(?::xlink)?|version)="[^"]*"', "", text).replace("xlink:href", "href")
        for number, tip in enumerate(self._tips):
            text = text.replace(f'<g id="tip-{number}-{self.name}">', f"<g><title>{escape(tip)}</title>")
        used = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
        text = re.sub(r' id="([^"]*)"', lambda m: f' id="{self.name}-{m[1]}"' if m[1] in used else "", text)
        text = re.sub(r'(url\(|href=")#', rf"\g<1>#{self.name}-", text)
        for name, value in PALETTE.items():
            text = text.replace(value, f"var(--{name})")
        told = (f"{self.about}: " if self.about else "") + "; ".join(self.said)
        frame = rf'<svg class="drawing" \1 role="img" aria-label="{escape(told)}">'
        return re.sub(r'<svg[^>]*(viewBox="[^"]*")[^>]*>', frame, text, count=1)

    def _saved(self, **how: Any) -> bytes:
        data = io.BytesIO()
        with mpl.rc_context(STYLE):
            self.figure.savefig(data, transparent=True, **how)
        return data.getvalue()


@contextmanager
def drawing(
    name: str, colours: Mapping[str, str], *, legend: Mapping[str, Any] | None = None, **how: Any
) -> Iterator[Drawing]:
    """Draw one figure in the page's style; `legend`, where it is given, says where its legend goes."""
    with mpl.rc_context(STYLE):
        yield (figure := Drawing(name, colours, **how))
        if legend is not None:
            if len(figure.axes.get_legend_handles_labels()[1]) <= MOST_INSIDE or "bbox_to_anchor" in legend:
                figure.axes.legend(**legend)
            else:
                figure.figure.legend(loc="outside lower left", ncols=3)
