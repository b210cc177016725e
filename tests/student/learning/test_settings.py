"""What no run can be asked for is refused by its flag, before anything is built."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.errors import StudentError
from student.learning.loss import DistillationLoss
from student.learning.optimizer import OptimizerSpec, Schedule
from student.learning.settings import Settings
from student.network.model import StudentSpec


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lr": float("nan")}, "--lr is nan; a finite number is needed"),
        ({"tau": float("inf")}, "--tau is inf; a finite number is needed"),
        ({"weight_decay": float("inf")}, "--weight-decay is inf"),
        ({"clip_grad": float("nan")}, "--clip-grad is nan"),
        ({"ema_decay": -1.0}, "--ema-decay is -1.0; it lies between 0 and 1"),
        ({"ema_decay": 1.0}, "--ema-decay is 1.0; it lies between 0 and 1"),
        ({"checkpoint_minutes": -1.0}, "--checkpoint-minutes is -1.0"),
        ({"accumulate": 17, "batch": 16}, "--accumulate 17 makes more micro-batches than --batch has items (16)"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"lr": -1.0, "batch": 32}, "--lr is -1.0; it must be from 0 to 1e+30."),
    ],
)
def test_settings(given: dict[str, Any], said: str) -> None:
    with pytest.raises(StudentError) as error:
        Settings(**given)
    assert said in str(error.value)


@pytest.mark.parametrize("tau", [1e-300, 0.0, 1e30, -1.0])
def test_temperatures(tau: float) -> None:
    with pytest.raises(StudentError, match=r"a temperature lies between 0\.001 and 1000"):
        DistillationLoss(tau=tau)


def test_sizes_rates_and_optimisers() -> None:
    with pytest.raises(StudentError, match="width is 99999999999999; it must be from 1 to 16384"):
        StudentSpec(num_classes=3, width=99999999999999)
    with pytest.raises(StudentError, match=r"lr is 1e\+300; it must be from 0 to 1e\+30"):
        Schedule(lr=1e300, epochs=1, updates_per_epoch=1)
    with pytest.raises(StudentError, match="adahessian needs second derivatives"):
        OptimizerSpec(name="adahessian")
    if not torch.cuda.is_available():
        with pytest.raises(StudentError, match=r"--opt fusedadam cannot be used here: .*APEX.* Use adamw, say"):
            OptimizerSpec(name="fusedadam")


def test_the_peak_learning_rate_and_how_it_is_told() -> None:
    scaled, absolute = Settings(lr=5e-4, batch=64), Settings(lr=5e-4, batch=64, lr_absolute=True)
    assert (scaled.schedule_of(10).lr, absolute.schedule_of(10).lr) == (6.25e-5, 5e-4)
    assert scaled.lr_text() == (
        "peak learning rate 6.25e-05 = --lr 0.0005 × --batch 64 / 512 (--lr-absolute takes --lr as it is)"
    )
    assert absolute.lr_text() == "peak learning rate 0.0005, as --lr says (--lr-absolute)"
    with pytest.raises(StudentError, match="--lr-absolute False then, True now"):
        absolute.require_same(scaled.to_json(), "runs/student")
    older = {name: value for name, value in scaled.to_json().items() if name != "lr_absolute"}
    scaled.require_same(older, "runs/student")
