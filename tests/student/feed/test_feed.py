"""What a step sees is what the order asks for: these pixels, these answers, this truth; for any workers and pieces."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import pytest
import torch

from pipeline.labels.codes import logits_of, softmax_of
from pipeline.labels.dense import Dense
from pipeline.labels.keep import Events, Form, Keep, Parts, Ranked
from pipeline.labels.soft_labels import encode
from pipeline.labels.topk import TopK
from pipeline.rendering.loader import Loader
from pipeline.rendering.renderer import Renderer
from pipeline.store.reader import StoreReader
from student.feed.feed import Feed, cut_pieces, piece_capacity, pieces_together
from student.feed.order import Order
from student.feed.stored_answers import StoredAnswers, needed
from student.feed.targets import Truth
from student.feed.tensors import normalise, part_of, teacher_labels, truth_of
from student.learning.loss import DistillationLoss
from student.network.model import Heads
from student.ranks.ranks import Ranks
from tests.small_students import RECIPE, make_store

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StoreReader:
    return StoreReader.open(make_store(tmp_path_factory.mktemp("world"), views=3))


def order_of(store: StoreReader, **changes: int) -> Order:
    options = {"batch": 40, "run_rows": store.manifest.unit_rows, "seed": 4, "spread": 2, **changes}
    return Order(store.manifest.recipe, rows=store.manifest.rows, views=tuple(range(store.layout.views)), **options)


def feeds(store: StoreReader, order: Order, workers: int = 0, ranks: Ranks | None = None) -> Iterator[Feed]:
    """One feed, closed afterwards."""
    capacity, together = piece_capacity(order), pieces_together(order)
    answers = StoredAnswers(store, needed(store.manifest, soft=True, luma=True), keep_units=4)
    with Loader(order.recipe, store.index, batch=capacity, workers=workers, together=together) as loader:
        yield Feed(order, answers, store.index, loader, ranks or Ranks(), keep=store.manifest.keep)
    answers.close()


@pytest.mark.parametrize(("repeats", "workers"), [(1, 0), (3, 0), (1, 2)])
def test_a_step_is_what_the_order_says(store: StoreReader, repeats: int, workers: int) -> None:
    order = order_of(store, repeats=repeats)
    renderer, side = Renderer(order.recipe, store.index, store.index.files()), order.recipe.image_size
    units = {(view, run): store.read(view, run) for view in range(3) for run in range(store.layout.runs)}
    for feed in feeds(store, order, workers):
        for number, step in enumerate(feed.steps(1, 2, 3), start=order.steps + 2):
            assert (step.epoch, step.step) == divmod(number, order.steps)
            batch = order.batch(step.epoch, step.step)
            assert np.array_equal(step.batch.row_B, batch.row_B) and np.array_equal(step.batch.view_B, batch.view_B)
            pixels = np.empty((len(batch), side, side, 3), np.uint8)
            renderer.render(batch.row_B, batch.view_B, pixels)
            assert np.array_equal(step.pixels_BHWC.numpy(), pixels)
            for at, (row, view) in enumerate(zip(batch.row_B.tolist(), batch.view_B.tolist(), strict=True)):
                labels = units[view, row // 16].labels
                assert int(step.teacher.argmax_B[at]) == labels.argmax_B[row % 16]
                assert labels.parts["logits"] is not None and step.teacher.logits_BC is not None
                assert np.array_equal(step.teacher.logits_BC[at].numpy(), logits_of(labels.parts["logits"][row % 16]))
            assert step.truth.own_B.tolist() == (batch.row_B % 5).tolist()
            assert step.truth.partner_B.tolist() == (batch.partner_B % 5).tolist()
            assert step.count == len(batch)
        assert number == 3 * order.steps - 1 and feed.waited > 0


def test_ranks_share_a_step(store: StoreReader) -> None:
    order, found = order_of(store), []
    for rank in range(3):
        found += [next(feed.steps(0, 1, 1)) for feed in feeds(store, order, ranks=Ranks(rank=rank, world=3))]
    whole = order.batch(0, 1)
    assert np.array_equal(np.concatenate([step.batch.row_B for step in found]), whole.row_B)
    assert {step.count for step in found} == {len(whole)}


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_pieces_are_cut_between_pairs_and_windows(repeats: int) -> None:
    recipe = dataclasses.replace(RECIPE, mix_window=32)
    order = Order(recipe, rows=3000, views=(0, 1, 2), run_rows=512, batch=700, repeats=repeats)
    for step in range(order.steps):
        batch = order.batch(0, step)
        cuts = cut_pieces(batch, order)
        assert cuts[0] == 0 and cuts[-1] == len(batch) and cuts == sorted(set(cuts))
        assert max(np.diff(cuts)) <= piece_capacity(order)
        assert all(batch.opens_B[cut] for cut in cuts[:-1])
        if repeats > 1:
            window_B = batch.row_B // 32
            assert all(window_B[cut] != window_B[cut - 1] for cut in cuts[1:-1])


def test_answers_are_bounded_and_need_no_announcement(store: StoreReader) -> None:
    order = order_of(store, batch=16)
    answers = StoredAnswers(store, needed(store.manifest, soft=False, luma=False), keep_units=3)
    for epoch in range(3):
        for step in range(order.steps):
            batch = order.batch(epoch, step)
            if step % 2:
                answers.expect(batch)
            gathered = answers.gather(batch)
            assert not gathered.labels.parts and gathered.labelled.luma_B16 is None
            assert len(answers._units) <= 3 + 2 * order.spread and not answers._expected
    answers.close()


def test_codes_become_the_logits_that_were_stored() -> None:
    logits_BC = np.random.default_rng(0).normal(0, 9, (6, 7)).astype(np.float32)
    logits_BC[0, :2] = (-128.0, 127.99)
    dense = encode(logits_BC, Dense())
    teacher = teacher_labels(Dense(), dense, (), CPU)
    assert teacher.logits_BC is not None
    assert np.array_equal(teacher.logits_BC.numpy(), logits_of(dense.parts["logits"]))
    topk = encode(logits_BC, TopK(3), (1.0, 3.0))
    teacher = part_of(teacher_labels(TopK(3), topk, (1.0, 3.0), CPU), slice(2, 4))
    assert (
        topk.parts["topk_index"] is not None and topk.parts["topk_logit"] is not None and topk.parts["lse"] is not None
    )
    assert teacher.topk_index_BK is not None and teacher.topk_logit_BK is not None and teacher.lse_BT is not None
    assert np.array_equal(teacher.topk_index_BK.numpy(), topk.parts["topk_index"][2:4])
    assert np.array_equal(teacher.topk_logit_BK.numpy(), logits_of(topk.parts["topk_logit"][2:4]))
    assert np.array_equal(teacher.lse_BT.numpy(), topk.parts["lse"][2:4]) and teacher.temperatures == (1.0, 3.0)


@dataclasses.dataclass(frozen=True)
class Rounded(Keep):
    """Knows the probabilities of some classes in steps of 1/255, and nothing else."""

    named: int
    kind: ClassVar[str] = "rounded"

    def forms(self, num_classes: int, temperatures: Sequence[float]) -> dict[str, Form]:
        raise AssertionError("never stored")

    def encode(
        self, codes_BC: np.ndarray, argmax_B: np.ndarray, temperatures: Sequence[float], ranked: Ranked | None = None
    ) -> dict[str, np.ndarray]:
        return {"head": (255 * softmax_of(codes_BC, 2.0)[:, : self.named]).astype(np.uint8)}

    def lacks(self, temperature: float, temperatures: Sequence[float]) -> str | None:
        return None

    def events(self, parts: Parts, temperature: float, temperatures: Sequence[float]) -> Events:
        prob_BK = parts["head"] / 255
        return Events(
            index_BK=np.broadcast_to(np.arange(self.named), prob_BK.shape), prob_BK=prob_BK, rest_B=1 - prob_BK.sum(1)
        )


@pytest.mark.parametrize("named", [7, 3])
def test_a_keep_that_gives_nothing_but_probabilities_teaches_them(named: int) -> None:
    keep, tau, student_BC = Rounded(named), 2.0, torch.randn(6, 7, generator=torch.Generator().manual_seed(1))
    logits_BC = np.random.default_rng(0).normal(0, 9, (6, 7)).astype(np.float32)
    labels = encode(logits_BC, keep)
    assert (labels.parts["head"] == 0).any(), "classes without any probability are among them"
    teacher = teacher_labels(keep, labels, (), CPU, tau)
    nobody = torch.full((6,), -1)
    loss = DistillationLoss(kind="soft", alpha=1.0, tau=tau)
    found = loss(Heads(student_BC, None), Truth(nobody, nobody, torch.ones(6)), teacher, count=1).dist
    prob_BK = labels.parts["head"].astype(np.float64) / 255
    own_BC = torch.softmax(student_BC.double() / tau, -1).numpy()
    told_BE, own_BE = prob_BK, own_BC[:, :named]
    if named < 7:  # and one event that is all other classes
        told_BE = np.append(prob_BK, 1 - prob_BK.sum(1, keepdims=True), axis=1)
        own_BE = np.append(own_BE, 1 - own_BE.sum(1, keepdims=True), axis=1)
    terms_BE = np.where(told_BE > 0, told_BE * np.log(np.maximum(told_BE, 1e-99) / own_BE), 0)
    assert float(found) == pytest.approx(tau**2 * terms_BE.sum(), rel=1e-5)


def test_unlabelled_rows_stay_unlabelled(store: StoreReader) -> None:
    classes = store.index.classes.copy()
    classes[::3] = -1
    index = dataclasses.replace(store.index, classes=classes)
    batch = order_of(store).batch(0, 0)
    truth = truth_of(index, batch, CPU)
    assert isinstance(truth, Truth) and truth.own_B.tolist() == classes[batch.row_B].tolist()


def test_normalise_is_the_textbook_formula_and_keeps_channels_last() -> None:
    pixels_BHWC = torch.randint(0, 256, (2, 5, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x_BCHW = normalise(pixels_BHWC, mean, std)
    expected = ((pixels_BHWC.double() / 255 - mean) / std).permute(0, 3, 1, 2)
    assert torch.allclose(x_BCHW.double(), expected, atol=2e-6)
    assert x_BCHW.is_contiguous(memory_format=torch.channels_last) and x_BCHW.dtype == torch.float32
