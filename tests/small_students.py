"""A world small enough to train in seconds: real tars, a real finished store, a student of two narrow blocks.

`train` runs the command in a forked process (real signals, real exit codes, no import to wait for); several at once,
with the variables that torchrun sets, are the ranks of one run.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import gc
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.labelling.environment import describe_environment
from pipeline.labels.codes import quantise
from pipeline.labels.keeps import parse_keep
from pipeline.labels.soft_labels import encode
from pipeline.proofs.checksums import checksum
from pipeline.proofs.checksums import luma as thumbnail
from pipeline.proofs.proof import Luma, kept
from pipeline.rendering.drift import draw_witnesses
from pipeline.rendering.renderer import Rendered, Renderer
from pipeline.shards.index import scan
from pipeline.store.manifest import Manifest, TeacherCard
from pipeline.store.unit_labels import UnitLabels
from pipeline.store.writer import StoreWriter
from pipeline.views.recipe import Recipe
from student import train as command
from tests.many_ranks import free_port
from tests.pictures import tiny_shards

CLASSES = 5
RECIPE = Recipe(image_size=32, mix_window=8)
CARD = TeacherCard(
    name="test_teacher", weights_sha256="ab" * 32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), input_size=32,
    classes=CLASSES, precision="fp32", batch_size=8,
)  # fmt: skip
STUDENT = ("--patch-size", "8", "--width", "32", "--depth", "2", "--heads", "2")
RUN = ("--epochs", "2", "--batch", "34", "--warmup-epochs", "0.5", "--lr", "0.01", "--log-every", "2")
PATIENCE_S = 240
"""For a run that computes for moments"""
HERE = ("--workers", "0", "--device", "cpu", "--no-dvclive")

Logits = Callable[[NDArray[np.int64], int, NDArray[np.uint8]], NDArray[np.float32]]


def random_logits(row_B: NDArray[np.int64], view: int, _pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What a teacher might say; its argmax is often the true class (row mod classes)."""
    logits = np.random.default_rng([int(row_B[0]), view]).normal(0, 2, (len(row_B), CLASSES)).astype(np.float32)
    logits[np.arange(len(row_B)), row_B % CLASSES] += 3
    return logits


def make_store(
    folder: Path, *, rows: int = 100, views: int = 2, keep: str = "dense", recipe: Recipe = RECIPE,
    logits: Logits = random_logits, shards: Sequence[str] = (), finish: bool = True, brighten: int = 0,
    labelled: Recipe | None = None, luma: Luma = True,
) -> Path:  # fmt: skip
    """A store of labels for `rows` small pictures beside it.

    `brighten` is how another machine would draw them; `labelled` another recipe than the one that it says it used.
    """
    urls = tuple(shards) or tiny_shards(folder / "data", rows, classes=CLASSES)
    index = scan(urls)
    manifest = Manifest(
        recipe=recipe, index_digest=index.digest(), rows=len(index), teacher=CARD, keep=parse_keep(keep),
        temperatures=(1.0, 3.0), num_classes=CLASSES, class_names=None, class_map=None, unit_rows=16, luma=luma,
    )  # fmt: skip
    renderer = _Brighter(labelled or recipe, index, index.files(), levels=brighten)
    witness = draw_witnesses(recipe, index)
    witness = dataclasses.replace(witness, pixels_WHWC=_brighter(witness.pixels_WHWC, brighten))
    path = folder / "store.zarr"
    with StoreWriter.open(
        path,
        manifest,
        index,
        views,
        witness=lambda: witness,
        environment=describe_environment,
        answers=partial(_in_full, logits, renderer),
    ) as store:
        for unit in store.missing()[: None if finish else -1]:
            row_B = np.arange(*store.layout.rows_of(unit))
            view_B = np.full(len(row_B), unit.view)
            pixels = np.empty((len(row_B), recipe.image_size, recipe.image_size, 3), np.uint8)
            drawn = renderer.render(row_B, view_B, pixels)
            labels = encode(logits(row_B, unit.view, pixels), store.manifest.keep, manifest.temperatures)
            crc_B, luma_B16 = kept(luma, drawn.crc_B, drawn.luma_B16)
            store.write(unit, UnitLabels(labels=labels, crc_B=crc_B, luma_B16=luma_B16))
        if finish:
            store.finish()
    return path


def _in_full(logits: Logits, renderer: Renderer, row_N: NDArray[np.int64]) -> NDArray[np.uint16]:
    """The answers about view 0 of these rows, as codes of all classes."""
    side = renderer.recipe.image_size
    pixels = np.empty((len(row_N), side, side, 3), np.uint8)
    renderer.render(row_N, np.zeros(len(row_N), np.int64), pixels)
    return quantise(logits(row_N, 0, pixels), str)


class _Brighter(Renderer):
    """A renderer on a machine that draws every pixel so many levels brighter."""

    def __init__(self, *world: Any, levels: int) -> None:
        super().__init__(*world)
        self.levels = levels

    def render(self, row_B: NDArray[np.int64], view_B: NDArray[np.int64], out_BHWC: NDArray[np.uint8]) -> Rendered:
        drawn = super().render(row_B, view_B, out_BHWC)
        if not self.levels:
            return drawn
        out_BHWC[:] = _brighter(out_BHWC, self.levels)
        crcs, lumas = [checksum(image) for image in out_BHWC], [thumbnail(image) for image in out_BHWC]
        return Rendered(np.array(crcs, np.uint32), np.array(lumas, np.uint8))


def _brighter(pixels: NDArray[np.uint8], levels: int) -> NDArray[np.uint8]:
    return np.clip(pixels.astype(np.int16) + levels, 0, 255).astype(np.uint8)


def arguments(store: Path, out: Path, *more: str) -> list[str]:
    """The command line of a short run."""
    return ["--logits", str(store), "--out", str(out), *STUDENT, *RUN, *HERE, *more]


def start(line: Sequence[str], output: Path, env: Mapping[str, str] | None = None) -> BaseProcess:
    """The command in a process of its own; what it says is in `output`."""
    output.unlink(missing_ok=True)
    process = multiprocessing.get_context("fork").Process(target=_main, args=(list(line), output, dict(env or {})))
    process.start()
    return process


def train(line: Sequence[str], output: Path, *, ranks: int = 1) -> tuple[int, str]:
    """Run the command to its end, on one or more ranks: the worst exit status, and what rank 0 said."""
    outputs = [output.with_suffix(f".rank{rank}") for rank in range(ranks)]
    envs = rank_env(ranks)
    processes = [start(line, path, env) for path, env in zip(outputs, envs, strict=True)]
    for process in processes:
        process.join(PATIENCE_S + 20)
    hung = [path.read_text() for process, path in zip(processes, outputs, strict=True) if process.exitcode is None]
    for process in processes:
        process.kill()
    assert not hung, f"hangs, at the end of what it said: {hung[0]}"
    for process in processes:
        process.join()
    return max(abs(process.exitcode or 0) for process in processes), outputs[0].read_text()


def rank_env(ranks: int) -> list[dict[str, str]]:
    """What torchrun tells each rank."""
    if ranks == 1:
        return [{}]
    common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def _main(line: list[str], output: Path, env: dict[str, str]) -> None:
    gc.freeze()  # what the parent has not yet collected (a DataLoader, say, with workers) is not this process's to end
    os.environ.update(env)
    file = output.open("w", buffering=1)
    sys.stdout = sys.stderr = file
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    faulthandler.dump_traceback_later(PATIENCE_S, file=file)  # where it stands, should it hang
    torch.set_num_threads(1)  # a forked process must not use its parent's thread pool
    command.main(line)


def weights(run: Path, which: str = "last") -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, by path."""
    return dict(_tensors(torch.load(run / f"{which}.pt", weights_only=True), ""))


def same(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> bool:
    """Bit-identical."""
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


def record(run: Path) -> list[dict[str, Any]]:
    """The run's record, without what depends on the machine's speed."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "wait")} for line in lines]


def _tensors(value: Any, path: str) -> list[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        return [(path, value)]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [pair for key, item in items for pair in _tensors(item, f"{path}/{key}")]
