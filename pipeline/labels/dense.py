"""Every logit is kept, as a 16-bit code: soft targets at any temperature, and every other keep can be made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.codes import CODE, OFFSET, SCALE, softmax_of
from pipeline.labels.keep import Codes, Events, Form, Keep, Narrowing, Parts, Ranked

MEANING = "the teacher's logit is value * scale + offset"


def code_form(width: int, axis: str, meaning: str, level: int) -> Form:
    """The layout of an array with the codes of `width` logits a view."""
    fill = int(np.iinfo(CODE).max)
    return Form(
        dtype=CODE, fill=fill, meaning=meaning, width=width, axis=axis, level=level,
        attributes={"scale": SCALE, "offset": OFFSET},
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dense(Keep):
    """The keep that stores the codes of all classes."""

    kind: ClassVar[str] = "dense"

    def forms(self, num_classes: int, temperatures: Sequence[float]) -> dict[str, Form]:
        """One array, with a code for each class."""
        return {"logits": code_form(num_classes, "class", MEANING, level=4)}

    def encode(
        self,
        codes_BC: NDArray[np.uint16],
        argmax_B: NDArray[Any],
        temperatures: Sequence[float],
        ranked: Ranked | None = None,
    ) -> dict[str, NDArray[Any]]:
        """The codes of all classes, as they were given."""
        return {"logits": codes_BC}

    def lacks(self, temperature: float, temperatures: Sequence[float]) -> str | None:
        """None, because a soft target can be computed at any temperature."""
        return None

    def codes(self, parts: Parts) -> Codes:
        """The codes of all classes."""
        return Codes(code_BK=parts["logits"])

    def events(self, parts: Parts, temperature: float, temperatures: Sequence[float]) -> Events:
        """The probability of every class; nothing is left for others."""
        prob_BC = softmax_of(parts["logits"], temperature)
        index_BC = np.broadcast_to(np.arange(prob_BC.shape[1]), prob_BC.shape)
        return Events(index_BK=index_BC, prob_BK=prob_BC, rest_B=np.zeros(len(prob_BC)))

    def likeliest(self, parts: Parts, count: int) -> NDArray[Any] | None:
        """The `count` classes with the largest codes of each answer; None where there are no more classes."""
        codes_BC = parts["logits"]
        return np.argpartition(codes_BC, -count, axis=1)[:, -count:] if codes_BC.shape[1] > count else None

    def narrowing(self, keep: Keep, temperatures: Sequence[float], stored: Sequence[float]) -> Narrowing:
        """Encodes anew, in any keep that fits the classes: all of the answer is known, so nothing is refused here."""

        def narrowed(parts: Parts) -> dict[str, NDArray[Any]]:
            keep.require_fit(parts["logits"].shape[1])
            return keep.encode(parts["logits"], parts["argmax"], temperatures)

        return narrowed


def read(argument: str | None) -> Dense | None:
    """The keep for the text ``dense``, whose `argument` is None; None where it has one."""
    return Dense() if argument is None else None
