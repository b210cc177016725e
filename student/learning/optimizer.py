"""How do the weights move: which parameters decay, how fast is each layer, which learning rate has update 12,345?

timm's factories do the work; here they get DeiT's values and lose their state. The learning rate is a pure function of
the update's number, so resuming needs that number and nothing else. All lengths are counted in updates: one update is
one step of the optimiser on one global batch.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import cast

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, get_optimizer_info, list_optimizers  # type: ignore[attr-defined]
from timm.scheduler import create_scheduler_v2  # type: ignore[attr-defined]
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import nn

from pipeline.errors import StudentError
from student.network.model import Student

REFERENCE_BATCH = 512
SCHEDULES = ("cosine", "constant")
LARGEST = 1e30
"""Of a learning rate: beyond it the arithmetic of single precision has no numbers."""


def scaled_lr(batch: int, per_512: float = 5e-4) -> float:
    """The peak learning rate for a global batch: proportional to it (the linear rule)."""
    return per_512 * batch / REFERENCE_BATCH


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSpec:
    """Which optimiser, and what it does to which parameters."""

    name: str = "adamw"
    """One of timm's optimisers."""
    weight_decay: float = 0.05
    """Of weight matrices and kernels alone: biases, norms, tokens and position embeddings do not decay."""
    layer_decay: float | None = None
    """Factor of the learning rate from each block to the one before it; None or 1 for the same rate everywhere."""

    def __post_init__(self) -> None:
        known = [str(name) for name in list_optimizers()]
        if self.name not in known:
            raise StudentError(f"timm has no optimiser '{self.name}'. It has: {', '.join(known)}.")
        try:
            get_optimizer_class(self.name, bind_defaults=False)
        except (AssertionError, ImportError, RuntimeError) as error:
            raise StudentError(f"--opt {self.name} cannot be used here: {error}. Use adamw, say.") from error
        if get_optimizer_info(self.name).second_order:
            raise StudentError(f"{self.name} needs second derivatives, which no step makes here. Use adamw, say.")
        if self.weight_decay < 0:
            raise StudentError(f"weight_decay is {self.weight_decay}; it must be at least 0.")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise StudentError(f"layer_decay is {self.layer_decay}; it must be above 0 and at most 1.")

    def create(self, student: Student, lr: float) -> torch.optim.Optimizer:
        """The optimiser over the student's parameters; the timm model says which of them never decay."""
        layer_decay = None if self.layer_decay == 1 else self.layer_decay
        try:
            return create_optimizer_v2(
                student.net, opt=self.name, lr=lr, weight_decay=self.weight_decay, layer_decay=layer_decay
            )
        except (AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
            raise StudentError(f"--opt {self.name} cannot be used here: {error}. Use adamw, say.") from error


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The learning rate of every update of a run: linear warm-up, then cosine (or nothing) down to a floor."""

    lr: float
    """The peak."""
    epochs: int
    updates_per_epoch: int
    name: str = "cosine"
    warmup_epochs: float = 5.0
    """As asked; see `warmup`."""
    warmup_lr: float = 1e-6
    min_lr: float = 1e-5

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise StudentError(f"A schedule '{self.name}' is not known. Known: {', '.join(SCHEDULES)}.")
        for field in ("lr", "warmup_lr", "min_lr", "warmup_epochs"):
            if not 0 <= getattr(self, field) <= LARGEST:
                raise StudentError(f"{field} is {getattr(self, field)}; it must be from 0 to {LARGEST:g}.")
        assert self.epochs > 0 and self.updates_per_epoch > 0, "a run has at least one update"

    @property
    def updates(self) -> int:
        """Updates of the whole run."""
        return self.epochs * self.updates_per_epoch

    @property
    def warmup(self) -> int:
        """Updates of warm-up: those asked for, but at most a fifth of the run, so that a short one still learns."""
        return min(round(self.warmup_epochs * self.updates_per_epoch), self.updates // 5)

    def __str__(self) -> str:
        return f"{self.name} over {self.updates} updates, {self.warmup} of them warm-up to {self.lr:g}"

    def lr_at(self, update: int) -> float:
        """The learning rate of the update of that number (the first is 0), before layer decay."""
        alone, scheduler = _clock(self)
        scheduler.step_update(update)
        return float(alone.param_groups[0]["lr"])

    def apply(self, optimizer: torch.optim.Optimizer, update: int) -> float:
        """Set the learning rate of every parameter group for this update; return it before layer decay."""
        lr = self.lr_at(update)
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        return lr


@functools.lru_cache(maxsize=4)
def _clock(schedule: Schedule) -> tuple[torch.optim.Optimizer, Scheduler]:
    """timm's scheduler over an optimiser of its own, made once; floors above the peak are lowered to it.

    It keeps nothing from one update to the next: each sets the rate from that update's number alone.
    """
    alone = torch.optim.SGD([torch.zeros(1)], lr=schedule.lr)
    scheduler, _ = create_scheduler_v2(
        alone,
        sched=schedule.name,
        num_epochs=schedule.updates,
        warmup_epochs=schedule.warmup,
        warmup_lr=min(schedule.warmup_lr, schedule.lr),
        min_lr=min(schedule.min_lr, schedule.lr),
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    return alone, cast(Scheduler, scheduler)


def create_ema(student: nn.Module, *, decay: float = 0.99996, warmup: bool = False) -> ModelEmaV3:
    """timm's moving average of the weights; call ``ema.update(student, step=number)``, numbering updates from 1.

    With `warmup` the decay grows with that number (1 - (1 + n)^(-2/3)) up to `decay`, for runs much shorter than
    1 / (1 - decay) updates.
    """
    if not 0 < decay < 1:
        raise StudentError(f"The decay of the moving average is {decay}; it must lie between 0 and 1.")
    return ModelEmaV3(student, decay=decay, use_warmup=warmup)
