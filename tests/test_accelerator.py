"""Do the promises hold on a GPU? The commands as users type them, with ``--device cuda``.

    python -m pytest tests/test_accelerator.py                        # where there is CUDA; else all are skipped
    DISTILL_TEST_DEVICE=mps python -m pytest tests/test_accelerator.py     # on another device, cpu included

The other tests compute on the CPU, wherever they run.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.pictures import tiny_shards
from tests.small_students import RUN, STUDENT, same, weights
from tests.stores import tree

DEVICE = os.environ.get("DISTILL_TEST_DEVICE", "cuda")
HALF = "fp32" if DEVICE == "mps" else "bf16"
WAIT_S = 300.0
HERE = str(Path.cwd())
pytestmark = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no CUDA here (DISTILL_TEST_DEVICE: another)"
)

TEACHER = "test_efficientnet"
LABEL = ("--image-size", 32, "--teacher-size", "view", "--mix-window", 8, "--views", 3, "--batch-size", 16)


def command(folder: Path, module: str, *words: object) -> subprocess.Popen[str]:
    """A command of the project on the device."""
    line = [sys.executable, "-m", module, *map(str, words), "--device", DEVICE]
    env = {**os.environ, "PYTHONPATH": HERE}
    return subprocess.Popen(
        line, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )


def done(folder: Path, module: str, *words: object) -> str:
    """What it said; it must succeed."""
    process = command(folder, module, *words)
    said, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, said
    return said


def killed(folder: Path, sign: str, module: str, *words: object) -> None:
    """End it by SIGKILL as soon as files of that pattern are there, if it is not done before."""
    process = command(folder, module, *words)
    deadline = time.monotonic() + WAIT_S
    while process.poll() is None and not list(folder.glob(sign)) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(folder.glob(sign)), "it ended before it had done anything"


def label(out: str, *words: object) -> tuple[object, ...]:
    where = ("--shards", "data/*.tar", "--model", "local-dir:teacher")
    return ("stages.teacher_logits", *where, *LABEL, "--unit-rows", 32, "--out", out, *words)


def train(out: str, *words: object) -> tuple[object, ...]:
    fixed = ("--no-dvclive", "--ema", "--ema-decay", 0.9, "--drop-path", 0.1, "--deterministic")
    return ("student.train", "--logits", "store.zarr", "--out", out, *STUDENT, *RUN, *fixed, *words)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a teacher that was fitted on the device, and its labels."""
    folder = tmp_path_factory.mktemp("accelerator")
    tiny_shards(folder / "data", 100, classes=5, class_names=[f"class{number}" for number in range(5)])
    fit = ("--image-size", 32, "--epochs", 2, "--batch", 16, "--recipe", "light")
    done(folder, "stages.fit_teacher", "--shards", "data/*.tar", "--model", TEACHER, *fit, "--out", "teacher")
    done(folder, *label("store.zarr", "--keep", "dense", "--precision", HALF))
    return folder


def test_labels_are_those_of_any_other_run(world: Path) -> None:
    again = label("again.zarr", "--keep", "dense", "--precision", HALF, "--workers", 2, "--views-together", 1)
    killed(world, "again.zarr/receipts/[0-9]*/*.json", *again)
    done(world, *again)
    assert tree(world / "again.zarr") == tree(world / "store.zarr")
    said = done(world, "stages.verify_logits", "--logits", "again.zarr", "--teacher", "--out", "verified.json")
    assert "0 other argmax" in said


def test_the_manifest_names_the_precision_that_auto_is_here(world: Path) -> None:
    done(world, *label("auto.zarr", "--keep", "argmax"))
    manifest = json.loads((world / "auto.zarr/zarr.json").read_text())["attributes"]["manifest"]
    assert manifest["teacher"]["precision"] == ("bf16" if DEVICE == "cuda" else "fp32")


def test_a_compiled_teacher_says_the_same_twice(world: Path) -> None:
    for out in ("one.zarr", "two.zarr"):
        done(world, *label(out, "--keep", "topk:2", "--precision", HALF, "--compile"))
    assert tree(world / "one.zarr") == tree(world / "two.zarr")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_killed_student_ends_as_if_nothing_had_been(world: Path, precision: str) -> None:
    if precision not in ("fp32", HALF) and DEVICE != "cuda":
        pytest.skip("fp16 is trained on CUDA")
    words = ("--distill", "soft", "--precision", precision, "--accumulate", 2, "--checkpoint-every", 1, "--epochs", 6)
    done(world, *train(f"whole-{precision}", *words))
    killed(world, f"killed-{precision}/last.pt", *train(f"killed-{precision}", *words))
    done(world, *train(f"killed-{precision}", *words))
    assert same(weights(world / f"whole-{precision}"), weights(world / f"killed-{precision}"))


def test_a_compiled_student_learns_and_is_scored(world: Path) -> None:
    done(world, *train("compiled", "--precision", HALF, "--compile", "--val-shards", "data/*.tar"))
    scored = ("--shards", "data/*.tar", "--checkpoint")
    for run in ("compiled", f"whole-{HALF}"):
        if (world / run).exists():
            done(world, "student.evaluate", *scored, run, "--out", f"{run}.json")
            assert json.loads((world / f"{run}.json").read_text())["student"]["images"] == 100


def test_offline_equals_online(world: Path) -> None:
    words = ("--distill", "soft", "--precision", HALF)
    done(world, *train("offline", *words))
    module, *line = train("online", *words)
    done(world, "benchmarks.evidence.online", *line, "--teacher", "local-dir:teacher", "--teacher-precision", HALF)
    mine, theirs = (torch.load(world / run / "last.pt", weights_only=True)["model"] for run in ("offline", "online"))
    assert module == "student.train" and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two GPUs here")
def test_two_ranks_over_nccl(world: Path) -> None:
    def ranks(out: str, *words: object) -> None:
        line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
        line += map(str, (*train(out, "--checkpoint-every", 1), *words, "--device", DEVICE))
        subprocess.run(line, cwd=world, env={**os.environ, "PYTHONPATH": HERE}, check=True, timeout=WAIT_S)

    ranks("ranks")
    ranks("stopped", "--max-steps", 3)
    ranks("stopped")
    assert same(weights(world / "ranks"), weights(world / "stopped"))
