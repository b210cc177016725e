"""What does a demonstration chart look like? A price series with a named pattern, drawn as a trader's screen would.

The pattern is a few turning points (a head and shoulders: up, down, higher, down, up, down); where they lie in time and
how high they are is drawn at random within what still bears the name. Between them the price wanders; before and after
them it comes and goes. The series is drawn as a line, as bars or as candles, in some colours, on light or dark, with or
without grid, volume, moving average and a frame, at some size within the picture. So the name is in the shape alone: no
style tells it.

Shapes: N prices of a series, H W height and width of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Series = NDArray[np.float64]
Points = tuple[tuple[float, float], ...]

PATTERNS: dict[str, Points] = {
    "ascending_triangle": ((0.0, 0.1), (0.2, 1.0), (0.4, 0.35), (0.6, 1.0), (0.8, 0.65), (1.0, 1.0)),
    "cup": ((0.0, 1.0), (0.2, 0.35), (0.4, 0.05), (0.6, 0.05), (0.8, 0.35), (1.0, 1.0)),
    "descending_triangle": ((0.0, 0.9), (0.2, 0.0), (0.4, 0.65), (0.6, 0.0), (0.8, 0.35), (1.0, 0.0)),
    "double_bottom": ((0.0, 1.0), (0.25, 0.05), (0.5, 0.6), (0.75, 0.05), (1.0, 1.0)),
    "double_top": ((0.0, 0.0), (0.25, 0.95), (0.5, 0.4), (0.75, 0.95), (1.0, 0.0)),
    "head_and_shoulders": ((0.0, 0.0), (0.18, 0.6), (0.34, 0.3), (0.5, 1.0), (0.66, 0.3), (0.82, 0.6), (1.0, 0.0)),
    "inverse_head_and_shoulders": (
        *((0.0, 1.0), (0.18, 0.4), (0.34, 0.7), (0.5, 0.0), (0.66, 0.7), (0.82, 0.4), (1.0, 1.0)),
    ),
    "rising_channel": ((0.0, 0.1), (0.2, 0.5), (0.4, 0.3), (0.6, 0.75), (0.8, 0.55), (1.0, 1.0)),
}
"""Turning points by name, in alphabetical order: (when, how high), both in 0 to 1."""
CLASSES = tuple(PATTERNS)
KEPT = 0.875
"""Side of the centre crop that students are judged on: the whole pattern lies inside it."""
SHIFT = 4
"""OpenCV's fixed-point coordinates: sixteenths of a pixel."""
OVERSAMPLING = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartStyle:
    """How a chart looks, and how hard its pattern is to see."""

    side: int = 48
    """Side of a picture in pixels."""
    prices: tuple[int, int] = (40, 80)
    """Fewest and most prices of a series."""
    noise: tuple[float, float] = (0.02, 0.06)
    """How far a price wanders, as a share of the pattern's height."""
    jitter: float = 0.06
    """How far a turning point may lie from its place, in time and in height."""
    around: float = 0.15
    """Largest share of the series before the pattern, and after it."""


def paint(style: ChartStyle, pattern: str, rng: np.random.Generator) -> Pixels:
    """Draw one chart [side, side, 3] that shows a pattern."""
    price_N = series(style, pattern, rng)
    side = style.side * OVERSAMPLING
    ground, ink, second = _colours(rng)
    canvas = np.full((side, side, 3), ground, np.float32)
    place = _place(price_N, side, rng)
    _grid(canvas, ground, rng)
    if rng.random() < 0.4:
        _volume(canvas, place, second, rng)
    if rng.random() < 0.4:
        width = int(rng.integers(5, 13))
        smooth_N = np.convolve(np.pad(price_N, width // 2, mode="edge"), np.full(width, 1 / width), "valid")
        _line(canvas, place, smooth_N[: len(price_N)], second, 1)
    (_line, _bars, _candles)[rng.integers(3)](canvas, place, price_N, ink, int(rng.integers(1, 4)))
    if rng.random() < 0.5:
        cv2.rectangle(canvas, (1, 1), (side - 2, side - 2), tuple(map(float, second)), 1)
    small: NDArray[Any] = cv2.resize(canvas, (style.side, style.side), interpolation=cv2.INTER_AREA)
    grain = rng.normal(0, rng.uniform(1, 8), small.shape).astype(np.float32)
    finished: Pixels = np.clip(np.rint(small + grain), 0, 255).astype(np.uint8)
    return finished


def series(style: ChartStyle, pattern: str, rng: np.random.Generator) -> Series:
    """Made-up prices, mostly between 0 and 1, in which the pattern occurs."""
    points = np.array(PATTERNS[pattern])
    points[1:-1, 0] += rng.uniform(-style.jitter, style.jitter, len(points) - 2) * 0.8
    points[:, 1] += rng.uniform(-style.jitter, style.jitter, len(points))
    count = int(rng.integers(*style.prices, endpoint=True))
    before, after = rng.uniform(0, style.around, 2)
    when_N = np.linspace(-before, 1 + after, count)
    price_N: Series = np.interp(when_N, points[:, 0], points[:, 1])
    price_N += np.minimum(when_N, 0) * rng.uniform(-1, 1) + np.maximum(when_N - 1, 0) * rng.uniform(-1, 1)
    wander_N = np.cumsum(rng.normal(0, 1, count))
    wander_N -= np.linspace(wander_N[0], wander_N[-1], count)  # it comes back: the pattern's ends stay where they are
    noise = rng.uniform(*style.noise)
    return price_N + noise * (0.35 * wander_N + rng.normal(0, 1, count))


@dataclass(frozen=True, slots=True)
class Place:
    """The rectangle of the picture in which a chart is drawn."""

    left: float
    right: float
    top: float
    bottom: float
    low: float
    high: float

    def x(self, count: int) -> Series:
        """Where so many prices lie from left to right, in pixels."""
        return np.linspace(self.left, self.right, count)

    def y(self, price_N: Series) -> Series:
        """Where prices lie from top to bottom, in pixels: low ones are further down."""
        return self.bottom - (price_N - self.low) / max(self.high - self.low, 1e-9) * (self.bottom - self.top)


def _place(price_N: Series, side: int, rng: np.random.Generator) -> Place:
    """Some frame that a centre crop does not cut."""
    edge = (1 - KEPT) / 2
    left, right, top, bottom = (edge + rng.uniform(0.0, 0.12) for _ in range(4))
    return Place(left * side, (1 - right) * side, top * side, (1 - bottom) * side, price_N.min(), price_N.max())


def _colours(rng: np.random.Generator) -> tuple[Series, Series, Series]:
    """Ground, ink, and what is less important; ink is far from the ground."""
    dark = rng.random() < 0.5
    ground = rng.uniform(0, 60, 3) if dark else rng.uniform(200, 255, 3)
    ink = rng.uniform(140, 255, 3) if dark else rng.uniform(0, 120, 3)
    share = rng.uniform(0.3, 0.55)
    second = ground * (1 - share) + rng.uniform(0, 255, 3) * share
    return ground, ink, second


def _grid(canvas: NDArray[np.float32], ground: Series, rng: np.random.Generator) -> None:
    """Lines across, faint; or none."""
    across, along = rng.integers(0, 6, 2)
    towards = 255.0 if ground.mean() < 128 else 0.0
    colour = ground + (towards - ground) * rng.uniform(0.08, 0.25)
    side = len(canvas)
    for number in range(1, across + 1):
        canvas[round(number * side / (across + 1))] = colour
    for number in range(1, along + 1):
        canvas[:, round(number * side / (along + 1))] = colour


def _volume(canvas: NDArray[np.float32], place: Place, colour: Series, rng: np.random.Generator) -> None:
    """Bars at the foot, of no meaning."""
    side = len(canvas)
    for x in place.x(int(rng.integers(20, 60))):
        cv2.line(canvas, (int(x), side), (int(x), side - int(rng.uniform(0.02, 0.15) * side)), _bgr(colour), 1)


def _line(canvas: NDArray[np.float32], place: Place, price_N: Series, colour: Series, width: int) -> None:
    """A line through the prices."""
    points = np.rint(np.stack([place.x(len(price_N)), place.y(price_N)], 1) * 2**SHIFT).astype(np.int32)
    mask = np.zeros(canvas.shape[:2], np.uint8)
    cv2.polylines(mask, [points], False, 255, width, cv2.LINE_AA, SHIFT)
    canvas += (colour.astype(np.float32) - canvas) * (mask[:, :, None] / np.float32(255))


def _bars(canvas: NDArray[np.float32], place: Place, price_N: Series, colour: Series, width: int) -> None:
    """From the foot to every price."""
    foot = int(place.bottom)
    for x, y in zip(place.x(len(price_N)), place.y(price_N), strict=True):
        cv2.line(canvas, (int(x), foot), (int(x), int(y)), _bgr(colour), 1)
    _line(canvas, place, price_N, colour, width)


def _candles(canvas: NDArray[np.float32], place: Place, price_N: Series, colour: Series, width: int) -> None:
    """A body from one price to the next, of the ink where it rises and hollow where it falls; with wicks."""
    x_N, y_N = place.x(len(price_N)), place.y(price_N)
    for x, begun, ended in zip(x_N, y_N[:-1], y_N[1:], strict=False):
        top, bottom = int(min(begun, ended)), int(max(begun, ended)) + 1
        cv2.line(canvas, (int(x), top - width), (int(x), bottom + width), _bgr(colour), 1)
        cv2.rectangle(canvas, (int(x) - 1, top), (int(x) + 1, bottom), _bgr(colour), -1 if ended < begun else 1)


def _bgr(colour: Series) -> tuple[float, float, float]:
    return float(colour[0]), float(colour[1]), float(colour[2])
