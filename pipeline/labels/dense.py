"""Every logit is kept, as a 16-bit code: soft targets at any temperature, and every other keep can be made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.codes import CODE, OFFSET, SCALE, softmax_of
from pipeline.labels.keep import Events, Form, Keep, Parts

MEANING = "the teacher's logit is value * scale + offset"


def code_form(width: int, axis: str, meaning: str, level: int) -> Form:
    """Codes of logits, as they are laid out."""
    fill = int(np.iinfo(CODE).max)
    return Form(
        dtype=CODE, fill=fill, meaning=meaning, width=width, axis=axis, level=level,
        attributes={"scale": SCALE, "offset": OFFSET},
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dense(Keep):
    """Every logit."""

    kind: ClassVar[str] = "dense"

    @classmethod
    def read(cls, argument: str | None) -> Dense | None:
        """``dense``."""
        return cls() if argument is None else None

    def forms(self, num_classes: int, temperatures: Sequence[float]) -> dict[str, Form]:
        """One code a class."""
        return {"logits": code_form(num_classes, "class", MEANING, level=4)}

    def encode(
        self, codes_BC: NDArray[np.uint16], argmax_B: NDArray[Any], temperatures: Sequence[float]
    ) -> dict[str, NDArray[Any]]:
        """The codes as they are."""
        return {"logits": codes_BC}

    def lacks(self, temperature: float, temperatures: Sequence[float]) -> str | None:
        """Nothing."""
        return None

    def codes(self, parts: Parts) -> NDArray[np.uint16]:
        """The codes as they are."""
        return parts["logits"]

    def events(self, parts: Parts, temperature: float, temperatures: Sequence[float]) -> Events:
        """Every class, and nothing left."""
        prob_BC = softmax_of(parts["logits"], temperature)
        index_BC = np.broadcast_to(np.arange(prob_BC.shape[1]), prob_BC.shape)
        return Events(index_BK=index_BC, prob_BK=prob_BC, rest_B=np.zeros(len(prob_BC)))

    def likeliest(self, parts: Parts, count: int) -> NDArray[Any] | None:
        """The classes with the largest codes."""
        codes_BC = parts["logits"]
        return np.argpartition(codes_BC, -count, axis=1)[:, -count:] if codes_BC.shape[1] > count else None

    def steps_apart(self, parts: Parts, now_BC: NDArray[np.uint16]) -> int:
        """Over all classes."""
        return int(np.abs(now_BC.astype(np.int64) - parts["logits"].astype(np.int64)).max(initial=0))

    def narrowed(
        self, parts: Parts, keep: Keep, temperatures: Sequence[float], stored: Sequence[float]
    ) -> dict[str, NDArray[Any]]:
        """To any keep."""
        keep.require_fit(parts["logits"].shape[1])
        return keep.encode(parts["logits"], parts["argmax"], temperatures)

    def require_narrower(self, keep: Keep, temperatures: Sequence[float], stored: Sequence[float]) -> None:
        """All of it is known, so nothing is refused."""
