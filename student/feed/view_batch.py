"""In which form are views and answers handed to somebody else's trainer?

A `ViewBatch` is a named tuple of tensors and plain numbers, so torch's `DataLoader` pins it, sends it between processes
and leaves its fields alone, and ``batch._asdict()`` is what trainers take that want dictionaries. A `Shape` is what the
user asked for: how the pixels look, and which of the teacher's answers are given.

Shapes: B views of this rank, S the side of a view, C classes, K kept classes, T stored temperatures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import StudentError
from pipeline.labels.keep import Keep
from pipeline.labels.keeps import parse_keep
from pipeline.labels.soft_labels import narrow
from pipeline.store.manifest import Manifest
from student.feed.feed import Step
from student.feed.order import Batch
from student.feed.stored_answers import Answers, AnswerSource
from student.feed.targets import TeacherLabels
from student.feed.tensors import across, normalise
from student.feed.usable import require_whole

Pixels = Literal["float32", "uint8"]
Channels = Literal["first", "last"]
SOFT = "soft"


class ViewBatch(NamedTuple):
    """Some views, what the data set says about them, and what the teacher answered."""

    pixels: Tensor
    """[B, 3, S, S] or [B, S, S, 3]; float32 normalised, or uint8."""
    label: Tensor
    """[B] int64 class of each view's own row; -1 is unlabelled."""
    partner: Tensor
    """[B] int64 class of the row that is mixed in; the own class where nothing is."""
    lam: Tensor
    """[B] float32 share of the own row; 1 where nothing is mixed in."""
    argmax: Tensor
    """[B] int64 class that the teacher gave the most."""
    soft: Tensor | None
    """[B, C] float32 probabilities at `tau`, for the answer "soft"."""
    logits: Tensor | None
    """[B, C] float32, for the answer "dense"."""
    topk_index: Tensor | None
    """[B, K] int64 classes, largest logit first, for the answer "topk:K"."""
    topk_logit: Tensor | None
    """[B, K] float32."""
    lse: Tensor | None
    """[B, T] float32 log-sum-exp over all classes at the store's temperatures, or at `tau` from a dense store."""
    row: Tensor
    """[B] int64 number of the row in the shards."""
    view: Tensor
    """[B] int64 number of the view of that row."""
    epoch: int
    step: int
    total: int
    """Views of the whole step, over all ranks."""
    num_classes: int
    """C"""

    def truth(self, num_classes: int | None = None) -> Tensor:
        """The true labels, mixed as the views are: [B, C] float32; a part without a label has no mass."""
        num_classes = self.num_classes if num_classes is None else num_classes
        if self.label.device.type == "cpu":  # another device would be waited for
            require_whole("num_classes", num_classes, least=1 + max(0, int(self.label.max()), int(self.partner.max())))
        truth_BC = torch.zeros(len(self.label), num_classes, device=self.label.device)
        for class_B, share_B in ((self.label, self.lam), (self.partner, 1 - self.lam)):
            truth_BC.scatter_add_(1, class_B.clamp(min=0)[:, None], (share_B * (class_B >= 0))[:, None])
        return truth_BC


def numbers(values: Any) -> tuple[Any, ...]:
    """What was given for three channels, as a tuple, whatever it is: `Shape` refuses what it cannot use."""
    values = values.tolist() if isinstance(values, (Tensor, np.ndarray)) else values
    return tuple(values) if isinstance(values, Iterable) else (values,)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and math.isfinite(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What was asked for, and is possible with the store that it was asked of."""

    manifest: Manifest
    answer: str
    tau: float
    pixels: Pixels
    channels: Channels
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, value, known in (("pixels", self.pixels, Pixels), ("channels", self.channels, Channels)):
            if value not in get_args(known):
                raise StudentError(f"{name} '{value}' is not known. Known: {', '.join(get_args(known))}.")
        if not _is_number(self.tau) or self.tau <= 0:
            raise StudentError(f"tau is {self.tau}. Give a temperature above 0.")
        given = len(self.mean) == len(self.std) == 3 and all(map(_is_number, (*self.mean, *self.std)))
        if not given or not all(0 <= mean <= 1 for mean in self.mean) or min(self.std) <= 0:
            raise StudentError(
                f"mean {self.mean} and std {self.std}: give three numbers each, of pixels from 0 to 1, those of std "
                "above 0."
            )
        if not re.fullmatch(r"argmax|soft|dense|topk:\d+", str(self.answer)) and self.answer != str(self.manifest.keep):
            raise StudentError(f"answer '{self.answer}' is not known. Known: argmax, soft, topk:K, dense.")
        lacking = None
        if self.answer == SOFT:
            lacking = self.manifest.keep.lacks(self.tau, self.manifest.temperatures)
        elif self.keep.kind != "argmax" and self.keep != self.manifest.keep:
            self.keep.require_fit(self.manifest.num_classes)
            self.manifest.keep.narrowing(self.keep, self.temperatures, self.manifest.temperatures)
        if lacking is not None:
            raise StudentError(lacking)

    @property
    def keep(self) -> Keep:
        """The keep in which the teacher's answers are gathered for this form: the store's own, with what it knows."""
        own = self.manifest.keep
        return own if self.answer in (SOFT, str(own)) else parse_keep(self.answer)

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The store's, or the one that was asked for where it has none."""
        return self.manifest.temperatures or (self.tau,)

    @property
    def logits(self) -> bool:
        """Whether anything of the answers is read beside the argmax."""
        return self.keep.kind != "argmax"

    def of(self, step: Step) -> ViewBatch:
        """A step of the feed in the form that was asked for; its tensors stay valid."""
        teacher, truth, batch = step.teacher, step.truth, step.batch
        soft = self.answer == SOFT
        device = step.pixels_BHWC.device
        return ViewBatch(
            pixels=self._pixels(step.pixels_BHWC),
            label=truth.own_B,
            partner=truth.partner_B,
            lam=truth.lam_B,
            argmax=teacher.argmax_B,
            soft=soft_targets(teacher, self.tau, self.manifest.num_classes) if soft else None,
            logits=None if soft else teacher.logits_BC,
            topk_index=None if soft else teacher.topk_index_BK,
            topk_logit=None if soft else teacher.topk_logit_BK,
            lse=None if soft else teacher.lse_BT,
            row=across(batch.row_B.astype(np.int64), device),
            view=across(batch.view_B.astype(np.int64), device),
            epoch=step.epoch,
            step=step.step,
            total=step.count,
            num_classes=self.manifest.num_classes,
        )

    def _pixels(self, pixels_BHWC: Tensor) -> Tensor:
        if self.pixels == "uint8":
            x_BHWC = pixels_BHWC.clone()  # the feed writes the next views into its memory
            return x_BHWC.permute(0, 3, 1, 2) if self.channels == "first" else x_BHWC
        mean, std = (across(np.array(values, np.float32), pixels_BHWC.device) for values in (self.mean, self.std))
        x_BCHW = normalise(pixels_BHWC, mean, std)
        return x_BCHW if self.channels == "first" else x_BCHW.permute(0, 2, 3, 1)


@dataclass(frozen=True, slots=True)
class NarrowedAnswers:
    """Answers in a smaller keep than the store's: bit for bit those of a store that was compacted to it."""

    source: AnswerSource
    shape: Shape

    def expect(self, batch: Batch) -> None:
        """Announce a batch to the source, so that its answers are read in time."""
        self.source.expect(batch)

    def gather(self, batch: Batch) -> Answers:
        """The answers about the views of a batch, narrowed."""
        found, shape = self.source.gather(batch), self.shape
        manifest = shape.manifest
        labels = narrow(
            found.labels, manifest.keep, shape.keep, shape.temperatures, stored=manifest.temperatures
        )  # fmt: skip
        return replace(found, labels=labels)


def soft_targets(teacher: TeacherLabels, tau: float, num_classes: int) -> Tensor:
    """[B, C] probabilities at a temperature. Where only the largest are kept, the others share evenly what is left."""
    if teacher.logits_BC is not None:
        return torch.softmax(teacher.logits_BC / tau, -1)
    index_BK, logit_BK, lse_BT = teacher.topk_index_BK, teacher.topk_logit_BK, teacher.lse_BT
    assert index_BK is not None and logit_BK is not None and lse_BT is not None, "no logits were gathered"
    p_BK = (logit_BK / tau - lse_BT[:, teacher.temperatures.index(tau), None]).exp()
    others = max(num_classes - p_BK.shape[1], 1)
    rest_B = (1 - p_BK.sum(-1)).clamp(min=0)
    return (rest_B / others)[:, None].expand(-1, num_classes).scatter(-1, index_BK, p_BK)
