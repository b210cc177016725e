"""In which forms do people store what a teacher said, and what can be read back from each?

A `Codec` turns logits into the arrays that are stored, and these into a distribution over all classes at a temperature.
Ours are those of `pipeline`. The others are written anew from their public descriptions:

    TinyViT      the K largest probabilities at T = 1 in half precision and their classes in 16 bits, and a 32-bit seed;
                 what is left is spread evenly
    ml-dr        the same with single precision and no seed: sparse probabilities, made dense by spreading evenly
    DistillKit   log-probabilities of the K largest, one of them in bfloat16, the others as a polynomial of their rank
                 (1, rank, √rank; single precision), classes in as many bits as they need; the rest evenly
    sampling     N draws from the answer at the temperature that is trained at; a target is the share of draws, which is
                 unbiased, and nothing for a class that was not drawn. Each temperature needs draws of its own

Another temperature than 1 is read from probabilities by raising them to 1 / T, the evenly spread rest included.

An experiment on accuracy would train on `told`: it is the whole target of a step, so a student's loss need only take it
in place of its own soft targets. Whether unbiased targets of few draws win there, this table cannot say.

Shapes: B views, C classes, K kept classes, N draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.labels import lowrank_codec
from pipeline.labels.components import Components
from pipeline.labels.dense import Dense
from pipeline.labels.keep import Keep
from pipeline.labels.soft_labels import encode

TEMPERATURES = (1.0, 3.0)
Arrays = Mapping[str, NDArray[Any]]


class Codec(Protocol):
    """A way to store answers."""

    @property
    def name(self) -> str:
        """As in the table."""

    def encode(self, logits_BC: NDArray[np.float32]) -> Arrays:
        """What is stored; a row a view."""

    def told(self, stored: Arrays, temperature: float) -> NDArray[np.floating[Any]]:
        """Probabilities of all classes [B, C]."""


def softmax(logits_BC: NDArray[np.floating[Any]], temperature: float = 1.0) -> NDArray[np.float64]:
    """In double precision."""
    score_BC = logits_BC.astype(np.float64) / temperature
    weight_BC = np.exp(score_BC - score_BC.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = weight_BC / weight_BC.sum(axis=1, keepdims=True)
    return result


def spread(index_BK: NDArray[Any], prob_BK: NDArray[Any], classes: int, temperature: float) -> NDArray[np.float64]:
    """Probabilities of a few classes, with what is left shared evenly by the others, at another temperature."""
    rest_B1 = np.maximum(1 - prob_BK.sum(axis=1, keepdims=True, dtype=np.float64), 1e-9)
    told_BC = np.repeat(rest_B1 / max(1, classes - index_BK.shape[1]), classes, axis=1)
    np.put_along_axis(told_BC, index_BK.astype(np.intp), prob_BK, axis=1)
    told_BC **= 1 / temperature
    told_BC /= told_BC.sum(axis=1, keepdims=True)
    return told_BC


def largest(values_BC: NDArray[np.floating[Any]], k: int) -> NDArray[np.intp]:
    """Classes of the k largest, descending."""
    index_BK = np.argpartition(values_BC, -k, axis=1)[:, -k:]
    order_BK = np.argsort(-np.take_along_axis(values_BC, index_BK, axis=1), axis=1, kind="stable")
    return np.take_along_axis(index_BK, order_BK, axis=1)


@dataclass(frozen=True, slots=True)
class Ours:
    """Keeps dense and topk:K, as `pipeline.labels.soft_labels` makes them."""

    keep: Keep
    classes: int

    @property
    def name(self) -> str:
        """The keep."""
        return f"ours, {self.keep}"

    def encode(self, logits_BC: NDArray[np.float32]) -> Arrays:
        """With the log-sum-exp at both temperatures."""
        return encode(logits_BC, self.keep, TEMPERATURES).arrays()

    def told(self, stored: Arrays, temperature: float) -> NDArray[np.floating[Any]]:
        """The mass of the classes that were not kept is known at this temperature, and spread evenly."""
        return self.keep.events(stored, temperature, TEMPERATURES).spread(self.classes)


@dataclass(frozen=True, slots=True)
class OursLowRank:
    """Keep lowrank:K+R."""

    kept: int
    components: Components

    @property
    def name(self) -> str:
        """The keep."""
        return f"ours, lowrank:{self.kept}+{len(self.components)}"

    def encode(self, logits_BC: NDArray[np.float32]) -> Arrays:
        """From the codes of dense, as in a run."""
        dense = encode(logits_BC, Dense())
        found = lowrank_codec.encode(dense.parts["logits"], dense.argmax_B, self.kept, self.components)
        return {"argmax": dense.argmax_B, **found}

    def told(self, stored: Arrays, temperature: float) -> NDArray[np.floating[Any]]:
        """At any temperature."""
        return lowrank_codec.targets(stored, self.components, temperature)


@dataclass(frozen=True, slots=True)
class TinyViT:
    """Half-precision probabilities."""

    k: int
    classes: int

    @property
    def name(self) -> str:
        """With its K."""
        return f"TinyViT, top {self.k}"

    def encode(self, logits_BC: NDArray[np.float32]) -> Arrays:
        """And the seed of the view, which is as many bytes as any."""
        index_BK = largest(logits_BC, self.k)
        prob_BK = np.take_along_axis(softmax(logits_BC), index_BK, axis=1)
        seed_B = np.random.default_rng(0).integers(2**31, size=len(logits_BC), dtype=np.int32)
        return {"index": index_BK.astype(np.int16), "prob": prob_BK.astype(np.float16), "seed": seed_B}

    def told(self, stored: Arrays, temperature: float) -> NDArray[np.floating[Any]]:
        """The rest evenly."""
        return spread(stored["index"], stored["prob"], self.classes, temperature)


@dataclass(frozen=True, slots=True)
class MlDr:
    """Single-precision probabilities."""

    k: int
    classes: int

    @property
    def name(self) -> str:
        """With its K."""
        return f"ml-dr, top {self.k}"

    def encode(self, logits_BC: NDArray[np.float32]) -> Arrays:
        """Values and classes; how its lists are serialised is left out, to its favour."""
        index_BK = largest(logits_BC, self.k)
        prob_BK = np.take_along_axis(softmax(logits_BC), index_BK, axis=1)
        return {"index": index_BK.astype(np.int16), "prob": prob_BK.astype(np.float32)}

    def told(self, stored: Arrays, temperature: float) -> NDArray[np.floating[Any]]:
        """The rest evenly."""
        return spread(stored["index"], stored["prob"], self.classes, temperature)


@dataclass(frozen=True, slots=True)
class DistillKit:
    """Its budget pick (K = 50), or a smaller one: one exact value, and a polynomial for the others."""

    k: int
    classes: int

    @property
    def name(self) -> str:
        """With its K."""
        return f"DistillKit, top {self.k}"

    def encode(self, logits_BC: NDArray[np.float32]) -> Arrays:
        """Least squares over the ranks."""
        index_BK = largest(logits_BC, self.k)
        log_BK = np.take_along_axis(np.log(softmax(logits_BC)), index_BK, axis=1).astype(np.float32)
        terms_B3 = (log_BK[:, 1:] @ np.linalg.pinv(self._ranks()).T).astype(np.float32)
        shifts = np.arange(self._bits)
        bits_BX = ((index_BK[:, :, None] >> shifts) & 1).astype(np.uint8).reshape(len(index_BK), -1)
        exact_B = ((log_BK[:, 0].view(np.uint32) + 0x8000) >> 16).astype(np.uint16)
        return {"index": np.packbits(bits_BX, axis=1, bitorder="little"), "exact": exact_B, "terms": terms_B3}

    def told(self, stored: Arrays, temperature: float) -> NDArray[np.floating[Any]]:
        """The rest evenly."""
        count = self.k * self._bits
        bits_BX = np.unpackbits(stored["index"], axis=1, count=count, bitorder="little")
        index_BK = bits_BX.reshape(-1, self.k, self._bits).astype(np.intp) @ (1 << np.arange(self._bits))
        exact_B1 = (stored["exact"].astype(np.uint32) << 16).view(np.float32)[:, None]
        prob_BK = np.exp(np.concatenate([exact_B1, stored["terms"] @ self._ranks().T], axis=1))
        prob_BK /= np.maximum(prob_BK.sum(axis=1, keepdims=True), 1)
        return spread(index_BK, prob_BK, self.classes, temperature)

    @property
    def _bits(self) -> int:
        return (self.classes - 1).bit_length()

    def _ranks(self) -> NDArray[np.float64]:
        rank = np.arange(self.k - 1) / max(1, self.k - 1)
        return np.stack([np.ones_like(rank), rank, np.sqrt(rank)], axis=1)


@dataclass(frozen=True, slots=True)
class Sampling:
    """N draws at each temperature; an unbiased target."""

    draws: int
    classes: int

    @property
    def name(self) -> str:
        """With its N."""
        return f"sampling, {self.draws} draws"

    def encode(self, logits_BC: NDArray[np.float32]) -> Arrays:
        """The classes drawn, in ascending order: each is stored as its distance from the one before."""
        rng = np.random.default_rng(0)
        return {f"drawn {t:g}": self._draw(rng, softmax(logits_BC, t)) for t in TEMPERATURES}

    def told(self, stored: Arrays, temperature: float) -> NDArray[np.floating[Any]]:
        """Shares of the draws."""
        index_BN = np.cumsum(stored[f"drawn {temperature:g}"], axis=1, dtype=np.intp)
        flat = (index_BN + self.classes * np.arange(len(index_BN))[:, None]).ravel()
        counts = np.bincount(flat, minlength=self.classes * len(index_BN))
        return counts.reshape(-1, self.classes) / self.draws

    def _draw(self, rng: np.random.Generator, prob_BC: NDArray[np.float64]) -> NDArray[np.uint16]:
        below_BC = prob_BC.cumsum(axis=1)
        at_BN = rng.random((len(prob_BC), self.draws)) * below_BC[:, -1:]
        index_BN = np.stack([np.searchsorted(row, at, side="right") for row, at in zip(below_BC, at_BN, strict=True)])
        index_BN = np.sort(np.minimum(index_BN, self.classes - 1), axis=1)
        return np.diff(index_BN, axis=1, prepend=0).astype(np.uint16)
