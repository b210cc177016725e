"""How does a timm model, or one of the user's own, learn the user's own classes, so that it can be a teacher?

One epoch sees every labelled row once, in an order and in views that are pure functions of (seed, epoch); rows without
a label are never asked for. Views come from `pipeline.rendering.loader`, exactly as a teacher will see them later: the
model looks at its own size with its own statistics. A mixed view is learned as the share of each of its labels. AdamW
and a cosine, from timm's factories; the learning rate and all randomness of an update are functions of its number.

After each epoch everything that goes on is in ``last.pt`` (plain tensors and values, read back as data), so a run that
was stopped and started again ends with the same bytes as one that was not.

Shapes: B views, H W sides, K classes, R labelled rows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler import create_scheduler_v2  # type: ignore[attr-defined]
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pipeline.errors import TeacherError
from pipeline.models.device import autocast
from pipeline.models.weights import load_moments, load_strictly
from pipeline.progress import Progress
from pipeline.rendering.loader import Loader, Request
from pipeline.shards.index import SampleIndex
from pipeline.shards.samples import key_hash
from pipeline.views.mixing import plan_mixing
from pipeline.views.philox import Purpose, philox
from pipeline.views.recipe import Recipe

ORDER = Purpose.ORDER.block(64)
"""Blocks of draws that the student's order does not use."""

LARGEST_LR = 1e30
"""Beyond it the arithmetic of single precision has no numbers."""

History = list[dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How the model learns: with the recipe and the rows, all that decides its weights."""

    epochs: int = 30
    batch: int = 128
    lr: float = 1e-3
    warmup_epochs: float = 2.0
    weight_decay: float = 0.05
    smoothing: float = 0.1
    clip_grad: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in self.to_json().items():
            if isinstance(value, float) and not math.isfinite(value):
                raise TeacherError(f"--{name.replace('_', '-')} is {value}; a finite number is needed.")
        if not 0 < self.lr <= LARGEST_LR:
            raise TeacherError(f"--lr is {self.lr}; a learning rate is above 0 and at most {LARGEST_LR:g}.")
        if not 0 <= self.smoothing < 1:
            raise TeacherError(f"--smoothing is {self.smoothing}; it must be at least 0 and below 1.")
        if self.weight_decay < 0 or self.warmup_epochs < 0:
            raise TeacherError("--weight-decay and --warmup-epochs are at least 0.")
        if self.clip_grad is not None and not self.clip_grad > 0:
            raise TeacherError(f"--clip-grad is {self.clip_grad}; it must be above 0. Leave it out for no clipping.")

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


@dataclass(slots=True, kw_only=True)
class Fit:
    """A model that is being fitted, with all that the next epoch depends on."""

    model: nn.Module
    settings: FitSettings
    recipe: Recipe
    index: SampleIndex
    device: torch.device
    precision: str
    eye: Eye
    row_R: NDArray[np.int64] = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    epoch: int = 0
    history: History = field(default_factory=list)

    def __post_init__(self) -> None:
        self.row_R = require_labels(self.index)
        self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = create_optimizer_v2(
            self.model, opt="adamw", lr=self.settings.lr, weight_decay=self.settings.weight_decay
        )

    @property
    def steps(self) -> int:
        """How many updates an epoch has."""
        return math.ceil(len(self.row_R) / self.settings.batch)

    @property
    def finished(self) -> bool:
        """Whether the model has been through all epochs."""
        return self.epoch >= self.settings.epochs

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on, to be saved."""
        return {
            "epoch": self.epoch,
            "history": self.history,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state that the method `state` gave, to go on from there."""
        load_strictly(self.model, state["model"], "the state of the fit")
        load_moments(self.optimizer, state["optimizer"], "the state of the fit")
        self.epoch, self.history = state["epoch"], state["history"]


@dataclass(frozen=True, slots=True)
class Eye:
    """How the model looks at views: its size in pixels and its input statistics."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def see(self, pixels_BHWC: NDArray[np.uint8], device: torch.device) -> Tensor:
        """Views as uint8 made into the model's input, by the very arithmetic of `pipeline.teacher.teacher`."""
        x_BCHW = torch.from_numpy(pixels_BHWC).to(device).permute(0, 3, 1, 2)
        x_BCHW = x_BCHW.to(torch.float32, memory_format=torch.channels_last)
        if x_BCHW.shape[-1] != self.size:
            x_BCHW = F.interpolate(x_BCHW, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 255)
        mean, std = (torch.tensor(v, device=device).mul(255.0).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return (x_BCHW - mean) / std


def require_labels(index: SampleIndex) -> NDArray[np.int64]:
    """The rows that have a label; refused where there is nothing to tell apart."""
    row_R = np.flatnonzero(index.classes >= 0)
    seen = np.unique(index.classes[row_R])
    if len(seen) < 2:
        what = f"only class {seen[0]}" if len(seen) else "no label at all"
        raise TeacherError(
            f"The shards hold {len(index):,} rows with {what}; a classifier needs at least 2 classes to tell apart. "
            "Pack labelled images (a folder per class), or give --shards that have labels."
        )
    absent = sorted(set(range(index.num_classes)) - set(seen.tolist()))
    if absent:
        name = index.class_names[absent[0]] if index.class_names else str(absent[0])
        raise TeacherError(
            f"{len(absent)} of {index.num_classes} classes have no row in these shards, {name!r} first. A teacher "
            "would never name them. Add images of them, or pack without them."
        )
    return row_R


def order_of(row_R: NDArray[np.int64], index: SampleIndex, seed: int, epoch: int) -> NDArray[np.int64]:
    """The rows in the order of one epoch: by a word drawn for each sample's key."""
    words_R4 = philox(index.key_hash[row_R], np.full(len(row_R), epoch, np.uint32), seed, ORDER)
    return row_R[np.lexsort((words_R4[:, 1], words_R4[:, 0]))]


def requests(fit: Fit) -> Iterator[Request]:
    """The batches of the epoch, of nearly equal sizes; view number `epoch` of every row."""
    order_R = order_of(fit.row_R, fit.index, fit.settings.seed, fit.epoch)
    for row_B in np.array_split(order_R, fit.steps):
        yield row_B, np.full(len(row_B), fit.epoch, np.int64)


def run_epoch(fit: Fit, loader: Loader, progress: Progress) -> None:
    """Train the model for one epoch, and add the epoch and its loss to the history."""
    fit.model.train()
    losses: list[Tensor] = []
    for step, slot in enumerate(loader.render(requests(fit))):
        update = fit.epoch * fit.steps + step
        x_BCHW = fit.eye.see(slot.pixels_BHWC, fit.device)
        target_BK = targets(fit, slot.row_B, slot.view_B)
        set_lr(fit, update)
        losses.append(_learn(fit, x_BCHW, target_BK, update))
        progress.advance(len(slot.row_B), note=f"loss {float(losses[-1]):.3f}")
    fit.epoch += 1
    fit.history.append({"epoch": fit.epoch, "loss": round(float(torch.stack(losses).mean()), 6)})


def targets(fit: Fit, row_B: NDArray[np.int64], view_B: NDArray[np.int64]) -> Tensor:
    """Each view's labels [B, K] by their share of the picture; what is unlabelled has none."""
    mixing = plan_mixing(fit.recipe, len(fit.index), row_B, view_B)
    target_BK = np.zeros((len(row_B), fit.index.num_classes), np.float32)
    for row, share_B in ((row_B, mixing.lam_B), (mixing.partner_B, 1 - mixing.lam_B)):
        class_B = fit.index.classes[row]
        known = np.flatnonzero(class_B >= 0)
        np.add.at(target_BK, (known, class_B[known]), share_B[known])
    return torch.from_numpy(target_BK).to(fit.device)


def set_lr(fit: Fit, update: int) -> None:
    """Set the learning rate of an update, by a linear warm-up and then a cosine."""
    scheduler = _scheduler(fit.settings, fit.steps)
    scheduler.step_update(update)
    for group in fit.optimizer.param_groups:
        group["lr"] = scheduler.optimizer.param_groups[0]["lr"]


@functools.lru_cache(maxsize=4)
def _scheduler(settings: FitSettings, steps: int) -> Scheduler:
    """timm's scheduler over an optimiser of its own; the rate that it sets is a function of the update alone."""
    total = settings.epochs * steps
    scheduler, _ = create_scheduler_v2(
        torch.optim.SGD([torch.zeros(1)], lr=settings.lr),
        sched="cosine",
        num_epochs=total,
        warmup_epochs=min(round(settings.warmup_epochs * steps), total // 5),
        warmup_lr=settings.lr / 100,
        min_lr=settings.lr / 100,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    return cast(Scheduler, scheduler)


def _learn(fit: Fit, x_BCHW: Tensor, target_BK: Tensor, update: int) -> Tensor:
    """One update; its dropout and drop path are drawn from (seed, update)."""
    devices = [fit.device] if fit.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(key_hash(f"fit {fit.settings.seed} {update}") >> 1)  # noqa: TID251
        with autocast(fit.device, fit.precision):
            logits_BK = cast(Tensor, fit.model(x_BCHW)).float()
        loss = smoothed_loss(logits_BK, target_BK, fit.settings.smoothing)
        fit.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
    if fit.settings.clip_grad is not None:
        nn.utils.clip_grad_norm_(fit.model.parameters(), fit.settings.clip_grad)
    fit.optimizer.step()
    if not torch.isfinite(loss):
        raise TeacherError(
            f"The loss of update {update} is {float(loss)}. Use a lower --lr, or --clip-grad 1; "
            "the last whole epoch is kept."
        )
    return loss.detach()


def smoothed_loss(logits_BK: Tensor, target_BK: Tensor, smoothing: float) -> Tensor:
    """Smoothed cross-entropy, divided by the labelled mass of the batch: rows without a label do not count."""
    mass_B1 = target_BK.sum(1, keepdim=True)
    target_BK = (1 - smoothing) * target_BK + smoothing * mass_B1 / target_BK.shape[1]
    return -(target_BK * logits_BK.log_softmax(1)).sum() / mass_B1.sum()


@torch.inference_mode()
def score(fit: Fit, loader: Loader) -> dict[str, float]:
    """Judge the model on the labelled rows of the loader's index: accuracy, and mean loss."""
    fit.model.eval()
    classes = loader.index.classes
    row_R = np.flatnonzero(classes >= 0)
    right, loss = 0, 0.0
    parts = np.array_split(row_R, math.ceil(len(row_R) / loader.batch))
    for slot in loader.render((row_B, np.zeros(len(row_B), np.int64)) for row_B in parts):
        truth_B = torch.from_numpy(classes[slot.row_B].astype(np.int64))
        logits_BK = cast(Tensor, fit.model(fit.eye.see(slot.pixels_BHWC, fit.device))).float().cpu()
        right += int((logits_BK.argmax(1) == truth_B).sum())
        loss += float(F.cross_entropy(logits_BK, truth_B, reduction="sum"))
    return {"val_top1": round(right / len(row_R), 6), "val_loss": round(loss / len(row_R), 6)}
