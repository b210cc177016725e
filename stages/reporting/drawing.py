"""How is a figure drawn once, and yet read on a phone, in print, in the dark and in slides?

Matplotlib draws each figure. As SVG it stands in the page: its words stay words, its colours become the page's (each
colour of the palette below is replaced by a CSS variable of its name), and a text says what it is about. Its marks say
their figures when pointed at; the page lists the same in words, for those who do not point. As PNG the same figure goes
to slides and to `dvc plots show`, in colours that hold on white and on black. Figures are as wide as a phone; a wide
screen sets two side by side. Kinds differ by mark and line, too, not by colour alone.
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
TURNS: Any = (("o", "-"), ("D", "--"), ("^", "-."), ("s", ":"), ("v", (0, (6, 1, 1, 1, 1, 1))))
"""Marks and lines tell kinds apart where colours do not: five, so that they and the four other colours part 20 kinds"""
STEPS = (1, 2, 5, 10)
NARROWEST = 0.1
"""Of an axis of percentages, or chance would look like a trend"""
MOST_INSIDE = 4
"""Entries of a legend that do not hide what is drawn"""
MOST_MARKS = 40
"""On a line: more could not be pointed at, and would make the page large"""
Mark = tuple[float, float, str]
"""A point, and what it says"""


class Drawing:
    """A Matplotlib figure with one pair of axes, what it is about in words, and the tooltips of its marks."""

    def __init__(
        self, name: str, colours: Mapping[str, str], *, about: str, height: float = 3.0, grid: Any = "both",
        percent: str = "", whole: int = 0, **words: str,
    ) -> None:  # fmt: skip
        """Axes in the page's style: `percent` names those in per cent, `whole` is how many steps the x axis has."""
        self._colours = {**colours, "teacher": "teacher"}
        self.name, self.about, self.tips = name, about, list[str]()
        self.figure = Figure(figsize=(WIDTH, height), layout="constrained")
        self.axes = self.figure.subplots()
        self.axes.set(**words, axisbelow=True)
        if grid:
            self.axes.grid(axis=grid, color=INK, alpha=0.2, linewidth=0.8)
        self._percent = [getattr(self.axes, f"{letter}axis") for letter in percent]
        for axis in self._percent:
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
            axis.set_major_locator(MaxNLocator(5, steps=STEPS))
        if whole:
            self.axes.xaxis.set_major_locator(MaxNLocator(whole, steps=STEPS, integer=True))

    def tip(self, artist: Artist, text: str) -> None:
        """Show this text when somebody points at this mark."""
        artist.set_gid(f"tip-{len(self.tips)}-{self.name}")
        artist.set_in_layout(False)  # or hundreds of marks are measured to find that they fit
        self.tips.append(text)

    def series(self, kind: str, marks: Sequence[Mark], *, size: float, line: float = 0.0, **style: Any) -> None:
        """Draw a mark for each point, with a line through them where `line` is its width, in the colour of `kind`."""
        marker, dashes = TURNS[list(self._colours | {kind: ""}).index(kind) % len(TURNS)]
        style = {"color": self.tone(kind), "marker": marker, "markersize": size, "markeredgewidth": 0, **style}
        of_line: Any = {"linewidth": line, "linestyle": dashes if line else ""}
        if line:
            self.axes.plot(
                [x for x, *_ in marks], [y for _, y, _ in marks], **style | {"marker": ""}, **of_line, zorder=1.9
            )
        step = -(-len(marks) // MOST_MARKS) if line and marks else 1
        for x, y, text in marks[(len(marks) - 1) % step :: step]:
            self.tip(self.axes.plot([x], [y], **style)[0], text)
        self.axes.plot([], [], **style, **of_line, label=called(kind))

    def tone(self, kind: str) -> str:
        """The colour of a kind of student, or of the teacher."""
        return PALETTE[self._colours.get(kind, "dim")]

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
        for number, tip in enumerate(self.tips):
            text = text.replace(f'<g id="tip-{number}-{self.name}">', f"<g><title>{escape(tip)}</title>")
        used = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
        text = re.sub(r' id="([^"]*)"', lambda m: f' id="{self.name}-{m[1]}"' if m[1] in used else "", text)
        text = re.sub(r'(url\(|href=")#', rf"\g<1>#{self.name}-", text)
        for name, value in PALETTE.items():
            text = text.replace(value, f"var(--{name})")
        return re.sub(
            r'<svg[^>]*(viewBox="[^"]*")[^>]*>', r'<svg class="drawing" \1 aria-hidden="true">', text, count=1
        )

    def _saved(self, **how: Any) -> bytes:
        data = io.BytesIO()
        for axis in self._percent:
            low, high = axis.get_view_interval()
            if high - low < NARROWEST:
                low = min(max(0.0, (low + high - NARROWEST) / 2), 1 - NARROWEST)
                axis.set_view_interval(low, low + NARROWEST, ignore=True)
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
