"""What does a demonstration picture look like? One handwritten digit, whole, on a crowded canvas.

A scene is painted in layers at twice the final size, back to front: a gradient of two related colours, stripes or dots,
soft blobs, brush strokes, pieces of *other* digits, then the digit that names the picture, with a shadow under it. Its
place, size, slant and colours are random, so that a classifier must find it before it can read it. Pieces are smaller
than the digit, cut in two, and nearer to the background's lightness; the digit alone is whole.

Colours are drawn in OKLCH (lightness, chroma, hue), where equal steps look equal: the digit is light on dark, and
stands out by that alone, since hues are chosen around the colour circle.

Shapes: S side of the painted canvas, H W height and width of a source digit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Mask = NDArray[np.float32]
Canvas = NDArray[np.float32]
Colour = NDArray[np.float32]
Array = NDArray[Any]

OVERSAMPLING = 2
GRAIN = 0.012
SHADOW = 0.45
KEPT = 0.875
"""Side of the centre crop that students are judged on: the whole digit lies inside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """The colours of one scene, sRGB in 0 to 1."""

    ground: tuple[Colour, Colour]
    clutter: tuple[Colour, ...]
    digit: tuple[Colour, Colour]


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneStyle:
    """How crowded scenes are and how far a digit may move."""

    side: int = 40
    """Side of a picture in pixels."""
    digit_size: tuple[float, float] = (0.85, 1.05)
    """Height of the digit's frame, as a share of the side; the digit fills about four fifths of its frame."""
    slant: float = 8.0
    """Largest turn in degrees, either way."""
    pieces: tuple[int, int] = (0, 2)
    """Fewest and most pieces of other digits."""
    strokes: tuple[int, int] = (0, 1)
    """Fewest and most brush strokes."""
    clutter: tuple[float, float] = (0.05, 0.35)
    """Lightness of everything around the digit: 0 is the background's, 1 the digit's."""


def paint(style: SceneStyle, digit_HW: Pixels, others: Iterable[Pixels], rng: np.random.Generator) -> Pixels:
    """One picture [side, side, 3] of `digit_HW`, with pieces of `others` around it."""
    side = style.side * OVERSAMPLING
    palette = _palette(style, rng)
    canvas = _ground(palette, side, rng)
    _texture(canvas, palette, rng)
    for _ in range(rng.integers(1, 4)):
        _blob(canvas, palette, rng)
    for _ in range(rng.integers(*style.strokes, endpoint=True)):
        _stroke(canvas, palette, rng)
    for other in others:
        _piece(canvas, palette, other, style, rng)
    _digit(canvas, palette, digit_HW, style, rng)
    small: Array = cv2.resize(canvas, (style.side, style.side), interpolation=cv2.INTER_AREA)
    grain = rng.normal(0, GRAIN, small.shape[:2]).astype(np.float32)[:, :, None]
    finished: Pixels = np.clip(np.rint((small + grain) * 255), 0, 255).astype(np.uint8)
    return finished


def _palette(style: SceneStyle, rng: np.random.Generator) -> Palette:
    hue, ground_light, digit_light = rng.uniform(0, 360), rng.uniform(0.24, 0.42), rng.uniform(0.80, 0.97)
    ground = [
        _oklch(ground_light + rng.uniform(-0.05, 0.05), rng.uniform(0.02, 0.11), hue + turn)
        for turn in (0, rng.uniform(25, 70))
    ]
    digit_hue = hue + rng.uniform(90, 270)
    digit = [_oklch(digit_light + shift, rng.uniform(0.06, 0.17), digit_hue + 260 * shift) for shift in (0.0, 0.05)]
    clutter = [
        _oklch(
            ground_light + (digit_light - ground_light) * rng.uniform(*style.clutter),
            rng.uniform(0.04, 0.15),
            hue + rng.uniform(0, 360),
        )
        for _ in range(6)
    ]
    return Palette(ground=(ground[0], ground[1]), clutter=tuple(clutter), digit=(digit[0], digit[1]))


def _oklch(lightness: float, chroma: float, hue: float) -> Colour:
    """OKLCH to sRGB, clipped to what a screen shows (Ottosson's matrices)."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    return np.array([_gamma(min(max(value, 0.0), 1.0)) for value in linear], np.float32)


def _gamma(value: float) -> float:
    return 12.92 * value if value <= 0.0031308 else float(1.055 * value ** (1 / 2.4) - 0.055)


def _grid(side: int) -> tuple[Mask, Mask]:
    axis = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side) - np.float32(0.5)
    x, y = np.meshgrid(axis, axis)
    return x, y


def _lay(canvas: Canvas, mask: Array, colour: Colour | Canvas, opacity: float = 1.0) -> None:
    """Paint a colour (or a picture of colours) over the canvas where the mask is, in place."""
    canvas += (colour - canvas) * (mask.astype(np.float32) * np.float32(opacity))[:, :, None]


def _ramp(side: int, angle: float) -> Mask:
    """0 to 1 across the canvas in the direction of `angle` (radians)."""
    x, y = _grid(side)
    along = x * np.float32(math.cos(angle)) + y * np.float32(math.sin(angle))
    ramp: Mask = np.clip(along * np.float32(0.9) + np.float32(0.5), 0, 1)
    return ramp


def _ground(palette: Palette, side: int, rng: np.random.Generator) -> Canvas:
    canvas = np.broadcast_to(palette.ground[0], (side, side, 3)).copy()
    _lay(canvas, _ramp(side, rng.uniform(0, 2 * math.pi)), palette.ground[1])
    return canvas


def _texture(canvas: Canvas, palette: Palette, rng: np.random.Generator) -> None:
    """Nothing, stripes, or dots."""
    kind = rng.integers(3)
    if kind == 0:
        return
    x, y = _grid(len(canvas))
    angle, period = rng.uniform(0, math.pi), rng.uniform(0.08, 0.22)
    along = (x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / period)
    wave = np.sin(along)
    if kind == 2:
        across = (y * math.cos(angle) - x * math.sin(angle)) * (2 * math.pi / period)
        wave = wave * np.sin(across)
    mask = np.clip(wave * 4 - (1.0 if kind == 2 else 0.0), 0, 1)
    _lay(canvas, mask, palette.clutter[0], rng.uniform(0.12, 0.3))


def _blob(canvas: Canvas, palette: Palette, rng: np.random.Generator) -> None:
    """A soft round patch of colour."""
    x, y = _grid(len(canvas))
    cx, cy, radius = rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5), rng.uniform(0.1, 0.3)
    distance = np.sqrt((x - np.float32(cx)) ** 2 + (y - np.float32(cy)) ** 2)
    softness = rng.uniform(0.02, 0.15)
    mask = np.clip((radius - distance) / softness + 0.5, 0, 1)
    _lay(canvas, mask, palette.clutter[rng.integers(1, 3)], rng.uniform(0.25, 0.6))


def _stroke(canvas: Canvas, palette: Palette, rng: np.random.Generator) -> None:
    """A curved stroke of even width, from one place to another."""
    side = len(canvas)
    start, bend, end = rng.uniform(-0.1, 1.1, (3, 2)) * side
    t = np.linspace(0, 1, 24)[:, None]
    points = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    mask = np.zeros((side, side), np.uint8)
    width = int(rng.integers(2, max(3, side // 14)))
    shift = 4  # polylines takes fixed-point coordinates, here sixteenths of a pixel
    cv2.polylines(mask, [np.rint(points * 2**shift).astype(np.int32)], False, 255, width, cv2.LINE_AA, shift)
    _lay(canvas, mask / 255, palette.clutter[rng.integers(6)], rng.uniform(0.5, 1.0))


def _placed(glyph_HW: Pixels, side: int, size: float, centre: tuple[float, float], turn: float, shear: float) -> Mask:
    """The glyph as a mask on the canvas: its frame `size` high (share of the side), turned, sheared, at `centre`."""
    smooth: Array = cv2.GaussianBlur(cv2.resize(glyph_HW, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC), (0, 0), 3)
    scale = size * side / smooth.shape[0]
    cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, shear], [0, 1]])
    offset = np.array(centre) * side - matrix @ np.array([smooth.shape[1], smooth.shape[0]]) / 2
    place = np.column_stack([matrix, offset])
    drawn: Array = cv2.warpAffine(smooth, place, (side, side), flags=cv2.INTER_LINEAR, borderValue=0)
    mask: Mask = np.clip((drawn.astype(np.float32) / 255 - 0.3) / 0.35, 0, 1)  # a crisp edge, as of ink
    return mask


def _piece(canvas: Canvas, palette: Palette, glyph_HW: Pixels, style: SceneStyle, rng: np.random.Generator) -> None:
    """A part of another digit: less than half of it, cut along a line."""
    side = len(canvas)
    centre = (rng.uniform(0.05, 0.95), rng.uniform(0.05, 0.95))
    size = rng.uniform(0.7, 1.0) * style.digit_size[0] + 0.1
    mask = _placed(glyph_HW, side, size, centre, rng.uniform(-math.pi, math.pi), 0.0)
    angle = rng.uniform(0, 2 * math.pi)
    x, y = _grid(side)
    beyond = (x + 0.5 - centre[0]) * math.cos(angle) + (y + 0.5 - centre[1]) * math.sin(angle)
    mask = mask * (beyond > rng.uniform(0.0, 0.1) * size)
    _lay(canvas, mask, palette.clutter[rng.integers(6)], rng.uniform(0.7, 1.0))


def _digit(canvas: Canvas, palette: Palette, glyph_HW: Pixels, style: SceneStyle, rng: np.random.Generator) -> None:
    """The digit that names the picture, whole, with its shadow."""
    side = len(canvas)
    size = rng.uniform(*style.digit_size)
    room = max(0.0, KEPT - size * 0.8) / 2  # handwritten digits fill about this much of their frame
    centre = (0.5 + rng.uniform(-room, room), 0.5 + rng.uniform(-room, room))
    turn = math.radians(rng.uniform(-style.slant, style.slant))
    mask = _placed(glyph_HW, side, size, centre, turn, rng.uniform(-0.2, 0.2))
    below = np.array([[1, 0, side * 0.015], [0, 1, side * 0.02]])
    shadow: Array = cv2.GaussianBlur(cv2.warpAffine(mask, below, (side, side)), (0, 0), side * 0.012)
    _lay(canvas, shadow, np.zeros(3, np.float32), SHADOW)
    ramp = _ramp(side, rng.uniform(0, 2 * math.pi))[:, :, None]
    _lay(canvas, mask, palette.digit[0] * (1 - ramp) + palette.digit[1] * ramp)
