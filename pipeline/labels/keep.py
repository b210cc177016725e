"""What is a keep: how much of the teacher's answer is stored, and what it is good for later?

A keep owns everything about its way of storing an answer: the arrays that it takes in the store (`forms`), how they
are filled (`encode`), what can be wrong with them (`flaws`), which soft targets they give back (`events`, `codes`),
what they can be narrowed to (`narrowing`), and what it must know of the teacher first (`fitting`). To add one: a file
like `topk`, and in `keeps` its word and the names of its arrays.

Shapes: B rows, N rows to fit on, C classes, K kept classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import MismatchError, RecipeError

COLDEST, HOTTEST = 1e-3, 1e3
"""Temperatures: beyond these an exponential of a logit has no meaning in single precision."""

Parts = Mapping[str, NDArray[Any]]
"""Arrays [B, …] by their names in the store; where they are read back, with the argmax"""

Narrowing = Callable[[Parts], dict[str, NDArray[Any]]]
"""Makes the arrays of a smaller keep from those of a larger one"""

Ranked = tuple[NDArray[Any], NDArray[Any]]
"""Classes and codes [B, K] of the largest codes of each row, by code and then by lower class"""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedForm:
    """How one array of what a keep was fitted to is laid out in a store: whole, in one object."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    """What is counted along each axis"""
    fill: int | str
    meaning: str
    """One line for whoever opens the store with plain Zarr"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Codes:
    """The codes that are known of some answers: of all classes, or of some."""

    code_BK: NDArray[np.uint16]
    index_BK: NDArray[Any] | None = None
    """Their classes; None where all are known, in order"""

    def steps_from(self, now_BC: NDArray[np.uint16]) -> int:
        """The largest difference from the codes of all classes of the same views, in steps of a code."""
        index_BK = self.index_BK
        now_BK = now_BC if index_BK is None else np.take_along_axis(now_BC, index_BK.astype(np.int64), axis=1)
        return int(np.abs(now_BK.astype(np.int64) - self.code_BK.astype(np.int64)).max(initial=0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Events:
    """A soft target as probabilities of some classes and of "any other": exact on the classes that are named."""

    index_BK: NDArray[Any]
    prob_BK: NDArray[np.float64]
    rest_B: NDArray[np.float64]

    def spread(self, num_classes: int) -> NDArray[np.float64]:
        """The probabilities of all classes [B, C]: classes that are not named share the rest evenly."""
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

    def __str__(self) -> str:
        return self.kind

    @property
    def ranks(self) -> int:
        """How many of the largest codes of an answer it stores, in order; 0 where their order is not what it stores."""
        return 0

    @property
    def fitting(self) -> Fitting | None:
        """How it is fitted to the teacher's answers before it can store any; None where it need not be."""
        return None

    def require_fit(self, num_classes: int) -> None:  # noqa: B027  # most keeps fit any number
        """Refuse answers with fewer classes than are kept, or with more than can be."""

    @abstractmethod
    def forms(self, num_classes: int, temperatures: Sequence[float]) -> dict[str, Form]:
        """The arrays that it adds to the argmax, in the order in which a receipt lists them."""

    @abstractmethod
    def encode(
        self,
        codes_BC: NDArray[np.uint16],
        argmax_B: NDArray[Any],
        temperatures: Sequence[float],
        ranked: Ranked | None = None,
    ) -> dict[str, NDArray[Any]]:
        """The arrays that `forms` lists, filled from the codes of all classes and the argmax at full precision.

        `ranked` is the `ranks` largest codes of each row, where a device has found them already.
        """

    def flaws(
        self, parts: Parts, num_classes: int, temperatures: Sequence[float]
    ) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """What a stored answer must not be: for each such flaw, a text that says it, and in which rows [B] it is."""
        del parts, num_classes, temperatures
        return iter(())

    @abstractmethod
    def lacks(self, temperature: float, temperatures: Sequence[float]) -> str | None:
        """Why it gives no soft target at this temperature, with the remedy; None where it does."""

    @abstractmethod
    def events(self, parts: Parts, temperature: float, temperatures: Sequence[float]) -> Events:
        """The soft targets at a temperature; asked only where nothing is lacking."""

    def codes(self, parts: Parts) -> Codes | None:
        """The codes that are stored, exactly; None where none are."""
        del parts
        return None

    def scores(self, parts: Parts, temperature: float) -> NDArray[np.float32] | None:
        """Logarithms of the targets at a temperature, up to a constant in each row [B, C]; None where codes say it."""
        del parts, temperature
        return None

    def likeliest(self, parts: Parts, count: int) -> NDArray[Any] | None:
        """The first classes of each answer [B, count], in no special order, where so many are known."""
        del parts, count
        return None

    def narrowing(self, keep: Keep, temperatures: Sequence[float], stored: Sequence[float]) -> Narrowing:
        """How its labels, stored for the temperatures `stored`, become those of a smaller keep at `temperatures`.

        A keep that they cannot become is refused here, before any label is read.
        """
        del temperatures, stored
        if keep.kind != "argmax":
            raise MismatchError(f"labels kept as {self} cannot become {keep}. Start from a dense store.")
        return lambda _: {}


class Fitting(ABC):
    """How a keep is fitted to a teacher's answers, and how what was found lies in the store beside the labels.

    A keep knows as much as whoever made it: one that a user wrote, its numbers; one from a store's metadata, the shapes
    of its arrays (`sized`); one that was fitted, or had its arrays read (`having`), everything.
    """

    @property
    @abstractmethod
    def least(self) -> int:
        """How many answers it must be fitted to at least."""

    @abstractmethod
    def rows(self, rows: int, window: int) -> NDArray[np.int64]:
        """Which of a data set's rows it is fitted to, by their view 0; `window` rows are mixed with each other."""

    @abstractmethod
    def fit(self, codes_NC: NDArray[np.uint16]) -> Keep:
        """The keep, fitted to N answers, which are given by the codes of all classes [N, C]."""

    @abstractmethod
    def forms(self, num_classes: int) -> dict[str, FittedForm]:
        """The arrays of a keep that was fitted, or sized."""

    @abstractmethod
    def attributes(self) -> dict[str, object]:
        """What the store's metadata say of these arrays together: their meaning, and what `sized` reads."""

    @abstractmethod
    def sized(self, attributes: Mapping[str, Any]) -> Keep:
        """The keep as far as `attributes` describe it; ValueError or LookupError where they are of no such keep."""

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a fitted keep knows, as arrays under the names that `forms` has."""

    @abstractmethod
    def having(self, arrays: Mapping[str, NDArray[Any]]) -> Keep:
        """The keep with these `arrays`, read from the store whose metadata have sized it."""


def parse_temperatures(text: str) -> tuple[float, ...]:
    """The temperatures in a text such as ``3,1``, ascending; refused where one is no good, or there twice."""
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
