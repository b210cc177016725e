"""What do stored labels cost a training step, against the same step without a teacher?

    python -m benchmarks.student_step --images FOLDER [--model deit_tiny_distilled_patch16_224] [--batch 32] [--steps 12]

A store with 1,000 classes and made-up logits is labelled over the photographs of FOLDER in each keep. Then students take
steps in turn (no teacher, hard, soft from dense, soft from top-10), waiting for pixels and labels included. Besides
the wall clock, processor time of the whole process is counted, which other processes on the machine do not change (with
``--workers 0`` rendering is part of it), and of it what labels take: reading units, gathering, checking, converting.
Ratios are of medians.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch

from pipeline.index import SampleIndex, scan
from pipeline.labels import Keep, encode
from pipeline.loader import Loader
from pipeline.manifest import Manifest, TeacherCard
from pipeline.recipe import Recipe
from pipeline.render import Renderer
from pipeline.store import LabelStore, UnitLabels
from student.answers import StoredAnswers, needed
from student.data import Feed, Step, piece_capacity
from student.device import teacher_labels
from student.engine import Engine
from student.launch import order_of
from student.model import build
from student.ranks import Ranks, choose_device
from student.settings import Settings
from tests.pictures import sample, write_tar

CLASSES, ROWS = 1000, 512
CASES = {
    "none": ("none", "argmax"),
    "hard": ("hard", "argmax"),
    "soft dense": ("soft", "dense"),
    "soft topk:10": ("soft", "topk:10"),
}
CARD = TeacherCard(
    name="made up", weights_sha256="00" * 32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), input_size=224,
    classes=CLASSES, precision="fp32", batch_size=64,
)  # fmt: skip


def make_store(folder: Path, index: SampleIndex, keep: str) -> LabelStore:
    """One view of every row, labelled with noise."""
    manifest = Manifest(
        recipe=Recipe(), index_digest=index.digest(), rows=len(index), teacher=CARD, keep=Keep.parse(keep),
        temperatures=(3.0,), num_classes=CLASSES, class_names=None, class_map=None, unit_rows=ROWS, luma=True,
    )  # fmt: skip
    renderer, path = Renderer(manifest.recipe, index, index.files()), folder / f"{keep.replace(':', '')}.zarr"
    with LabelStore.open_writing(path, manifest, index, 1) as store:
        for unit in store.missing():
            row_B = np.arange(*store.rows_of(unit))
            pixels = np.empty((len(row_B), 224, 224, 3), np.uint8)
            drawn = renderer.render(row_B, np.zeros_like(row_B), pixels)
            logits = np.random.default_rng(unit.run).normal(0, 3, (len(row_B), CLASSES)).astype(np.float32)
            labels = encode(logits, manifest.keep, manifest.temperatures)
            store.write(unit, UnitLabels(labels=labels, crc_B=drawn.crc_B, luma_B16=drawn.luma_B16))
        store.finish()
    return LabelStore.open_finished(path)


@contextlib.contextmanager
def student(
    store: LabelStore, settings: Settings, workers: int, device: str
) -> Iterator[tuple[Iterator[Step], Engine, Feed]]:
    """Steps, and the engine that takes them."""
    order, ranks = order_of(store, settings), Ranks(device=choose_device(device))
    answers = StoredAnswers(store, needed(settings.distill, store.manifest.keep.kind, luma=False), keep_units=16)
    with Loader(order.recipe, store.index, batch=piece_capacity(order), workers=workers) as loader:
        feed = Feed(order, answers, store.index, loader, ranks, temperatures=store.manifest.temperatures)
        net = build(settings.spec(CLASSES, 224), seed=0)
        statistics_ = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
        yield (
            feed.steps(0, 0, settings.epochs),
            Engine(net, settings, settings.schedule_of(order.steps), ranks, **statistics_),
            feed,
        )
    answers.close()


@click.command()
@click.option(
    "--images", type=click.Path(path_type=Path, exists=True), required=True, help="A folder of JPEG photographs."
)
@click.option("--model", default="deit_tiny_distilled_patch16_224", show_default=True, help="The student.")
@click.option("--batch", default=32, show_default=True, help="Views a step.")
@click.option("--steps", default=12, show_default=True, help="Steps of each case; the first two are not counted.")
@click.option("--workers", default=1, show_default=True, help="Rendering processes of each case.")
@click.option("--device", default="cpu", show_default=True, help="Where the student trains.")
def main(images: Path, model: str, batch: int, steps: int, workers: int, device: str) -> None:
    """Print seconds a step for each case, and the ratio to a step without labels."""
    files = [path.read_bytes() for path in sorted(images.rglob("*.[jJ]*"))[:ROWS]]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        tar = write_tar(folder / "0.tar", [m for n, data in enumerate(files) for m in sample(f"{n:04d}", data, n)])
        index = scan([str(tar)])
        stores = {keep: make_store(folder, index, keep) for _, keep in CASES.values()}
        wall: dict[str, list[float]] = {case: [] for case in CASES}
        cpu: dict[str, list[float]] = {case: [] for case in CASES}
        runs = {}
        for case, (distill, keep) in CASES.items():
            settings = Settings(model=model, distill=distill, batch=batch, epochs=1000, views=1)
            runs[case] = stack.enter_context(student(stores[keep], settings, workers, device))
        for number in range(steps):
            for case, (source, engine, _) in runs.items():
                begun, busy = time.perf_counter(), time.process_time()
                engine.learn(next(source), number).sum().item()
                wall[case].append(time.perf_counter() - begun)
                cpu[case].append(time.process_time() - busy)
        labels = {case: label_seconds(stores[keep], case, batch) for case, (_, keep) in CASES.items()}
    print(f"{'':14}{'wall ms':>10}{'ratio':>8}{'cpu ms':>10}{'ratio':>8}{'labels ms':>11}{'of a step':>11}")
    for case in CASES:
        middles = [statistics.median(taken[case][2:]) for taken in (wall, cpu)]
        bases = [statistics.median(taken["none"][2:]) for taken in (wall, cpu)]
        columns = [f"{1000 * m:10.1f}{m / b:8.3f}" for m, b in zip(middles, bases, strict=True)]
        print(f"{case:14}{''.join(columns)}{1000 * labels[case]:11.2f}{labels[case] / middles[1]:11.2%}")


def label_seconds(store: LabelStore, case: str, batch: int, turns: int = 30) -> float:
    """Processor time of all that labels need for one step: reading their units included, once an epoch."""
    settings = Settings(distill=CASES[case][0], batch=batch, epochs=1000, views=1)
    order = order_of(store, settings)
    busy = time.process_time()
    for epoch in range(turns):
        answers = StoredAnswers(store, needed(settings.distill, store.manifest.keep.kind, luma=False), keep_units=16)
        for step in range(order.steps):
            share = order.batch(epoch, step)
            answers.expect(share)
            gathered = answers.gather(share)
            teacher_labels(gathered.labels, store.manifest.temperatures, torch.device("cpu"))
            assert (gathered.crc_B == gathered.crc_B.copy()).all()
        answers.close()
    return (time.process_time() - busy) / (turns * order.steps)


if __name__ == "__main__":
    main()
