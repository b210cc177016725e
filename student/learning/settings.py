"""What was this run asked to be, and may it go on as what it is asked to be now?

`Settings` are the flags of ``student.train``, checked. Those that decide the weights are written into every checkpoint
and must be the same when a run goes on; those in `FREE` decide where, how fast, how often and how long, and may change.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from pipeline.errors import StudentError
from pipeline.models.device import PRECISIONS
from student.learning.loss import DistillationLoss
from student.learning.optimizer import LARGEST, REFERENCE_BATCH, OptimizerSpec, Schedule, scaled_lr
from student.network.model import StudentSpec

Value = str | int | float | bool | None

ATTENTIONS = ("auto", "math", "fused")

FREE = frozenset(
    (
        "accumulate",
        "attention",
        "compile",
        "deterministic",
        "accept_drift",
        "val_every",
        "log_every",
        "checkpoint_every",
        "checkpoint_minutes",
        "image_size",
        "max_steps",
    )
)
"""May differ when a run goes on."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The flags that decide how a student is trained."""

    model: str = "deit_tiny_distilled_patch16_224"
    patch_size: int | None = None
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    drop_path: float = 0.1
    drop: float = 0.0
    distill: str = "hard"
    alpha: float = 0.5
    tau: float = 3.0
    soft_reduction: str = "batchmean"
    smoothing: float = 0.1
    epochs: int = 300
    batch: int = 1024
    lr: float = 5e-4
    lr_absolute: bool = False
    schedule: str = "cosine"
    min_lr: float = 1e-5
    warmup_lr: float = 1e-6
    warmup_epochs: float = 5.0
    opt: str = "adamw"
    weight_decay: float = 0.05
    dist_token_decay: bool = False
    layer_decay: float | None = None
    layer_decay_tokens: bool = True
    clip_grad: float | None = None
    repeats: int = 1
    ema: bool = False
    ema_decay: float = 0.99996
    ema_warmup: bool = False
    precision: str = "fp32"
    seed: int = 0
    init: str | None = None
    init_which: str = "last"
    init_ema: bool = False
    new_heads: bool = False
    views: int | None = None
    """How many of the store's views are used; None until a run begins, which takes all that there are."""
    image_size: int | None = None
    """What the user believes the store's views to be; None believes the store."""
    accumulate: int = 1
    attention: str = "auto"
    compile: bool = False
    deterministic: bool = False
    accept_drift: bool = False
    val_every: int = 1
    log_every: int = 50
    checkpoint_every: int = 0
    """In steps; 0 leaves it to the minutes and the ends of epochs."""
    checkpoint_minutes: float = 10.0
    max_steps: int | None = None
    """Stop after so many steps of the whole run, with a checkpoint; the schedule does not change."""

    def __post_init__(self) -> None:
        for name, value in self.to_json().items():
            if isinstance(value, float) and not math.isfinite(value):
                raise StudentError(f"--{name.replace('_', '-')} is {value}; a finite number is needed.")
        if not 0 <= self.lr <= LARGEST:
            raise StudentError(f"--lr is {self.lr}; it must be from 0 to {LARGEST:g}.")
        for name in ("epochs", "batch", "repeats", "accumulate", "val_every", "log_every"):
            if getattr(self, name) < 1:
                raise StudentError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1.")
        for name, known in (("precision", PRECISIONS), ("attention", ATTENTIONS)):
            if getattr(self, name) not in known:
                raise StudentError(f"--{name} {getattr(self, name)} is not known. Known: {', '.join(known)}.")
        if self.accumulate > self.batch:
            raise StudentError(
                f"--accumulate {self.accumulate} makes more micro-batches than --batch has items ({self.batch}). "
                "Give a smaller one."
            )
        if not 0 < self.ema_decay < 1:
            raise StudentError(f"--ema-decay is {self.ema_decay}; it lies between 0 and 1.")
        if self.checkpoint_minutes < 0:
            raise StudentError(f"--checkpoint-minutes is {self.checkpoint_minutes}; it must be at least 0.")
        if self.clip_grad is not None and self.clip_grad <= 0:
            raise StudentError(f"--clip-grad is {self.clip_grad}; it must be above 0. Leave it out for no clipping.")

    def with_views(self, views: int) -> Settings:
        """The settings of a run that uses so many of the store's views."""
        return dataclasses.replace(self, views=views)

    def spec(self, num_classes: int, image_size: int) -> StudentSpec:
        """The architecture that the flags ask for, for so many classes and views of this size."""
        sizes = {name: getattr(self, name) for name in ("patch_size", "width", "depth", "heads", "drop_path", "drop")}
        return StudentSpec(model=self.model, num_classes=num_classes, image_size=image_size, **sizes)

    def loss(self) -> DistillationLoss:
        """The loss that the flags ask for."""
        return DistillationLoss(
            kind=self.distill, alpha=self.alpha, tau=self.tau, reduction=self.soft_reduction, smoothing=self.smoothing
        )

    def optimizer(self) -> OptimizerSpec:
        """The optimiser that the flags ask for."""
        names = ("weight_decay", "dist_token_decay", "layer_decay", "layer_decay_tokens")
        return OptimizerSpec(name=self.opt, **{name: getattr(self, name) for name in names})

    @property
    def peak_lr(self) -> float:
        """The highest learning rate of the run, as it follows from the flags."""
        return self.lr if self.lr_absolute else scaled_lr(self.batch, self.lr)

    def lr_text(self) -> str:
        """How the highest learning rate comes about, in words for the log."""
        if self.lr_absolute:
            return f"peak learning rate {self.peak_lr:g}, as --lr says (--lr-absolute)"
        return (
            f"peak learning rate {self.peak_lr:g} = --lr {self.lr:g} × --batch {self.batch} / {REFERENCE_BATCH} "
            "(--lr-absolute takes --lr as it is)"
        )

    def schedule_of(self, steps: int) -> Schedule:
        """The learning rates of a run with this many steps an epoch."""
        return Schedule(
            lr=self.peak_lr,
            epochs=self.epochs,
            updates_per_epoch=steps,
            name=self.schedule,
            warmup_epochs=self.warmup_epochs,
            warmup_lr=self.warmup_lr,
            min_lr=self.min_lr,
        )

    def to_json(self) -> dict[str, Value]:
        """The flags by name as plain values, to stand in a checkpoint."""
        return dataclasses.asdict(self)

    def require_same(self, earlier: Mapping[str, Value], where: str) -> None:
        """Refuse to go on with a run that was begun with other settings."""
        now = self.to_json()
        earlier = {**Settings().to_json(), **earlier}  # a flag that is younger than the run had no say in it
        names = sorted((now.keys() | earlier.keys()) - FREE)
        other = [n for n in names if now.get(n, "absent") != earlier.get(n, "absent")]
        if other:
            listed = "; ".join(f"--{n.replace('_', '-')} {earlier.get(n)} then, {now.get(n)} now" for n in other)
            raise StudentError(
                f"{where} was begun with other settings: {listed}. Give the same ones again, or begin another run "
                f"(another --out, or --resume none, which begins again in this one; --init {where} starts from its "
                "weights)."
            )
