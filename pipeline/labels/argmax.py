"""Only the class of the largest logit is kept: one number a view, which is all that hard distillation reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.keep import Form, Keep, Parts


@dataclass(frozen=True, slots=True)
class Argmax(Keep):
    """The class alone."""

    kind: ClassVar[str] = "argmax"

    @classmethod
    def read(cls, argument: str | None) -> Argmax | None:
        """``argmax``."""
        return cls() if argument is None else None

    def forms(self, num_classes: int, temperatures: Sequence[float]) -> dict[str, Form]:
        """Nothing beside the argmax."""
        return {}

    def encode(
        self, codes_BC: NDArray[np.uint16], argmax_B: NDArray[Any], temperatures: Sequence[float]
    ) -> dict[str, NDArray[Any]]:
        """Nothing beside the argmax."""
        return {}

    def lacks(self, temperature: float, temperatures: Sequence[float]) -> str | None:
        """Every soft target."""
        return (
            "Soft distillation needs the teacher's logits, and this store keeps argmax alone. "
            "Use --distill hard, or label again with --keep topk:10 or --keep dense."
        )

    def events(self, parts: Parts, temperature: float, temperatures: Sequence[float]) -> NoReturn:
        """There are none."""
        raise AssertionError("an argmax has no soft target")
