"""The door: views of a store for anybody's trainer are those of `student.train`, in every form, order and process."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline.errors import MismatchError, StudentError, ViewError
from pipeline.labels.codes import logits_of
from pipeline.rendering.renderer import Renderer
from pipeline.store.reader import StoreReader
from student.dataset import StoredViews
from student.feed.targets import TeacherLabels, Truth
from student.feed.view_batch import ViewBatch
from student.learning.loss import DistillationLoss
from student.learning.optimizer import OptimizerSpec
from student.learning.settings import Settings
from student.network.drop_path import ItemDropPath
from student.network.model import build
from student.run.launch import views_of
from tests.small_students import CLASSES, RECIPE, arguments, make_store, train, weights
from tests.stores import finished, index_of, manifest_of

pytestmark = pytest.mark.usefixtures("one_thread")

KEEPS = ("dense", "topk:3", "lowrank:2+3", "argmax")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {keep: make_store(tmp_path_factory.mktemp("world"), views=3, keep=keep) for keep in KEEPS}


def identity(batches: list[ViewBatch]) -> list[tuple[Any, ...]]:
    """What was given, in a form that can be compared."""
    return [(b.epoch, b.step, b.row.tolist(), b.view.tolist(), b.pixels.double().sum().item()) for b in batches]


def test_the_pixels_the_labels_and_the_truth_are_those_of_the_rows(worlds: dict[str, Path]) -> None:
    store = StoreReader.open(worlds["dense"])
    renderer = Renderer(RECIPE, store.index, store.index.files())
    seen = []
    with StoredViews(worlds["dense"], batch=40, answer="dense", pixels="uint8", channels="last") as views:
        assert len(views) == 3
        for batch in views:
            row_B, view_B = batch.row.numpy(), batch.view.numpy()
            pixels = np.empty((len(row_B), 32, 32, 3), np.uint8)
            renderer.render(row_B, view_B, pixels)
            assert np.array_equal(batch.pixels.numpy(), pixels)
            assert batch.logits is not None
            for at, (row, view) in enumerate(zip(row_B.tolist(), view_B.tolist(), strict=True)):
                labels = store.read(view, row // 16).labels
                assert int(batch.argmax[at]) == labels.argmax_B[row % 16]
                assert np.array_equal(batch.logits[at].numpy(), logits_of(labels.parts["logits"][row % 16]))
            truth = batch.truth(CLASSES)
            want = torch.zeros(len(row_B), CLASSES)
            for at in range(len(row_B)):
                want[at, int(batch.label[at])] += batch.lam[at]
                want[at, int(batch.partner[at])] += 1 - batch.lam[at]
            assert batch.label.tolist() == (row_B % CLASSES).tolist() and torch.equal(truth, want)
            seen += row_B.tolist()
    assert sorted(seen) == list(range(100)) and views.epoch == 1


def test_every_form_of_pixels_is_of_the_same_views(worlds: dict[str, Path]) -> None:
    def first(**asked: Any) -> torch.Tensor:
        with StoredViews(worlds["argmax"], batch=20, **asked) as views:
            return next(iter(views)).pixels

    raw = first(pixels="uint8", channels="last")
    assert torch.equal(first(pixels="uint8"), raw.permute(0, 3, 1, 2))
    x = first(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    want = (raw.double() / 255 - torch.tensor((0.1, 0.2, 0.3))) / torch.tensor((0.5, 0.6, 0.7))
    assert x.dtype == torch.float32 and torch.allclose(x.double(), want.permute(0, 3, 1, 2), atol=1e-6)
    assert torch.equal(first(channels="last", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)), x.permute(0, 2, 3, 1))


@pytest.mark.parametrize("keep", ["dense", "topk:3", "lowrank:2+3"])
def test_soft_targets_are_those_of_the_keep(worlds: dict[str, Path], keep: str) -> None:
    store = StoreReader.open(worlds[keep])
    manifest = store.manifest
    with StoredViews(store, batch=40, answer="soft", tau=3.0) as views:
        for batch in views:
            assert batch.soft is not None and batch.logits is None and batch.topk_index is None
            assert torch.allclose(batch.soft.sum(-1), torch.ones(len(batch.soft)))
            for at, (row, view) in enumerate(zip(batch.row.tolist(), batch.view.tolist(), strict=True)):
                parts = store.read(view, row // 16).labels.slice(row % 16, row % 16 + 1).arrays()
                want = manifest.keep.events(parts, 3.0, manifest.temperatures).spread(CLASSES)
                assert np.allclose(batch.soft[at].numpy(), want[0], atol=1e-6)


def test_a_store_gives_its_answers_as_it_keeps_them(worlds: dict[str, Path]) -> None:
    """As the trainer asks for them, whatever the keep."""
    for keep in KEEPS:
        with StoredViews(worlds[keep], batch=40, answer=keep) as views:
            batch = next(iter(views))
        assert (batch.topk_logit is not None) == (keep == "topk:3"), keep
        assert (batch.logits is not None) == (keep in ("dense", "lowrank:2+3")), keep
        if batch.logits is not None:
            with StoredViews(worlds[keep], batch=40, answer="soft") as views:
                soft = next(iter(views)).soft
            assert torch.equal(torch.softmax(batch.logits / 3.0, -1), soft), keep


def test_a_dense_store_gives_the_top_k_of_a_smaller_one(worlds: dict[str, Path]) -> None:
    found = []
    for keep in ("dense", "topk:3"):
        with StoredViews(worlds[keep], batch=40, answer="topk:3") as views:
            found.append(list(views))
    for dense, topk in zip(*found, strict=True):
        for name in ("row", "argmax", "topk_index", "topk_logit", "pixels"):
            assert torch.equal(getattr(dense, name), getattr(topk, name)), name
        assert dense.lse is not None and topk.lse is not None
        assert torch.equal(dense.lse[:, 0], topk.lse[:, 1]), "a dense store has none, so it is made at tau = 3"


def test_what_a_store_cannot_give_is_refused(worlds: dict[str, Path]) -> None:
    for keep, answer, said in (
        ("argmax", "soft", "this store keeps argmax alone"),
        ("argmax", "topk:2", "labels kept as argmax cannot become topk:2. Start from a dense store."),
        ("topk:3", "dense", "labels kept as topk:3 cannot become dense"),
        ("topk:3", "topk:4", "labels kept as topk:3 cannot become topk:4. Give a K of at most that many."),
    ):
        with pytest.raises((StudentError, MismatchError), match=said):
            StoredViews(worlds[keep], answer=answer)
    with pytest.raises(StudentError, match="at: 1, 3"):
        StoredViews(worlds["topk:3"], answer="soft", tau=2.0)
    with pytest.raises(StudentError, match=r"pixels 'int8' is not known. Known: float32, uint8."):
        StoredViews(worlds["argmax"], pixels="int8")  # type: ignore[arg-type]
    for tau in (0.0, -1.0, float("nan"), float("inf")):  # which gave NaN, or the wrong way round
        with pytest.raises(StudentError, match=rf"tau is {tau}. Give a temperature above 0.$"):
            StoredViews(worlds["dense"], answer="soft", tau=tau)
    for answer in ("hard", "lowrank:2+3", "topk"):
        with pytest.raises(
            StudentError, match=rf"'{answer}' is not known. Known: argmax, soft, topk:K, dense.$".replace("+", r"\+")
        ):
            StoredViews(worlds["dense"], answer=answer)
    with pytest.raises(StudentError, match="give three numbers each, of pixels from 0 to 1, those of std above 0"):
        StoredViews(worlds["dense"], std=(0.5, 0.5, 0.0))
    with pytest.raises(MismatchError, match=r"views is 4, and .* has 3"):
        StoredViews(worlds["argmax"], views=4)


def test_numbers_that_are_none_or_lie_out_of_range_are_refused(worlds: dict[str, Path]) -> None:
    store = StoreReader.open(worlds["argmax"])
    for asked, said in (
        ({"batch": 0}, "batch is 0. Give a whole number of at least 1."),
        ({"batch": 2.5}, "batch is 2.5. Give a whole number of at least 1."),
        ({"batch": "8"}, "batch is '8'. Give a whole number of at least 1."),
        ({"repeats": 0}, "repeats is 0. Give a whole number of at least 1."),
        ({"workers": -1}, "workers is -1. Give a whole number of at least 0."),
        ({"seed": -1}, "seed is -1. Give a whole number from 0 to 18446744073709551615."),
        ({"seed": 2**64}, f"seed is {2**64}. Give a whole number from 0 to 18446744073709551615."),
        ({"rank": 2, "world": 2}, "rank is 2. Give a whole number from 0 to 1."),
        ({"rank": 0, "world": 0}, "world is 0. Give a whole number of at least 1."),
    ):
        with pytest.raises(StudentError, match=f"^{re.escape(said)}$"):
            StoredViews(store, **asked)  # type: ignore[arg-type]
    with pytest.raises(MismatchError, match=r"views is 1\.5, and .* has 3\. Ask for 1 to 3\."):
        StoredViews(store, views=1.5)  # type: ignore[arg-type]
    views = StoredViews(store, batch=np.int64(34))  # type: ignore[arg-type]
    for epoch in (-1, 1.5, "1", None, True, 2**32, 2**63):
        with pytest.raises(StudentError, match=r"^epoch is .*\. Give a whole number from 0 to 4294967295\.$"):
            views.set_epoch(epoch)  # type: ignore[arg-type]
    for step in (-1, len(views), "x", None):
        with pytest.raises(StudentError, match=r"^step is .*\. Give a whole number from 0 to 2\.$"):
            views.load_state_dict({**views.state_dict(), "step": step})
    assert views.epoch == 0


def test_a_view_that_the_teacher_did_not_see_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ViewError, match="This machine does not draw the views"), StoredViews(
        make_store(tmp_path, rows=40, brighten=1)
    ):  # fmt: skip
        pass
    loader = DataLoader(StoredViews(tmp_path / "store.zarr"), batch_size=None, num_workers=1)
    with pytest.raises(ViewError, match="is not the one that was labelled"):
        next(iter(loader))
    index = index_of(64)
    with pytest.raises(MismatchError, match="this store says nothing of that"):
        StoredViews(finished(tmp_path / "bare", manifest_of(index, luma=False), index), accept_drift=True)


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_workers_of_a_dataloader_keep_the_order(worlds: dict[str, Path], workers: int) -> None:
    with StoredViews(worlds["dense"], batch=16, answer="soft", tau=1.0) as views:
        want = identity([batch for _ in range(2) for batch in views])
    views = StoredViews(worlds["dense"], batch=16, answer="soft", tau=1.0)
    loader: Any = DataLoader(views, batch_size=None, num_workers=workers, persistent_workers=workers > 1)
    found = []
    for epoch in range(2):
        views.set_epoch(epoch)
        found += list(loader)
    assert identity(found) == want
    views.load_state_dict(views.state_dict(after=found[3]))
    rest = identity(list(loader))
    assert rest == want[4:7]
    if workers:
        with pytest.raises(StudentError, match=r"Give the last batch that was: state_dict\(after=batch\)"):
            views.state_dict()
    assert identity(list(loader)) == want[7:], "an epoch that is at its end is followed by the next"


def test_workers_that_are_spawned_and_persist_hear_of_the_epoch(worlds: dict[str, Path]) -> None:
    with StoredViews(worlds["argmax"], batch=40) as views:
        views.set_epoch(2)
        want = identity(list(views))
    views = StoredViews(worlds["argmax"], batch=40)
    loader: Any = DataLoader(
        views, batch_size=None, num_workers=1, persistent_workers=True, multiprocessing_context="spawn"
    )
    assert [batch.epoch for batch in loader] == [0, 0, 0]
    views.set_epoch(2)
    assert identity(list(loader)) == want
    copied = copy.deepcopy(views)
    views.set_epoch(5)
    assert (copied.epoch, views.epoch) == (3, 5)


def test_a_loop_that_is_left_goes_on_at_the_next_step(worlds: dict[str, Path]) -> None:
    asked: dict[str, Any] = {"batch": 16, "answer": "dense"}
    with StoredViews(worlds["dense"], **asked) as views:
        want = identity([batch for _ in range(3) for batch in views])
    with StoredViews(worlds["dense"], **asked, workers=2) as views:
        found = []
        for batch in views:
            found.append(batch)
            if len(found) == 3:
                break
        assert views.state_dict() == views.state_dict(after=batch)
        found += list(views)
        state = views.state_dict()
    assert state["epoch"] == 1 and state["step"] == 0
    other = StoredViews(worlds["dense"], **asked)
    other.load_state_dict(copy.deepcopy(state))
    for epoch in (1, 2):
        other.set_epoch(epoch)
        found += list(other)
    assert identity(found) == want
    other.set_epoch(0)
    assert identity(list(other)) == want[:7], "an epoch can be seen again"
    other.close()


def test_a_state_of_other_views_is_refused(worlds: dict[str, Path]) -> None:
    state = StoredViews(worlds["dense"], batch=16).state_dict()
    with pytest.raises(MismatchError, match="The state is of batch 16, these views are of batch 20"):
        StoredViews(worlds["dense"], batch=20).load_state_dict(state)
    with pytest.raises(MismatchError, match="The state is of store "):
        StoredViews(worlds["argmax"], batch=16).load_state_dict(state)


def test_ranks_share_each_step(worlds: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with StoredViews(worlds["argmax"], batch=40) as views:
        whole = list(views)
    shares = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        with StoredViews(worlds["argmax"], batch=40) as views:
            shares.append(list(views))
    for all_of_it, left, right in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat([left.row, right.row]), all_of_it.row)
        assert torch.equal(torch.cat([left.pixels, right.pixels]), all_of_it.pixels)
        assert left.total == right.total == len(all_of_it.row)


@pytest.mark.parametrize("distill", ["hard", "soft"])
def test_a_plain_loop_ends_with_the_weights_of_student_train(
    worlds: dict[str, Path], tmp_path: Path, distill: str
) -> None:
    """Twenty steps of torch and timm over the door, at the settings of the command."""
    store, steps = worlds["dense"], 20
    more = ("--epochs", "7", "--max-steps", str(steps), "--distill", distill)
    code, said = train(arguments(store, tmp_path / "run", *more), tmp_path / "said.txt")
    assert code == 0, said

    settings = Settings(distill=distill, patch_size=8, width=32, depth=2, heads=2, epochs=7, batch=34, lr=0.01, warmup_epochs=0.5)  # noqa: E501  # fmt: skip
    student = build(settings.spec(CLASSES, 32), seed=0)
    drops = ItemDropPath.install(student, 0)
    student = student.to(memory_format=torch.channels_last)
    criterion = DistillationLoss(kind=distill)
    optimizer = OptimizerSpec().create(student, settings.schedule_of(3).lr)
    mean, std = (student.net.pretrained_cfg[name] for name in ("mean", "std"))  # type: ignore[index]
    done = 0
    with StoredViews(store, batch=34, answer="dense", mean=mean, std=std) as views:
        schedule = settings.schedule_of(len(views))
        while done < steps:
            for batch in views:
                student.train()
                schedule.apply(optimizer, done)
                drops.use(torch.from_numpy(drops.draw(batch.epoch, batch.row.numpy(), batch.view.numpy())))
                truth = Truth(batch.label, batch.partner, batch.lam)
                teacher = TeacherLabels(argmax_B=batch.argmax, logits_BC=batch.logits)
                criterion(student(batch.pixels), truth, teacher, count=batch.total).total.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                done += 1
                if done == steps:
                    break
    trained = {name: value for name, value in weights(tmp_path / "run").items() if name.startswith("/model/")}
    assert trained and {f"/model/{name}" for name in student.state_dict()} == trained.keys()
    for name, value in student.state_dict().items():
        assert torch.equal(value, trained[f"/model/{name}"]), name


def test_the_trainer_learns_from_the_door(worlds: dict[str, Path]) -> None:
    store = StoreReader.open(worlds["topk:3"])
    views = views_of(store, Settings(distill="soft", tau=3.0, batch=30, seed=5, views=2, repeats=2))
    assert (views.order.seed, views.order.repeats, views.order.views) == (5, 2, (0, 1))
    assert str(views.shape.keep) == "topk:3" and views.shape.temperatures == (1.0, 3.0)


def test_a_student_learns_softly_from_components(worlds: dict[str, Path], tmp_path: Path) -> None:
    more = ("--max-steps", "2", "--distill", "soft")
    code, said = train(arguments(worlds["lowrank:2+3"], tmp_path / "run", *more), tmp_path / "said.txt")
    assert code == 0, said
