"""Is a difference between two rows more than chance? A t interval over seeds, and what it says of a claim.

Two rows are compared seed by seed: the same seed draws the same weights and the same order for both, so what makes a
seed easy or hard drops out. The interval is mean ± t · s / √n of the n differences, with t the 97.5 % point of
Student's distribution with n − 1 degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95
MARGIN = 1.0
"""Points of accuracy within which two rows are called equal, where a claim is that they are."""
REPRODUCED, OPPOSITE, UNDECIDED = "reproduced", "opposite", "undecided"


@dataclass(frozen=True, slots=True)
class Effect:
    """A mean difference with its interval; no interval where there is one seed."""

    mean: float
    half: float
    """Half the width of the interval; infinite for one seed."""
    seeds: int

    @property
    def low(self) -> float:
        """Where the interval begins."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Where it ends."""
        return self.mean + self.half

    def text(self, digits: int = 1) -> str:
        """+2.1 [+1.0, +3.2]."""
        shown = f"{self.mean:+.{digits}f}"
        return shown if math.isinf(self.half) else f"{shown} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"


def paired(mine: Sequence[float], other: Sequence[float]) -> Effect:
    """How much more `mine` has than `other`, both with one value a seed in the same order of seeds."""
    apart = [one - two for one, two in zip(mine, other, strict=True)]
    half = math.inf
    if len(apart) > 1:
        half = quantile(0.5 + CONFIDENCE / 2, len(apart) - 1) * stdev(apart) / math.sqrt(len(apart))
    return Effect(fmean(apart), half, len(apart))


def more(effect: Effect) -> str:
    """Of the claim that there is a gain: reproduced where the whole interval is above 0, opposite where it is below."""
    if effect.low > 0:
        return REPRODUCED
    return OPPOSITE if effect.high < 0 else UNDECIDED


def same(effect: Effect, margin: float = MARGIN) -> str:
    """Of the claim that nothing is lost: reproduced where no loss of a margin is in the interval, opposite where only
    such losses are."""
    if effect.low > -margin:
        return REPRODUCED
    return OPPOSITE if effect.high < -margin else UNDECIDED


def quantile(share: float, freedom: int) -> float:
    """The point below which Student's t with so many (whole) degrees of freedom falls with this probability > ½."""
    low, high = 0.0, 1.0
    while distribution(high, freedom) < share:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if distribution(middle, freedom) < share else (low, middle)
    return (low + high) / 2


def distribution(t: float, freedom: int) -> float:
    """The probability that Student's t is below `t`: a finite sum of cosines for whole degrees of freedom."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, term, total = math.cos(angle), 1.0, 0.0
    odd = freedom % 2
    for number in range(1 + odd, freedom, 2):
        total += term * cosine ** (number - 1)
        term *= number / (number + 1)
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return 0.5 + inside / 2
