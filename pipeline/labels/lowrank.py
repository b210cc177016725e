"""The K largest logits are kept, and what R principal components say about the others: soft targets at any temperature.

How an answer becomes bytes is told in `lowrank_codec`, and what the components are in `components`. They are fitted to
the teacher's answers about view 0 of some rows, once, before any label is stored; they are stored, and whoever opens
the store gets a keep that has them. A keep without them knows its name and its numbers, and can store nothing.

Shapes: B rows, N rows to fit on, C classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RecipeError
from pipeline.labels import lowrank_codec
from pipeline.labels.codes import MOST_CLASSES, Digits
from pipeline.labels.components import Components
from pipeline.labels.keep import Events, FittedForm, Fitting, Form, Keep, Parts, Ranked
from pipeline.spread import firsts

LARGEST_FIT = 4096
"""Rows whose answers the components are fitted to, at most"""

_MEANING = "principal components of the teacher's logits; the first `wide` coefficients of a tail have a byte each"
_COLUMNS = {"dtype": np.dtype(np.uint8), "fill": 0, "level": 1, "shuffle": "noshuffle", "columns": True}


@dataclass(frozen=True, slots=True)
class LowRank(Keep):
    """The keep that stores the K largest logits, and R coefficients that describe all the others."""

    kept: int
    rank: int
    wide: int | None = field(default=None, compare=False)
    """So many components have a byte each (`Components.wide`); known once they have been fitted"""
    components: Components | None = field(default=None, compare=False, repr=False)
    """Known to whoever has read them"""

    kind: ClassVar[str] = "lowrank"

    def __post_init__(self) -> None:
        if self.kept < 1 or self.rank < 1:
            raise RecipeError(
                f"keep '{self}' keeps no class, or no component. Give lowrank:K+R (for example lowrank:5+35), both of "
                "at least 1; or topk:K."
            )

    def __str__(self) -> str:
        return f"lowrank:{self.kept}+{self.rank}"

    def require_fit(self, num_classes: int) -> None:
        """Refuse more classes than there are, as many components, and classes that two bytes cannot name."""
        if num_classes > MOST_CLASSES:
            raise RecipeError(
                f"keep '{self}' names classes in 16 bits, and there are {num_classes:,}. Give topk:K, or dense."
            )
        if self.kept > num_classes:
            raise RecipeError(f"keep '{self}' wants {self.kept} of {num_classes} classes. Give a smaller K, or dense.")
        if self.rank >= num_classes:
            raise RecipeError(
                f"keep '{self}' wants {self.rank} components of {num_classes} classes, which have "
                f"{num_classes - 1} at most. Give a smaller R, or dense."
            )

    @property
    def fitting(self) -> ComponentFitting:
        """How its components are found, and how they lie in a store."""
        return ComponentFitting(self)

    @property
    def _wide(self) -> int:
        assert self.wide is not None, f"{self} has not been fitted"
        return self.wide

    @property
    def _basis(self) -> Components:
        assert self.components is not None, f"the components of {self} have not been read"
        return self.components

    def forms(self, num_classes: int, temperatures: Sequence[float]) -> dict[str, Form]:
        """Up to four arrays of bytes: the next classes (in two parts), the levels of the K logits, the coefficients."""
        digits = Digits(num_classes)
        widths = {
            "next_low": (self.kept - 1, "rank", "the classes after the argmax, largest first, modulo 256"),
            "next_high": (digits.bytes_for(self.kept - 1), "byte", f"their high bits, {digits.bits} each, low first"),
            "head": (self.kept, "rank", "largest logit above the row's mean in steps of 3/8, and steps down from it"),
            "tail": (
                self._wide + -(-(self.rank - self._wide) // 2), "byte",
                "coefficients along the components: a byte less 128 each, then half a byte less 8, low half first",
            ),
        }  # fmt: skip
        return {
            name: Form(width=width, axis=axis, meaning=meaning, **_COLUMNS)  # type: ignore[arg-type]
            for name, (width, axis, meaning) in widths.items()
            if width
        }

    def encode(
        self,
        codes_BC: NDArray[np.uint16],
        argmax_B: NDArray[Any],
        temperatures: Sequence[float],
        ranked: Ranked | None = None,
    ) -> dict[str, NDArray[Any]]:
        """The K largest of each row, and the coefficients of the others along the components."""
        return lowrank_codec.encode(codes_BC, argmax_B, self.kept, self._basis)

    def flaws(
        self, parts: Parts, num_classes: int, temperatures: Sequence[float]
    ) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Finds rows that name a class that does not exist, or the same class twice."""
        index_BK = lowrank_codec.kept_classes(parts, num_classes)
        yield f"next is no class of {num_classes}", index_BK >= num_classes
        sorted_BK = np.sort(index_BK, axis=1)
        yield "a class is kept twice", sorted_BK[:, 1:] == sorted_BK[:, :-1]

    def lacks(self, temperature: float, temperatures: Sequence[float]) -> str | None:
        """None, because a soft target can be computed at any temperature."""
        return None

    def events(self, parts: Parts, temperature: float, temperatures: Sequence[float]) -> Events:
        """The probability of every class, as the components tell it; nothing is left for others."""
        prob_BC = lowrank_codec.targets(parts, self._basis, temperature).astype(np.float64)
        index_BC = np.broadcast_to(np.arange(prob_BC.shape[1]), prob_BC.shape)
        return Events(index_BK=index_BC, prob_BK=prob_BC, rest_B=np.zeros(len(prob_BC)))

    def scores(self, parts: Parts, temperature: float) -> NDArray[np.float32]:
        """What the kept logits and the components say of every class, as logarithms."""
        return lowrank_codec.scores(parts, self._basis, temperature)

    def likeliest(self, parts: Parts, count: int) -> NDArray[Any] | None:
        """The first of the kept classes; None where fewer are kept."""
        kept_BK = lowrank_codec.kept_classes(parts, len(self._basis.mean_C))
        return kept_BK[:, :count] if count <= self.kept else None


@dataclass(frozen=True, slots=True)
class ComponentFitting(Fitting):
    """How the principal components of a lowrank keep are fitted, and how they are stored."""

    keep: LowRank

    @property
    def least(self) -> int:
        """One answer more than there are components, or they would not be determined."""
        return self.keep.rank + 1

    def rows(self, rows: int, window: int) -> NDArray[np.int64]:
        """Rows from all over, in every other mix window: the others show pictures that no component has seen."""
        row_R = np.arange(rows, dtype=np.int64)
        seen_N: NDArray[np.int64] = row_R[row_R // window % 2 == 0]
        return seen_N[firsts(len(seen_N), LARGEST_FIT)]

    def fit(self, codes_NC: NDArray[np.uint16]) -> LowRank:
        """The keep with the principal components of these answers."""
        components = lowrank_codec.fit(codes_NC, self.keep.kept, self.keep.rank)
        return replace(self.keep, wide=components.wide, components=components)

    def forms(self, num_classes: int) -> dict[str, FittedForm]:
        """Three arrays: the mean of each class, the components, and the variance that they leave."""
        forms: dict[str, tuple[type, tuple[int, ...], int | str, str]] = {
            "mean": (np.int32, (num_classes,), 0, "expected logit of each class above the mean of its row, in 1/1024"),
            "step": (
                np.int16, (self.keep.rank, num_classes), 0,
                "what one step along each component adds to each class, in 1/1024 logit",
            ),
            "spread": (
                np.float32, (num_classes,), "NaN", "variance of each class beyond the components, in logits squared"
            ),
        }  # fmt: skip
        return {
            name: FittedForm(
                dtype=np.dtype(dtype), shape=shape, axes=("component", "class")[-len(shape) :], fill=fill,
                meaning=meaning,
            )
            for name, (dtype, shape, fill, meaning) in forms.items()
        }  # fmt: skip

    def attributes(self) -> dict[str, object]:
        """What the components are, and how many of them have a byte each."""
        return {"meaning": _MEANING, "wide": self.keep._wide}

    def sized(self, attributes: Mapping[str, Any]) -> LowRank:
        """The keep that knows how many of its components have a byte each."""
        wide = attributes["wide"]
        if type(wide) is not int or not 0 <= wide <= self.keep.rank:
            raise ValueError(f"{wide!r:.40} is no number of wide components of {self.keep.rank}")
        return replace(self.keep, wide=wide)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its components, under the names of the store's arrays."""
        return self.keep._basis.arrays()

    def having(self, arrays: Mapping[str, NDArray[Any]]) -> LowRank:
        """The keep with these components, of which it knows already how many have a byte each."""
        return replace(self.keep, components=Components.from_arrays(arrays, self.keep._wide))


def read(argument: str | None) -> LowRank | None:
    """The keep for a text such as ``lowrank:5+35``, of which `argument` is the 5+35; None where it has another form."""
    found = re.fullmatch(r"([0-9]{1,9})\+([0-9]{1,9})", argument or "", re.ASCII)
    return None if found is None else LowRank(int(found[1]), int(found[2]))
