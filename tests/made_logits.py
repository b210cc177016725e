"""Made-up logits that have a few principal components, as a teacher's have."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLASSES, KEPT, RANK = 300, 4, 9


def answers(seed: int, count: int, classes: int = CLASSES, factors: int = 12) -> NDArray[np.uint16]:
    """Codes of logits that vary mostly in a few directions, as a teacher's do."""
    fixed, random = np.random.default_rng(7), np.random.default_rng(seed)
    loads = fixed.normal(0, 1, (factors, classes)) * np.geomspace(2, 0.3, factors)[:, None]
    logits_BC = fixed.normal(0, 1, classes) + random.normal(0, 1, (count, factors)) @ loads
    logits_BC += random.normal(0, 0.3, (count, classes)) + random.normal(0, 3, (count, 1))
    return np.rint(256 * (logits_BC + 128)).astype(np.uint16)


def softmax(score_BC: NDArray[np.floating]) -> NDArray[np.float64]:
    weight_BC = np.exp(score_BC - score_BC.max(axis=1, keepdims=True))
    return weight_BC / weight_BC.sum(axis=1, keepdims=True)
