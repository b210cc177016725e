"""How sure is a figure, and what lies behind it? Intervals, classes, confusions and reliability, from the answers kept.

A mean over seeds has the spread of the seeds; every figure has, one seed or many, the interval that follows from how
many pictures it was measured on. Accuracies have Wilson's; gains, which are of the same pictures twice, an interval of
the differences picture by picture, with one more picture that is won and lost by half (Agresti and Min), so that no
sample is too small for it.

Shapes: N held-out pictures that have a label, K classes, S students.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.reporting.results import Results, StudentResult

SURE = 1.96
"""Standard deviations of an interval of 95 %"""
MOST_CLASSES = 2000
"""Up to so many classes confusions are counted"""


Reliability = list[tuple[float, float, int]]
"""(confidence, share that is right, pictures) of each bin that holds any"""


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a figure would lie in 95 of 100 samples of as many pictures."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.low:.1f} to {100 * self.high:.1f}".replace("-", "−")

    @property
    def signed(self) -> str:
        """The interval in percentage points, with signs, as a gain is written."""
        return f"{100 * self.low:+.1f} to {100 * self.high:+.1f}".replace("-", "−")


def wilson(share: float, images: int) -> Interval:
    """Wilson's interval of an accuracy, `share`, that was measured on so many images."""
    if not images:
        return Interval(0.0, 1.0)
    middle = share + SURE**2 / (2 * images)
    half = SURE * math.sqrt(share * (1 - share) / images + SURE**2 / (4 * images**2))
    scale = 1 + SURE**2 / images
    return Interval(max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale))


def paired(difference_N: NDArray[np.float64]) -> Interval:
    """The interval of a mean of differences from −1 to 1, one for each picture."""
    images = len(difference_N) + 2
    mean = float(difference_N.sum()) / images
    deviation = math.sqrt((float((difference_N**2).sum()) + 1) / images - mean**2)
    half = SURE * deviation / math.sqrt(images)
    return Interval(max(-1.0, mean - half), min(1.0, mean + half))


def gain_interval(results: Results, kind: str) -> Interval | None:
    """The interval of a kind's gain over plain students of the same seeds; None where answers were not kept."""
    pairs = [
        (taught.right, plain.right)
        for taught in results.of(kind)
        for plain in results.of("none")
        if taught.seed == plain.seed
    ]
    differences = [t.astype(float) - p for t, p in pairs if t is not None and p is not None and len(t) == len(p)]
    if not differences or len(differences) < len(pairs) or len({len(d) for d in differences}) > 1:
        return None
    return paired(np.mean(differences, axis=0))


def recall(students: Sequence[StudentResult], classes: int) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """The pictures of each class, and which share of them the students recognise (NaN where there are none)."""
    images_K, right_K = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for student in students:
        if student.answers is None:
            return None
        images_K += np.bincount(student.answers["truth"], minlength=classes)
        right_K += np.bincount(student.answers["truth"][student.right], minlength=classes)
    with np.errstate(invalid="ignore"):
        return (images_K // len(students), right_K / images_K) if students else None


def confusion(students: Sequence[StudentResult], classes: int) -> NDArray[np.int64] | None:
    """How often a picture of each class (row) is taken for each (column), added up over the students."""
    answers = [student.answers for student in students if student.answers is not None]
    if classes > MOST_CLASSES or not answers or len(answers) < len(students):
        return None
    cells = np.concatenate([found["truth"] * classes + found["named"] for found in answers])
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def mistaken(counts_KK: NDArray[np.int64], most: int) -> list[tuple[int, int, int, float]]:
    """The commonest confusions: (true class, taken for, how often, share of the true class's pictures)."""
    wrong_KK = counts_KK - np.diag(np.diag(counts_KK))
    order = np.argsort(-wrong_KK, axis=None, kind="stable")[:most]
    cells = [divmod(int(at), len(counts_KK)) for at in order]
    return [(k, j, int(wrong_KK[k, j]), float(wrong_KK[k, j] / counts_KK[k].sum())) for k, j in cells if wrong_KK[k, j]]


def reliability(students: Sequence[StudentResult]) -> Reliability:
    """The bins of confidence of all these students together; empty where one of them has none."""
    if not students or not all(s.bins for s in students):
        return []
    found = []
    for parts in zip(*(s.bins for s in students), strict=True):
        images = sum(n for n, _, _ in parts)
        if images:
            sure = sum(n * confidence for n, _, confidence in parts) / images
            found.append((sure, sum(right for _, right, _ in parts) / images, images))
    return found
