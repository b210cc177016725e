"""How do a batch's arrays become tensors on the device?

Everything crosses in its smallest form: pixels as uint8, logits as 16-bit codes, and becomes floating point there. On
CUDA the pieces of a batch are copied to their places there, on a stream of its own, while the step before it computes;
from where the workers drew them, if that memory is registered (`pipeline.models.stream`).

Shapes: B views, H W C picture, K kept classes, T temperatures.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.labels.codes import OFFSET, SCALE
from pipeline.labels.keep import Events, Keep
from pipeline.labels.soft_labels import SoftLabels
from pipeline.models.stream import sleeping_event
from pipeline.shards.index import SampleIndex
from student.feed.order import Batch
from student.feed.targets import TeacherLabels, Truth

R = TypeVar("R", Truth, TeacherLabels)

LEAST = 1e-30
"""Smaller probabilities count as this one, so that their logarithm is a number"""


def truth_of(index: SampleIndex, batch: Batch, device: torch.device) -> Truth:
    """The classes of a batch's views and of what is mixed into them, with the shares, on the device."""
    own_B, partner_B = (index.classes[rows].astype(np.int64) for rows in (batch.row_B, batch.partner_B))
    return Truth(*(across(array, device) for array in (own_B, partner_B, batch.lam_B.astype(np.float32))))


def across(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array on the device; on CUDA from pinned memory, so that nothing waits for the step before."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def teacher_labels(
    keep: Keep, labels: SoftLabels, temperatures: tuple[float, ...], device: torch.device, temperature: float = 1.0
) -> TeacherLabels:
    """Stored answers as the loss takes them at a temperature; codes become logits on the device, at half the bytes."""
    argmax_B = _classes(labels.argmax_B, device)
    if not labels.parts:
        return TeacherLabels(argmax_B=argmax_B, temperatures=temperatures)
    known, parts = keep.codes(labels.parts), labels.arrays()
    if known is not None and known.index_BK is None:
        return TeacherLabels(argmax_B=argmax_B, logits_BC=_logits(known.code_BK, device), temperatures=temperatures)
    if known is not None and known.index_BK is not None and "lse" in parts:
        return TeacherLabels(
            argmax_B=argmax_B,
            topk_index_BK=_classes(known.index_BK, device),
            topk_logit_BK=_logits(known.code_BK, device),
            lse_BT=across(parts["lse"], device),
            temperatures=temperatures,
        )
    score_BC = keep.scores(parts, temperature)
    if score_BC is not None:
        score_BC *= np.float32(temperature)  # they are divided by it again, as logits are
        return TeacherLabels(argmax_B=argmax_B, logits_BC=across(score_BC, device), temperatures=temperatures)
    return _of_events(argmax_B, keep.events(parts, temperature, temperatures), temperature, device)


def _of_events(argmax_B: Tensor, events: Events, temperature: float, device: torch.device) -> TeacherLabels:
    """Probabilities in the form of the largest logits: what a logarithm is taken of sums up to one already."""
    log_prob_BK = np.log(np.maximum(events.prob_BK, LEAST)).astype(np.float32)
    return TeacherLabels(
        argmax_B=argmax_B,
        topk_index_BK=_classes(events.index_BK, device),
        topk_logit_BK=across(log_prob_BK * np.float32(temperature), device),
        lse_BT=torch.zeros(len(argmax_B), 1, device=device),
        temperatures=(temperature,),
    )


def _classes(array: NDArray[Any], device: torch.device) -> Tensor:
    return across(array.astype(np.int64), device)


def _logits(codes: NDArray[np.uint16], device: torch.device) -> Tensor:
    signed = across(codes.view(np.int16), device)
    return (signed.to(torch.int32) & 0xFFFF).to(torch.float32) * SCALE + OFFSET


def sum_dtype(device_type: str) -> torch.dtype:
    """What losses are summed in on a device: float64, but for Apple's, which has none."""
    return torch.float32 if device_type == "mps" else torch.float64


def part_of(record: R, part: slice) -> R:
    """The rows `part` of every tensor in a record: what one micro-batch learns from."""
    values: dict[str, Any] = {field.name: getattr(record, field.name) for field in fields(record)}
    cut: dict[str, Any] = {name: value[part] for name, value in values.items() if isinstance(value, Tensor)}
    return replace(record, **cut)


def normalise(pixels_BHWC: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 views as the network's input x_BCHW: float32, channels last in memory."""
    if pixels_BHWC.is_cuda:  # widened while they are subtracted from: one pass over memory less, the same numbers
        x_BHWC = torch.sub(pixels_BHWC, mean * 255)
    else:
        x_BHWC = pixels_BHWC.to(torch.float32).sub_(mean * 255)
    return x_BHWC.div_(std * 255).permute(0, 3, 1, 2)


class Assembler:
    """Copies pieces of a batch to their places in one tensor on the device."""

    def __init__(self, device: torch.device, most: int, side: int) -> None:
        self._device, self._cuda = device, device.type == "cuda"
        self._shape = (most, side, side, 3)
        self._batch = None if self._cuda else torch.empty(self._shape, dtype=torch.uint8)
        self._stream = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]

    def put(self, start: int, pixels_BHWC: NDArray[np.uint8]) -> None:
        """Copy one piece to its place; its memory may be used again afterwards."""
        piece, stop = torch.from_numpy(pixels_BHWC), start + len(pixels_BHWC)
        if self._stream is None:
            assert self._batch is not None
            self._batch[start:stop] = piece
            return
        source = piece if piece.is_pinned() else piece.pin_memory()
        with torch.cuda.stream(self._stream):
            if self._batch is None:
                self._batch = torch.empty(self._shape, dtype=torch.uint8, device=self._device)
            self._batch[start:stop].copy_(source, non_blocking=True)
            left = sleeping_event()
            left.record(self._stream)
        left.synchronize()  # for the copy alone: the step before goes on computing meanwhile

    def take(self, count: int) -> Tensor:
        """The first `count` views on the device; on the CPU they are valid until the next piece is put."""
        assert self._batch is not None, "nothing was put"
        batch_BHWC = self._batch[:count]
        if self._stream is None:
            return batch_BHWC.to(self._device)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        batch_BHWC.record_stream(current)
        self._batch = None
        return batch_BHWC
