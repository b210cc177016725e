"""What did the teacher say about a view, in how many bytes, and what does a student get back?

Three keeps. ``dense`` stores every logit as a 16-bit code, ``topk:K`` the K largest codes with their classes and the
log-sum-exp over *all* classes at each stored temperature, ``argmax`` only the class of the largest logit, which the
other two store as well.

Quantise first, then derive: a code is ``rint(256 · (logit + 128))``, so a logit is ``code / 256 − 128``, and top-K and
log-sum-exp are computed from the codes. A store that is compacted from a dense one therefore equals one that was
written as top-K. Only argmax is taken from the logits as the teacher gave them (ties go to the lowest class).
The order of the top K is total (larger code first, then lower class), hence a smaller K is a prefix of a larger one.

Shapes: B rows, C classes, K kept classes, T temperatures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import MismatchError, TeacherError
from pipeline.labels.keep import CODE, LSE, MAX_CODE, OFFSET, SCALE, Keep, class_dtype, require_temperatures


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SoftLabels:
    """The teacher's answers about B views, in one keep."""

    argmax_B: NDArray[Any]
    """Class of the largest logit at full precision; `class_dtype`"""
    logits_BC: NDArray[np.uint16] | None = None
    """Codes of all logits; keep dense"""
    topk_index_BK: NDArray[Any] | None = None
    """The kept classes, largest code first, then lowest class; `class_dtype`; keep topk"""
    topk_logit_BK: NDArray[np.uint16] | None = None
    """Their codes; keep topk"""
    lse_BT: NDArray[np.float32] | None = None
    """log Σ exp(logit / T) over all classes, a column a temperature; keep topk"""

    def __post_init__(self) -> None:
        topk = (self.topk_index_BK, self.topk_logit_BK, self.lse_BT)
        present = [part is not None for part in topk]
        assert any(present) == all(present), "topk_index, topk_logit and lse come together"
        assert not (all(present) and self.logits_BC is not None), "dense or topk, not both"
        assert self.argmax_B.ndim == 1 and self.argmax_B.dtype.kind == "u", "argmax is an unsigned vector"
        for name, array in self.arrays().items():
            assert len(array) == len(self), f"{name} has {len(array)} rows, argmax has {len(self)}"
            assert array.ndim == (1 if name == "argmax" else 2), f"{name} has {array.ndim} axes"
        for codes in (self.logits_BC, self.topk_logit_BK):
            assert codes is None or codes.dtype == CODE, "codes are uint16"
        if self.topk_index_BK is not None and self.topk_logit_BK is not None and self.lse_BT is not None:
            assert self.topk_index_BK.shape == self.topk_logit_BK.shape, "a code for each kept class"
            assert self.topk_index_BK.dtype == self.argmax_B.dtype, "classes have one type"
            assert self.lse_BT.dtype == LSE, "lse is float32"

    def __len__(self) -> int:
        return len(self.argmax_B)

    @property
    def keep(self) -> Keep:
        """How much these are."""
        if self.topk_index_BK is not None:
            return Keep("topk", self.topk_index_BK.shape[1])
        return Keep("dense" if self.logits_BC is not None else "argmax")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The parts that are there, under the names of the store's arrays."""
        parts = {
            "argmax": self.argmax_B,
            "logits": self.logits_BC,
            "topk_index": self.topk_index_BK,
            "topk_logit": self.topk_logit_BK,
            "lse": self.lse_BT,
        }
        return {name: array for name, array in parts.items() if array is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> SoftLabels:
        """The inverse of `arrays`; names that are not ours are left alone."""
        return cls(
            argmax_B=arrays["argmax"],
            logits_BC=arrays.get("logits"),
            topk_index_BK=arrays.get("topk_index"),
            topk_logit_BK=arrays.get("topk_logit"),
            lse_BT=arrays.get("lse"),
        )

    def slice(self, start: int, stop: int) -> SoftLabels:
        """Rows start to stop, without a copy."""
        return SoftLabels.from_arrays({name: array[start:stop] for name, array in self.arrays().items()})

    def take(self, rows: NDArray[np.integer[Any]]) -> SoftLabels:
        """These rows, in this order, copied."""
        return SoftLabels.from_arrays({name: array[rows] for name, array in self.arrays().items()})

    @classmethod
    def concatenate(cls, parts: Sequence[SoftLabels]) -> SoftLabels:
        """All rows of the parts, which have one keep, one after the other."""
        arrays = [part.arrays() for part in parts]
        return cls.from_arrays({name: np.concatenate([a[name] for a in arrays]) for name in arrays[0]})

    def same_as(self, other: SoftLabels) -> bool:
        """Bit-equal in every part."""
        mine, theirs = self.arrays(), other.arrays()
        return mine.keys() == theirs.keys() and all(
            a.dtype == theirs[name].dtype and np.array_equal(a, theirs[name]) for name, a in mine.items()
        )


def encode(
    logits_BC: NDArray[np.floating[Any]],
    keep: Keep,
    temperatures: Sequence[float] = (),
    *,
    name: Callable[[int], str] = lambda at: f"row {at}",
) -> SoftLabels:
    """The teacher's logits as they will be stored. `name` says whose they are, for the message when they cannot be."""
    assert logits_BC.ndim == 2 and logits_BC.shape[1] >= 1, f"logits of shape {logits_BC.shape}, want [B, C]"
    keep.require_fit(logits_BC.shape[1])
    _require_finite(logits_BC, name)
    argmax_B = logits_BC.argmax(axis=1).astype(class_dtype(logits_BC.shape[1]))
    if keep.kind == "argmax":
        return SoftLabels(argmax_B=argmax_B)
    return from_codes(argmax_B, _quantise(logits_BC, name), keep, temperatures)


def from_codes(
    argmax_B: NDArray[Any], codes_BC: NDArray[np.uint16], keep: Keep, temperatures: Sequence[float] = ()
) -> SoftLabels:
    """The labels of one keep from the dense codes: what both a teacher's run and a compaction store."""
    keep.require_fit(codes_BC.shape[1])
    if keep.kind == "argmax":
        return SoftLabels(argmax_B=argmax_B)
    if keep.kind == "dense":
        return SoftLabels(argmax_B=argmax_B, logits_BC=codes_BC)
    require_temperatures(temperatures)
    assert keep.k is not None
    index_BK, code_BK = _largest(codes_BC, keep.k)
    return SoftLabels(
        argmax_B=argmax_B,
        topk_index_BK=index_BK,
        topk_logit_BK=code_BK,
        lse_BT=_log_sum_exp(codes_BC, temperatures),
    )


def require_narrower(
    before: Keep, keep: Keep, temperatures: Sequence[float] = (), *, stored: Sequence[float] = ()
) -> None:
    """Refuse what labels of the keep `before`, at the temperatures `stored`, cannot be narrowed to."""
    if before.kind == "dense" or keep.kind == "argmax":
        return
    if before.k is None or keep.k is None:
        raise MismatchError(f"labels kept as {before} cannot become {keep}. Start from a dense store.")
    if keep.k > before.k:
        raise MismatchError(f"labels kept as {before} cannot become {keep}. Give a K of at most that many.")
    for temperature in temperatures:
        _column(stored, temperature)


def narrow(
    labels: SoftLabels, keep: Keep, temperatures: Sequence[float] = (), *, stored: Sequence[float] = ()
) -> SoftLabels:
    """The same answers in a smaller keep: dense → topk or argmax, topk:K → a smaller K, fewer temperatures, or argmax.

    `stored` are the temperatures that `labels` has columns for.
    """
    require_narrower(labels.keep, keep, temperatures, stored=stored)
    if labels.logits_BC is not None:
        return from_codes(labels.argmax_B, labels.logits_BC, keep, temperatures)
    if keep.k is None:
        return SoftLabels(argmax_B=labels.argmax_B)
    assert labels.topk_index_BK is not None and labels.topk_logit_BK is not None and labels.lse_BT is not None
    columns = [_column(stored, t) for t in temperatures]
    return SoftLabels(
        argmax_B=labels.argmax_B,
        topk_index_BK=np.ascontiguousarray(labels.topk_index_BK[:, : keep.k]),
        topk_logit_BK=np.ascontiguousarray(labels.topk_logit_BK[:, : keep.k]),
        lse_BT=np.ascontiguousarray(labels.lse_BT[:, columns]),
    )


def decode_dense(codes: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Codes as logits; exact in float32."""
    return codes.astype(np.float32) * np.float32(SCALE) + np.float32(OFFSET)


def dense_targets(codes_BC: NDArray[np.uint16], temperature: float) -> NDArray[np.float64]:
    """softmax(logit / T) over all classes: the soft targets that every keep is measured against."""
    scaled_BC = decode_dense(codes_BC).astype(np.float64) / temperature
    weights_BC = np.exp(scaled_BC - scaled_BC.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = weights_BC / weights_BC.sum(axis=1, keepdims=True)
    return result


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TopTargets:
    """Soft targets of top-K labels at one temperature: exact on the kept classes, one mass for all the others."""

    index_BK: NDArray[Any]
    prob_BK: NDArray[np.float64]
    rest_B: NDArray[np.float64]


def topk_targets(labels: SoftLabels, temperature: float, *, stored: Sequence[float]) -> TopTargets:
    """The same targets from top-K labels, whose lse columns stand for the temperatures `stored`."""
    assert labels.topk_index_BK is not None and labels.topk_logit_BK is not None and labels.lse_BT is not None
    lse_B = labels.lse_BT[:, _column(stored, temperature)].astype(np.float64)
    prob_BK = np.exp(decode_dense(labels.topk_logit_BK).astype(np.float64) / temperature - lse_B[:, None])
    rest_B = np.clip(1 - prob_BK.sum(axis=1), 0, 1)
    return TopTargets(index_BK=labels.topk_index_BK, prob_BK=prob_BK, rest_B=rest_B)


def _column(stored: Sequence[float], temperature: float) -> int:
    if temperature not in stored:
        have = ", ".join(f"{t:g}" for t in stored) or "none"
        raise MismatchError(
            f"temperature {temperature:g} is not stored, the labels hold the log-sum-exp at {have}. "
            "Ask for one of these; or store it, with --temperatures of teacher_logits, or of compact_logits from dense."
        )
    return list(stored).index(temperature)


def _quantise(logits_BC: NDArray[np.floating[Any]], name: Callable[[int], str]) -> NDArray[np.uint16]:
    # float64 holds 256 · (logit + 128) exactly for every float32 in range, so a code never depends on the platform
    steps_BC = np.rint((logits_BC.astype(np.float64) - OFFSET) / SCALE)
    outside = (steps_BC < 0) | (steps_BC > MAX_CODE)
    if outside.any():
        where = f"{_first(outside, logits_BC, name)} is outside {OFFSET:g} to {OFFSET + SCALE * MAX_CODE:.3f}"
        raise TeacherError(
            f"{where}, the range of the store's 16-bit codes ({int(outside.sum())} such values in this batch). "
            "Check that the head was trained; or keep argmax; or wrap the teacher in a function that scales its logits."
        )
    return steps_BC.astype(CODE)


def _require_finite(logits_BC: NDArray[np.floating[Any]], name: Callable[[int], str]) -> None:
    bad = ~np.isfinite(logits_BC)
    if bad.any():
        raise TeacherError(
            f"{_first(bad, logits_BC, name)} is not finite ({int(bad.sum())} such values in this batch). "
            "Run the teacher in fp32 or bf16 (fp16 overflows at 65,504), or check its weights."
        )


def _first(bad_BC: NDArray[np.bool_], logits_BC: NDArray[np.floating[Any]], name: Callable[[int], str]) -> str:
    at, cls = np.unravel_index(int(bad_BC.argmax()), bad_BC.shape)
    return f"the teacher's logit {float(logits_BC[at, cls]):g} ({name(int(at))}, class {int(cls)})"


def _largest(codes_BC: NDArray[np.uint16], k: int) -> tuple[NDArray[Any], NDArray[np.uint16]]:
    """Classes and codes of the k largest, by code and then by lower class, through one sortable number for both."""
    num_classes = codes_BC.shape[1]
    wide, shift = (np.dtype(np.uint32), 16) if num_classes <= 2**16 else (np.dtype(np.uint64), 32)
    rank_C = np.arange(num_classes - 1, -1, -1, dtype=wide)
    key_BC = np.left_shift(codes_BC.astype(wide), shift) | rank_C
    top_BK = np.sort(np.partition(key_BC, num_classes - k, axis=1)[:, num_classes - k :], axis=1)[:, ::-1]
    index_BK = (num_classes - 1) - (top_BK & (2**shift - 1))
    return index_BK.astype(class_dtype(num_classes)), np.right_shift(top_BK, shift).astype(CODE)


def _log_sum_exp(codes_BC: NDArray[np.uint16], temperatures: Sequence[float]) -> NDArray[np.float32]:
    logits_BC = decode_dense(codes_BC).astype(np.float64)
    peak_B1 = logits_BC.max(axis=1, keepdims=True)
    shifted_BC = logits_BC - peak_B1
    columns = [peak_B1[:, 0] / t + np.log(np.exp(shifted_BC / t).sum(axis=1)) for t in temperatures]
    return np.stack(columns, axis=1).astype(LSE)
