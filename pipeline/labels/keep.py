"""How much of the teacher's answer is kept: every logit, the K largest, or the class of the largest alone?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import RecipeError

SCALE = 1 / 256
"""One step of a code, in logits."""


OFFSET = -128.0
"""The logit of code 0."""


CODE = np.dtype(np.uint16)


LSE = np.dtype(np.float32)


COLDEST, HOTTEST = 1e-3, 1e3
"""Temperatures: beyond these an exponential of a logit has no meaning in single precision."""


MAX_CODE = 2**16 - 2
"""The largest code, a logit of 127.9921875; the one above it stands for "nothing written"."""


_KEEPS = "dense, topk:K (for example topk:10) or argmax"


@dataclass(frozen=True, slots=True)
class Keep:
    """How much of the teacher's answer is stored."""

    kind: str
    """``dense``, ``topk`` or ``argmax``"""
    k: int | None = None
    """The number of classes kept; with ``topk`` only"""

    def __post_init__(self) -> None:
        if self.kind not in ("dense", "topk", "argmax") or (self.kind == "topk") != (self.k is not None):
            raise RecipeError(f"keep '{self}' is not understood. Give {_KEEPS}.")
        if self.k is not None and self.k < 1:
            raise RecipeError(f"keep '{self}' keeps no class. Give {_KEEPS}, with K of at least 1.")

    @classmethod
    def parse(cls, text: str) -> Keep:
        """The keep that a user wrote on the command line."""
        kind, colon, number = text.strip().partition(":")
        if colon and not (kind == "topk" and number.isascii() and number.isdigit()):
            raise RecipeError(f"keep '{text}' is not understood. Give {_KEEPS}.")
        return cls(kind, int(number) if colon else None)

    def __str__(self) -> str:
        return self.kind if self.k is None else f"{self.kind}:{self.k}"

    def require_fit(self, num_classes: int) -> None:
        """Refuse to keep more classes than there are."""
        if self.k is not None and self.k > num_classes:
            raise RecipeError(f"keep '{self}' wants {self.k} of {num_classes} classes. Give a smaller K, or dense.")


def parse_temperatures(text: str) -> tuple[float, ...]:
    """``"3,1"`` → ``(1.0, 3.0)``: positive, distinct, ascending."""
    try:
        values = tuple(sorted(float(part) for part in text.split(",")))
    except ValueError:
        values = ()
    require_temperatures(values, f"temperatures '{text}'")
    return values


def require_temperatures(temperatures: Sequence[float], what: str = "temperatures") -> None:
    """Refuse temperatures that no softmax can have, and the same one twice."""
    good = len(temperatures) > 0 and all(COLDEST <= t <= HOTTEST for t in temperatures)
    if not good or len(set(temperatures)) != len(temperatures):
        raise RecipeError(
            f"{what}: {tuple(temperatures)} is not a list of distinct numbers from {COLDEST:g} to {HOTTEST:g}. "
            "Give e.g. 1,3."
        )


def class_dtype(num_classes: int) -> np.dtype[Any]:
    """The smallest unsigned type that holds the classes and one value more, which stands for "nothing written"."""
    return np.dtype(np.uint8 if num_classes < 2**8 else np.uint16 if num_classes < 2**16 else np.uint32)
