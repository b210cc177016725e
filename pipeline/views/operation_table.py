"""Which operations on pixels are there? A row of one table each: its number, its strength, how it is carried out.

Policies draw from the table (`pipeline.views.randaugment`), and whoever carries operations out reads it too: the
renderer (`pipeline.rendering.operations`) and the second executor in `benchmarks`. To add an operation: a row here with
a number of its own, and what it does to pixels there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

import numpy as np

ARGUMENT_ONE = 4096
"""What stands for 1 in an argument."""
SHARE_OF_SIDE = 0.45
"""How far a shift goes at magnitude 10 where nothing is said, of the view's side."""


class Op(IntEnum):
    """An operation on pixels. Numbers are stored in plans of old recipes: never renumber."""

    NONE = 0
    AUTO_CONTRAST = 1
    EQUALIZE = 2
    INVERT = 3
    ROTATE = 4
    POSTERIZE = 5
    SOLARIZE = 6
    SOLARIZE_ADD = 7
    COLOR = 8
    CONTRAST = 9
    BRIGHTNESS = 10
    SHARPNESS = 11
    SHEAR_X = 12
    SHEAR_Y = 13
    TRANSLATE_X = 14
    TRANSLATE_Y = 15
    BLUR = 16


class Kind(StrEnum):
    """How an operation is carried out; those of a kind can be done together."""

    TABLE = "each channel through a table of 256 levels"
    COLOR = "a blend with grey"
    SHARPNESS = "a blend with the smoothed picture"
    SHIFT = "rows, or columns, moved by whole and broken pixels"
    ROTATION = "turned around the centre"
    BLUR = "three boxes along rows, three along columns"


@dataclass(frozen=True, slots=True)
class Scale:
    """How a level (magnitude / 10) becomes the argument of one operation."""

    gain: float = 0.0
    offset: float = 0.0
    direction: int = 1
    """1 adds, −1 subtracts, 0 draws the sign."""
    whole: bool = False
    low: float = -np.inf
    high: float = np.inf
    of_side: bool = False
    """Whether the argument is a share of the view's side, to be turned into pixels."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A row of the table: an operation, its name, and what its magnitude means."""

    op: Op
    kind: Kind
    weight: float
    """In timm's weighted set; 0 where it is in no RandAugment set"""
    increasing: Scale
    """The scale where a greater magnitude is always a stronger change"""
    falling: Scale | None = None
    """The scale of timm's older sets, where it is another"""
    unit: str | None = ""
    """Of its argument, for people; None where it takes none"""


_NOTHING = Scale()
_FACTOR, _FALLING_FACTOR = Scale(gain=0.9, offset=1.0, direction=0, low=0.1), Scale(gain=1.8, offset=0.1)
_SHEAR = Scale(gain=0.3, direction=0)
_SHARE = Scale(gain=SHARE_OF_SIDE, direction=0, of_side=True)
_ADDED = Scale(gain=110.0, whole=True, high=128.0)
_BITS = Scale(gain=4.0, offset=4.0, direction=-1, whole=True, low=0.0), Scale(gain=4.0, whole=True, high=8.0)
_THRESHOLD = (
    Scale(gain=256.0, offset=256.0, direction=-1, whole=True, low=0.0),
    Scale(gain=256.0, whole=True, high=256.0),
)

TABLE: tuple[Operation, ...] = (  # in the order of timm's weighted set, to which its draws refer
    Operation(Op.ROTATE, Kind.ROTATION, 3, Scale(gain=30.0, direction=0), unit="°"),
    Operation(Op.SHEAR_X, Kind.SHIFT, 2, _SHEAR),
    Operation(Op.SHEAR_Y, Kind.SHIFT, 2, _SHEAR),
    Operation(Op.TRANSLATE_X, Kind.SHIFT, 1, _SHARE, unit="px"),
    Operation(Op.TRANSLATE_Y, Kind.SHIFT, 1, _SHARE, unit="px"),
    Operation(Op.COLOR, Kind.COLOR, 0.25, _FACTOR, _FALLING_FACTOR),
    Operation(Op.SHARPNESS, Kind.SHARPNESS, 0.25, _FACTOR, _FALLING_FACTOR),
    Operation(Op.AUTO_CONTRAST, Kind.TABLE, 0.25, _NOTHING, unit=None),
    Operation(Op.SOLARIZE, Kind.TABLE, 0.05, *_THRESHOLD),
    Operation(Op.SOLARIZE_ADD, Kind.TABLE, 0.05, _ADDED),
    Operation(Op.CONTRAST, Kind.TABLE, 0.05, _FACTOR, _FALLING_FACTOR),
    Operation(Op.BRIGHTNESS, Kind.TABLE, 0.05, _FACTOR, _FALLING_FACTOR),
    Operation(Op.EQUALIZE, Kind.TABLE, 0.05, _NOTHING, unit=None),
    Operation(Op.POSTERIZE, Kind.TABLE, 0.05, *_BITS),
    Operation(Op.INVERT, Kind.TABLE, 0.05, _NOTHING, unit=None),
    Operation(Op.BLUR, Kind.BLUR, 0, Scale(gain=1.9, offset=0.1, high=2.0), unit="px"),
)
ROWS = {row.op: row for row in TABLE}
SHIFTS = (Op.TRANSLATE_X, Op.TRANSLATE_Y)


def ops_of(kind: Kind) -> tuple[Op, ...]:
    """The operations of one kind, by their numbers."""
    return tuple(sorted(row.op for row in TABLE if row.kind == kind))


def describe(op: int, argument: int) -> str:
    """An operation and its argument in words, such as a plan shows them."""
    name, unit = Op(op).name.lower().replace("_", "-"), ROWS[Op(op)].unit
    return name if unit is None else f"{name} {argument / ARGUMENT_ONE:.3g}{unit}"
