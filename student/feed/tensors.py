"""How do a batch's arrays become tensors on the device?

Everything crosses in its smallest form: pixels as uint8, logits as 16-bit codes, and becomes floating point there. On
CUDA a batch is assembled in pinned memory and copied on a stream of its own, while the step before it computes.

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
from pipeline.labels.keep import Keep
from pipeline.labels.soft_labels import SoftLabels
from pipeline.shards.index import SampleIndex
from student.feed.order import Batch
from student.feed.targets import TeacherLabels, Truth

R = TypeVar("R", Truth, TeacherLabels)


def truth_of(index: SampleIndex, batch: Batch, device: torch.device) -> Truth:
    """What the data set says about these mixed views."""
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
    codes_BC = keep.codes(labels.parts)
    if codes_BC is not None:
        return TeacherLabels(argmax_B=argmax_B, logits_BC=_logits(codes_BC, device), temperatures=temperatures)
    score_BC = keep.scores(labels.arrays(), temperature)
    if score_BC is not None:
        score_BC *= np.float32(temperature)  # they are divided by it again, as logits are
        return TeacherLabels(argmax_B=argmax_B, logits_BC=across(score_BC, device), temperatures=temperatures)
    return TeacherLabels(
        argmax_B=argmax_B,
        topk_index_BK=_classes(labels.parts["topk_index"], device),
        topk_logit_BK=_logits(labels.parts["topk_logit"], device),
        lse_BT=across(labels.parts["lse"], device),
        temperatures=temperatures,
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
    """The rows of one micro-batch."""
    values: dict[str, Any] = {field.name: getattr(record, field.name) for field in fields(record)}
    cut: dict[str, Any] = {name: value[part] for name, value in values.items() if isinstance(value, Tensor)}
    return replace(record, **cut)


def normalise(pixels_BHWC: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 views as the network's input x_BCHW: float32, channels last in memory."""
    x_BHWC = pixels_BHWC.to(torch.float32).sub_(mean * 255).div_(std * 255)
    return x_BHWC.permute(0, 3, 1, 2)


class Assembler:
    """Puts pieces together into one batch on the device."""

    def __init__(self, device: torch.device, most: int, side: int) -> None:
        self._device, cuda = device, device.type == "cuda"
        self._buffers = [
            torch.empty((most, side, side, 3), dtype=torch.uint8, pin_memory=cuda) for _ in range(2 if cuda else 1)
        ]
        self._stream = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]
        self._copied: list[torch.cuda.Event | None] = [None] * len(self._buffers)
        self._turn = 0

    def put(self, start: int, pixels_BHWC: NDArray[np.uint8]) -> None:
        """Copy one piece to its place."""
        copied = self._copied[self._turn]
        if copied is not None:
            copied.synchronize()  # the buffer's last batch must have left it
            self._copied[self._turn] = None
        self._buffers[self._turn].numpy()[start : start + len(pixels_BHWC)] = pixels_BHWC

    def take(self, count: int) -> Tensor:
        """The batch on the device; on the CPU it is valid until the next piece is put."""
        batch_BHWC = self._buffers[self._turn][:count]
        if self._stream is None:
            return batch_BHWC.to(self._device)
        with torch.cuda.stream(self._stream):
            there = batch_BHWC.to(self._device, non_blocking=True)
            copied = self._stream.record_event()
        current = torch.cuda.current_stream(self._device)
        current.wait_event(copied)
        there.record_stream(current)
        self._copied[self._turn] = copied
        self._turn = (self._turn + 1) % len(self._buffers)
        return there
