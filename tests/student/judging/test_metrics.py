"""Sums over images against plain definitions, and their independence of batches and ranks."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.utils import accuracy  # type: ignore[attr-defined]
from torch import Tensor
from torch.nn import functional

from student.judging.metrics import BINS, Scores, Tally, class_rows
from student.network.model import Heads, fuse

K = 9


def _logits(count: int, seed: int, classes: int = K) -> Tensor:
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed)) * 2


def _classes(count: int, seed: int, low: int = 0) -> Tensor:
    return torch.randint(low, K, (count,), generator=torch.Generator().manual_seed(seed))


def _tally(logits: Tensor, truth: Tensor) -> Tally:
    tally = Tally(logits.shape[1])
    tally.add(logits, truth)
    return tally


def test_accuracies_and_loss_are_timms_and_torchs() -> None:
    logits, truth = _logits(200, 0), _classes(200, 1)
    top1, top5 = accuracy(logits, truth, topk=(1, 5))
    summary = _tally(logits, truth).summary()
    assert summary["top1"] == pytest.approx(top1.item() / 100, abs=1e-6)
    assert summary["top5"] == pytest.approx(top5.item() / 100, abs=1e-6)
    assert summary["loss"] == pytest.approx(functional.cross_entropy(logits, truth).item(), abs=2e-6)


def test_calibration_error_by_its_definition() -> None:
    logits, truth = _logits(300, 2), _classes(300, 3)
    confidence, predicted = logits.double().softmax(-1).max(-1)
    expected = 0.0
    for i in range(BINS):
        inside = (confidence > i / BINS) & (confidence <= (i + 1) / BINS)
        if inside.any():
            correct = (predicted == truth)[inside].double().mean()
            expected += inside.double().mean().item() * abs(correct - confidence[inside].mean()).item()
    assert _tally(logits, truth).summary()["ece"] == pytest.approx(expected, abs=1e-6)


def test_a_certain_and_correct_student_is_calibrated() -> None:
    truth = _classes(50, 0)
    summary = _tally(functional.one_hot(truth, K) * 1000.0, truth).summary()
    assert summary == {"top1": 1.0, "top5": 1.0, "loss": 0.0, "ece": 0.0}


def test_fewer_than_five_classes() -> None:
    assert _tally(_logits(20, 0, classes=3), _classes(20, 1) % 3).summary()["top5"] == 1.0


def test_the_table_of_classes_and_the_confusions() -> None:
    logits = functional.one_hot(torch.tensor([0, 0, 1, 2, 2, 2]), 4).float()
    tally = _tally(logits, torch.tensor([0, 1, 1, 2, 2, 0]))
    rows = class_rows(tally, ["ant", "bee", "cat", "dog"])
    assert [(row.name, row.images, row.recall, row.precision) for row in rows] == [
        ("ant", 2, 0.5, 0.5),
        ("bee", 2, 0.5, 1.0),
        ("cat", 2, 1.0, 0.666667),
        ("dog", 0, None, None),
    ]
    assert tally.confusion_KK.tolist() == [[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    assert Tally(1000).confusion_KK.numel() == 0
    assert [row.name for row in class_rows(tally, None)] == ["0", "1", "2", "3"]


def test_agreement_counts_equal_names_among_the_images_where_both_are_known() -> None:
    cls, dist = (functional.one_hot(torch.tensor(c), 3).float() for c in ([0, 1, 2, 2], [0, 1, 1, 2]))
    scores = Scores(3, two_heads=True, teacher=True)
    scores.add(Heads(cls, dist), torch.tensor([0, -1, 1, 1]), torch.tensor([0, 1, 1, 0]))
    summary = scores.summary()
    agreement = summary["agreement"]
    assert isinstance(agreement, dict) and summary["images"] == 4 and summary["labelled"] == 3
    assert agreement["class/distillation"] == 0.75
    assert agreement["class/truth"] == pytest.approx(1 / 3, abs=1e-6)
    assert agreement["distillation/teacher"] == 0.75
    assert agreement["truth/teacher"] == pytest.approx(2 / 3, abs=1e-6)


def test_all_four_answers_are_scored() -> None:
    heads, truth = Heads(_logits(64, 0), _logits(64, 1)), _classes(64, 2)
    assert heads.dist is not None
    scores = Scores(K, two_heads=True)
    scores.add(heads, truth)
    for name, logits in (
        ("class", heads.cls),
        ("distillation", heads.dist),
        ("fused_logits", (heads.cls + heads.dist) / 2),
        ("fused_probabilities", fuse(heads, "probabilities")),
    ):
        assert scores.summary()[name] == _tally(logits, truth).summary()
    single = Scores(K, two_heads=False)
    single.add(Heads(heads.cls, None), truth)
    assert single.summary().keys() == {"images", "labelled", "agreement", "class"}


def test_nothing_labelled_is_said_and_not_divided_by() -> None:
    scores = Scores(K, two_heads=True)
    scores.add(Heads(_logits(4, 0), _logits(4, 1)), torch.full((4,), -1))
    assert scores.summary()["class"] == {"top1": None, "top5": None, "loss": None, "ece": None}
    assert scores.summary()["images"] == 4


@given(cuts=st.lists(st.integers(0, 60), max_size=4))
@settings(max_examples=15, deadline=None)
def test_batches_do_not_matter(cuts: list[int]) -> None:
    heads, truth = Heads(_logits(60, 0), _logits(60, 1)), _classes(60, 2, low=-1)
    assert heads.dist is not None
    whole, parts = Scores(K, two_heads=True), Scores(K, two_heads=True)
    whole.add(heads, truth)
    edges = sorted({0, 60, *cuts})
    for start, stop in itertools.pairwise(edges):
        parts.add(Heads(heads.cls[start:stop], heads.dist[start:stop]), truth[start:stop])
    assert parts.summary() == whole.summary()


def _score_share(rank: int, world: int, meeting: str) -> None:
    torch.set_num_threads(1)  # a forked child must not wait for threads that it has not
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    heads, truth = Heads(_logits(50, 0), _logits(50, 1)), _classes(50, 2)
    assert heads.dist is not None
    whole, mine = Scores(K, two_heads=True), Scores(K, two_heads=True)
    whole.add(heads, truth)
    mine.add(Heads(heads.cls[rank::world], heads.dist[rank::world]), truth[rank::world])
    mine.reduce()
    assert mine.summary() == whole.summary()
    assert torch.equal(mine.tallies["class"].confusion_KK, whole.tallies["class"].confusion_KK)
    torch.distributed.destroy_process_group()


def test_ranks_add_up(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(
        _score_share, args=(2, str(tmp_path / "meeting")), nprocs=2, start_method="fork"
    )
