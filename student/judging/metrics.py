"""How good are a student's answers? Sums over images that can be taken batch by batch and rank by rank, then read once.

`Scores` follows every answer of the student: each head, and both fused by logits and by probabilities. For each it
keeps a `Tally` (top-1, top-5, loss, calibration, a count per class), and for all pairs of answers, truth and teacher
among them, how often they name the same class. Counts are int64 and sums float64, so adding ranks loses nothing.
Images without a label count in agreements and nowhere else.

Shapes: B images, K classes, N confidence bins, P answers (outputs, then truth, then teacher).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.distributed
from torch import Tensor

from student.network.model import Heads, fuse

BINS = 15
CONFUSION_CLASSES = 64
"""Up to so many classes the full confusion matrix is kept."""

UNLABELLED = -1


def _counts(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


class Tally:
    """What one answer (a head, or both fused) adds up to over the labelled images that it has seen."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.labelled, self.top1, self.top5 = _counts(), _counts(), _counts()
        self.loss = torch.zeros((), dtype=torch.float64)
        self.bin_count_N, self.bin_correct_N = _counts(BINS), _counts(BINS)
        self.bin_confidence_N = torch.zeros(BINS, dtype=torch.float64)
        self.class_count_K, self.class_correct_K, self.class_predicted_K = (_counts(num_classes) for _ in range(3))
        side = num_classes if num_classes <= CONFUSION_CLASSES else 0
        self.confusion_KK = _counts(side, side)
        """Rows are true classes, columns predicted ones; empty where there are too many classes."""

    def add(self, logits_BK: Tensor, truth_B: Tensor) -> None:
        """Add a batch (on the CPU); rows without a label are left out."""
        known_B = truth_B != UNLABELLED
        logits_BK, truth_B = logits_BK[known_B].double(), truth_B[known_B]
        top_BT = logits_BK.topk(min(5, self.num_classes)).indices
        predicted_B, hit_BT = top_BT[:, 0], top_BT == truth_B[:, None]
        correct_B = hit_BT[:, 0]
        logp_BK = logits_BK.log_softmax(-1)
        self.labelled += len(truth_B)
        self.top1 += correct_B.sum()
        self.top5 += hit_BT.any(-1).sum()
        self.loss -= logp_BK.gather(-1, truth_B[:, None]).sum()
        self._calibrate(logp_BK.gather(-1, predicted_B[:, None])[:, 0].exp(), correct_B)
        for total_K, classes in (
            (self.class_count_K, truth_B),
            (self.class_correct_K, truth_B[correct_B]),
            (self.class_predicted_K, predicted_B),
        ):
            total_K += classes.bincount(minlength=self.num_classes)
        if len(self.confusion_KK):
            cells = truth_B * self.num_classes + predicted_B
            self.confusion_KK += cells.bincount(minlength=self.num_classes**2).view_as(self.confusion_KK)

    def _calibrate(self, confidence_B: Tensor, correct_B: Tensor) -> None:
        """Bin i holds confidences in (i / BINS, (i + 1) / BINS]."""
        bin_B = ((confidence_B * BINS).ceil().long() - 1).clamp(0, BINS - 1)
        self.bin_count_N += bin_B.bincount(minlength=BINS)
        self.bin_correct_N += bin_B[correct_B].bincount(minlength=BINS)
        self.bin_confidence_N += bin_B.bincount(confidence_B, minlength=BINS)

    def summary(self) -> dict[str, float | None]:
        """Accuracies as shares of the labelled images, mean negative log-likelihood, expected calibration error."""
        return {
            "top1": share(self.top1, self.labelled),
            "top5": share(self.top5, self.labelled),
            "loss": share(self.loss, self.labelled),
            "ece": share((self.bin_correct_N - self.bin_confidence_N).abs().sum(), self.labelled),
        }

    def reliability(self) -> list[tuple[int, int, float]]:
        """For each bin of confidence: images, how many of them are right, and the mean confidence."""
        bins = zip(self.bin_count_N.tolist(), self.bin_correct_N.tolist(), self.bin_confidence_N.tolist(), strict=True)
        return [(count, correct, share(sure, count) or 0.0) for count, correct, sure in bins]

    def sums(self) -> list[Tensor]:
        """The tensors that hold the sums, so that they can be added over ranks in place."""
        return [value for value in vars(self).values() if isinstance(value, Tensor)]


@dataclasses.dataclass(frozen=True, slots=True)
class ClassRow:
    """How well one class is recognised."""

    number: int
    name: str
    images: int
    recall: float | None
    """Share of the class's images that are recognised: its top-1 accuracy."""
    precision: float | None
    """Share of the images taken for this class that are of it."""


def class_rows(tally: Tally, names: Sequence[str] | None) -> list[ClassRow]:
    """How well an answer knows each class, in the order of the classes."""
    rows = zip(
        tally.class_count_K.tolist(), tally.class_correct_K.tolist(), tally.class_predicted_K.tolist(), strict=True
    )
    return [
        ClassRow(k, names[k] if names else str(k), count, share(correct, count), share(correct, predicted))
        for k, (count, correct, predicted) in enumerate(rows)
    ]


class Scores:
    """All answers of one student (or of its moving average) over a set of images."""

    def __init__(self, num_classes: int, *, two_heads: bool, teacher: bool = False) -> None:
        outputs = ("class", "distillation", "fused_logits", "fused_probabilities") if two_heads else ("class",)
        self.tallies = {name: Tally(num_classes) for name in outputs}
        self.answers = (*outputs, "truth", *(("teacher",) if teacher else ()))
        self.images = _counts()
        self.same_PP = _counts(len(self.answers), len(self.answers))
        self.compared_PP = _counts(len(self.answers), len(self.answers))

    def add(self, heads: Heads, truth_B: Tensor, teacher_B: Tensor | None = None) -> None:
        """Add a batch: the heads' logits, true classes (-1 where unknown), the teacher's argmax where there is one."""
        assert (teacher_B is not None) == ("teacher" in self.answers), "the teacher answers for every batch or for none"
        heads = heads_on_cpu(heads)
        truth_B = truth_B.cpu()
        logits = [heads.cls]
        if heads.dist is not None:
            logits += [heads.dist, fuse(heads), fuse(heads, "probabilities")]
        for tally, logits_BK in zip(self.tallies.values(), logits, strict=True):
            tally.add(logits_BK, truth_B)
        named = [answer.argmax(-1) for answer in logits]
        named += [truth_B, *([] if teacher_B is None else [teacher_B])]
        named_PB = torch.stack([classes.cpu().long() for classes in named])
        known_PB = named_PB != UNLABELLED
        both_PPB = known_PB[:, None] & known_PB[None]
        self.images += len(truth_B)
        self.compared_PP += both_PPB.sum(-1)
        self.same_PP += (both_PPB & (named_PB[:, None] == named_PB[None])).sum(-1)

    def reduce(self) -> None:
        """Add the sums of all ranks up, so that every rank holds the whole."""
        sums = [self.images, self.same_PP, self.compared_PP]
        add_over_ranks(sums + [total for tally in self.tallies.values() for total in tally.sums()])

    def agreement(self) -> dict[tuple[str, str], float | None]:
        """How often each pair of answers names the same class, of the images where both are known."""
        pairs = [(p, q) for q in range(len(self.answers)) for p in range(q)]
        return {(self.answers[p], self.answers[q]): share(self.same_PP[p, q], self.compared_PP[p, q]) for p, q in pairs}

    def summary(self) -> dict[str, object]:
        """Plain numbers for a metrics file: per answer, and the agreement of each pair of answers."""
        first = next(iter(self.tallies.values()))
        return {
            "images": int(self.images),
            "labelled": int(first.labelled),
            "agreement": {"/".join(pair): value for pair, value in self.agreement().items()},
            **{name: tally.summary() for name, tally in self.tallies.items()},
        }


def heads_on_cpu(heads: Heads) -> Heads:
    """The logits of both heads in float32 on the CPU, once the device has computed them."""
    return Heads(heads.cls.float().cpu(), None if heads.dist is None else heads.dist.float().cpu())


def share(part: Tensor | float, whole: Tensor | float) -> float | None:
    """A mean, rounded so that files do not change with the order of a sum; None where there is nothing."""
    return round(float(part) / float(whole), 6) if whole else None


def add_over_ranks(totals: Sequence[Tensor]) -> None:
    """Add each tensor over all ranks, in place: one exchange for the counts, one for the float sums."""
    if not torch.distributed.is_initialized():
        return
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    for dtype in (torch.int64, torch.float64):
        mine = [total for total in totals if total.dtype == dtype]
        packed = torch.cat([total.reshape(-1) for total in mine]).to(device)
        torch.distributed.all_reduce(packed)
        parts = torch.split(packed.cpu(), [total.numel() for total in mine])
        for total, part in zip(mine, parts, strict=True):
            total.copy_(part.view_as(total))
