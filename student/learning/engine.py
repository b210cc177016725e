"""How does one step change the weights?

Forward and backward in micro-batches, each weighted by its share of the *global* batch, so that any number of
micro-batches and ranks computes the same gradient; then clipping, the optimiser at this update's learning rate, and the
moving average. Everything random in it is a function of (seed, update): drop path and dropout move with the item
(`student.network.drop_path`, `student.network.dropout`), and torch's generator, which some architectures draw from by
themselves, is set anew each step. So the state is weights, optimiser, scaler and average, and nothing else.

Shapes: B views, H W C picture.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import StudentError
from pipeline.models.device import autocast
from pipeline.models.weights import load_moments, load_strictly
from student.feed.feed import Step
from student.feed.tensors import across, normalise, part_of, sum_dtype
from student.learning.compiling import compile_student, filled, sees_its_batch
from student.learning.optimizer import Schedule, create_ema
from student.learning.settings import Settings
from student.network.drop_path import ItemDropPath
from student.network.dropout import ItemDropout, drops_by_itself
from student.network.model import Heads, Student
from student.ranks.ranks import Ranks

log = logging.getLogger(__name__)


class Engine:
    """The student with its optimiser, scaler and moving average: all that an update changes."""

    def __init__(
        self,
        student: Student,
        settings: Settings,
        schedule: Schedule,
        ranks: Ranks,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        largest: int | None = None,
    ) -> None:
        """`largest` is the most views that this process gets in one step; compiled, all have its shape."""
        self.settings, self.schedule, self.ranks = settings, schedule, ranks
        if settings.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        choose_attention(student, settings, ranks.device)
        self.masks = ItemDropPath.install(student, settings.seed, alike=settings.compile)
        self.drops = ItemDropout.install(student, settings.seed)
        if drops_by_itself(student, settings.drop, self.drops):
            log.warning(
                "%s draws its dropout by itself: with another --accumulate or number of processes than now, --drop %g "
                "makes another, equally good training.", settings.model, settings.drop,
            )  # fmt: skip
        self.student = student.to(ranks.device).to(memory_format=torch.channels_last)
        self.ema = (
            create_ema(self.student, decay=settings.ema_decay, warmup=settings.ema_warmup) if settings.ema else None
        )
        self.loss = settings.loss()
        self.optimizer = settings.optimizer().create(self.student, schedule.lr)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=settings.precision == "fp16")
        self.statistics = {"mean": mean, "std": std}
        self.mean, self.std = (torch.tensor(values, device=ranks.device) for values in (mean, std))
        self._ddp = _distributed(self.student, ranks)
        forward = self.student if self._ddp is None else self._ddp
        self._forward = compile_student(self.student, forward) if settings.compile else forward
        self._compiles = settings.compile
        fills = settings.compile and largest is not None and not sees_its_batch(self.student)
        self._size = -(-(largest or 0) // settings.accumulate) if fills else None

    def learn(self, step: Step, update: int) -> Tensor:
        """Train on one step; this rank's part of the loss and its two terms [3], in `sum_dtype`."""
        begun = time.perf_counter()
        self.student.train()
        self.schedule.apply(self.optimizer, update)
        torch.manual_seed(_seed(self.settings.seed, update, self.ranks.rank))
        items = step.epoch, step.batch.row_B, step.batch.view_B
        scale_LB = across(self.masks.draw(*items), self.ranks.device)
        key_2B = across(self.drops.draw(*items), self.ranks.device) if self.drops.modules else None
        sums = torch.zeros(3, dtype=sum_dtype(self.ranks.device.type), device=self.ranks.device)
        parts = step.parts(self.settings.accumulate)
        for part in parts:
            with self._without_exchange(part is not parts[-1]):
                size = self._size or part.stop - part.start
                self.masks.use(filled(scale_LB[:, part], size, 1))
                if key_2B is not None:
                    self.drops.use(filled(key_2B[:, part], size, 1))
                sums += self._learn_part(step, part)
        self._move(update)
        if self._compiles:
            self._compiles = False
            if self.ranks.main:
                log.info("--compile: the first step took %.1f s, compilation included", time.perf_counter() - begun)
        return sums

    def forward(self, pixels_BHWC: Tensor) -> Heads:
        """The logits of uint8 views in training mode, at the run's precision."""
        with self._precision():
            return cast(Heads, self._forward(normalise(pixels_BHWC, self.mean, self.std)))

    @torch.inference_mode()
    def answer(self, student: Student, pixels_BHWC: Tensor) -> Heads:
        """What a student in evaluation says about views, at the run's precision; not compiled for it."""
        with (
            autocast(self.ranks.device, self.settings.precision),
            torch.compiler.set_stance("force_eager" if self.settings.compile else "default"),
        ):
            return cast(Heads, student(normalise(pixels_BHWC, self.mean, self.std)))

    def averaged(self) -> Student:
        """The student whose weights are the moving average, ready to be judged."""
        assert self.ema is not None
        return cast(Student, self.ema.module.eval())

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return autocast(self.ranks.device, self.settings.precision)

    def _learn_part(self, step: Step, part: slice) -> Tensor:
        count = part.stop - part.start
        heads = self.forward(filled(step.pixels_BHWC[part], self._size or count))
        cls, dist = (None if logits is None else logits[:count] for logits in heads)
        assert cls is not None
        parts = self.loss(
            Heads(cls, dist),
            part_of(step.truth, part),
            part_of(step.teacher, part),
            count=step.count,
        )
        # each rank's loss is its share of the global batch's; DDP divides the summed gradients by the number of ranks
        torch.autograd.backward(self.scaler.scale(parts.total * self.ranks.world))
        return torch.stack([value.detach().to(sum_dtype(self.ranks.device.type)) for value in parts])

    def _move(self, update: int) -> None:
        if self.settings.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.student.parameters(), self.settings.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.student, step=update + 1)

    def _without_exchange(self, silent: bool) -> contextlib.AbstractContextManager[Any]:
        """Only the last micro-batch adds up the gradients of all ranks."""
        return self._ddp.no_sync() if self._ddp is not None and silent else contextlib.nullcontext()

    def finite(self) -> bool:
        """Whether every weight is a finite number."""
        with torch.no_grad():
            finite = [torch.isfinite(value).all() for value in self.student.parameters()]
            return bool(torch.stack(finite).all())  # asked once, so that the device is waited for once

    def state(self) -> dict[str, Any]:
        """All that the next update depends on, to stand in a checkpoint."""
        return {
            "model": self.student.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state that the method `state` gave, as it was read from a checkpoint."""
        load_strictly(self.student, state["model"], "the checkpoint's student")
        if self.ema is not None:
            load_strictly(self.ema.module, state["ema"] or {}, "the checkpoint's moving average")
        load_moments(self.optimizer, state["optimizer"], "the checkpoint")
        if set(state["scaler"]) != set(self.scaler.state_dict()):
            raise StudentError(
                "The checkpoint holds no state of the gradient's scale. Take one that student.train wrote."
            )
        self.scaler.load_state_dict(state["scaler"])


def choose_attention(student: nn.Module, settings: Settings, device: torch.device) -> None:
    """Which attention kernel timm's blocks use. On CPU in bf16 the plain one is the faster (1.5 times, DeiT-Ti)."""
    slow_fused = device.type == "cpu" and settings.precision == "bf16"
    fused = settings.attention == "fused" or (settings.attention == "auto" and not slow_fused)
    for module in student.modules():
        if hasattr(module, "fused_attn"):
            cast(Any, module).fused_attn = fused


def _distributed(student: Student, ranks: Ranks) -> DistributedDataParallel | None:
    if ranks.world == 1:
        return None
    devices = [ranks.device.index] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(student, device_ids=devices, gradient_as_bucket_view=True)


def _seed(seed: int, update: int, rank: int) -> int:
    """Of torch's generator in one step, on one rank."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {update} {rank}".encode(), digest_size=7).digest(), "little")
