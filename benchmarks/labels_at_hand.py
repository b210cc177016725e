"""Finished stores, teachers and students without a training run: what the tables measure with.

`made_up_store` holds true checksums and logits of no teacher, for what does not look at their values. `random_teacher`
is a real architecture with random weights, for what measures time. `real_logits` asks a trained convnet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray

from benchmarks.photographs import CLASSES
from pipeline.labelling.writers import open_to_label
from pipeline.labels.keeps import parse_keep
from pipeline.labels.soft_labels import encode
from pipeline.rendering.loader import Loader
from pipeline.rendering.renderer import Renderer
from pipeline.shards.index import SampleIndex
from pipeline.store.manifest import Manifest, TeacherCard
from pipeline.store.reader import StoreReader
from pipeline.store.unit_labels import UnitLabels
from pipeline.teacher.teacher import Teacher
from pipeline.views.recipe import Recipe
from student.feed.feed import Feed, piece_capacity
from student.feed.stored_answers import AnswerSource, StoredAnswers, needed
from student.learning.engine import Engine
from student.learning.settings import Settings
from student.network.model import build
from student.ranks.ranks import Ranks
from student.run.launch import views_of

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
TEMPERATURES = (1.0, 3.0)
Logits = Callable[[NDArray[np.int64], NDArray[np.uint8]], NDArray[np.float32]]


def card_of(name: str, *, precision: str = "fp32", batch: int = 64, **statistics: tuple[float, ...]) -> TeacherCard:
    """What a manifest says of a teacher whose weights nobody keeps."""
    found: Any = {**IMAGENET, **statistics}
    return TeacherCard(
        name=name, weights_sha256="00" * 32, **found, input_size=224, classes=CLASSES, precision=precision,
        batch_size=batch,
    )  # fmt: skip


def manifest_of(
    index: SampleIndex, keep: str, *, unit_rows: int, card: TeacherCard | None = None, recipe: Recipe | None = None
) -> Manifest:
    """The contract of a store over this index."""
    return Manifest(
        recipe=recipe or Recipe(), index_digest=index.digest(), rows=len(index), teacher=card or card_of("made up"),
        keep=parse_keep(keep), temperatures=TEMPERATURES, num_classes=CLASSES, class_names=None, class_map=None,
        unit_rows=unit_rows, luma=True,
    )  # fmt: skip


def noise(row_B: NDArray[np.int64], _pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits of no teacher."""
    return np.random.default_rng(int(row_B[0])).normal(0, 3, (len(row_B), CLASSES)).astype(np.float32)


def made_up_store(
    path: Path, index: SampleIndex, keep: str, *, unit_rows: int, logits: Logits = noise, recipe: Recipe | None = None
) -> StoreReader:
    """One view of every row, with true checksums."""
    manifest = manifest_of(index, keep, unit_rows=unit_rows, recipe=recipe)
    renderer, side = Renderer(manifest.recipe, index, index.files()), manifest.recipe.image_size
    with open_to_label(path, manifest, index, 1) as store:
        for unit in store.missing():
            row_B = np.arange(*store.layout.rows_of(unit))
            pixels = np.empty((len(row_B), side, side, 3), np.uint8)
            drawn = renderer.render(row_B, np.full(len(row_B), unit.view), pixels)
            labels = encode(logits(row_B, pixels), manifest.keep, manifest.temperatures)
            store.write(unit, UnitLabels(labels=labels, crc_B=drawn.crc_B, luma_B16=drawn.luma_B16))
        store.finish()
    return StoreReader.open(path)


def random_teacher(name: str, *, precision: str, batch: int, device: str = "cpu", compiled: bool = False) -> Teacher:
    """A timm architecture; nobody looks at what it says."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, pretrained=False, num_classes=CLASSES)
    return Teacher(model, card_of(name, precision=precision, batch=batch), torch.device(device), compiled=compiled)


def settings_of(student: str, batch: int, **more: Any) -> Settings:
    """A student by its short name (tiny, small, base), or a narrow one for the tests (toy)."""
    sizes: dict[str, Any] = {}
    if student == "toy":
        student, sizes = "tiny", {"width": 64, "depth": 1, "heads": 1}
    model = f"deit_{student}_distilled_patch16_224"
    return Settings(model=model, batch=batch, epochs=1000, views=1, **sizes, **more)


def engine_of(settings: Settings, steps: int, ranks: Ranks) -> Engine:
    """The student and its optimiser."""
    net = build(settings.spec(CLASSES, 224), seed=0)
    return Engine(net, settings, settings.schedule_of(steps), ranks, **IMAGENET)


@contextmanager
def training(
    store: StoreReader, settings: Settings, *, workers: int, ranks: Ranks, answers: AnswerSource | None = None
) -> Iterator[tuple[Feed, Engine]]:
    """A run as `student.run.launch` puts it together, without its files."""
    order = views_of(store, settings).order
    with ExitStack() as stack:
        loader = stack.enter_context(Loader(order.recipe, store.index, batch=piece_capacity(order), workers=workers))
        if answers is None:
            names = needed(store.manifest, soft=settings.distill == "soft", luma=False)
            stored = StoredAnswers(store, names, keep_units=16)
            stack.callback(stored.close)
            answers = stored
        feed = Feed(
            order,
            answers,
            store.index,
            loader,
            ranks,
            keep=store.manifest.keep,
            temperatures=store.manifest.temperatures,
        )
        yield feed, engine_of(settings, order.steps, ranks)
