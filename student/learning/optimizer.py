"""How do the weights move: which parameters decay, how fast is each layer, which learning rate has update 12,345?

timm's factories do the work; here they get DeiT's values and lose their state. Two habits in which codes differ are
flags: whether the distillation token decays (it does in DeiT's own code), and whether tokens and position embedding
learn as slowly as the patch embedding where the rate falls layer by layer (they do in timm). The learning rate is a
pure function of the update's number, so resuming needs that number and nothing else. All lengths are counted in
updates: one update is one step of the optimiser on one global batch.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, cast

import torch
from timm.optim import (  # type: ignore[attr-defined]
    create_optimizer_v2,
    get_optimizer_class,
    get_optimizer_info,
    list_optimizers,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from timm.scheduler import create_scheduler_v2  # type: ignore[attr-defined]
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import nn

from pipeline.errors import StudentError
from student.network.model import EXAMPLE, Student

Groups = list[dict[str, Any]]

REFERENCE_BATCH = 512
SCHEDULES = ("cosine", "constant")
DISTILLATION_TOKEN = "dist_token"
TOKENS = ("cls_token", DISTILLATION_TOKEN, "reg_token", "pos_embed")
"""What a transformer adds to its patches, by timm's names."""
LARGEST = 1e30
"""Of a learning rate: beyond it the arithmetic of single precision has no numbers."""


def scaled_lr(batch: int, per_512: float = 5e-4) -> float:
    """The peak learning rate for a global batch: proportional to it (the linear rule)."""
    return per_512 * batch / REFERENCE_BATCH


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSpec:
    """Which of timm's optimisers is used, and how strongly each kind of weight decays and learns."""

    name: str = "adamw"
    """One of timm's optimisers."""
    weight_decay: float = 0.05
    """Of weight matrices and kernels alone: biases, norms, tokens and position embeddings do not decay."""
    dist_token_decay: bool = False
    """Whether the distillation token decays, too, as in DeiT's own code."""
    layer_decay: float | None = None
    """Factor of the learning rate from each block to the one before it; None or 1 for the same rate everywhere."""
    layer_decay_tokens: bool = True
    """Whether tokens and position embedding have the rate of the patch embedding, as in timm, or the full one."""

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
        if not (self.layer_decay_tokens or self._layered):
            raise StudentError(
                "--no-layer-decay-tokens gives tokens the full rate where others have less, and without --layer-decay "
                "all have it. Give --layer-decay 0.75, say, or leave it out."
            )

    @property
    def _layered(self) -> bool:
        return self.layer_decay not in (None, 1)

    def create(self, student: Student, lr: float) -> torch.optim.Optimizer:
        """The optimiser over the student's parameters; the timm model says which of them never decay."""
        groups = self.groups(student)
        try:
            return create_optimizer_v2(groups, opt=self.name, lr=lr, weight_decay=0.0)
        except (AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
            raise StudentError(f"--opt {self.name} cannot be used here: {error}. Use adamw, say.") from error

    def groups(self, student: Student) -> Groups:
        """timm's groups of parameters that decay alike and learn at one rate, with what the flags change of them."""
        tokens = [name for name, _ in student.net.named_parameters() if name.rpartition(".")[2] in TOKENS]
        if self.dist_token_decay and DISTILLATION_TOKEN not in tokens:
            raise StudentError(_without(student, "--dist-token-decay", "distillation token"))
        if not (self.layer_decay_tokens or tokens):
            raise StudentError(_without(student, "--no-layer-decay-tokens", "token or position embedding"))
        never = set(cast(Any, getattr(student.net, "no_weight_decay", set))())
        never -= {DISTILLATION_TOKEN} if self.dist_token_decay else set()
        decay: dict[str, Any] = {"weight_decay": self.weight_decay, "no_weight_decay_list": never}
        if not self._layered:
            return cast(Groups, param_groups_weight_decay(student.net, **decay))
        groups = cast(Groups, param_groups_layer_decay(student.net, layer_decay=cast(float, self.layer_decay), **decay))
        return groups if self.layer_decay_tokens else _at_full_rate(student, groups, tokens)


def _at_full_rate(student: Student, groups: Groups, names: list[str]) -> Groups:
    """The same groups, but that the parameters of these names are in groups of their own, at the full rate."""
    chosen = {id(student.net.get_parameter(name)) for name in names}
    found = []
    for group in groups:
        inside, outside = ([p for p in group["params"] if (id(p) in chosen) is taken] for taken in (True, False))
        found += [{**group, "params": outside}] if outside else []
        found += [{**group, "params": inside, "lr_scale": 1.0}] if inside else []
    return found


def _without(student: Student, flag: str, part: str) -> str:
    return (
        f"{flag}: {student.spec.model} has no {part}. Leave it out, or choose an architecture that has one ({EXAMPLE})."
    )


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
        """How many updates the whole run has."""
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
    return ModelEmaV3(student, decay=decay, use_warmup=warmup)
