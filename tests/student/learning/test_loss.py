"""The loss against oracles: timm's task, the formula of DeiT's code, PyTorch's dense divergence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy
from timm.task import TokenDistillationTask
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import StudentError
from pipeline.labels.argmax import Argmax
from pipeline.labels.dense import Dense
from pipeline.labels.topk import TopK
from student.feed.targets import TeacherLabels, Truth
from student.learning.loss import DistillationLoss, LossParts
from student.network.model import Heads, StudentSpec, build

B, K = 6, 11


def _random(*shape: int, seed: int, scale: float = 3.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def _classes(seed: int, count: int = B, low: int = 0) -> Tensor:
    return torch.randint(low, K, (count,), generator=torch.Generator().manual_seed(seed))


def _heads(seed: int = 0) -> Heads:
    return Heads(_random(B, K, seed=seed).requires_grad_(), _random(B, K, seed=seed + 1).requires_grad_())


def _truth(lam: float = 1.0, low: int = 0) -> Truth:
    return Truth(_classes(5, low=low), _classes(6, low=low), torch.full((B,), lam, dtype=torch.float64))


def _dense(seed: int = 9, scale: float = 3.0) -> TeacherLabels:
    logits = _random(B, K, seed=seed, scale=scale)
    return TeacherLabels(argmax_B=logits.argmax(-1), logits_BC=logits)


def _topk(dense: TeacherLabels, k: int, temperatures: tuple[float, ...]) -> TeacherLabels:
    assert dense.logits_BC is not None
    logit, index = dense.logits_BC.topk(k)
    lse = torch.stack([(dense.logits_BC / t).logsumexp(-1) for t in temperatures], -1)
    return TeacherLabels(
        argmax_B=dense.argmax_B, topk_index_BK=index, topk_logit_BK=logit, lse_BT=lse, temperatures=temperatures
    )


def _whole(loss: DistillationLoss, heads: Heads, truth: Truth, teacher: TeacherLabels | None) -> LossParts:
    return loss(heads, truth, teacher, count=B)


class FixedTeacher(nn.Module):
    """Answers with the same logits, whatever it sees."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, _: Tensor) -> Tensor:
        return self.logits


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("lam", [1.0, 0.3])
def test_equals_timms_token_distillation_task(kind: str, lam: float) -> None:
    student = build(StudentSpec(num_classes=K, image_size=32, patch_size=16, depth=2, drop_path=0), seed=0).train()
    teacher, truth, images = _dense(), _truth(lam), _random(B, 3, 32, 32, seed=3).float()
    assert teacher.logits_BC is not None
    teacher = TeacherLabels(argmax_B=teacher.argmax_B, logits_BC=teacher.logits_BC.float())
    task = TokenDistillationTask(
        student_model=student.net,
        teacher_model=FixedTeacher(teacher.logits_BC),
        criterion=SoftTargetCrossEntropy(),
        distill_type=kind,
        task_loss_weight=0.7,
        temperature=2.5,
        verbose=False,
    )
    paired = [
        lam * mixup_target(own[None], K, 1.0, 0.1) + (1 - lam) * mixup_target(partner[None], K, 1.0, 0.1)
        for own, partner in zip(truth.own_B, truth.partner_B, strict=True)
    ]
    expected = task(images, torch.cat(paired))
    ours = _whole(DistillationLoss(kind=kind, alpha=0.3, tau=2.5), student(images), truth, teacher)
    for got, key in zip(ours, ("loss", "task_loss", "distill_loss"), strict=True):
        assert got.item() == pytest.approx(expected[key].item(), rel=1e-6, abs=1e-6)


def test_equals_the_formula_of_deits_code_with_its_own_reduction() -> None:
    heads, truth, teacher, tau = _heads(), _truth(), _dense(), 3.0
    assert heads.dist is not None and teacher.logits_BC is not None
    base = functional.cross_entropy(heads.cls, truth.own_B, label_smoothing=0.1)
    student_log, teacher_log = (functional.log_softmax(x / tau, 1) for x in (heads.dist, teacher.logits_BC))
    distilled = functional.kl_div(student_log, teacher_log, reduction="sum", log_target=True) * (tau * tau)
    expected = base * (1 - 0.5) + distilled / heads.dist.numel() * 0.5
    ours = _whole(DistillationLoss(kind="soft", reduction="numel"), heads, truth, teacher)
    assert ours.total.item() == pytest.approx(expected.item(), rel=1e-9)


def test_hard_is_half_smoothed_truth_and_half_plain_argmax() -> None:
    heads, truth, teacher = _heads(), _truth(), _dense()
    assert heads.dist is not None
    cls = functional.cross_entropy(heads.cls, truth.own_B, label_smoothing=0.1)
    dist = functional.cross_entropy(heads.dist, teacher.argmax_B)
    ours = _whole(DistillationLoss(), heads, truth, teacher)
    assert ours.cls.item() == pytest.approx(cls.item(), rel=1e-12)
    assert ours.dist.item() == pytest.approx(dist.item(), rel=1e-12)
    assert ours.total.item() == pytest.approx((cls + dist).item() / 2, rel=1e-12)


@given(tau=st.sampled_from([1.0, 2.0, 7.5]), seed=st.integers(0, 99), scale=st.sampled_from([0.1, 3.0, 40.0]))
@settings(max_examples=20, deadline=None)
def test_topk_of_all_classes_equals_dense(tau: float, seed: int, scale: float) -> None:
    loss, truth, dense = DistillationLoss(kind="soft", tau=tau), _truth(), _dense(seed, scale)
    grads = []
    for labels in (dense, _topk(dense, K, (1.0, tau))):
        heads = _heads(seed)
        parts = _whole(loss, heads, truth, labels)
        parts.total.backward()  # type: ignore[no-untyped-call]
        assert heads.dist is not None and heads.dist.grad is not None
        grads.append((parts.dist.detach(), heads.dist.grad))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@given(k=st.integers(1, K - 1), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_topk_is_the_divergence_over_the_kept_classes_and_one_rest(k: int, seed: int) -> None:
    dense, heads, tau = _dense(seed), _heads(seed), 2.0
    assert dense.logits_BC is not None and heads.dist is not None
    index = dense.logits_BC.topk(k).indices
    merged = []
    for logits in (dense.logits_BC, heads.dist):
        p = (logits / tau).softmax(-1)
        kept = p.gather(-1, index)
        merged.append(torch.cat([kept, (p.sum(-1) - kept.sum(-1))[:, None]], -1))
    expected = tau**2 * functional.kl_div(merged[1].log(), merged[0], reduction="batchmean")
    ours = _whole(DistillationLoss(kind="soft", tau=tau), heads, _truth(), _topk(dense, k, (tau,)))
    assert ours.dist.item() == pytest.approx(expected.item(), rel=1e-8, abs=1e-10)
    whole = _whole(DistillationLoss(kind="soft", tau=tau), heads, _truth(), dense)
    assert ours.dist.item() <= whole.dist.item() + 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rest_of_exactly_zero_mass_gives_finite_loss_and_gradients(dtype: torch.dtype) -> None:
    logits = torch.full((B, K), -100.0, dtype=dtype)
    logits[:, 0] = 100.0
    teacher = _topk(TeacherLabels(argmax_B=logits.argmax(-1), logits_BC=logits), 2, (1.0,))
    dist = torch.zeros(B, K, dtype=dtype)
    dist[:, :2] = 300.0  # the student's remaining mass underflows as a probability, not as a logarithm
    dist.requires_grad_()
    heads = Heads(torch.zeros(B, K, dtype=dtype), dist)
    parts = _whole(DistillationLoss(kind="soft", tau=1.0), heads, _truth(), teacher)
    parts.total.backward()  # type: ignore[no-untyped-call]
    assert dist.grad is not None and parts.total.isfinite() and dist.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["hard", "soft", "none"])
@pytest.mark.parametrize("low", [0, -1])
def test_parts_of_a_batch_add_up_to_the_batch(kind: str, low: int) -> None:
    loss, heads, truth, teacher = DistillationLoss(kind=kind), _heads(), _truth(0.3, low), _dense()
    assert heads.dist is not None and teacher.logits_BC is not None
    whole = _whole(loss, heads, truth, teacher)
    total = torch.zeros(3, dtype=torch.float64)
    for part in (slice(0, 1), slice(1, 4), slice(4, B)):
        some = TeacherLabels(argmax_B=teacher.argmax_B[part], logits_BC=teacher.logits_BC[part])
        mine = Truth(truth.own_B[part], truth.partner_B[part], truth.lam_B[part])
        own_heads = Heads(heads.cls[part], heads.dist[part])
        total += torch.stack(loss(own_heads, mine, some, count=B))
    torch.testing.assert_close(total, torch.stack(whole), rtol=1e-12, atol=1e-12)


def test_unlabelled_parts_cost_nothing_and_make_no_label_weigh_more() -> None:
    heads = _heads()
    own, partner = torch.tensor([3, -1, 2, -1, 0, 1]), torch.tensor([-1, 4, 2, -1, 5, 1])
    truth = Truth(own, partner, torch.full((B,), 0.75, dtype=torch.float64))
    each = [
        [functional.cross_entropy(heads.cls[i], c, label_smoothing=0.1).item() if c >= 0 else 0.0 for c in classes]
        for i, classes in enumerate(zip(own, partner, strict=True))
    ]
    expected = sum(0.75 * a + 0.25 * b for a, b in each) / B
    assert _whole(DistillationLoss(), heads, truth, _dense()).cls.item() == pytest.approx(expected, rel=1e-12)


def test_without_any_label_only_the_teacher_speaks() -> None:
    heads, nobody = _heads(), torch.full((B,), -1)
    truth = Truth(nobody, nobody, torch.ones(B, dtype=torch.float64))
    parts = _whole(DistillationLoss(), heads, truth, _dense())
    parts.total.backward()  # type: ignore[no-untyped-call]
    assert parts.cls.item() == 0 and parts.dist.item() > 0
    assert heads.cls.grad is not None and not heads.cls.grad.any()


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_single_head_takes_both_terms(kind: str) -> None:
    heads, loss, truth, teacher = _heads(), DistillationLoss(kind=kind), _truth(0.4), _dense()
    one = _whole(loss, Heads(heads.cls, None), truth, teacher)
    twice = _whole(loss, Heads(heads.cls, heads.cls), truth, teacher)
    assert one == twice


def test_without_a_teacher_the_second_head_learns_the_truth() -> None:
    heads, loss, truth = _heads(), DistillationLoss(kind="none", alpha=0.25), _truth(0.4)
    assert heads.dist is not None
    parts = _whole(loss, heads, truth, None)
    swapped = _whole(loss, Heads(heads.dist, heads.cls), truth, None)
    assert parts.cls.item() == swapped.dist.item()
    single = _whole(loss, Heads(heads.cls, None), truth, None)
    assert single.total.item() == pytest.approx(single.cls.item(), rel=1e-12)


def test_half_precision_logits_are_summed_in_float32() -> None:
    heads = Heads(*(head.detach().to(torch.bfloat16) for head in _heads() if head is not None))
    assert all(part.dtype == torch.float32 for part in _whole(DistillationLoss(), heads, _float_truth(), _dense()))


def _float_truth() -> Truth:
    truth = _truth(0.5)
    return Truth(truth.own_B, truth.partner_B, truth.lam_B.float())


def test_a_store_that_cannot_serve_the_loss_is_refused() -> None:
    soft = DistillationLoss(kind="soft", tau=4)
    with pytest.raises(StudentError) as argmax:
        soft.check_store(Argmax(), ())
    assert str(argmax.value) == (
        "Soft distillation needs the teacher's logits, and this store keeps argmax alone. "
        "Use --distill hard, or label again with --keep topk:10 or --keep dense."
    )
    with pytest.raises(StudentError) as temperature:
        soft.check_store(TopK(10), (1.0, 3.0))
    assert str(temperature.value) == (
        "Soft distillation at temperature 4 needs the teacher's log-sum-exp at 4; "
        "this store (topk:10) has it at: 1, 3. "
        "Use a stored one (--tau), or label again with --temperatures 4."
    )
    soft.check_store(TopK(10), (1.0, 4.0))
    soft.check_store(Dense(), ())
    DistillationLoss(kind="hard").check_store(Argmax(), ())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kind", "warm", "A loss of kind 'warm' is not known. Known: hard, soft, none."),
        ("reduction", "sum", "A loss of reduction 'sum' is not known. Known: batchmean, numel."),
        ("alpha", 1.5, "alpha is 1.5; the weight of the teacher's term lies between 0 and 1."),
        ("tau", 0.0, "tau is 0.0; a temperature lies between 0.001 and 1000."),
        ("smoothing", 1.0, "smoothing is 1.0; it must be at least 0 and below 1."),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(StudentError) as error:
        DistillationLoss(**{field: value})
    assert str(error.value) == message
