"""Which parameters decay and how fast; a learning rate that is a function of the update's number alone."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.optim import create_optimizer_v2

from pipeline.errors import StudentError
from student.learning import optimizer as optimizer_module
from student.learning.optimizer import OptimizerSpec, Schedule, create_ema, scaled_lr
from student.network.model import Student, StudentSpec, build


def _student(**changes: Any) -> Student:
    sizes = {"image_size": 32, "patch_size": 8, "width": 64, "depth": 3, "drop_path": 0.0}
    return build(StudentSpec(num_classes=5, **{**sizes, **changes}), seed=1)


def _groups(student: Student, spec: OptimizerSpec) -> dict[str, dict[str, Any]]:
    names = {id(parameter): name for name, parameter in student.net.named_parameters()}
    groups = spec.create(student, 1e-3).param_groups
    return {names[id(parameter)]: group for group in groups for parameter in group["params"]}


def test_only_matrices_and_kernels_decay() -> None:
    student = _student()
    groups = _groups(student, OptimizerSpec())
    assert groups.keys() == dict(student.net.named_parameters()).keys()
    decaying = {name for name, group in groups.items() if group["weight_decay"] == 0.05}
    assert decaying == {name for name in groups if name.endswith(".weight") and "norm" not in name}
    still = {name for name, group in groups.items() if group["weight_decay"] == 0}
    assert still == groups.keys() - decaying and {"cls_token", "dist_token", "pos_embed"} <= still


def test_layer_decay_slows_blocks_towards_the_input_and_leaves_the_heads() -> None:
    student = _student()
    groups = _groups(student, OptimizerSpec(layer_decay=0.5))
    for name, power in (("head_dist.bias", 0), ("blocks.2.norm1.bias", 1), ("blocks.0.mlp.fc1.weight", 3)):
        assert groups[name]["lr_scale"] == 0.5**power, name
    assert groups["pos_embed"]["lr_scale"] == groups["dist_token"]["lr_scale"] == 0.5**4
    schedule = Schedule(lr=1.0, epochs=10, updates_per_epoch=10, warmup_epochs=0)
    optimizer = OptimizerSpec(layer_decay=0.5).create(student, 1.0)
    assert schedule.apply(optimizer, 0) == 1.0
    assert {group["lr"] for group in optimizer.param_groups} == {0.5**power for power in range(5)}


@pytest.mark.parametrize("layer_decay", [None, 0.65])
@pytest.mark.parametrize("dist_token_decay", [False, True])
def test_groups_are_timms_where_no_flag_differs_from_it(layer_decay: float | None, dist_token_decay: bool) -> None:
    student = _student()
    spec = OptimizerSpec(layer_decay=layer_decay, dist_token_decay=dist_token_decay)
    theirs = create_optimizer_v2(student.net, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=layer_decay)
    ours = spec.create(student, 1e-3)
    members = [[[id(p) for p in group["params"]] for group in optimizer.param_groups] for optimizer in (ours, theirs)]
    assert (members[0] == members[1]) is not dist_token_decay
    values = [
        {id(p): group["weight_decay"] for group in o.param_groups for p in group["params"]} for o in (ours, theirs)
    ]
    moved = {name for name, p in student.net.named_parameters() if values[0][id(p)] != values[1][id(p)]}
    assert moved == ({"dist_token"} if dist_token_decay else set())
    assert len({frozenset(group) for group in (*ours.param_groups, *theirs.param_groups)}) == 1


@pytest.mark.parametrize("decay", [0.5, 0.75])
@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("dist_token_decay", [False, True])
def test_every_parameter_decays_and_learns_as_the_formula_says(
    decay: float, tokens: bool, dist_token_decay: bool
) -> None:
    student, blocks = _student(depth=3), 3
    spec = OptimizerSpec(layer_decay=decay, layer_decay_tokens=tokens, dist_token_decay=dist_token_decay)
    groups = _groups(student, spec)
    assert groups.keys() == dict(student.net.named_parameters()).keys()
    for name, group in groups.items():
        part = name.split(".")
        if part[0] in ("cls_token", "dist_token", "pos_embed"):
            power = blocks + 1 if tokens else 0
        elif part[0] == "patch_embed":
            power = blocks + 1
        else:
            power = {"blocks": blocks - int(part[1]) if part[0] == "blocks" else 0, "norm": 1}.get(part[0], 0)
        assert group["lr_scale"] == decay**power, name
        matrix = part[-1] == "weight" and "norm" not in name
        assert group["weight_decay"] == (0.05 if matrix or (name == "dist_token" and dist_token_decay) else 0.0), name
    schedule = Schedule(lr=1.0, epochs=10, updates_per_epoch=10, warmup_epochs=0)
    optimizer = spec.create(student, 1.0)
    schedule.apply(optimizer, 50)
    assert all(group["lr"] == schedule.lr_at(50) * group["lr_scale"] for group in optimizer.param_groups)


def test_the_distillation_token_shrinks_by_the_rate_times_the_decay() -> None:
    student = _student(depth=1)
    before = {name: p.detach().clone() for name, p in student.net.named_parameters()}
    optimizer = OptimizerSpec(weight_decay=0.25, dist_token_decay=True).create(student, 0.5)
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = dict(student.net.named_parameters())
    torch.testing.assert_close(after["dist_token"], before["dist_token"] * (1 - 0.5 * 0.25))
    assert all(torch.equal(after[name], before[name]) for name in ("cls_token", "pos_embed"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"dist_token_decay": True},
            "--dist-token-decay: resnet10t has no distillation token. Leave it out, or choose an architecture that has "
            "one (deit_tiny_distilled_patch16_224).",
        ),
        (
            {"layer_decay": 0.5, "layer_decay_tokens": False},
            "--no-layer-decay-tokens: resnet10t has no token or position embedding. Leave it out, or choose an "
            "architecture that has one (deit_tiny_distilled_patch16_224).",
        ),
    ],
)
def test_a_student_without_tokens_refuses_their_flags(flags: dict[str, Any], message: str) -> None:
    student = build(StudentSpec(model="resnet10t", num_classes=5, image_size=32, drop_path=0.0), seed=1)
    with pytest.raises(StudentError) as error:
        OptimizerSpec(**flags).create(student, 1e-3)
    assert str(error.value) == message


def test_layer_decay_of_one_is_none() -> None:
    assert all("lr_scale" not in group for group in _groups(_student(), OptimizerSpec(layer_decay=1)).values())


def test_deits_schedule_at_known_updates() -> None:
    schedule = Schedule(lr=scaled_lr(1024), epochs=300, updates_per_epoch=1251)
    assert scaled_lr(1024) == 1e-3 and schedule.warmup == 5 * 1251
    assert schedule.lr_at(0) == 1e-6
    assert schedule.lr_at(5 * 1251 // 2) == pytest.approx(1e-6 + (1e-3 - 1e-6) * (5 * 1251 // 2) / (5 * 1251))
    for update in (5 * 1251, 150 * 1251, 300 * 1251 - 1):
        cosine = 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * update / (300 * 1251))) / 2
        assert schedule.lr_at(update) == pytest.approx(cosine, rel=1e-12)
    assert schedule.lr_at(300 * 1251) == 1e-5


@given(updates=st.lists(st.integers(0, 999), min_size=1, max_size=20), epochs=st.integers(1, 100))
@settings(max_examples=15, deadline=None)
def test_the_rate_depends_on_the_number_of_the_update_alone(updates: list[int], epochs: int) -> None:
    schedule = Schedule(lr=1e-3, epochs=epochs, updates_per_epoch=10)
    once = {update: schedule.lr_at(update) for update in sorted(updates)}
    assert [schedule.lr_at(update) for update in updates] == [once[update] for update in updates]
    assert all(1e-6 <= lr <= 1e-3 for lr in once.values())


def test_a_short_run_still_reaches_its_peak() -> None:
    schedule = Schedule(lr=1e-3, epochs=2, updates_per_epoch=10)
    assert str(schedule) == "cosine over 20 updates, 4 of them warm-up to 0.001"
    peak = max(schedule.lr_at(update) for update in range(20))
    assert peak == schedule.lr_at(4) > 9e-4
    one = Schedule(lr=1e-3, epochs=1, updates_per_epoch=1)
    assert one.warmup == 0 and one.lr_at(0) == 1e-3


def test_a_peak_below_the_floors_stays_where_it_is() -> None:
    schedule = Schedule(lr=scaled_lr(1), epochs=20, updates_per_epoch=10)
    assert max(schedule.lr_at(update) for update in range(200)) == pytest.approx(scaled_lr(1))


def test_a_constant_schedule_warms_up_and_stays() -> None:
    schedule = Schedule(lr=1e-3, epochs=20, updates_per_epoch=10, name="constant")
    assert schedule.lr_at(0) == 1e-6 and schedule.lr_at(50) == schedule.lr_at(199) == 1e-3


def _train(student: Student, optimizer: torch.optim.Optimizer, updates: range, ema: Any = None) -> None:
    schedule = Schedule(lr=1e-2, epochs=4, updates_per_epoch=5, warmup_epochs=1)
    for update in updates:
        images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(update))
        schedule.apply(optimizer, update)
        optimizer.zero_grad()
        heads = student.train()(images)
        (heads.cls.square().mean() + heads.dist.square().mean()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if ema is not None:
            ema.update(student, step=update + 1)


@pytest.mark.parametrize("warmup", [False, True])
def test_resumed_optimiser_and_average_go_on_bit_by_bit(warmup: bool) -> None:
    spec = OptimizerSpec(layer_decay=0.75)
    whole = _student(depth=1)
    average = create_ema(whole, decay=0.9, warmup=warmup)
    _train(whole, spec.create(whole, 1e-2), range(5), average)

    first = _student(depth=1)
    optimizer, ema = spec.create(first, 1e-2), create_ema(first, decay=0.9, warmup=warmup)
    _train(first, optimizer, range(3), ema)
    saved = deepcopy((first.state_dict(), optimizer.state_dict(), ema.module.state_dict()))

    resumed = build(first.spec, seed=99)
    later = spec.create(resumed, 1e-2)
    resumed.load_state_dict(saved[0])
    later.load_state_dict(saved[1])
    continued = create_ema(resumed, decay=0.9, warmup=warmup)
    continued.module.load_state_dict(saved[2])
    _train(resumed, later, range(3, 5), continued)
    for one, other in ((whole, resumed), (average.module, continued.module)):
        assert all(
            torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        )


def test_the_average_follows_timms_formula() -> None:
    student = _student()
    ema = create_ema(student, decay=0.75)
    start = student.net.cls_token.detach().clone()  # type: ignore[operator,union-attr]
    with torch.no_grad():
        student.net.cls_token.add_(1)  # type: ignore[operator,union-attr]
    ema.update(student)
    torch.testing.assert_close(ema.module.net.cls_token, start + 0.25)
    assert ema.module.two_heads and not ema.module.net.blocks.training


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerSpec(weight_decay=-1), "weight_decay is -1; it must be at least 0."),
        (lambda: OptimizerSpec(layer_decay=1.5), "layer_decay is 1.5; it must be above 0 and at most 1."),
        *(
            (
                lambda rate=rate: OptimizerSpec(layer_decay=rate, layer_decay_tokens=False),
                "--no-layer-decay-tokens gives tokens the full rate where others have less, and without --layer-decay "
                "all have it. Give --layer-decay 0.75, say, or leave it out.",
            )
            for rate in (None, 1.0)
        ),
        (
            lambda: Schedule(lr=1, epochs=1, updates_per_epoch=1, name="up"),
            "A schedule 'up' is not known. Known: cosine, constant.",
        ),
        (
            lambda: Schedule(lr=math.nan, epochs=1, updates_per_epoch=1),
            "lr is nan; it must be from 0 to 1e+30.",
        ),
    ],
)
def test_values_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(StudentError) as error:
        make()
    assert str(error.value) == message


def test_an_unknown_optimiser_lists_the_known_ones() -> None:
    with pytest.raises(StudentError, match=r"timm has no optimiser 'adamx'. It has: .*adamw.*lamb"):
        OptimizerSpec(name="adamx")


def test_the_scheduler_is_made_once_and_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Schedule(lr=3.3e-3, epochs=7, updates_per_epoch=13, warmup_epochs=1.5)
    made: list[Any] = []
    create = optimizer_module.create_scheduler_v2
    monkeypatch.setattr(optimizer_module, "create_scheduler_v2", lambda *a, **k: made.append(a) or create(*a, **k))
    rates = {update: schedule.lr_at(update) for update in (*range(91), *range(90, -1, -1))}
    assert len(made) == 1
    for update, rate in rates.items():
        optimizer_module._clock.cache_clear()
        assert schedule.lr_at(update) == rate
