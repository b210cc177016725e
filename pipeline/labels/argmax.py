"""Only the class of the largest logit is kept: one number a view, which is all that hard distillation reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.keep import Form, Keep, Parts, Ranked


@dataclass(frozen=True, slots=True)
class Argmax(Keep):
    """The keep that stores nothing beside the argmax."""

    kind: ClassVar[str] = "argmax"

    def forms(self, num_classes: int, temperatures: Sequence[float]) -> dict[str, Form]:
        """No arrays: the argmax that every keep stores is all."""
        return {}

    def encode(
        self,
        codes_BC: NDArray[np.uint16],
        argmax_B: NDArray[Any],
        temperatures: Sequence[float],
        ranked: Ranked | None = None,
    ) -> dict[str, NDArray[Any]]:
        """No arrays: the argmax that every keep stores is all."""
        return {}

    def lacks(self, temperature: float, temperatures: Sequence[float]) -> str | None:
        """Soft targets at every temperature: it has none, and says what to do instead."""
        return (
            "Soft distillation needs the teacher's logits, and this store keeps argmax alone. "
            "Use --distill hard, or label again with --keep topk:10 or --keep dense."
        )

    def events(self, parts: Parts, temperature: float, temperatures: Sequence[float]) -> NoReturn:
        """Never called: `lacks` refuses every temperature."""
        raise AssertionError("an argmax has no soft target")


def read(argument: str | None) -> Argmax | None:
    """The keep for the text ``argmax``, whose `argument` is None; None where it has one."""
    return Argmax() if argument is None else None
