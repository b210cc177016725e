"""How is a figure drawn so that it can be read on a phone, on a screen, in the dark and by a screen reader?

Lines are SVG that stretches to whatever width there is (strokes keep theirs); all words and dots are HTML placed over
it by percentages, so text has its real size everywhere. Colours are CSS variables, which the page sets for light and
dark. Every figure has a text that says what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale from `low` to `high` with marks."""

    low: float
    high: float
    ticks: tuple[float, ...]
    percent: bool = False

    def at(self, value: float) -> float:
        """Where a value lies, in percent of the axis."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    def text(self, value: float) -> str:
        """A mark's label."""
        return f"{100 * value:g} %" if self.percent else f"{value:g}"

    @classmethod
    def around(cls, values: Iterable[float], *, percent: bool = False, marks: int = 5, least: float = 0.0) -> Axis:
        """A scale over all values, `least` wide at least, with about so many marks at round numbers."""
        known = sorted(values)
        low, high = (known[0], known[-1]) if known else (0.0, 1.0)
        margin = max((high - low) * 0.06, (least - high + low) / 2) or abs(high) * 0.05 or 0.5
        low, high = low - margin, high + margin
        if percent:
            low, high = max(low, 0.0), min(high, 1.0)
        step = _round_step((high - low) / marks)
        ticks = [round(step * n, 10) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
        return cls(low, high, tuple(ticks), percent)

    @classmethod
    def counting(cls, last: int, *, first: int = 1) -> Axis:
        """Whole numbers from `first` to `last`, about six of them marked."""
        step = max(1, round(_round_step((last - first) / 6))) if last > first else 1
        marks = [n for n in range(0, last + 1, step) if n >= first]
        return cls(float(first), float(max(last, first + 1)), tuple(float(n) for n in marks))


def _round_step(wanted: float) -> float:
    """The nearest of 1, 2, 2.5, 5 × 10ⁿ that is not smaller."""
    scale = float(10 ** math.floor(math.log10(wanted)))
    return next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= wanted * 0.999)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A line through points, in one of the page's colours."""

    name: str
    colour: str
    points: Sequence[Point]
    faint: bool = False
    dots: bool = False


def chart(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    x_name: str,
    y_name: str,
    told: str,
    rule: tuple[float, str] | None = None,
) -> str:
    """Lines over two scales; `rule` is one more level with its name."""
    marks_y = "".join(f'<span style="bottom:{y.at(t)}%">{y.text(t)}</span>' for t in y.ticks)
    marks_x = "".join(f'<span style="left:{x.at(t)}%">{x.text(t)}</span>' for t in x.ticks)
    grid = "".join(f'<i style="bottom:{y.at(t)}%"></i>' for t in y.ticks)
    lines = "".join(_line(s, x, y) for s in series)
    dots = "".join(_dots(s, x, y) for s in series if s.dots)
    level = ""
    if rule is not None and y.low <= rule[0] <= y.high:
        level = f'<b class="rule" style="bottom:{y.at(rule[0])}%"><em>{escape(rule[1])}</em></b>'
    return (
        f'<div class="chart" role="img" aria-label="{escape(told, quote=True)}">'
        f'<div class="y-name">{escape(y_name)}</div><div class="y">{marks_y}</div>'
        f'<div class="area">{grid}'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{lines}</svg>'
        f'{dots}{level}</div><div class="x">{marks_x}</div><div class="x-name">{escape(x_name)}</div></div>'
    )


def _line(series: Series, x: Axis, y: Axis) -> str:
    points = " ".join(f"{x.at(a)},{round(100 - y.at(b), 2)}" for a, b in series.points)
    kind = ' class="faint"' if series.faint else ""
    return f'<polyline{kind} points="{points}" style="stroke:var(--{series.colour})"/>'


def _dots(series: Series, x: Axis, y: Axis) -> str:
    style = f"background:var(--{series.colour})"
    return "".join(f'<s style="left:{x.at(a)}%;bottom:{y.at(b)}%;{style}"></s>' for a, b in series.points)


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """A row of a strip chart: one dot a seed, a bar at their mean."""

    name: str
    colour: str
    values: tuple[float, ...]
    text: str
    strong: bool = False


def strips(groups: Sequence[tuple[str, Sequence[Strip]]], x: Axis, *, told: str, rule: tuple[float, str] | None) -> str:
    """Groups of rows over one scale; `rule` is a level to compare all with."""
    marks = "".join(f'<span style="left:{x.at(t)}%">{x.text(t)}</span>' for t in x.ticks)
    grid = "".join(f'<i style="left:{x.at(t)}%"></i>' for t in x.ticks)
    if rule is not None:
        grid += f'<b style="left:{x.at(rule[0])}%"></b>'
        marks += f'<strong style="left:{x.at(rule[0])}%">{escape(rule[1])}</strong>'
    body = ""
    for title, rows in groups:
        body += f'<div class="strip-title">{escape(title)}</div>'
        body += "".join(_strip(row, x, grid) for row in rows)
    axis = f'<div class="strip-axis"><div>{marks}</div></div>'
    return f'<div class="strips" role="img" aria-label="{escape(told, quote=True)}">{body}{axis}</div>'


def _strip(row: Strip, x: Axis, grid: str) -> str:
    style = f"--c:var(--{row.colour})"
    mean = sum(row.values) / len(row.values)
    dots = "".join(f'<s style="left:{x.at(v)}%"></s>' for v in row.values)
    kind = "strip strong" if row.strong else "strip"
    return (
        f'<div class="{kind}" style="{style}"><div class="strip-name">{escape(row.name)}</div>'
        f'<div class="track">{grid}<u style="left:{x.at(mean)}%"></u>{dots}</div>'
        f'<div class="strip-text">{escape(row.text)}</div></div>'
    )


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Names beside their colours."""
    marks = "".join(
        f'<span><i style="background:var(--{colour})"></i>{escape(name)}</span>' for name, colour in entries
    )
    return f'<div class="legend">{marks}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "") -> str:
    """A table whose first column names the rows; cells are HTML already."""
    top = "".join(f"<th scope=col>{cell}</th>" for cell in head)
    body = "".join(
        f"<tr><th scope=row>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    title = f"<caption>{caption}</caption>" if caption else ""
    return f'<div class="scroll"><table>{title}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
