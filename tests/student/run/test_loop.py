"""Offline equals online: a step with stored labels is the step that it would be with the teacher beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from pipeline.labels.dense import Dense
from pipeline.labels.keep import Keep
from pipeline.labels.soft_labels import encode
from pipeline.proofs.same_views import Labelled
from pipeline.rendering.loader import Loader
from pipeline.rendering.renderer import Renderer
from pipeline.shards.index import SampleIndex
from pipeline.store.reader import StoreReader
from student.feed.feed import Feed, piece_capacity
from student.feed.order import Batch
from student.feed.stored_answers import Answers, AnswerSource, StoredAnswers, needed
from student.feed.targets import TeacherLabels
from student.feed.tensors import normalise, teacher_labels
from student.learning.engine import Engine
from student.learning.settings import Settings
from student.network.model import build
from student.ranks.ranks import Ranks, Stop
from student.run.launch import views_of
from student.run.loop import Run, _send
from tests.small_students import CLASSES, RECIPE, make_store

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 20
TEMPERATURES = (1.0, 3.0)
STATS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class Beside:
    """A teacher beside the student: it sees each view alone, so its answer depends on the view and nothing else."""

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.net = timm.create_model("test_resnet", num_classes=CLASSES).eval()
        self.half = torch.tensor([0.5, 0.5, 0.5])

    @torch.inference_mode()
    def logits(self, _row_B: NDArray[np.int64], _view: int, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        x_BCHW = normalise(torch.from_numpy(pixels_BHWC), self.half, self.half)
        answers: NDArray[np.float32] = torch.cat([self.net(x_BCHW[at : at + 1]) for at in range(len(x_BCHW))]).numpy()
        return 20 * answers  # an untrained head says little


class LiveAnswers:
    """Answers that are made when they are needed, through the encoding of a store."""

    def __init__(self, teacher: Beside, index: SampleIndex, keep: Keep) -> None:
        self.teacher, self.keep, self.renderer = teacher, keep, Renderer(RECIPE, index, index.files())
        self.raw_BC = np.empty((0, CLASSES), np.float32)

    def expect(self, batch: Batch) -> None:
        """Nothing can be made ahead."""

    def gather(self, batch: Batch) -> Answers:
        pixels = np.empty((len(batch), 32, 32, 3), np.uint8)
        drawn = self.renderer.render(batch.row_B, batch.view_B, pixels)
        self.raw_BC = self.teacher.logits(batch.row_B, 0, pixels)
        labels = encode(self.raw_BC, self.keep, TEMPERATURES)
        return Answers(labels=labels, labelled=Labelled(True, drawn.crc_B, drawn.luma_B16))


@contextlib.contextmanager
def training(store: StoreReader, answers: AnswerSource, settings: Settings) -> Iterator[tuple[Feed, Engine]]:
    """A feed from these answers, and a fresh student."""
    order = views_of(store, settings).order
    student = build(settings.spec(CLASSES, 32), seed=1)
    engine = Engine(student, settings, settings.schedule_of(order.steps), Ranks(), **STATS)
    with Loader(RECIPE, store.index, batch=piece_capacity(order), workers=0) as loader:
        keep = getattr(answers, "keep", store.manifest.keep)
        yield (
            Feed(
                order,
                answers,
                store.index,
                loader,
                Ranks(),
                keep=keep,
                temperatures=TEMPERATURES,
                temperature=settings.tau,
            ),
            engine,
        )


def losses(store: StoreReader, answers: AnswerSource, settings: Settings) -> list[list[float]]:
    with training(store, answers, settings) as (feed, engine):
        steps = feed.steps(0, 0, settings.epochs)
        return [engine.learn(next(steps), update).tolist() for update in range(STEPS)]


@pytest.fixture(scope="module")
def teacher() -> Beside:
    return Beside()


@pytest.mark.parametrize(
    ("distill", "keep"),
    [("hard", "argmax"), ("soft", "dense"), ("soft", "topk:3"), ("soft", "lowrank:2+3"), ("hard", "topk:5")],
)
def test_offline_equals_online_bit_by_bit(teacher: Beside, tmp_path: Path, distill: str, keep: str) -> None:
    store = StoreReader.open(make_store(tmp_path, rows=60, keep=keep, logits=teacher.logits))
    settings = Settings(
        distill=distill, patch_size=8, width=32, depth=2, heads=2, epochs=7, batch=20, lr=1e-2, views=2
    )  # fmt: skip
    stored = StoredAnswers(store, needed(store.manifest, soft=distill == "soft", luma=False), keep_units=8)
    offline = losses(store, stored, settings)
    stored.close()
    online = losses(store, LiveAnswers(teacher, store.index, store.manifest.keep), settings)
    assert offline == online
    assert len({tuple(loss) for loss in offline}) == STEPS


def test_the_raw_teacher_is_within_the_error_of_its_encoding(teacher: Beside, tmp_path: Path) -> None:
    """A code is at most 1/512 off, so no target probability at temperature 1 is off by more than about 0.4 %."""
    store = StoreReader.open(make_store(tmp_path, rows=60, logits=teacher.logits))
    settings = Settings(
        distill="soft", tau=1.0, patch_size=8, width=32, depth=2, heads=2, drop_path=0.0, epochs=1, batch=20, views=1
    )  # fmt: skip
    live = LiveAnswers(teacher, store.index, Dense())
    with training(store, live, settings) as (feed, engine):
        for step in feed.steps(0, 0, 1):
            encoded = teacher_labels(Dense(), encode(live.raw_BC, Dense()), (), torch.device("cpu"))
            raw = TeacherLabels(argmax_B=encoded.argmax_B, logits_BC=torch.from_numpy(live.raw_BC))
            heads = engine.forward(step.pixels_BHWC)
            parts = [engine.loss(heads, step.truth, labels, count=step.count) for labels in (encoded, raw)]
            assert parts[0].cls == parts[1].cls
            stored, live_loss = (float(part.dist.detach()) for part in parts)
            assert abs(stored - live_loss) < 0.004 * max(live_loss, 1)


class NothingWaits(TorchFunctionMode):
    """Refuses what would make the host wait for a GPU: a number read from it, or sent to it from ordinary memory."""

    WAITING = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "nonzero", "new_tensor", "tensor")

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = getattr(func, "__name__", str(func))
        assert name not in self.WAITING, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device(teacher: Beside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read of a step is read later, but for the optimiser's own counters, which lie on the host."""
    store = StoreReader.open(make_store(tmp_path, rows=60, logits=teacher.logits))
    settings = Settings(
        distill="soft", patch_size=8, width=32, depth=2, heads=2, epochs=1, batch=20, views=1, clip_grad=1.0, ema=True,
        accumulate=2, precision="bf16", drop=0.1,
    )  # fmt: skip
    stored = StoredAnswers(store, needed(store.manifest, soft=True, luma=False), keep_units=8)
    with training(store, stored, settings) as (feed, engine):
        move = engine.optimizer.step

        def moved(*args: object, **more: object) -> object:
            with torch._C.DisableTorchFunction():
                return move(*args, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(engine.optimizer, "step", moved)
        monkeypatch.setattr("student.network.dropout.kept", lambda key, _call, n, _p: key.new_ones(key.shape[1], n) > 0)
        run = Run(
            directory=tmp_path, settings=settings, engine=engine, feed=feed, stop=Stop(), validate=None, meta={}
        )  # fmt: skip
        for step in feed.steps(0, 0, 1):
            with NothingWaits():
                sums = _send(run, step, engine.learn(step, step.step)).sums
            assert len(sums.tolist()) == 4
    stored.close()
