"""In which few directions do a teacher's logits vary, and how are coefficients along them quantised?

The principal components of the logits, each row about its own mean, fitted once on the first views that a teacher
labels. Every component gets the same step: with equal steps and an entropy coder behind, each bit goes where it removes
most error (reverse water-filling). The step follows from the weakest component that is kept, so their number alone
decides what a view costs.

A basis is integers, and it is stored. The sums of the fit are exact, but an eigenvector is not the same to the last bit
under another linear-algebra library; so it is fitted once, and everybody else reads it. What is computed *from* it is a
sum of products of integers, exact in floating point whatever the order of the additions, the threads or the machine:
small enough that single precision holds it (`REACH`), which is twice as fast as double.

Shapes: N views to fit on, B rows, C classes, R components, P = R + 2 terms of a sum, W bytes of a row's coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNIT = 1024
"""Of a component and of what is reconstructed: so many a logit; four a step of the codes"""

PER_CODE = UNIT // 256

STEP = 1.5
"""Of all coefficients, in standard deviations of the weakest component: measured best between 1 and 3"""

WIDE = 2.0
"""A component with a standard deviation of more steps than this has a byte of its own, the others share one by two"""

REACH = 2047
"""Whole numbers as large as this may be measured along the components"""

_COARSE = 8
"""Mean entry of a component as it is measured along: fine enough, and exact in single precision up to 1,024 classes"""

_BYTE, _NIBBLE = 128, 8
_SMALLEST_STEP = 0.25

MOST_ACROSS = 4096
"""Classes whose covariance is formed; where there are more of them, views are fewer (`lowrank.LARGEST_FIT`)"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Components:
    """The principal components of a teacher's logits: together with the bytes of a row, all that decoding needs."""

    mean_C: NDArray[np.int32]
    """What is expected of a class, above the mean of its row; in 1/1024 logit"""
    step_RC: NDArray[np.int16]
    """What one step along a component adds to each class; in 1/1024 logit; strongest first"""
    spread_C: NDArray[np.float32]
    """Variance of what the components miss, in logits²"""
    wide: int
    """So many leading components have a byte each"""
    _coarse_CR: NDArray[Any] = field(init=False)
    """And columns of zeros after the last"""
    _worth_R: NDArray[np.float64] = field(init=False)
    _expected_R: NDArray[np.float64] = field(init=False)
    _sum_PC: NDArray[Any] = field(init=False)
    _least_R: NDArray[np.float64] = field(init=False)
    _most_R: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        classes = len(self.mean_C)
        assert self.step_RC.shape == (len(self.step_RC), classes) and self.spread_C.shape == (classes,)
        assert self.mean_C.dtype == np.int32 and self.step_RC.dtype == np.int16 and self.spread_C.dtype == np.float32
        assert 0 <= self.wide <= len(self), f"{self.wide} wide components of {len(self)}"
        half_R = np.where(np.arange(len(self)) < self.wide, float(_BYTE), float(_NIBBLE))
        step_RC, mean_C = self.step_RC.astype(np.float64), self.mean_C.astype(np.float64)
        total_R = np.maximum(np.abs(step_RC).sum(axis=1), 1)
        coarse_RC = np.trunc(step_RC * (_COARSE * classes / total_R)[:, None])
        worth_R = 1 / np.maximum((coarse_RC * step_RC).sum(axis=1), 1)
        largest = half_R @ np.abs(step_RC).max(axis=1) + np.abs(mean_C).max() + PER_CODE * 2**16
        sum_PC = np.concatenate([step_RC, mean_C[None], np.full((1, classes), PER_CODE)]) / PER_CODE
        derived = {
            "_coarse_CR": _padded(coarse_RC.T, _holding(REACH * _COARSE * classes)),
            "_worth_R": worth_R,
            "_expected_R": (coarse_RC @ mean_C) * worth_R,
            "_sum_PC": sum_PC.astype(_holding(largest)),
            "_least_R": -half_R,
            "_most_R": half_R - 1,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.step_RC)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Mean, steps and spread, under the names of the store's arrays."""
        return {"mean": self.mean_C, "step": self.step_RC, "spread": self.spread_C}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], wide: int) -> Components:
        """The components that `arrays` gave, of which the first `wide` have a byte each."""
        return cls(mean_C=arrays["mean"], step_RC=arrays["step"], spread_C=arrays["spread"], wide=wide)

    def along(self, whole_BC: NDArray[Any], unit: float) -> NDArray[np.float64]:
        """How many steps [B, R] each row is along each component; a row is whole numbers of `unit` / 1024 logit."""
        product_BR = whole_BC.astype(self._coarse_CR.dtype, copy=False) @ self._coarse_CR
        result: NDArray[np.float64] = product_BR[:, : len(self)].astype(np.float64) * (unit * self._worth_R)
        return result

    def nearest(self, above_BC: NDArray[np.float32], scratch_BC: NDArray[np.float32]) -> NDArray[np.int16]:
        """The whole steps [B, R] that come near codes above their row's mean, which are read in quarters of a logit."""
        np.multiply(above_BC, np.float32(1 / 64), out=scratch_BC)
        np.rint(scratch_BC, out=scratch_BC)
        return self.limited(self.along(scratch_BC, 64 * PER_CODE) - self._expected_R)

    def limited(self, steps_BR: NDArray[np.float64]) -> NDArray[np.int16]:
        """The steps, rounded and clipped to what the byte or half byte of each component can hold."""
        whole_BR = np.maximum(np.rint(steps_BR), self._least_R)
        return np.minimum(whole_BR, self._most_R, out=whole_BR).astype(np.int16)

    @property
    def sum_type(self) -> np.dtype[Any]:
        """The floating-point type in which `add_up` is exact: float32 where that holds all sums, else float64."""
        return self._sum_PC.dtype

    def terms(self, steps_BR: NDArray[np.int16], plus_B: NDArray[np.int64]) -> NDArray[Any]:
        """The factors [B, P] that `add_up` multiplies: the steps, 1 for the mean, and the codes to add to each row."""
        term_BP = np.empty((len(steps_BR), len(self._sum_PC)), self.sum_type)
        term_BP[:, :-2], term_BP[:, -2], term_BP[:, -1] = steps_BR, 1, plus_B
        return term_BP

    def add_up(self, term_BP: NDArray[Any], code_BC: NDArray[Any]) -> None:
        """Write the codes [B, C] that these terms stand for; they are exact where `code_BC` has the type `sum_type`."""
        if code_BC.dtype == self.sum_type:
            np.matmul(term_BP, self._sum_PC, out=code_BC)
        else:
            code_BC[:] = term_BP @ self._sum_PC

    def pack(self, steps_BR: NDArray[np.int16]) -> NDArray[np.uint8]:
        """The steps of each row as bytes [B, W]."""
        wide_BR = (steps_BR[:, : self.wide] + _BYTE).astype(np.uint8)
        half_BR = (steps_BR[:, self.wide :] + _NIBBLE).astype(np.uint8)
        low_BR, high_BR = half_BR[:, 0::2], half_BR[:, 1::2]
        shared_BR = low_BR.copy()
        shared_BR[:, : high_BR.shape[1]] |= high_BR << 4
        return np.concatenate([wide_BR, shared_BR], axis=1)

    def unpack(self, bytes_BW: NDArray[np.uint8]) -> NDArray[np.int16]:
        """The steps [B, R] that `pack` made these bytes of."""
        steps_BR = np.empty((len(bytes_BW), len(self)), np.int16)
        steps_BR[:, : self.wide] = bytes_BW[:, : self.wide].astype(np.int16) - _BYTE
        half_BR, shared_BR = steps_BR[:, self.wide :], bytes_BW[:, self.wide :]
        half_BR[:, 0::2] = (shared_BR & 15).astype(np.int16) - _NIBBLE
        half_BR[:, 1::2] = (shared_BR[:, : half_BR.shape[1] // 2] >> 4).astype(np.int16) - _NIBBLE
        return steps_BR


def _holding(largest: float) -> np.dtype[Any]:
    """The type in which sums of whole numbers are exact, if none of them is larger."""
    return np.dtype(np.float32 if largest < 2**24 else np.float64)


def _padded(value_CR: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """With columns of zeros to a multiple of four: BLAS multiplies four at a time, and others a third slower."""
    columns = value_CR.shape[1]
    return np.pad(value_CR.astype(dtype), ((0, 0), (0, -columns % 4)))


def mean_of(codes_BC: NDArray[np.uint16]) -> NDArray[np.int64]:
    """The mean code of each row, rounded half up: a softmax ignores it, so it need not be stored."""
    classes = codes_BC.shape[1]
    result: NDArray[np.int64] = (2 * codes_BC.sum(axis=1, dtype=np.uint32).astype(np.int64) + classes) // (2 * classes)
    return result


def principal(codes_NC: NDArray[np.uint16], components: int) -> tuple[NDArray[np.int32], NDArray[np.int16], int]:
    """Mean, steps and the number of wide components of these codes.

    Up to `MOST_ACROSS` classes they come from sums of products of integers below 2^53, the same in any order.
    """
    count, classes = codes_NC.shape
    assert 1 <= components < classes and count >= 1, f"{components} components of {count} views of {classes} classes"
    above_NC = codes_NC.astype(np.float64) - mean_of(codes_NC)[:, None]
    total_C = above_NC.sum(axis=0)
    strongest = _of_views if classes > MOST_ACROSS else _of_classes
    deviation_R, direction_RC = strongest(above_NC, total_C, components)
    step = max(STEP * float(deviation_R[-1]), _SMALLEST_STEP)
    limit = np.iinfo(np.int16)
    step_RC = np.clip(np.rint(direction_RC * step * UNIT), limit.min, limit.max).astype(np.int16)
    mean_C = np.rint(total_C * PER_CODE / count).astype(np.int32)
    return mean_C, step_RC, int((deviation_R > WIDE * step).sum())


def _of_classes(
    above_NC: NDArray[np.float64], total_C: NDArray[np.float64], components: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Deviations along the strongest directions, and these, from the covariance of the classes."""
    count = len(above_NC)
    covariance_CC = (above_NC.T @ above_NC - np.outer(total_C, total_C) / count) / (count * 256.0**2)
    value_C, vector_CC = np.linalg.eigh(covariance_CC)
    strongest = slice(None, -components - 1, -1)
    return np.sqrt(np.maximum(value_C[strongest], 0)), _upright(vector_CC.T[strongest])


def _of_views(
    above_NC: NDArray[np.float64], total_C: NDArray[np.float64], components: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same from the products of the views, where these are fewer: tens of thousands of classes take seconds."""
    count = len(above_NC)
    assert components < count, f"{components} components of {count} views"
    product_NN, share_N = above_NC @ above_NC.T, above_NC @ (total_C / count)
    product_NN += total_C @ total_C / count**2 - share_N[:, None] - share_N
    value_N, vector_NN = np.linalg.eigh(product_NN / (count * 256.0**2))
    strongest = slice(None, -components - 1, -1)
    weight_RN = vector_NN.T[strongest]
    direction_RC = weight_RN @ above_NC - np.outer(weight_RN.sum(axis=1), total_C / count)
    length_R1 = np.sqrt((direction_RC**2).sum(axis=1, keepdims=True))
    direction_RC /= np.maximum(length_R1, np.finfo(np.float64).tiny)
    return np.sqrt(np.maximum(value_N[strongest], 0)), _upright(direction_RC)


def _upright(direction_RC: NDArray[np.float64]) -> NDArray[np.float64]:
    """With the largest entry of each direction positive: a vector and its opposite are one eigenvector."""
    largest_R = np.abs(direction_RC).argmax(axis=1)
    sign_R = np.sign(direction_RC[np.arange(len(direction_RC)), largest_R])
    result: NDArray[np.float64] = direction_RC * sign_R[:, None]
    return result
