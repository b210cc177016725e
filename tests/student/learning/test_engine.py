"""One step: the same gradient however it is cut, and nothing random that is not a function of (seed, update)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from timm.layers.attention import Attention
from torch.utils._python_dispatch import TorchDispatchMode

from student.feed.tensors import sum_dtype
from student.network.model import Student
from tests.small_engines import CLASSES, COUNT, engine, parameters, step


def test_micro_batches_have_the_gradient_of_the_whole() -> None:
    losses, moved = [], []
    for accumulate in (1, 3, 12):
        trained = engine(accumulate=accumulate, drop_path=0.3, opt="sgd", lr=1.0)
        losses.append(trained.learn(step(), 0))
        moved.append(parameters(trained.student))
    for other in (1, 2):
        assert torch.allclose(losses[0], losses[other], rtol=1e-6)
        assert torch.allclose(moved[0], moved[other], rtol=0, atol=2e-6)


def test_nothing_depends_on_torchs_generator() -> None:
    one, two = engine(drop=0.2, drop_path=0.2), engine(drop=0.2, drop_path=0.2)
    for number in range(3):
        torch.manual_seed(number)
        first = one.learn(step(number), number)
        torch.manual_seed(99)
        assert torch.equal(first, two.learn(step(number), number))
    assert torch.equal(parameters(one.student), parameters(two.student))


@pytest.mark.parametrize("changes", [{"ema": True, "ema_decay": 0.9}, {"precision": "bf16"}, {"precision": "fp16"}])
def test_the_state_is_all_there_is(changes: dict[str, Any]) -> None:
    whole, first, second = engine(**changes), engine(**changes), engine(**changes)
    for number in range(4):
        whole.learn(step(number), number)
        (first if number < 2 else second).learn(step(number), number)
        if number == 1:
            second.restore(copy.deepcopy(first.state()))
    assert torch.equal(parameters(whole.student), parameters(second.student))
    if whole.ema is not None:
        assert torch.equal(parameters(whole.averaged()), parameters(second.averaged()))
        assert not torch.equal(parameters(whole.averaged()), parameters(whole.student))


def test_clipping_bounds_the_step() -> None:
    moves = []
    for clip in (None, 1e-3):
        trained = engine(clip_grad=clip, opt="sgd", lr=1.0, weight_decay=0.0)
        before = parameters(trained.student)
        trained.learn(step(), 0)
        moves.append(float((parameters(trained.student) - before).norm()))
    assert moves[0] > 10 * moves[1] > 0


def test_a_student_with_a_single_head_and_its_attention_kernel() -> None:
    trained = engine(model="deit_tiny_patch16_224", attention="math")
    assert trained.student.two_heads is False
    assert torch.isfinite(trained.learn(step(), 0)).all()
    kernels = {module.fused_attn for module in trained.student.modules() if isinstance(module, Attention)}
    assert kernels == {False}
    cpu_bf16 = engine(precision="bf16")
    assert {m.fused_attn for m in cpu_bf16.student.modules() if isinstance(m, Attention)} == {False}


def test_weights_that_are_no_numbers_are_noticed() -> None:
    trained = engine()
    assert trained.finite()
    with torch.no_grad():
        next(trained.student.parameters()).view(-1)[3] = torch.nan
    assert not trained.finite()


def test_averaged_is_a_student_in_evaluation() -> None:
    trained = engine(ema=True)
    trained.learn(step(), 0)
    averaged = trained.averaged()
    assert isinstance(averaged, Student) and not averaged.net.get_submodule("blocks").training
    heads = trained.answer(averaged, step().pixels_BHWC)
    assert heads.cls.shape == (COUNT, CLASSES) and heads.dist is not None


def test_sums_are_in_float64_but_for_devices_without_it() -> None:
    assert [sum_dtype(device) for device in ("cpu", "cuda", "mps")] == [torch.float64, torch.float64, torch.float32]
    assert engine().learn(step(), 0).dtype == torch.float64


def test_a_step_has_no_float64_where_the_device_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Apple's devices: any float64 that a step makes there is refused."""
    exact = engine().learn(step(), 0)
    monkeypatch.setattr("student.learning.engine.sum_dtype", lambda _device: torch.float32)
    with NoFloat64():
        sums = engine().learn(step(), 0)
    assert sums.dtype == torch.float32 and torch.allclose(sums.double(), exact)


class NoFloat64(TorchDispatchMode):
    """A device that knows no float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, tuple | list) else [found]:
            if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return found
