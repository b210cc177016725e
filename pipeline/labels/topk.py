"""The K largest logits are kept, with their classes and what all classes sum up to.

The sum (the log-sum-exp over *all* classes, at each stored temperature) makes soft targets at those temperatures exact
on the K classes; what the teacher gave to the others is one known mass. The order of the K is total, larger code first
and then lower class, hence a smaller K is a prefix of a larger one.

Shapes: B rows, C classes, K kept classes, T temperatures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import MismatchError, RecipeError
from pipeline.labels.codes import CODE, class_dtype, log_sum_exp, logits_of
from pipeline.labels.dense import MEANING, code_form
from pipeline.labels.keep import Codes, Events, Form, Keep, Narrowing, Parts, Ranked

LSE = np.dtype(np.float32)
LSE_SLACK = 1e-4
"""By how much float32 may put the mass of the kept classes above one"""


@dataclass(frozen=True, slots=True)
class TopK(Keep):
    """The keep that stores the K largest logits, and what all of them sum up to at each temperature."""

    k: int

    kind: ClassVar[str] = "topk"
    uses_temperatures: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.k < 1:
            raise RecipeError(
                f"keep '{self}' keeps no class. Give dense, topk:K (for example topk:10) or argmax, "
                "with K of at least 1."
            )

    def __str__(self) -> str:
        return f"topk:{self.k}"

    @property
    def ranks(self) -> int:
        """K: the K largest codes are stored in order."""
        return self.k

    def require_fit(self, num_classes: int) -> None:
        """Refuse a K above the number of classes, `num_classes`."""
        if self.k > num_classes:
            raise RecipeError(f"keep '{self}' wants {self.k} of {num_classes} classes. Give a smaller K, or dense.")

    def forms(self, num_classes: int, temperatures: Sequence[float]) -> dict[str, Form]:
        """Three arrays: the kept classes, their codes, and the sums over all classes."""
        kind = class_dtype(num_classes)
        return {
            "topk_index": Form(
                dtype=kind, fill=int(np.iinfo(kind).max), width=self.k, axis="rank", level=9, shuffle="bitshuffle",
                meaning="the classes of the largest stored logits, largest first, then lowest class",
            ),
            "topk_logit": code_form(self.k, "rank", MEANING, level=9),
            "lse": Form(
                dtype=LSE, fill="NaN", width=len(temperatures), axis="temperature", level=9, shuffle="bitshuffle",
                meaning="log of the sum of exp(logit / temperature) over all classes, a column a temperature",
                attributes={"temperatures": list(temperatures)},
            ),
        }  # fmt: skip

    def encode(
        self,
        codes_BC: NDArray[np.uint16],
        argmax_B: NDArray[Any],
        temperatures: Sequence[float],
        ranked: Ranked | None = None,
    ) -> dict[str, NDArray[Any]]:
        """The K largest of each row, and the sums over it."""
        index_BK, code_BK = _largest(codes_BC, self.k) if ranked is None else ranked
        return {
            "topk_index": index_BK.astype(class_dtype(codes_BC.shape[1])),
            "topk_logit": code_BK.astype(CODE),
            "lse": log_sum_exp(codes_BC, temperatures).astype(LSE),
        }

    def flaws(
        self, parts: Parts, num_classes: int, temperatures: Sequence[float]
    ) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Finds rows with a class that does not exist, with classes in another order, or with impossible sums."""
        yield f"topk_index is no class of {num_classes}", parts["topk_index"] >= num_classes
        index_BK, code_BK = parts["topk_index"].astype(np.int64), parts["topk_logit"].astype(np.int64)
        rank_BK = -code_BK * 2**32 + index_BK
        yield "topk is not in the order of its logits", rank_BK[:, 1:] <= rank_BK[:, :-1]
        yield "lse is not finite", ~np.isfinite(parts["lse"])
        logit_BK = logits_of(parts["topk_logit"]).astype(np.float64)
        for column, temperature in enumerate(temperatures):
            with np.errstate(over="ignore", invalid="ignore"):
                mass_B = np.exp(logit_BK / temperature - parts["lse"][:, column, None]).sum(axis=1)
            yield f"topk has more than the whole mass at T = {temperature:g}", ~(mass_B <= 1 + LSE_SLACK)

    def lacks(self, temperature: float, temperatures: Sequence[float]) -> str | None:
        """Why there is no soft target at a temperature at which the sums were not stored."""
        if temperature in temperatures:
            return None
        stored = ", ".join(f"{t:g}" for t in temperatures) or "none"
        return (
            f"Soft distillation at temperature {temperature:g} needs the teacher's log-sum-exp at {temperature:g}; "
            f"this store ({self}) has it at: {stored}. "
            f"Use a stored one (--tau), or label again with --temperatures {temperature:g}."
        )

    def events(self, parts: Parts, temperature: float, temperatures: Sequence[float]) -> Events:
        """The probabilities of the kept classes; what is left is the probability of all others together."""
        lse_B = parts["lse"][:, column_of(temperature, temperatures)].astype(np.float64)
        prob_BK = np.exp(logits_of(parts["topk_logit"]).astype(np.float64) / temperature - lse_B[:, None])
        rest_B = np.clip(1 - prob_BK.sum(axis=1), 0, 1)
        return Events(index_BK=parts["topk_index"], prob_BK=prob_BK, rest_B=rest_B)

    def codes(self, parts: Parts) -> Codes:
        """The stored codes of the K largest classes of each answer, and which classes these are."""
        return Codes(code_BK=parts["topk_logit"], index_BK=parts["topk_index"])

    def likeliest(self, parts: Parts, count: int) -> NDArray[Any] | None:
        """The first of the kept classes; None where fewer are kept."""
        return parts["topk_index"][:, :count] if self.k >= count else None

    def narrowing(self, keep: Keep, temperatures: Sequence[float], stored: Sequence[float]) -> Narrowing:
        """Cuts to fewer classes and temperatures, or to the argmax; more of them, or others, are refused."""
        if not isinstance(keep, TopK):
            return Keep.narrowing(self, keep, temperatures, stored)
        if keep.k > self.k:
            raise MismatchError(f"labels kept as {self} cannot become {keep}. Give a K of at most that many.")
        count, columns = keep.k, [column_of(temperature, stored) for temperature in temperatures]
        return lambda parts: {
            "topk_index": np.ascontiguousarray(parts["topk_index"][:, :count]),
            "topk_logit": np.ascontiguousarray(parts["topk_logit"][:, :count]),
            "lse": np.ascontiguousarray(parts["lse"][:, columns]),
        }


def read(argument: str | None) -> TopK | None:
    """The keep for a text such as ``topk:10``, of which `argument` is the 10; None where that is no number."""
    return TopK(int(argument)) if argument and argument.isascii() and argument.isdigit() else None


def column_of(temperature: float, stored: Sequence[float]) -> int:
    """Which column of the sums belongs to a temperature; one that was not stored is refused."""
    if temperature not in stored:
        have = ", ".join(f"{t:g}" for t in stored) or "none"
        raise MismatchError(
            f"temperature {temperature:g} is not stored, the labels hold the log-sum-exp at {have}. "
            "Ask for one of these; or store it, with --temperatures of teacher_logits, or of compact_logits from dense."
        )
    return list(stored).index(temperature)


def _largest(codes_BC: NDArray[np.uint16], k: int) -> tuple[NDArray[Any], NDArray[np.uint16]]:
    """Classes and codes of the k largest, by code and then by lower class, through one sortable number for both."""
    num_classes = codes_BC.shape[1]
    wide, shift = (np.dtype(np.uint32), 16) if num_classes <= 2**16 else (np.dtype(np.uint64), 32)
    rank_C = np.arange(num_classes - 1, -1, -1, dtype=wide)
    key_BC = np.left_shift(codes_BC.astype(wide), shift) | rank_C
    top_BK = np.sort(np.partition(key_BC, num_classes - k, axis=1)[:, num_classes - k :], axis=1)[:, ::-1]
    index_BK = (num_classes - 1) - (top_BK & (2**shift - 1))
    return index_BK.astype(class_dtype(num_classes)), np.right_shift(top_BK, shift).astype(CODE)
