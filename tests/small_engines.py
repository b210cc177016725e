"""A small student's engine, and steps for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from student.feed.feed import Step
from student.feed.order import Batch
from student.feed.targets import TeacherLabels, Truth
from student.learning.engine import Engine
from student.learning.settings import Settings
from student.network.model import build
from student.ranks.ranks import Ranks

COUNT, CLASSES = 12, 5


STATS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def settings(**changes: Any) -> Settings:
    small = {"patch_size": 8, "width": 32, "depth": 2, "heads": 2, "epochs": 2, "batch": COUNT, "warmup_epochs": 0.0}
    return Settings(**{**small, **changes})


def engine(**changes: Any) -> Engine:
    chosen = settings(**changes)
    student = build(chosen.spec(CLASSES, 32), seed=1)
    return Engine(student, chosen, chosen.schedule_of(4), Ranks(), **STATS)


def step(seed: int = 0) -> Step:
    rng = np.random.default_rng(seed)
    row_B = np.arange(COUNT) + COUNT * seed
    lam_B = rng.uniform(0, 1, COUNT)
    batch = Batch(row_B=row_B, view_B=row_B * 0, partner_B=row_B ^ 1, lam_B=lam_B, opens_B=row_B % 2 == 0)
    classes = torch.from_numpy(rng.integers(0, CLASSES, (3, COUNT)))
    return Step(
        epoch=0,
        step=seed,
        whole=batch,
        batch=batch,
        pixels_BHWC=torch.from_numpy(rng.integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8)),
        truth=Truth(classes[0], classes[1], torch.from_numpy(lam_B.astype(np.float32))),
        teacher=TeacherLabels(argmax_B=classes[2]),
    )


def parameters(student: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in student.parameters()])
