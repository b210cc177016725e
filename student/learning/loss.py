"""What does a batch cost: the true labels on one head, the teacher's answer on the other?

    total = (1 - alpha) * cls + alpha * dist

`cls` is the smoothed cross-entropy of the class head against ``lam * own + (1 - lam) * partner``. `dist` is the
cross-entropy of the distillation head against the teacher's argmax (hard, without smoothing), or tau² times the
divergence KL(teacher ‖ student) at temperature tau (soft). From a top-K store the soft target is exact on the K kept
classes, because the teacher's log-sum-exp over *all* classes is stored; what it gave to the others is one known mass,
held against the student's mass on the same others (a divergence over K + 1 events, never above the dense one).

A single-head student takes both terms on its head (the paper's "usual" distillation). Without a teacher (`none`), a
second head learns the true labels too.

A call returns *sums over its own items, divided by the items of the whole global batch*, so the parts of micro-batches
and of ranks add up to the loss of the global batch. An item counts in `cls` with its labelled mass: what has no label
costs nothing there, and does not make the labels of its neighbours weigh more (docs/decisions/0040-loss-adds-up.md).

Shapes: B items, C classes, K kept classes, T stored temperatures.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from pipeline.errors import StudentError
from pipeline.labels.keep import COLDEST, HOTTEST, Keep
from student.feed.targets import TeacherLabels, Truth
from student.network.model import Heads

KINDS = ("hard", "soft", "none")
REDUCTIONS = ("batchmean", "numel")


class LossParts(NamedTuple):
    """The loss and its two terms, each normalised by the global batch."""

    total: Tensor
    cls: Tensor
    dist: Tensor


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DistillationLoss:
    """The loss as the flags describe it; a pure function of heads and labels."""

    kind: str = "hard"
    alpha: float = 0.5
    """Weight of the distillation term; the class term has the rest."""
    tau: float = 3.0
    """Temperature of the soft loss."""
    reduction: str = "batchmean"
    """Of the soft loss: a mean over items, or `numel`, a mean over items and classes as in DeiT's own code."""
    smoothing: float = 0.1
    """Label smoothing of the class term."""

    def __post_init__(self) -> None:
        for name, known in (("kind", KINDS), ("reduction", REDUCTIONS)):
            if getattr(self, name) not in known:
                raise StudentError(f"A loss of {name} '{getattr(self, name)}' is not known. Known: {', '.join(known)}.")
        if not 0 <= self.alpha <= 1:
            raise StudentError(f"alpha is {self.alpha}; the weight of the teacher's term lies between 0 and 1.")
        if not COLDEST <= self.tau <= HOTTEST:
            raise StudentError(f"tau is {self.tau}; a temperature lies between {COLDEST:g} and {HOTTEST:g}.")
        if not 0 <= self.smoothing < 1:
            raise StudentError(f"smoothing is {self.smoothing}; it must be at least 0 and below 1.")

    def check_store(self, keep: Keep, temperatures: tuple[float, ...]) -> None:
        """Refuse a store whose keep and temperatures cannot serve this loss exactly."""
        lacking = keep.lacks(self.tau, temperatures) if self.kind == "soft" else None
        if lacking is not None:
            raise StudentError(lacking)

    def __call__(self, heads: Heads, truth: Truth, teacher: TeacherLabels | None, *, count: int) -> LossParts:
        """The loss of these items as their share of a global batch of `count` items."""
        second = heads.cls if heads.dist is None else heads.dist
        cls = self._truth_term(heads.cls, truth) / count
        if self.kind == "none":
            dist = self._truth_term(second, truth) / count
        else:
            assert teacher is not None, "this loss was asked for without the teacher's labels"
            dist = (self._hard(second, teacher) if self.kind == "hard" else self._soft(second, teacher)) / count
        return LossParts((1 - self.alpha) * cls + self.alpha * dist, cls, dist)

    def _truth_term(self, logits_BC: Tensor, truth: Truth) -> Tensor:
        logp_BC = log_softmax(_wide(logits_BC), -1)
        uniform_B = -logp_BC.mean(-1)
        total = logp_BC.new_zeros(())
        for class_B, mass_B in zip((truth.own_B, truth.partner_B), truth.masses(), strict=True):
            nll_B = -_pick(logp_BC, class_B.clamp(min=0))
            total = total + (mass_B * ((1 - self.smoothing) * nll_B + self.smoothing * uniform_B)).sum()
        return total

    def _hard(self, logits_BC: Tensor, teacher: TeacherLabels) -> Tensor:
        return -_pick(log_softmax(_wide(logits_BC), -1), teacher.argmax_B).sum()

    def _soft(self, logits_BC: Tensor, teacher: TeacherLabels) -> Tensor:
        logp_BC = log_softmax(_wide(logits_BC) / self.tau, -1)
        if teacher.logits_BC is not None:
            target_BC = log_softmax(teacher.logits_BC / self.tau, -1)
            divergence = kl_div(logp_BC, target_BC, reduction="sum", log_target=True)
        else:
            divergence = _topk_divergence(logp_BC, teacher, self.tau)
        scale = self.tau**2
        return divergence * (scale / logits_BC.shape[-1] if self.reduction == "numel" else scale)


def _topk_divergence(logp_BC: Tensor, teacher: TeacherLabels, tau: float) -> Tensor:
    """KL(teacher ‖ student), summed over items, over the K kept classes and one event that is all the others."""
    index_BK, logit_BK, lse_BT = teacher.topk_index_BK, teacher.topk_logit_BK, teacher.lse_BT
    assert index_BK is not None and logit_BK is not None and lse_BT is not None, "the store keeps no logits"
    target_BK = logit_BK / tau - lse_BT[:, teacher.temperatures.index(tau), None]
    p_BK = target_BK.exp()
    kept = (p_BK * (target_BK - logp_BC.gather(-1, index_BK))).sum()
    if index_BK.shape[-1] == logp_BC.shape[-1]:
        return kept  # nothing is left: a logarithm of the student's remaining mass would be one of zero
    rest_B = (1 - p_BK.sum(-1)).clamp(min=0)  # exactly zero where rounding ate it: then 0 * log(mass), no NaN
    own_rest_B = logp_BC.scatter(-1, index_BK, -torch.inf).logsumexp(-1)
    return kept + (torch.xlogy(rest_B, rest_B) - rest_B * own_rest_B).sum()


def _pick(logp_BC: Tensor, class_B: Tensor) -> Tensor:
    return logp_BC.gather(-1, class_B[:, None])[:, 0]


def _wide(logits: Tensor) -> Tensor:
    """Half precision is widened; a loss is summed in float32 at least."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
