"""How does a view's whole answer fit into twenty bytes, for any temperature?

``lowrank:K+R`` keeps the K largest logits, and of all the others what R principal components say about them:

    argmax       the class of the largest logit, as in every keep
    next_low, next_high
                 the K − 1 classes after it, largest code first, then lowest class: modulo 256, and what is left of
                 them divided by 256, in as few bits as it takes, so many a byte as go into one (`Digits`);
                 absent where K is 1, the second also where 256 classes suffice
    head         the logit of the largest above the mean of all, in steps of 3/8, and then the step down to each next
    tail         the coefficients: a byte each for the strongest components, half a byte each for the others

The answer is read back in a few lines. With ``steps`` the coefficients (a byte less 128, half a byte less 8, low half
first), ``mean``, ``step`` and ``spread`` the store's, and T any temperature:

    logit = (mean + steps @ step) / 1024
    score = logit / T + spread / (2 T²)             # a class may lie above what the components say: E[exp] of that
    level = (head[0] − [0, cumsum(head[1:]), their sum] − [0 … K] / 16) * 3 / 8 / T
    score = min(score, level[K])                    # whatever is not kept lies below
    score[argmax, next] = level[:K]
    target = softmax(score)

Coefficients are those that come near the classes which matter: after a first projection, one step down the slope of the
squared error weighted by the answer at temperature 4, without the K kept classes. All of it starts from the codes of a
dense store and is exact integer arithmetic (the weights come from a table), so a store that is compacted from a dense
one equals one that was written as lowrank, on any machine, given the same components.

Shapes: B rows, N rows to fit on, C classes, K kept classes, R components, W bytes of a row's coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.components import PER_CODE, UNIT, Components, mean_of, principal
from pipeline.labels.keep import Parts

HEAD = 96
"""One step of the head, in codes of 1/256 logit"""

TIES = 16
"""Equal steps of the head are told apart by so small a part of one, so that the order of the classes is kept"""

WEIGHT_TEMPERATURE = 4.0
"""At which a class counts for the coefficients: between a softer one for τ = 3 and a sharper one for τ = 1"""

MOST_CLASSES = 2**16

AT_ONCE = 256
"""Rows that are worked on together: what they take stays in the processor's cache"""

_MOST = 255
_WEIGHT = np.rint(_MOST * np.exp(-np.arange(8000) / (256 * WEIGHT_TEMPERATURE))).astype(np.float32)
assert _WEIGHT[-1] == 0, "beyond the table a class counts for nothing"


@dataclass(frozen=True, slots=True)
class Digits:
    """Classes divided by 256, several a byte."""

    classes: int

    def __post_init__(self) -> None:
        assert self.classes <= MOST_CLASSES, f"{self.classes} classes are more than {MOST_CLASSES}"

    @property
    def bits(self) -> int:
        """Of each: 0, 1, 2, 4 or 8."""
        need = ((self.classes - 1) // 256).bit_length()
        return next(bits for bits in (0, 1, 2, 4, 8) if need <= bits)

    def bytes_for(self, count: int) -> int:
        """Of so many."""
        return -(-count * self.bits // 8)

    def pack(self, high_BK: NDArray[np.intp]) -> NDArray[np.uint8]:
        """As bytes [B, H]; none where 256 classes suffice."""
        if not self.bits:
            return np.zeros((len(high_BK), 0), np.uint8)
        each = 8 // self.bits
        packed_BH = np.zeros((len(high_BK), -(-high_BK.shape[1] // each)), np.uint8)
        for place in range(min(each, high_BK.shape[1])):
            digit_BH = high_BK[:, place::each]
            packed_BH[:, : digit_BH.shape[1]] |= (digit_BH << (place * self.bits)).astype(np.uint8)
        return packed_BH

    def unpack(self, packed_BH: NDArray[np.uint8], count: int) -> NDArray[np.intp]:
        """The inverse of `pack`."""
        if not self.bits:
            return np.zeros((len(packed_BH), count), np.intp)
        at_K = np.arange(count)
        each = 8 // self.bits
        shifted_BK = packed_BH[:, at_K // each].astype(np.intp) >> (at_K % each * self.bits)
        high_BK: NDArray[np.intp] = shifted_BK & (2**self.bits - 1)
        return high_BK


def fit(codes_NC: NDArray[np.uint16], kept: int, components: int) -> Components:
    """The components of the first answers; what they miss of these is the spread."""
    mean_C, step_RC, wide = principal(codes_NC, components)
    bare = Components(mean_C=mean_C, step_RC=step_RC, spread_C=np.zeros(len(mean_C), np.float32), wide=wide)
    squared_C, weight_C = np.zeros(len(mean_C)), np.zeros(len(mean_C))
    for start in range(0, len(codes_NC), AT_ONCE):
        part_BC = codes_NC[start : start + AT_ONCE]
        index_BK = _ranked(part_BC, part_BC.argmax(axis=1), kept)
        weight_BC = _weights(part_BC, index_BK)
        missed_BC = _missed(part_BC, mean_of(part_BC), _coefficients(part_BC, index_BK, bare), bare) / 256.0
        squared_C += (weight_BC * missed_BC**2).sum(axis=0)
        weight_C += weight_BC.sum(axis=0)
    return replace(bare, spread_C=(squared_C / np.maximum(weight_C, 1)).astype(np.float32))


def encode(
    codes_BC: NDArray[np.uint16], argmax_B: NDArray[Any], kept: int, components: Components
) -> dict[str, NDArray[Any]]:
    """The answers as they are stored, from the codes of a dense store and the argmax of the logits themselves."""
    parts = [
        _encode(codes_BC[start : start + AT_ONCE], argmax_B[start : start + AT_ONCE], kept, components)
        for start in range(0, max(1, len(codes_BC)), AT_ONCE)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def targets(parts: Parts, components: Components, temperature: float) -> NDArray[np.float32]:
    """softmax(logit / T) over all classes [B, C]; the argmax is among the parts."""
    score_BC = scores(parts, components, temperature)
    score_BC -= score_BC.max(axis=1, keepdims=True)
    np.exp(score_BC, out=score_BC)
    score_BC /= score_BC.sum(axis=1, keepdims=True)
    return score_BC


def scores(parts: Parts, components: Components, temperature: float) -> NDArray[np.float32]:
    """The logarithms of the targets at a temperature, up to a constant in each row [B, C]."""
    score_BC: NDArray[np.float32] = components.rebuilt(components.unpack(parts["tail"])).astype(np.float32, copy=False)
    score_BC *= np.float32(1 / (UNIT * temperature))
    score_BC += components.spread_C / np.float32(2 * temperature**2)
    level_BK = (_levels(parts["head"]) * (HEAD / 256 / TIES / temperature)).astype(np.float32)
    np.minimum(score_BC, level_BK[:, -1:], out=score_BC)
    np.put_along_axis(score_BC, kept_classes(parts, len(components.mean_C)), level_BK[:, :-1], axis=1)
    return score_BC


def kept_classes(parts: Parts, num_classes: int) -> NDArray[np.intp]:
    """The K classes, largest first [B, K]."""
    first_B1 = parts["argmax"][:, None].astype(np.intp)
    if "next_low" not in parts:
        return first_B1
    next_BK = parts["next_low"].astype(np.intp)
    if "next_high" in parts:
        next_BK += 256 * Digits(num_classes).unpack(parts["next_high"], next_BK.shape[1])
    return np.concatenate([first_B1, next_BK], axis=1)


def _encode(
    codes_BC: NDArray[np.uint16], argmax_B: NDArray[Any], kept: int, components: Components
) -> dict[str, NDArray[Any]]:
    index_BK = _ranked(codes_BC, argmax_B, kept)
    above_BK = np.take_along_axis(codes_BC, index_BK, axis=1) - mean_of(codes_BC)[:, None]
    found = {
        "next_low": (index_BK[:, 1:] % 256).astype(np.uint8),
        "next_high": Digits(codes_BC.shape[1]).pack(index_BK[:, 1:] // 256),
        "head": _head(above_BK),
        "tail": components.pack(_coefficients(codes_BC, index_BK, components)),
    }
    return {name: array for name, array in found.items() if array.shape[1]}


def _ranked(codes_BC: NDArray[np.uint16], argmax_B: NDArray[Any], kept: int) -> NDArray[np.intp]:
    """The argmax, and then the classes with the largest codes; the lowest class first among equals."""
    left_BC, row_B = codes_BC.astype(np.float32), np.arange(len(codes_BC))
    index_BK = np.empty((len(codes_BC), kept), np.intp)
    index_BK[:, 0] = argmax_B
    for rank in range(1, kept):
        left_BC[row_B, index_BK[:, rank - 1]] = -1
        index_BK[:, rank] = left_BC.argmax(axis=1)
    return index_BK


def _coefficients(
    codes_BC: NDArray[np.uint16], index_BK: NDArray[np.intp], components: Components
) -> NDArray[np.int16]:
    """Steps along the components: the nearest, and one step more towards the classes that matter."""
    mean_B = mean_of(codes_BC)
    first_BR = components.limited(components.nearest(codes_BC.astype(np.float64), mean_B))
    weight_BC = _weights(codes_BC, index_BK)
    evenly_B1 = PER_CODE * codes_BC.shape[1] / np.maximum(weight_BC.sum(axis=1, keepdims=True), 1)
    missed_BC = _missed(codes_BC, mean_B, first_BR, components)
    missed_BC *= weight_BC
    slope_BR = components.project(missed_BC.astype(np.float64)) / components.length_R
    return components.limited(first_BR + slope_BR * evenly_B1)


def _missed(
    codes_BC: NDArray[np.uint16], mean_B: NDArray[np.int64], steps_BR: NDArray[np.int16], components: Components
) -> NDArray[Any]:
    """Whole codes that lie between an answer and what the components say of it."""
    missed_BC = components.rebuilt(steps_BR)
    missed_BC *= -1 / PER_CODE
    np.rint(missed_BC, out=missed_BC)
    missed_BC += codes_BC
    missed_BC -= mean_B[:, None].astype(missed_BC.dtype)
    return missed_BC


def _weights(codes_BC: NDArray[np.uint16], index_BK: NDArray[np.intp]) -> NDArray[np.float32]:
    """The answer at a temperature, as integers up to 255; nothing for the classes that are kept."""
    least_B1 = np.take_along_axis(codes_BC, index_BK[:, -1:], axis=1)
    weight_BC: NDArray[np.float32] = _WEIGHT.take(np.maximum(least_B1, codes_BC) - codes_BC, mode="clip")
    np.put_along_axis(weight_BC, index_BK, 0, axis=1)
    return weight_BC


def _head(above_BK: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Logits above the mean, largest first, as a level and the steps down from it."""
    level_BK = np.rint(above_BK / HEAD).astype(np.int64)
    head_BK = np.empty(level_BK.shape, np.uint8)
    head_BK[:, 0] = now_B = np.clip(level_BK[:, 0], 0, _MOST)
    for rank in range(1, level_BK.shape[1]):
        head_BK[:, rank] = down_B = np.clip(now_B - level_BK[:, rank], 0, _MOST)
        now_B = now_B - down_B
    return head_BK


def _levels(head_BK: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Of the kept classes and of what lies below them, in sixteenths of a step [B, K + 1]: nothing is level."""
    down_BK = head_BK.astype(np.int32)
    down_BK[:, 0] *= -1
    level_BK = -TIES * np.pad(down_BK, ((0, 0), (0, 1))).cumsum(axis=1, dtype=np.int32)
    result: NDArray[np.int32] = level_BK - np.arange(level_BK.shape[1], dtype=np.int32)
    return result
