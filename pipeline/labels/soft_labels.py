"""What did the teacher say about some views, in the form in which it is stored?

`encode` quantises first and then derives, so a store that is compacted from a dense one equals one that was written
smaller at once. Only the argmax is taken from the logits as the teacher gave them (ties go to the lowest class).

Shapes: B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.codes import Name, class_dtype, quantise, require_finite
from pipeline.labels.keep import Keep, Parts, Ranked, require_temperatures
from pipeline.labels.keeps import ARRAYS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SoftLabels:
    """The teacher's answers about B views, encoded as one keep stores them."""

    argmax_B: NDArray[Any]
    """Class of the largest logit at full precision; `class_dtype`"""
    parts: Parts = field(default_factory=dict)
    """What the keep stores beside it, by the names of the store's arrays"""

    def __post_init__(self) -> None:
        assert self.argmax_B.ndim == 1 and self.argmax_B.dtype.kind == "u", "argmax is an unsigned vector"
        for name, array in self.parts.items():
            assert name in ARRAYS[1:], f"{name} is no array of answers"
            assert len(array) == len(self), f"{name} has {len(array)} rows, argmax has {len(self)}"
            assert array.ndim == 2, f"{name} has {array.ndim} axes"

    def __len__(self) -> int:
        return len(self.argmax_B)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The argmax and all parts, under the names of the store's arrays."""
        return {"argmax": self.argmax_B, **self.parts}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> SoftLabels:
        """The inverse of `arrays`; names that are not of answers are left alone."""
        return cls(argmax_B=arrays["argmax"], parts={name: arrays[name] for name in ARRAYS[1:] if name in arrays})

    def slice(self, start: int, stop: int) -> SoftLabels:
        """The answers in rows `start` up to `stop`, without a copy."""
        return SoftLabels.from_arrays({name: array[start:stop] for name, array in self.arrays().items()})

    def take(self, rows: NDArray[np.integer[Any]]) -> SoftLabels:
        """The answers in these rows, in this order, as a copy."""
        return SoftLabels.from_arrays({name: array[rows] for name, array in self.arrays().items()})

    @classmethod
    def concatenate(cls, parts: Sequence[SoftLabels]) -> SoftLabels:
        """All rows of the parts, which have one keep, one after the other."""
        arrays = [part.arrays() for part in parts]
        return cls.from_arrays({name: np.concatenate([a[name] for a in arrays]) for name in arrays[0]})


def encode(
    logits_BC: NDArray[np.floating[Any]],
    keep: Keep,
    temperatures: Sequence[float] = (),
    *,
    name: Name = lambda at: f"row {at}",
) -> SoftLabels:
    """The teacher's logits as they will be stored. `name` says whose they are, for the message when they cannot be."""
    assert logits_BC.ndim == 2 and logits_BC.shape[1] >= 1, f"logits of shape {logits_BC.shape}, want [B, C]"
    keep.require_fit(logits_BC.shape[1])
    argmax_B = logits_BC.argmax(axis=1).astype(class_dtype(logits_BC.shape[1]))
    if keep.kind == "argmax":  # the only one that takes logits outside the range of codes
        require_finite(logits_BC, name)
        return SoftLabels(argmax_B=argmax_B)
    return from_codes(argmax_B, quantise(logits_BC, name), keep, temperatures)


def from_codes(
    argmax_B: NDArray[Any],
    codes_BC: NDArray[np.uint16],
    keep: Keep,
    temperatures: Sequence[float] = (),
    ranked: Ranked | None = None,
) -> SoftLabels:
    """The labels of one keep from the codes of all classes: what both a teacher's run and a compaction store.

    `ranked` is the `Keep.ranks` largest of these codes, where a device has found them already.
    """
    keep.require_fit(codes_BC.shape[1])
    if keep.uses_temperatures:
        require_temperatures(temperatures)
    return SoftLabels(argmax_B=argmax_B, parts=keep.encode(codes_BC, argmax_B, temperatures, ranked))


def narrow(
    labels: SoftLabels, before: Keep, keep: Keep, temperatures: Sequence[float] = (), *, stored: Sequence[float] = ()
) -> SoftLabels:
    """The same answers, kept as `before` at the temperatures `stored`, in a smaller keep."""
    narrowed = before.narrowing(keep, temperatures, stored)
    return SoftLabels(argmax_B=labels.argmax_B, parts=narrowed(labels.arrays()))
