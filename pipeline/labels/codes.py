"""How is a logit written in 16 bits, and a class in as few as will do?

A code is ``rint(256 · (logit + 128))``, so a logit is ``code / 256 − 128``, exact in float32. Everything that is stored
of an answer, but for its argmax, is derived from codes: what is narrowed later equals what was narrowed at once.

Shapes: B rows, C classes, K of them, H bytes, T temperatures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import TeacherError

SCALE = 1 / 256
"""One step of a code, in logits."""

OFFSET = -128.0
"""The logit of code 0."""

CODE = np.dtype(np.uint16)
MAX_CODE = 2**16 - 2
"""The largest code, a logit of 127.9921875; the one above it stands for "nothing written"."""

_ZERO = OFFSET / SCALE
_AT_ONCE = 2**17
"""Logits that are worked on together, so that they stay in the processor's cache"""

Answers = Callable[[NDArray[np.int64]], NDArray[np.uint16]]
"""Gives the codes of all classes [N, C] about one view of each of these rows"""

MOST_CLASSES = 2**16
"""Have numbers in two bytes"""

Name = Callable[[int], str]
"""Says whose answer a row is, for a message"""


def class_dtype(num_classes: int) -> np.dtype[Any]:
    """The smallest unsigned type that holds the classes and one value more, which stands for "nothing written"."""
    return np.dtype(np.uint8 if num_classes < 2**8 else np.uint16 if num_classes < 2**16 else np.uint32)


def quantise(logits_BC: NDArray[np.floating[Any]], name: Name) -> NDArray[np.uint16]:
    """Logits as codes; one that is not finite, or outside their range, is refused."""
    codes_BC = np.empty(logits_BC.shape, CODE)
    rows = max(1, _AT_ONCE // max(1, logits_BC.shape[1]))
    for start in range(0, len(logits_BC), rows):
        part = slice(start, start + rows)
        if not _quantised(logits_BC[part], codes_BC[part]):
            raise _why_not(logits_BC, name)
    return codes_BC


def _quantised(logits_BC: NDArray[np.floating[Any]], codes_BC: NDArray[np.uint16]) -> bool:
    """Write the codes of some logits, if all of them have one."""
    step_BC = _steps(logits_BC)
    if step_BC.size and not _ZERO <= step_BC.min() <= step_BC.max() <= MAX_CODE + _ZERO:
        return False
    step_BC -= _ZERO
    np.copyto(codes_BC, step_BC, casting="unsafe")
    return True


def _steps(logits_BC: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    # a power of two times a logit is exact, and rounding to even does not mind an even offset: the same code everywhere
    step_BC = logits_BC.astype(np.promote_types(logits_BC.dtype, np.float32))
    with np.errstate(over="ignore"):  # infinite, and outside
        step_BC *= 1 / SCALE
    np.rint(step_BC, out=step_BC)
    return step_BC


def _why_not(logits_BC: NDArray[np.floating[Any]], name: Name) -> TeacherError:
    require_finite(logits_BC, name)
    step_BC = _steps(logits_BC)
    outside = (step_BC < _ZERO) | (step_BC > MAX_CODE + _ZERO)
    where = f"{_first(outside, logits_BC, name)} is outside {OFFSET:g} to {OFFSET + SCALE * MAX_CODE:.3f}"
    return TeacherError(
        f"{where}, the range of the store's 16-bit codes ({int(outside.sum())} such values in this batch). "
        "Check that the head was trained; or keep argmax; or wrap the teacher in a function that scales its logits."
    )


def logits_of(codes: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The logits that these codes stand for, exact in float32."""
    return codes.astype(np.float32) * np.float32(SCALE) + np.float32(OFFSET)


def softmax_of(codes_BC: NDArray[np.uint16], temperature: float) -> NDArray[np.float64]:
    """softmax(logit / T) over all classes: the soft targets that every keep is measured against."""
    scaled_BC = logits_of(codes_BC).astype(np.float64) / temperature
    weights_BC = np.exp(scaled_BC - scaled_BC.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = weights_BC / weights_BC.sum(axis=1, keepdims=True)
    return result


def log_sum_exp(codes_BC: NDArray[np.uint16], temperatures: Sequence[float]) -> NDArray[np.float64]:
    """log Σ exp(logit / T) over all classes, a column [B, T] a temperature."""
    logits_BC = logits_of(codes_BC).astype(np.float64)
    peak_B1 = logits_BC.max(axis=1, keepdims=True)
    shifted_BC = logits_BC - peak_B1
    columns = [peak_B1[:, 0] / t + np.log(np.exp(shifted_BC / t).sum(axis=1)) for t in temperatures]
    return np.stack(columns, axis=1)


def require_finite(logits_BC: NDArray[np.floating[Any]], name: Name) -> None:
    """Refuse answers in which a logit is infinite or no number; `name` says whose they are."""
    if logits_BC.size and not np.isfinite([logits_BC.min(), logits_BC.max()]).all():
        bad = ~np.isfinite(logits_BC)
        raise TeacherError(
            f"{_first(bad, logits_BC, name)} is not finite ({int(bad.sum())} such values in this batch). "
            "Run the teacher in fp32 or bf16 (fp16 overflows at 65,504), or check its weights."
        )


def _first(bad_BC: NDArray[np.bool_], logits_BC: NDArray[np.floating[Any]], name: Name) -> str:
    at, cls = np.unravel_index(int(bad_BC.argmax()), bad_BC.shape)
    return f"the teacher's logit {float(logits_BC[at, cls]):g} ({name(int(at))}, class {int(cls)})"


@dataclass(frozen=True, slots=True)
class Digits:
    """The high bits of class numbers (the number divided by 256), packed so that several share a byte."""

    classes: int

    def __post_init__(self) -> None:
        assert self.classes <= MOST_CLASSES, f"{self.classes} classes are more than {MOST_CLASSES}"

    @property
    def bits(self) -> int:
        """How many bits each number takes: 0, 1, 2, 4 or 8, by the number of classes."""
        need = ((self.classes - 1) // 256).bit_length()
        return next(bits for bits in (0, 1, 2, 4, 8) if need <= bits)

    def bytes_for(self, count: int) -> int:
        """How many bytes `count` packed numbers take."""
        return -(-count * self.bits // 8)

    def pack(self, high_BK: NDArray[np.intp]) -> NDArray[np.uint8]:
        """The numbers of each row as packed bytes [B, H]; no bytes at all where 256 classes suffice."""
        if not self.bits:
            return np.zeros((len(high_BK), 0), np.uint8)
        each = 8 // self.bits
        packed_BH = np.zeros((len(high_BK), -(-high_BK.shape[1] // each)), np.uint8)
        for place in range(min(each, high_BK.shape[1])):
            digit_BH = high_BK[:, place::each]
            packed_BH[:, : digit_BH.shape[1]] |= (digit_BH << (place * self.bits)).astype(np.uint8)
        return packed_BH

    def unpack(self, packed_BH: NDArray[np.uint8], count: int) -> NDArray[np.intp]:
        """The first `count` numbers of each row [B, K], from what `pack` gave."""
        if not self.bits:
            return np.zeros((len(packed_BH), count), np.intp)
        at_K = np.arange(count)
        each = 8 // self.bits
        shifted_BK = packed_BH[:, at_K // each].astype(np.intp) >> (at_K % each * self.bits)
        high_BK: NDArray[np.intp] = shifted_BK & (2**self.bits - 1)
        return high_BK
