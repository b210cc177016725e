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
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.codes import Digits
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

FITTED_AT_ONCE = 128
"""Rows whose misses are added up in single precision, while components are fitted: part of what they are"""

LONG_ROW = 256
"""Classes from which on a row is better worked on alone"""

LOGITS_AT_ONCE = 2**17
"""Are worked on together, so that what they take stays in the processor's cache"""

_MOST = 255
_TAKEN = np.float32(-(2**17))
"""In the place of a code that has been taken out: further below all others than `SPAN`"""


def fit(codes_NC: NDArray[np.uint16], kept: int, components: int) -> Components:
    """The components of these answers, and as their spread the variance of what the components miss."""
    mean_C, step_RC, wide = principal(codes_NC, components)
    bare = Components(mean_C=mean_C, step_RC=step_RC, spread_C=np.zeros(len(mean_C), np.float32), wide=wide)
    squared_C, weight_C = np.zeros(len(mean_C)), np.zeros(len(mean_C))
    room = _Room.of(FITTED_AT_ONCE, bare)
    for start in range(0, len(codes_NC), FITTED_AT_ONCE):
        part_BC = codes_NC[start : start + FITTED_AT_ONCE]
        found = _Answers(part_BC, part_BC.argmax(axis=1), kept, bare, room)
        missed_BC = found.missed(found.steps()) / 256.0
        squared_C += (found.weight_BC * missed_BC**2).sum(axis=0)
        weight_C += found.weight_BC.sum(axis=0)
    return replace(bare, spread_C=(squared_C / np.maximum(weight_C, 1)).astype(np.float32))


def encode(
    codes_BC: NDArray[np.uint16], argmax_B: NDArray[Any], kept: int, components: Components
) -> dict[str, NDArray[Any]]:
    """The arrays that are stored, from the codes of all classes and the argmax of the logits at full precision."""
    room, taken_apart = _Room.of(min(len(codes_BC), _rows_at_once(codes_BC.shape[1])), components), []
    with one_thread(), _rows_whole(codes_BC.shape[1]):
        for part in _in_turn(*codes_BC.shape):
            answers = _Answers(codes_BC[part], argmax_B[part], kept, components, room)
            taken_apart.append((answers.index_BK, answers.above_BK, answers.steps()))
    index_BK, above_BK, steps_BR = map(np.concatenate, zip(*taken_apart, strict=True))
    later_BK = index_BK[:, 1:]
    found = {
        "next_low": (later_BK % 256).astype(np.uint8),
        "next_high": Digits(codes_BC.shape[1]).pack(later_BK // 256),
        "head": _head(above_BK.astype(np.int64)),
        "tail": components.pack(steps_BR),
    }
    return {name: array for name, array in found.items() if array.shape[1]}


def targets(parts: Parts, components: Components, temperature: float) -> NDArray[np.float32]:
    """The soft targets, softmax(logit / T), of all classes [B, C]; `parts` has the stored arrays and the argmax."""
    target_BC = np.empty((len(parts["argmax"]), len(components.mean_C)), np.float32)
    with one_thread():
        for target_NC in _told(parts, components, temperature, target_BC):
            np.exp(target_NC, out=target_NC)
            share_N1 = (1 / target_NC.sum(axis=1, keepdims=True)).astype(np.float32)
            with _rows_whole(target_BC.shape[1]):
                target_NC *= share_N1
    return target_BC


def scores(parts: Parts, components: Components, temperature: float) -> NDArray[np.float32]:
    """The logarithms of the targets at a temperature, up to a constant in each row: the largest is 0 [B, C]."""
    score_BC = np.empty((len(parts["argmax"]), len(components.mean_C)), np.float32)
    with one_thread():
        for _ in _told(parts, components, temperature, score_BC):
            pass
    return score_BC


def kept_classes(parts: Parts, num_classes: int) -> NDArray[np.intp]:
    """The numbers of the K kept classes of each answer, largest logit first [B, K]."""
    first_B1 = parts["argmax"][:, None].astype(np.intp)
    if "next_low" not in parts:
        return first_B1
    next_BK = parts["next_low"].astype(np.intp)
    if "next_high" in parts:
        next_BK += 256 * Digits(num_classes).unpack(parts["next_high"], next_BK.shape[1])
    return np.concatenate([first_B1, next_BK], axis=1)


def _rows_at_once(classes: int) -> int:
    return max(64, LOGITS_AT_ONCE // classes)


@contextmanager
def _rows_whole(classes: int) -> Iterator[None]:
    """NumPy goes along rows meanwhile where each meets one number, or all meet one row.

    Else it first writes such numbers out, in order to do several rows with one call: that takes twice as long where a
    row is long. Not to be used around sums in floating point, whose order might change.
    """
    before = np.getbufsize()
    np.setbufsize(min(before, classes // 16 * 16) if classes >= LONG_ROW else before)
    try:
        yield
    finally:
        np.setbufsize(before)


def _in_turn(rows: int, classes: int) -> Iterator[slice]:
    """A few rows at a time; an empty slice of none."""
    step = _rows_at_once(classes)
    return (slice(start, start + step) for start in range(0, max(1, rows), step))


def _told(
    parts: Parts, components: Components, temperature: float, score_BC: NDArray[np.float32]
) -> Iterator[NDArray[np.float32]]:
    """Write the scores, and give a few rows at a time while the cache has them."""
    level_BK, class_BK = _levels(parts["head"]), kept_classes(parts, score_BC.shape[1])
    terms_BP = components.terms(components.unpack(parts["tail"]), -level_BK[:, 0] * (HEAD // TIES))
    below_BK = ((level_BK - level_BK[:, :1]) * (HEAD / 256 / TIES / temperature)).astype(np.float32)
    wider_C = components.spread_C / np.float32(2 * temperature**2)
    row_B1 = np.arange(len(score_BC))[:, None]
    for part in _in_turn(*score_BC.shape):
        score_NC = score_BC[part]
        components.add_up(terms_BP[part], score_NC)
        score_NC *= np.float32(PER_CODE / (UNIT * temperature))
        with _rows_whole(score_BC.shape[1]):
            score_NC += wider_C
        np.minimum(score_NC, below_BK[part, -1:], out=score_NC)
        score_NC[row_B1[: len(score_NC)], class_BK[part]] = below_BK[part, :-1]
        yield score_NC


@dataclass(frozen=True, slots=True, kw_only=True)
class _Room:
    """Where some answers are worked on: memory that is asked for anew has to be cleared and mapped first."""

    left_BC: NDArray[np.float32]
    weight_BC: NDArray[np.float32]
    missed_BC: NDArray[Any]
    """Of the type in which the components add up"""

    @classmethod
    def of(cls, rows: int, components: Components) -> _Room:
        """For so many answers at once."""
        shape = rows, len(components.mean_C)
        left_BC, weight_BC = np.empty((2, *shape), np.float32)
        return cls(left_BC=left_BC, weight_BC=weight_BC, missed_BC=np.empty(shape, components.sum_type))


class _Answers:
    """Some answers, taken apart: their largest codes, and what is left of them, above the mean of their row.

    The next ones may take the same room.
    """

    def __init__(
        self, codes_BC: NDArray[np.uint16], argmax_B: NDArray[Any], kept: int, components: Components, room: _Room
    ) -> None:
        rows = len(codes_BC)
        self.components, self._left_BC, self._missed_BC = components, room.left_BC[:rows], room.missed_BC[:rows]
        self.weight_BC = room.weight_BC[:rows]
        self._left_BC[:] = codes_BC
        self._left_BC -= mean_of(codes_BC).astype(np.float32)[:, None]
        self._first_BR = components.nearest(self._left_BC, scratch_BC=self.weight_BC)
        self.index_BK, self.above_BK = _taken(self._left_BC, argmax_B, kept)
        _weigh(self._left_BC, self.above_BK[:, -1:], self.weight_BC)

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
        terms_BP = self.components.terms(steps_BR, np.zeros(len(steps_BR), np.int64))
        self.components.add_up(terms_BP, self._missed_BC)
        np.subtract(self._left_BC, self._missed_BC, out=self._missed_BC)
        return self._missed_BC


def _taken(
    left_BC: NDArray[np.float32], argmax_B: NDArray[Any], kept: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The argmax, and then the classes with the largest values, the lowest class first among equals; and these values.

    They are taken out of what is left.
    """
    row_B, index_BK = np.arange(len(left_BC)), np.empty((len(left_BC), kept), np.intp)
    code_BK = np.empty(index_BK.shape, np.float32)
    for rank in range(kept):
        index_BK[:, rank] = class_B = left_BC.argmax(axis=1) if rank else argmax_B.astype(np.intp)
        code_BK[:, rank] = left_BC[row_B, class_B]
        left_BC[row_B, class_B] = _TAKEN
    return index_BK, code_BK


def _weigh(left_BC: NDArray[np.float32], least_B1: NDArray[np.float32], weight_BC: NDArray[np.float32]) -> None:
    """How much each class counts for the coefficients, as whole numbers up to 255; what was taken out does not."""
    np.subtract(left_BC, least_B1, out=weight_BC)
    weight_BC *= np.float32(1 / (256 * SPAN))
    weight_BC += 1
    np.clip(weight_BC, 0, 1, out=weight_BC)
    for _ in range(2):
        weight_BC *= weight_BC
    weight_BC *= _MOST
    np.rint(weight_BC, out=weight_BC)


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
    level_BK = np.empty((len(head_BK), head_BK.shape[1] + 1), np.int64)
    level_BK[:, 0] = now_B = TIES * head_BK[:, 0].astype(np.int64)
    for rank in range(1, head_BK.shape[1]):
        level_BK[:, rank] = now_B = now_B - TIES * head_BK[:, rank].astype(np.int64)
    level_BK[:, -1] = now_B
    level_BK -= np.arange(level_BK.shape[1])
    return level_BK
