"""Where do logits become labels: on the device that computed them, or on the host?

A processor computes labels in the thread that commits them, beside the teacher. A GPU does the most of it itself: it
checks for finite numbers, takes the argmax (from the logits as they are, ties to the lowest class), writes codes and
ranks the largest, in whole numbers and in double precision, whose results are those of the host bit for bit. What sums
exponentials stays on the host: those bits are no device's to decide.

Shapes: B views, C classes, K kept classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.labels.codes import MAX_CODE, OFFSET, SCALE, Name, class_dtype
from pipeline.labels.keep import Keep
from pipeline.labels.soft_labels import SoftLabels, encode, from_codes
from pipeline.store.manifest import Manifest

Arrays = Sequence[NDArray[np.generic]]


class Coding(Protocol):
    """How logits become labels, in two halves: one where the logits are, one on the host."""

    def there(self, logits_BC: Tensor) -> tuple[Tensor, ...]:
        """What is computed from logits on the device that holds them, to be sent to the host."""

    def labels(self, parts: Arrays, logits: Callable[[], NDArray[np.float32]], name: Name) -> SoftLabels:
        """The labels, on the host; `logits` fetches what the teacher said where it must be refused."""


def coding_of(manifest: Manifest, *, apart: bool) -> Coding:
    """How the labels of a store come about, on the host or on a device `apart` from it."""
    kind = DeviceCoding if apart else HostCoding
    return kind(manifest.keep, manifest.temperatures, manifest.num_classes)


@dataclass(frozen=True, slots=True)
class HostCoding:
    """Sends the logits to the host, and does everything there."""

    keep: Keep
    temperatures: tuple[float, ...]
    classes: int

    def there(self, logits_BC: Tensor) -> tuple[Tensor, ...]:
        """The logits as they are: all labels are made from them on the host."""
        return (logits_BC,)

    def labels(self, parts: Arrays, logits: Callable[[], NDArray[np.float32]], name: Name) -> SoftLabels:
        """The labels that the host encodes from the logits, which are the only one of `parts`."""
        del logits
        return encode(parts[0].astype(np.float32, copy=False), self.keep, self.temperatures, name=name)


@dataclass(frozen=True, slots=True)
class DeviceCoding:
    """Takes argmax, codes and ranks on the device; what sums exponentials is left to the host."""

    keep: Keep
    temperatures: tuple[float, ...]
    classes: int

    def there(self, logits_BC: Tensor) -> tuple[Tensor, ...]:
        """The argmax; unless that is all, whether a logit is outside the codes, the codes, and the K largest."""
        argmax_B = first_largest(logits_BC)
        if self.keep.kind == "argmax":
            return (argmax_B,)
        steps_BC = torch.round((logits_BC.double() - OFFSET) / SCALE)
        outside = ((steps_BC < 0) | (steps_BC > MAX_CODE)).any()
        code_BC = steps_BC.clamp(0, MAX_CODE).to(torch.int32)
        parts = (argmax_B, outside, code_BC.to(torch.int16))  # the low 16 bits; torch can do little with uint16
        return (*parts, ranked(code_BC, self.keep.ranks)) if self.keep.ranks else parts

    def labels(self, parts: Arrays, logits: Callable[[], NDArray[np.float32]], name: Name) -> SoftLabels:
        """The labels from what the device computed, and from the sums, which are made here."""
        argmax_B, *more = parts[0].astype(class_dtype(self.classes)), *parts[1:]
        if not more:
            return SoftLabels(argmax_B=argmax_B)
        outside, code_BC, *largest = more
        if outside:
            encode(logits(), self.keep, self.temperatures, name=name)
            raise AssertionError("the device found a logit outside the codes, and the host none")
        codes_BC = code_BC.view(np.uint16)
        if not largest:
            return from_codes(argmax_B, codes_BC, self.keep, self.temperatures)
        code_BK, rank_BK = np.divmod(largest[0].astype(np.int64), self.classes)
        return from_codes(argmax_B, codes_BC, self.keep, self.temperatures, (self.classes - 1 - rank_BK, code_BK))


def first_largest(logits_BC: Tensor) -> Tensor:
    """The class of the largest logit, the lowest of several, on any device; int32."""
    class_C = torch.arange(logits_BC.shape[1], dtype=torch.int32, device=logits_BC.device)
    largest_BC = logits_BC == logits_BC.amax(1, keepdim=True)
    return torch.where(largest_BC, class_C, logits_BC.shape[1]).amin(1)


def ranked(code_BC: Tensor, k: int) -> Tensor:
    """The k largest as numbers that no two classes share: code · C + (C - 1 - class), largest first; int64."""
    classes = code_BC.shape[1]
    rank_C = torch.arange(classes - 1, -1, -1, dtype=torch.int64, device=code_BC.device)
    return torch.topk(code_BC.to(torch.int64) * classes + rank_C, k, dim=1, sorted=True).values
