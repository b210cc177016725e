"""Do the promises hold on a GPU? The commands as users type them, with ``--device cuda``.

    python -m pytest tests/test_accelerator.py                        # where there is CUDA; else all are skipped
    DISTILL_TEST_DEVICE=mps python -m pytest tests/test_accelerator.py     # on another device, cpu included

The other tests compute on the CPU, wherever they run; beside them, these find no CUDA. Commands start for seconds
and compute for moments, so those that do not need each other run side by side (`running`), and all is over within two
minutes on 16 cores.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from timm.models._hub import save_config_for_hf

from pipeline.labelling.coding import DeviceCoding, HostCoding
from pipeline.labels.keeps import parse_keep
from pipeline.models.stream import CudaStream, registered
from pipeline.rendering.ring import Ring
from pipeline.store.reader import StoreReader
from student.dataset import StoredViews
from student.feed.tensors import Assembler, normalise
from student.learning.engine import Engine
from student.learning.settings import Settings
from student.network.model import build
from student.ranks.ranks import Ranks, Stop
from student.run.loop import Run, _send
from tests.pictures import tiny_shards
from tests.small_students import RUN, STUDENT, make_store, same, weights
from tests.stores import same_labels, tree

DEVICE = os.environ.get("DISTILL_TEST_DEVICE", "cuda")
HALF = "fp32" if DEVICE == "mps" else "bf16"
WAIT_S = 300.0 if DEVICE != "cpu" else 1200.0
"""For a command, which computes for moments; where the processor does it, others may be at work there, too"""
PATHS = os.pathsep.join(filter(None, (str(Path.cwd()), os.environ.get("PYTHONPATH"))))
"""This project, and whatever else the tests were given"""
SIDE_BY_SIDE = max(1, min(8, (os.cpu_count() or 1) // 2))
pytestmark = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no CUDA here (DISTILL_TEST_DEVICE: another)"
)

TEACHER = "test_efficientnet"
LABEL = ("--image-size", 32, "--teacher-size", "view", "--mix-window", 8, "--views", 3, "--batch-size", 16)


def command(folder: Path, module: str, *words: object) -> subprocess.Popen[str]:
    """A command of the project on the device."""
    line = [sys.executable, "-m", module, *map(str, words), "--device", DEVICE]
    env = {**os.environ, "PYTHONPATH": PATHS}
    return subprocess.Popen(
        line, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )


def done(folder: Path, module: str, *words: object) -> str:
    """What it said; it must succeed, and does not outlive the wait for it."""
    process = command(folder, module, *words)
    try:
        said, _ = process.communicate(timeout=WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"{module} was not done within {WAIT_S:.0f} s; it said:\n{process.communicate()[0]}")
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
    """Shards, a teacher with the weights that it was born with, and its labels."""
    folder = tmp_path_factory.mktemp("accelerator")
    tiny_shards(folder / "data", 100, classes=5, class_names=[f"class{number}" for number in range(5)])
    torch.manual_seed(0)
    model = timm.create_model(TEACHER, num_classes=5)
    (folder / "teacher").mkdir()
    safetensors.torch.save_file(model.state_dict(), folder / "teacher/model.safetensors")
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 32, 32)}
    save_config_for_hf(model, str(folder / "teacher/config.json"))
    done(folder, *label("store.zarr", "--keep", "dense", "--precision", HALF))
    return folder


Work = Callable[[Path], None]
WORKS: dict[str, Work] = {}
"""What is done with the world, by name; what takes longest begins first"""


def side_by_side(work: Work) -> Work:
    """Have it done while others are; a test waits for it."""
    WORKS[work.__name__] = work
    return work


@pytest.fixture(scope="module")
def running(world: Path, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    """The work of all tests that were asked for, under way."""
    asked = {item.name.split("[")[-1].rstrip("]") for item in request.session.items if item.path == request.path}
    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        yield {name: threads.submit(work, world) for name, work in WORKS.items() if name in asked}


@side_by_side
def labels_are_those_of_any_other_run(world: Path) -> None:
    again = label("again.zarr", "--keep", "dense", "--precision", HALF, "--workers", 2, "--views-together", 1)
    killed(world, "again.zarr/receipts/[0-9]*/*.json", *again)
    done(world, *again)
    assert tree(world / "again.zarr") == tree(world / "store.zarr")
    said = done(world, "stages.verify_logits", "--logits", "again.zarr", "--teacher", "--out", "verified.json")
    assert "0 other argmax" in said


@side_by_side
def a_compiled_student_learns_and_is_scored(world: Path) -> None:
    said = done(world, *train("compiled", "--precision", HALF, "--compile", "--val-shards", "data/*.tar"))
    assert "compilation included" in said
    done(world, "student.evaluate", "--shards", "data/*.tar", "--checkpoint", "compiled", "--out", "compiled.json")
    assert json.loads((world / "compiled.json").read_text())["student"]["images"] == 100


@side_by_side
def a_teacher_is_fitted_and_labels(world: Path) -> None:
    fit = ("--image-size", 32, "--epochs", 2, "--batch", 16, "--recipe", "light")
    done(world, "stages.fit_teacher", "--shards", "data/*.tar", "--model", TEACHER, *fit, "--out", "fitted")
    done(world, *label("fitted.zarr", "--model", "local-dir:fitted", "--keep", "argmax"))


@side_by_side
def the_manifest_names_the_precision_that_auto_is_here(world: Path) -> None:
    done(world, *label("auto.zarr", "--keep", "argmax"))
    manifest = json.loads((world / "auto.zarr/zarr.json").read_text())["attributes"]["manifest"]
    emulated = DEVICE == "cuda" and torch.cuda.get_device_capability()[0] < 8
    assert manifest["teacher"]["precision"] == ("fp16" if emulated else "bf16" if DEVICE == "cuda" else "fp32")


@side_by_side
def a_compiled_teacher_says_the_same(world: Path) -> None:
    done(world, *label("one.zarr", "--keep", "topk:2", "--precision", HALF, "--compile"))


@side_by_side
def a_compiled_teacher_says_it_twice(world: Path) -> None:
    said = done(world, *label("two.zarr", "--keep", "topk:2", "--precision", HALF, "--compile"))
    assert "compilation included" in said


def the_killed_student(precision: str) -> Work:
    words = ("--distill", "soft", "--precision", precision, "--accumulate", 2, "--checkpoint-every", 1, "--epochs", 6)

    def ends_as_if_nothing_had_been(world: Path) -> None:
        killed(world, f"killed-{precision}/last.pt", *train(f"killed-{precision}", *words))
        done(world, *train(f"killed-{precision}", *words))

    def whole(world: Path) -> None:
        done(world, *train(f"whole-{precision}", *words))

    WORKS[f"whole_{precision}"] = whole
    return ends_as_if_nothing_had_been


PRECISIONS = ["fp32", HALF, *(["fp16"] if DEVICE == "cuda" else [])]
for each in dict.fromkeys(PRECISIONS):
    WORKS[f"killed_{each}"] = the_killed_student(each)


SOFT = ("--distill", "soft", "--precision", HALF)


@side_by_side
def a_student_learns_from_stored_answers(world: Path) -> None:
    done(world, *train("offline", *SOFT))


@side_by_side
def a_student_learns_from_a_teacher_beside_it(world: Path) -> None:
    module, *line = train("online", *SOFT)
    assert module == "student.train"
    done(world, "benchmarks.evidence.online", *line, "--teacher", "local-dir:teacher", "--teacher-precision", HALF)


@pytest.mark.parametrize("work", WORKS)
def test_commands(running: dict[str, Future[None]], work: str) -> None:
    """What each says and leaves; those that are compared are compared below."""
    running[work].result()


def test_two_compiled_teachers_are_one(running: dict[str, Future[None]], world: Path) -> None:
    require(running, "a_compiled_teacher_says_the_same", "a_compiled_teacher_says_it_twice")
    assert tree(world / "one.zarr") == tree(world / "two.zarr")


@pytest.mark.parametrize("precision", dict.fromkeys(PRECISIONS))
def test_a_killed_student_ends_as_if_nothing_had_been(
    running: dict[str, Future[None]], world: Path, precision: str
) -> None:
    require(running, f"whole_{precision}", f"killed_{precision}")
    assert same(weights(world / f"whole-{precision}"), weights(world / f"killed-{precision}"))


def test_offline_equals_online(running: dict[str, Future[None]], world: Path) -> None:
    require(running, "a_student_learns_from_stored_answers", "a_student_learns_from_a_teacher_beside_it")
    mine, theirs = (torch.load(world / run / "last.pt", weights_only=True)["model"] for run in ("offline", "online"))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def require(running: dict[str, Future[None]], *works: str) -> None:
    """Wait for the work of other tests; without it there is nothing to compare."""
    for work in works:
        if work not in running:
            pytest.skip(f"{work} was not asked for")
        running[work].result()


cuda_alone = pytest.mark.skipif(DEVICE != "cuda", reason="this is about streams of CUDA")


@cuda_alone
def test_a_slot_is_used_again_while_the_device_is_still_at_work() -> None:
    """Each piece of work sees what was in its slot when it was sent, and is answered alone and in order."""
    device, ring = torch.device("cuda"), Ring(2, 64, 32)
    stream, busy = CudaStream(device), torch.randn(4096, 4096, device=device)

    def work(there: torch.Tensor) -> tuple[torch.Tensor, ...]:
        for _ in range(4):
            busy @ busy
        return there.float().amin(), there.float().amax()

    with registered(ring.memory, device) as can:
        assert can, "the ring cannot be registered here"
        sent = []
        for number in range(40):
            pixels = ring.slot(number % 2).pixels_BHWC
            pixels[:] = number
            assert torch.from_numpy(pixels).is_pinned()
            sent.append(stream.send(work, torch.from_numpy(pixels)))
        assert not sent[-1].arrived.query(), "the host has waited for the device"
        assert [tuple(map(int, each.wait())) for each in sent] == [(number, number) for number in range(40)]


@cuda_alone
@pytest.mark.parametrize("known", [False, True], ids=["ordinary memory", "registered"])
def test_pieces_come_together_on_the_device(known: bool) -> None:
    device, ring = torch.device("cuda"), Ring(1, 16, 32)
    assembler, drawn = Assembler(device, 40, 32), np.random.default_rng(0)
    with registered(ring.memory, device) if known else nullcontext():
        for count in (40, 33):
            wanted = drawn.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
            for start in range(0, count, 16):
                pixels = ring.slot(0).pixels_BHWC[: min(16, count - start)]
                pixels[:] = wanted[start : start + 16]
                assembler.put(start, pixels)
                pixels[:] = 0
            assert np.array_equal(assembler.take(count).cpu().numpy(), wanted)


@cuda_alone
def test_no_step_of_a_student_waits_for_the_device(tmp_path: Path) -> None:
    """torch itself refuses what would, from the second step on; the events that are waited for asleep are not meant."""
    device, store = torch.device("cuda", 0), StoreReader.open(make_store(tmp_path, rows=60))
    sizes = {"patch_size": 8, "width": 32, "depth": 2, "heads": 2, "epochs": 1, "batch": 20, "views": 1}
    settings = Settings(distill="soft", precision=HALF, ema=True, clip_grad=1.0, **sizes)  # type: ignore[arg-type]
    views = StoredViews(store, batch=20, views=1, answer=str(store.manifest.keep), device=device)
    with closing(views):
        feed, order = views.start(), views.order
        net = build(settings.spec(5, 32), seed=1)
        statistics = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        engine = Engine(net, settings, settings.schedule_of(order.steps), Ranks(device=device), **statistics)  # type: ignore[arg-type]
        run = Run(
            directory=tmp_path, settings=settings, engine=engine, feed=feed, stop=Stop(), validate=None, meta={}
        )  # fmt: skip
        readings = []
        try:
            for number, step in enumerate(feed.steps(0, 0, 1)):
                readings.append(_send(run, step, engine.learn(step, number)))
                torch.cuda.set_sync_debug_mode("error")
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
        assert len(readings) == 3 and all(reading.sums.isfinite().all() for reading in readings)


@cuda_alone
def test_pixels_are_widened_and_logits_coded_as_on_the_host() -> None:
    generator = np.random.default_rng(0)
    pixels = torch.from_numpy(generator.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    there = normalise(pixels.cuda(), mean.cuda(), std.cuda()).cpu()
    assert torch.allclose(there, normalise(pixels, mean, std), rtol=1e-6, atol=1e-6)
    logits_BC = generator.normal(0, 3, (64, 1000)).round(1).astype(np.float32)  # with many ties
    for keep in ("argmax", "dense", "topk:10"):
        host, device = (kind(parse_keep(keep), (1.0, 3.0), 1000) for kind in (HostCoding, DeviceCoding))
        parts = [part.cpu().numpy() for part in device.there(torch.from_numpy(logits_BC).cuda())]
        assert same_labels(
            device.labels(parts, lambda: logits_BC, str), host.labels([logits_BC], lambda: logits_BC, str)
        )


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two GPUs here")
def test_two_ranks_over_nccl(world: Path) -> None:
    def ranks(out: str, *words: object) -> None:
        line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
        line += map(str, (*train(out, "--checkpoint-every", 1), *words, "--device", DEVICE))
        subprocess.run(line, cwd=world, env={**os.environ, "PYTHONPATH": PATHS}, check=True, timeout=WAIT_S)

    ranks("ranks")
    ranks("stopped", "--max-steps", 3)
    ranks("stopped")
    assert same(weights(world / "ranks"), weights(world / "stopped"))
