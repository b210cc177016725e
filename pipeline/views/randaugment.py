"""What does a RandAugment specification ask for, in numbers?

The specification is timm's: ``rand-m9-mstd0.5-inc1`` is two operations out of fifteen, each done with probability 0.5,
at a magnitude drawn from N(9, 0.5) and clipped to [0, 10], "increasing" meaning that a greater magnitude is always a
stronger change. A `Policy` is the parsed form; `Policy.draw` turns words into operations and what they take.

Every argument is clip(offset ± x, low, high) with x = magnitude/10 · gain, cut to an integer where timm cuts it; a
`Scale` states the numbers of one operation. How far a shift goes at magnitude 10 may be told in timm's own words: as a
share of the view's side (``translate_pct0.45``, the default) or in pixels (``translate_const117``). The result is kept
as an integer in 1/4096 of the operation's own unit (degrees, pixels, levels, bits, a factor): then blending by a factor
is exact in integers as well as in 32-bit floats, and a plan is the same on every machine.

Shapes: B views, L operations a view in the order they are done.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RecipeError
from pipeline.views.distributions import NORMAL_ONE, normal_table
from pipeline.views.operation_table import ARGUMENT_ONE, ROWS, SHIFTS, TABLE, Op, Operation, Scale
from pipeline.views.philox import below, uniform

SUBPIXELS = 16
"""Shifts are whole multiples of 1/16 pixel: with them, cubic interpolation is exact in 32-bit floats."""
TOP_LEVEL = 10.0
MAX_LAYERS = 8


@dataclass(frozen=True, slots=True)
class Choice:
    """An operation that a policy may pick, how its strength is computed, and how often it is picked."""

    op: Op
    scale: Scale
    weight: float = 1.0


_GREYING = Choice(Op.COLOR, Scale(gain=0.5, offset=0.5, direction=-1, low=0.0, high=0.5))
_SHADED = Choice(Op.SOLARIZE, ROWS[Op.SOLARIZE].increasing), _GREYING, Choice(Op.BLUR, ROWS[Op.BLUR].increasing)
SETS = ("", "weights", "3a")
_PARTS = {
    "m": r"\d+",
    "n": r"\d+",
    "p": r"\d+(\.\d+)?",
    "mstd": r"\d+(\.\d+)?|inf",
    "mmax": r"\d+",
    "inc": r"[01]",
    "t": "|".join(SETS[1:]),
    "translate_pct": r"\d+(\.\d+)?",
    "translate_const": r"\d+(\.\d+)?",
}
LARGEST_SHIFT = {"translate_pct": 1.0, "translate_const": 4096.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The settings in a RandAugment text such as ``rand-m9-mstd0.5-inc1``."""

    magnitude: int = 10
    layers: int = 2
    prob: float = 0.5
    deviation: float = 0.0
    """Standard deviation of the magnitude; infinity draws it uniformly between 0 and `magnitude`."""
    top: int = 10
    """Magnitudes are clipped to [0, top]."""
    increasing: bool = False
    chosen: str = ""
    """The set of operations: "" all fifteen evenly, "weights" timm's weighted set, "3a" solarise, grey and blur."""
    translate_pct: float | None = None
    """How far a shift goes at magnitude 10, as a share of the view's side; None where nothing is said of it."""
    translate_const: float | None = None
    """The same in pixels, whatever the side."""

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Read timm's notation; whatever timm would ignore or assert on is an error that says why."""
        head, *parts = text.split("-")
        if head != "rand":
            raise RecipeError(f"randaugment {text!r} must start with 'rand', as in 'rand-m9-mstd0.5-inc1'")
        found: dict[str, str] = {}
        for part in parts:
            name = next((n for n, form in _PARTS.items() if re.fullmatch(f"{n}({form})", part)), None)
            if name is None or name in found:
                problem = "gives" if name is None else "repeats"
                raise RecipeError(
                    f"randaugment {text!r} {problem} {part!r}; the parts are m9 (magnitude), n2 (operations a view), "
                    "p0.5 (probability of each), mstd0.5 (spread of the magnitude), mmax10 (its bound), inc1 or inc0, "
                    "tweights or t3a (set of operations), translate_pct0.45 or translate_const117 (a shift at "
                    "magnitude 10, of the side or in pixels), each at most once"
                )
            found[name] = part[len(name) :]
        deviation = float(found.get("mstd", 0.0))
        return cls(
            magnitude=int(found.get("m", 10)),
            layers=int(found.get("n", 2)),
            prob=float(found.get("p", 0.5)),
            deviation=np.inf if deviation > 100 else deviation,
            top=int(found.get("mmax", 10)) or 10,
            increasing=found.get("inc") == "1",
            chosen=found.get("t", ""),
            **{name: float(found[name]) for name in LARGEST_SHIFT if name in found},
        )

    def __post_init__(self) -> None:
        for name, value, high in (
            ("m", self.magnitude, 100),
            ("mmax", self.top, 100),
            ("p", self.prob, 1),
            ("n", self.layers, min(MAX_LAYERS, len(self.choices()))),
        ):
            low = 1 if name == "n" else 0
            if not low <= value <= high:
                raise RecipeError(f"randaugment: {name} is {value}, it must lie in [{low}, {high}]")
        self._require_one_shift()

    def _require_one_shift(self) -> None:
        given = {name: getattr(self, name) for name in LARGEST_SHIFT if getattr(self, name) is not None}
        told = " and ".join(f"{name}{value:g}" for name, value in given.items())
        if len(given) > 1:
            raise RecipeError(f"randaugment: {told} both say how far a shift goes; give one of them")
        if given and self.chosen == "3a":
            raise RecipeError(f"randaugment: {told} is about shifts, and t3a has none; leave one of them out")
        for name, value in given.items():
            if not 0 < value <= LARGEST_SHIFT[name]:
                raise RecipeError(f"randaugment: {name} is {value:g}, it must lie in (0, {LARGEST_SHIFT[name]:g}]")

    def choices(self) -> tuple[Choice, ...]:
        """The operations to choose from, in the order that draws refer to."""
        if self.chosen == "3a":
            return _SHADED
        rising = self.increasing or bool(self.chosen)
        rows = [row for row in TABLE if row.weight]
        if self.chosen == "weights":
            return tuple(Choice(row.op, self._scale(row, rising), row.weight) for row in rows)
        return tuple(Choice(row.op, self._scale(row, rising)) for row in sorted(rows, key=lambda row: row.op))

    def _scale(self, row: Operation, rising: bool) -> Scale:
        """The scale of an operation; that of a shift where the notation says how far it goes."""
        if row.op in SHIFTS and self.translate_const is not None:
            return Scale(gain=self.translate_const, direction=0)
        if row.op in SHIFTS and self.translate_pct is not None:
            return Scale(gain=self.translate_pct, direction=0, of_side=True)
        return row.increasing if rising or row.falling is None else row.falling

    def draw(
        self, words_BL4: NDArray[np.uint32], side: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.bool_]]:
        """Operations [B, L], their arguments, and a fair bit each (which filter, where the recipe leaves it open)."""
        choices = self.choices()
        pick_BL = self._pick(words_BL4[..., 0], choices)
        op_BL = np.array([choice.op for choice in choices], np.uint8)[pick_BL]
        done_BL = uniform(words_BL4[..., 1]) < self.prob
        sign_BL = np.where(words_BL4[..., 3] >> np.uint32(31), -1.0, 1.0)
        argument_BL = _arguments(self._magnitudes(words_BL4[..., 2]), sign_BL, pick_BL, choices, side)
        bit_BL = (words_BL4[..., 3] & np.uint32(1)).astype(bool)
        return np.where(done_BL, op_BL, np.uint8(Op.NONE)), np.where(done_BL, argument_BL, np.int32(0)), bit_BL

    def _pick(self, words_BL: NDArray[np.uint32], choices: tuple[Choice, ...]) -> NDArray[np.int64]:
        """Evenly with replacement; where the set has weights, by weight and without replacement (as timm)."""
        if self.chosen != "weights":
            return below(words_BL, len(choices))
        weight_BC = np.tile(np.array([choice.weight for choice in choices]), (len(words_BL), 1))
        pick_BL = np.empty(words_BL.shape, np.int64)
        for layer in range(words_BL.shape[1]):
            total_BC = np.cumsum(weight_BC, axis=1)
            point_B1 = (uniform(words_BL[:, layer]) * total_BC[:, -1])[:, None]
            pick_BL[:, layer] = (total_BC <= point_B1).sum(axis=1)
            np.put_along_axis(weight_BC, pick_BL[:, layer : layer + 1], 0.0, axis=1)
        return pick_BL

    def _magnitudes(self, words_BL: NDArray[np.uint32]) -> NDArray[np.float64]:
        if np.isinf(self.deviation):
            drawn = self.magnitude * uniform(words_BL)
        else:
            normal = normal_table()[words_BL >> np.uint32(16)] / NORMAL_ONE
            drawn = self.magnitude + self.deviation * normal
        return np.clip(drawn, 0.0, self.top)


def _arguments(
    magnitude_BL: NDArray[np.float64],
    sign_BL: NDArray[np.float64],
    pick_BL: NDArray[np.int64],
    choices: tuple[Choice, ...],
    side: int,
) -> NDArray[np.int32]:
    """The integer arguments of the picked operations."""
    gain, offset, direction, whole, low, high, moves, of_side = (column[pick_BL] for column in _table(choices))
    x = magnitude_BL / TOP_LEVEL * gain
    x = np.where(whole != 0, np.trunc(x), x)
    value = np.clip(offset + np.where(direction == 0, sign_BL, direction) * x, low, high)
    pixels = np.rint(value * np.where(of_side != 0, side, 1) * SUBPIXELS) * (ARGUMENT_ONE // SUBPIXELS)
    argument_BL: NDArray[np.int32] = np.where(moves != 0, pixels, np.rint(value * ARGUMENT_ONE)).astype(np.int32)
    return argument_BL


@lru_cache(maxsize=16)
def _table(choices: tuple[Choice, ...]) -> NDArray[np.float64]:
    """The numbers of each choice's scale, and whether it shifts; one row a number."""
    scales = [(choice.scale, choice.op in SHIFTS) for choice in choices]
    return np.array(
        [(s.gain, s.offset, s.direction, s.whole, s.low, s.high, moves, s.of_side) for s, moves in scales]
    ).T


@lru_cache(maxsize=64)
def parse(text: str) -> Policy:
    """The policy that a text asks for; the same text is parsed once."""
    return Policy.parse(text)
