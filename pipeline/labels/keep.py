"""What is a keep: how much of the teacher's answer is stored, and what it is good for later?

A keep owns everything about its way of storing an answer: the arrays that it takes in the store (`forms`), how they
are filled (`encode`), what can be wrong with them (`flaws`), which soft targets they give back (`events`, `codes`), and
what they can be narrowed to (`narrowed`). To add one: a file like `topk`, and its class in `keeps.KEEPS`.

Shapes: B rows, C classes, K kept classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import MismatchError, RecipeError

COLDEST, HOTTEST = 1e-3, 1e3
"""Temperatures: beyond these an exponential of a logit has no meaning in single precision."""

Parts = Mapping[str, NDArray[Any]]
"""Arrays [B, …] by their names in the store; where they are read back, with the argmax"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How one array of a keep is laid out in a store, beside its axes of views and rows."""

    dtype: np.dtype[Any]
    fill: int | str
    """Stands for "nothing written\""""
    meaning: str
    """One line for whoever opens the store with plain Zarr"""
    width: int = 0
    """Values a view; 0 where a view has one number and no axis for it"""
    axis: str = ""
    """What is counted along the width"""
    level: int = 5
    shuffle: str = "shuffle"
    columns: bool = False
    """Is it packed column after column, in blocks of four?"""
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Events:
    """A soft target as probabilities of some classes and of "any other": exact on the classes that are named."""

    index_BK: NDArray[Any]
    prob_BK: NDArray[np.float64]
    rest_B: NDArray[np.float64]

    def spread(self, num_classes: int) -> NDArray[np.float64]:
        """As a distribution [B, C]: what is left is shared evenly by the classes that are not named."""
        count = self.index_BK.shape[1]
        share_B = self.rest_B / max(num_classes - count, 1)
        full_BC = np.broadcast_to(share_B[:, None], (len(share_B), num_classes)).copy()
        np.put_along_axis(full_BC, self.index_BK.astype(np.int64), self.prob_BK, axis=1)
        return full_BC


class Keep(ABC):
    """How much of the teacher's answer is stored. Every keep stores the argmax as well, from the unrounded logits."""

    kind: ClassVar[str]
    """The word that it is asked for by"""
    uses_temperatures: ClassVar[bool] = False
    """Whether what is stored depends on the temperatures"""

    @classmethod
    @abstractmethod
    def read(cls, argument: str | None) -> Keep | None:
        """The keep that was asked for with this text behind a colon (None without one); None if that is not one."""

    def __str__(self) -> str:
        return self.kind

    @property
    def kept_classes(self) -> int | None:
        """Classes of an answer whose logits are known; None where all or none are."""
        return None

    @property
    def ranks(self) -> int:
        """How many of the largest codes it stores, in order; where a device has ranked them, `parts_of` takes them."""
        return 0

    def require_fit(self, num_classes: int) -> None:  # noqa: B027  # most keeps fit any number
        """Refuse to keep more classes than there are."""

    @abstractmethod
    def forms(self, num_classes: int, temperatures: Sequence[float]) -> dict[str, Form]:
        """The arrays that it adds to the argmax, in the order in which a receipt lists them."""

    @abstractmethod
    def encode(
        self, codes_BC: NDArray[np.uint16], argmax_B: NDArray[Any], temperatures: Sequence[float]
    ) -> dict[str, NDArray[Any]]:
        """These arrays, of the answers with these codes and, at full precision, this argmax."""

    def parts_of(
        self, index_BK: NDArray[Any], code_BK: NDArray[Any], codes_BC: NDArray[np.uint16], temperatures: Sequence[float]
    ) -> dict[str, NDArray[Any]]:
        """The same arrays, from the codes and the `ranks` largest of each row, by code and then by lower class."""
        raise NotImplementedError(f"{self} stores nothing by rank: {index_BK.shape}, {code_BK.shape}")

    def flaws(
        self, parts: Parts, num_classes: int, temperatures: Sequence[float]
    ) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """What no teacher's answer can be, and in which rows it is so."""
        del parts, num_classes, temperatures
        return iter(())

    @abstractmethod
    def lacks(self, temperature: float, temperatures: Sequence[float]) -> str | None:
        """Why it gives no soft target at this temperature, with the remedy; None where it does."""

    @abstractmethod
    def events(self, parts: Parts, temperature: float, temperatures: Sequence[float]) -> Events:
        """The soft targets at a temperature; asked only where nothing is lacking."""

    def codes(self, parts: Parts) -> NDArray[np.uint16] | None:
        """The codes of all classes [B, C], where they can be had."""
        del parts
        return None

    def scores(self, parts: Parts, temperature: float) -> NDArray[np.float32] | None:
        """Where codes cannot: logarithms of the targets at a temperature, up to a constant in each row [B, C]."""
        del parts, temperature
        return None

    def likeliest(self, parts: Parts, count: int) -> NDArray[Any] | None:
        """The first classes of each answer [B, count], in no special order, where so many are known."""
        del parts, count
        return None

    def steps_apart(self, parts: Parts, now_BC: NDArray[np.uint16]) -> int:
        """The largest difference between the stored codes and others of the same views, in steps of a code."""
        del parts, now_BC
        return 0

    def narrowed(
        self, parts: Parts, keep: Keep, temperatures: Sequence[float], stored: Sequence[float]
    ) -> dict[str, NDArray[Any]]:
        """The same answers in a smaller keep; asked only where `require_narrower` agrees."""
        del parts, keep, temperatures, stored
        return {}

    def require_narrower(self, keep: Keep, temperatures: Sequence[float], stored: Sequence[float]) -> None:
        """Refuse what its labels, stored for the temperatures `stored`, cannot be narrowed to."""
        del temperatures, stored
        if keep.kind != "argmax":
            raise MismatchError(f"labels kept as {self} cannot become {keep}. Start from a dense store.")


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
