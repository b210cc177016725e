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
squared error, which counts a class d logits below the last kept one by (1 − d / 20)⁴, and those that are kept not at
all. It starts from the codes of a dense store; every sum is one of whole numbers and exact, and all else are single
operations on single numbers. So a store that is compacted from a dense one equals one that was written as lowrank, on
any machine, given the same components.

Shapes: B rows, N rows to fit on, C classes, K kept classes, R components, W bytes of a row's coefficients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.components import PER_CODE, REACH, UNIT, Components, mean_of, principal
from pipeline.labels.keep import Parts
from pipeline.labels.one_thread import one_thread

HEAD = 96
"""One step of the head, in codes of 1/256 logit"""

TIES = 16
"""Equal steps of the head are told apart by so small a part of one, so that the order of the classes is kept"""

SPAN = 20
"""Logits below the last kept class at which one counts no longer: between what is best for τ = 3 and for τ = 1"""

FINE = 32
"""Parts of a logit in which weighted errors are counted"""

MOST_CLASSES = 2**16

AT_ONCE = 128
"""Rows that are worked on together: what they take stays in the processor's cache"""

_MOST = 255
_TAKEN = np.float32(-(2**17))
"""In the place of a code that has been taken out: further below all others than `SPAN`"""


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
        found = _Answers(part_BC, part_BC.argmax(axis=1), kept, bare)
        missed_BC = found.missed(found.steps()) / 256.0
        squared_C += (found.weight_BC * missed_BC**2).sum(axis=0)
        weight_C += found.weight_BC.sum(axis=0)
    return replace(bare, spread_C=(squared_C / np.maximum(weight_C, 1)).astype(np.float32))


def encode(
    codes_BC: NDArray[np.uint16], argmax_B: NDArray[Any], kept: int, components: Components
) -> dict[str, NDArray[Any]]:
    """The answers as they are stored, from the codes of a dense store and the argmax of the logits themselves."""
    with one_thread():
        parts = [
            _encode(codes_BC[start : start + AT_ONCE], argmax_B[start : start + AT_ONCE], kept, components)
            for start in range(0, max(1, len(codes_BC)), AT_ONCE)
        ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def targets(parts: Parts, components: Components, temperature: float) -> NDArray[np.float32]:
    """softmax(logit / T) over all classes [B, C]; the argmax is among the parts."""
    target_BC = np.empty((len(parts["argmax"]), len(components.mean_C)), np.float32)
    with one_thread():
        for part, some in _in_turn(parts):
            target_NC = target_BC[part]
            np.exp(_scores(some, components, temperature), out=target_NC)
            target_NC *= (1 / target_NC.sum(axis=1, keepdims=True)).astype(np.float32)
    return target_BC


def scores(parts: Parts, components: Components, temperature: float) -> NDArray[np.float32]:
    """The logarithms of the targets at a temperature, up to a constant in each row: the largest is 0 [B, C]."""
    score_BC = np.empty((len(parts["argmax"]), len(components.mean_C)), np.float32)
    with one_thread():
        for part, some in _in_turn(parts):
            score_BC[part] = _scores(some, components, temperature)
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


def _in_turn(parts: Parts) -> Iterator[tuple[slice, Parts]]:
    """A few rows at a time: where they go, and what is stored of them."""
    for start in range(0, len(parts["argmax"]), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        yield part, {name: array[part] for name, array in parts.items()}


def _scores(parts: Parts, components: Components, temperature: float) -> NDArray[np.float32]:
    level_BK = _levels(parts["head"])
    steps_BR, top_B = components.unpack(parts["tail"]), level_BK[:, 0] * (HEAD // TIES)
    score_BC: NDArray[np.float32] = components.rebuilt(steps_BR, -top_B).astype(np.float32, copy=False)
    score_BC *= np.float32(PER_CODE / (UNIT * temperature))
    score_BC += components.spread_C / np.float32(2 * temperature**2)
    below_BK = ((level_BK - level_BK[:, :1]) * (HEAD / 256 / TIES / temperature)).astype(np.float32)
    np.minimum(score_BC, below_BK[:, -1:], out=score_BC)
    np.put_along_axis(score_BC, kept_classes(parts, len(components.mean_C)), below_BK[:, :-1], axis=1)
    return score_BC


def _encode(
    codes_BC: NDArray[np.uint16], argmax_B: NDArray[Any], kept: int, components: Components
) -> dict[str, NDArray[Any]]:
    answers = _Answers(codes_BC, argmax_B, kept, components)
    later_BK = answers.index_BK[:, 1:]
    found = {
        "next_low": (later_BK % 256).astype(np.uint8),
        "next_high": Digits(codes_BC.shape[1]).pack(later_BK // 256),
        "head": _head(answers.code_BK.astype(np.int64) - answers.mean_B[:, None]),
        "tail": components.pack(answers.steps()),
    }
    return {name: array for name, array in found.items() if array.shape[1]}


class _Answers:
    """Some answers, taken apart: their largest codes, and what is left of them."""

    def __init__(self, codes_BC: NDArray[np.uint16], argmax_B: NDArray[Any], kept: int, components: Components) -> None:
        self.components, self.mean_B = components, mean_of(codes_BC)
        self._left_BC = codes_BC.astype(np.float32)
        self._first_BR = components.nearest(self._left_BC, self.mean_B)
        self.index_BK, self.code_BK = _taken(self._left_BC, argmax_B, kept)
        self.weight_BC = _weights(self._left_BC, self.code_BK[:, -1:])

    def steps(self) -> NDArray[np.int16]:
        """Along the components: the nearest, and one step more towards the classes that matter."""
        slope_BC = self.missed(self._first_BR)
        slope_BC *= self.weight_BC
        counted_B = np.maximum(self.weight_BC @ np.ones(slope_BC.shape[1], np.float32), 1)
        slope_BC *= (np.float32(slope_BC.shape[1] * FINE / 256) / counted_B)[:, None]
        np.rint(slope_BC, out=slope_BC)
        np.clip(slope_BC, -REACH, REACH, out=slope_BC)
        return self.components.limited(self._first_BR + self.components.along(slope_BC, UNIT / FINE))

    def missed(self, steps_BR: NDArray[np.int16]) -> NDArray[Any]:
        """What lies between the answers and these steps, in codes [B, C]; without meaning for the classes kept."""
        missed_BC = self.components.rebuilt(steps_BR, self.mean_B)
        np.subtract(self._left_BC, missed_BC, out=missed_BC)
        return missed_BC


def _taken(
    left_BC: NDArray[np.float32], argmax_B: NDArray[Any], kept: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The argmax, and then the classes with the largest codes, the lowest class first among equals; and these codes.

    They are taken out of what is left.
    """
    row_B, index_BK = np.arange(len(left_BC)), np.empty((len(left_BC), kept), np.intp)
    code_BK = np.empty(index_BK.shape, np.float32)
    for rank in range(kept):
        index_BK[:, rank] = class_B = left_BC.argmax(axis=1) if rank else argmax_B.astype(np.intp)
        code_BK[:, rank] = left_BC[row_B, class_B]
        left_BC[row_B, class_B] = _TAKEN
    return index_BK, code_BK


def _weights(left_BC: NDArray[np.float32], least_B1: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much each class counts for the coefficients, as whole numbers up to 255; what was taken out does not."""
    weight_BC = left_BC - least_B1
    weight_BC *= np.float32(1 / (256 * SPAN))
    weight_BC += 1
    np.clip(weight_BC, 0, 1, out=weight_BC)
    for _ in range(2):
        weight_BC *= weight_BC
    weight_BC *= _MOST
    np.rint(weight_BC, out=weight_BC)
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


def _levels(head_BK: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Of the kept classes and of what lies below them, in sixteenths of a step [B, K + 1]: nothing is level."""
    down_BK = head_BK.astype(np.int64)
    down_BK[:, 0] *= -1
    level_BK = -TIES * np.pad(down_BK, ((0, 0), (0, 1))).cumsum(axis=1, dtype=np.int64)
    result: NDArray[np.int64] = level_BK - np.arange(level_BK.shape[1])
    return result
