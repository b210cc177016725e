"""A compiled student is compiled once: one graph for all of its blocks, one shape for all of its batches."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from student.feed.feed import Step
from student.feed.tensors import part_of
from student.learning.compiling import filled, repeated_blocks, sees_its_batch
from student.learning.engine import Engine
from student.network.drop_path import ItemDropPath
from student.network.model import StudentSpec, build
from student.ranks.ranks import Ranks
from tests.small_engines import CLASSES, COUNT, STATS, parameters, settings, step
from tests.small_students import arguments, make_store, same, weights

compiles = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def engine(**changes: Any) -> Engine:
    chosen = settings(**changes)
    student = build(chosen.spec(CLASSES, 32), seed=1)
    return Engine(student, chosen, chosen.schedule_of(4), Ranks(), **STATS, largest=COUNT)


def shorter(whole: Step, count: int) -> Step:
    batch = whole.batch.part(0, count)
    part = slice(0, count)
    return dataclasses.replace(
        whole, whole=batch, batch=batch, pixels_BHWC=whole.pixels_BHWC[part],
        truth=part_of(whole.truth, part), teacher=part_of(whole.teacher, part),
    )  # fmt: skip


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@compiles
def test_six_blocks_and_batches_of_four_sizes_are_one_compilation() -> None:
    compiled, plain = (engine(compile=on, depth=6, drop_path=0.3, opt="sgd", lr=0.1) for on in (True, False))
    for number, count in enumerate((COUNT, COUNT - 2, COUNT - 1, COUNT - 3)):
        sums = [one.learn(shorter(step(number), count), number) for one in (compiled, plain)]
        assert torch.allclose(*sums, rtol=1e-5)
    assert graphs() == 1
    assert torch.allclose(parameters(compiled.student), parameters(plain.student), rtol=0, atol=1e-5)
    compiled.answer(compiled.student.eval(), step().pixels_BHWC[:5])
    assert graphs() == 1, "evaluation is compiled, too"


@compiles
def test_micro_batches_have_one_size_too() -> None:
    compiled = engine(compile=True, accumulate=5)
    for number, count in enumerate((COUNT, COUNT - 1)):  # cut into parts of 2, 2, 3, 2, 3 and of 2, 2, 2, 2, 3
        compiled.learn(shorter(step(number), count), number)
    assert graphs() == 1


def test_a_convnet_is_compiled_whole_and_gets_its_batches_as_they_are() -> None:
    sizes: dict[str, Any] = {"patch_size": None, "width": None, "depth": None, "heads": None}
    whole = engine(compile=True, model="test_resnet", drop_path=0.0, **sizes)
    assert whole._size is None and whole._forward is not whole.student
    blocks = engine(compile=True)
    assert blocks._size == COUNT and blocks._forward is blocks.student
    student = build(StudentSpec(model="resnet10t", num_classes=5, image_size=32, drop_path=0.0), seed=0)
    assert repeated_blocks(student) == [] and sees_its_batch(student)


@pytest.mark.parametrize("model", ["deit_tiny_distilled_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"])
def test_blocks_are_those_that_occur_more_than_once(model: str) -> None:
    student = build(StudentSpec(model=model, num_classes=5, image_size=224), seed=0)
    blocks = repeated_blocks(student)
    inside = sum(weight.numel() for block in blocks for weight in block.parameters())
    assert len(blocks) >= 12 and inside > sum(weight.numel() for weight in student.parameters()) / 2


def test_the_first_block_may_be_made_like_the_others() -> None:
    spec = StudentSpec(num_classes=5, image_size=32, patch_size=8, width=32, depth=3, heads=2, drop_path=0.4)
    one, other = (build(spec, seed=1).train() for _ in range(2))
    plain, alike = ItemDropPath.install(one, 3), ItemDropPath.install(other, 3, alike=True)
    assert alike.rate_L == plain.rate_L and len(alike.idle) == 2 and plain.idle == []
    assert all(type(block.drop_path1) is ItemDropPath for block in other.net.get_submodule("blocks").children())
    scale_LB = torch.tensor([[0.0, 1.25], [1.25, 0.0], [1.5, 1.5], [0.0, 0.0]])
    for masks in (plain, alike):
        masks.use(scale_LB)
    x_BCHW = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(one(x_BCHW).cls, other(x_BCHW).cls)


@pytest.mark.parametrize("changes", [{}, {"drop": 0.3, "drop_path": 0.3}, {"precision": "bf16"}, {"accumulate": 3}])
def test_items_that_fill_a_batch_up_teach_nothing(changes: dict[str, Any]) -> None:
    """Not compiled here: the gradient of a batch that is filled up is that of the batch."""
    moved = []
    for size in (None, 9, 16):
        trained = engine(opt="sgd", lr=1.0, **changes)
        trained._size = size
        losses = trained.learn(shorter(step(), 9), 0)
        moved.append((losses, parameters(trained.student)))
    exact = 1e-2 if changes.get("precision") else 2e-6
    for losses, weight in moved[1:]:
        assert torch.allclose(losses, moved[0][0], rtol=exact) and torch.allclose(
            weight, moved[0][1], rtol=0, atol=exact
        )


def test_filled() -> None:
    tensor = torch.arange(6).reshape(2, 3)
    assert filled(tensor, 2) is tensor
    assert filled(tensor, 3).tolist() == [[0, 1, 2], [3, 4, 5], [0, 0, 0]]
    assert filled(tensor, 4, 1).tolist() == [[0, 1, 2, 0], [3, 4, 5, 0]]


@compiles
def test_a_compiled_run_goes_on_bit_by_bit(tmp_path: Path) -> None:
    """Real processes: 100 rows in three steps of 34 and 32, cut in the middle of the second epoch."""
    store = make_store(tmp_path, rows=100)
    said = [_train(store, tmp_path / "whole")]
    said += [_train(store, tmp_path / "cut", "--max-steps", "4"), _train(store, tmp_path / "cut")]
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert all("--compile: the first step took" in text for text in said), said


def _train(store: Path, out: Path, *more: str) -> str:
    line = [sys.executable, "-m", "student.train", *arguments(store, out, "--compile", *more)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr
