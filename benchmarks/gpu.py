"""On a machine with CUDA: does the teacher run at its own speed, and does rendering feed the students?

    python -m benchmarks gpu --photos FOLDER --workers 16 --batch 256 --seconds 20

Four questions, one table: images a second of the bare compiled bf16 forward and the share of it that `teacher_logits`
reaches; a step with stored labels against one with the teacher beside it, for each student; the share of the offline
run that waits for views; and how fast the JPEGs are decoded on the GPU (torchvision's nvJPEG) beside one core.
Needs the project's environment with a CUDA build of torch, and a C++ compiler for torch.compile.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import timm
import torch
from torch import nn

from benchmarks import online
from benchmarks.bench import Bench
from benchmarks.labelling import forward_of
from benchmarks.labels_at_hand import card_of, made_up_store, manifest_of, settings_of, training
from benchmarks.photographs import CLASSES
from benchmarks.race import race
from benchmarks.report import Table, grid
from pipeline.errors import UserError
from pipeline.images import decode
from pipeline.index import SampleIndex
from pipeline.labelling import label_missing
from pipeline.store import LabelStore
from pipeline.teacher import Teacher, make_repeatable
from student.ranks import Ranks, choose_device

TEACHER_BATCH, ROWS, VIEWS = 128, 2048, 8


def measure(bench: Bench) -> Table:
    """All four."""
    if not torch.cuda.is_available():
        raise UserError(
            "gpu measures on CUDA, and torch finds none here. Run it on a machine with an NVIDIA GPU and a CUDA build "
            "of torch; all other tables are measured on a CPU."
        )
    index = bench.photographs.indexed(bench.scratch("gpu"), ROWS)
    model = timm.create_model(bench.teacher, pretrained=False, num_classes=CLASSES).eval().requires_grad_(False)
    model = model.cuda().to(memory_format=torch.channels_last)
    make_repeatable(torch.device("cuda"))
    card = card_of(bench.teacher, precision="bf16", batch=TEACHER_BATCH)
    teacher = Teacher(model, card, torch.device("cuda"), compiled=True)
    parts = (labelling_rows(bench, index, model, teacher), student_rows(bench, index, teacher), decode_rows(bench))
    rows = [row for part in parts for row in part]
    return Table(
        name="gpu",
        title=f"On a GPU: {bench.teacher} and DeiT students, bf16, {bench.workers} workers",
        columns=("what", "figure", "share"),
        rows=grid(rows),
        figures={name: float(share) for name, _, share in rows if share},
        notes=("Random weights. Shares: of the bare forward; of (teacher + student) / student; of the run's time.",),
    )


def labelling_rows(bench: Bench, index: SampleIndex, model: nn.Module, teacher: Teacher) -> list[tuple[str, str, str]]:
    """The bare forward, and `teacher_logits` in the end."""
    x_BCHW = torch.randn(TEACHER_BATCH, 3, 224, 224, device="cuda").to(memory_format=torch.channels_last)
    forward = forward_of(torch.compile(model), "bf16", "cuda")  # type: ignore[arg-type]
    bare = rate(lambda: forward(x_BCHW), TEACHER_BATCH, bench.seconds)
    found = {}
    for views in (1, VIEWS):
        manifest = manifest_of(index, "topk:10", unit_rows=512, card=teacher.card)
        path = bench.scratch(f"gpu-labels-{views}") / "store.zarr"
        with LabelStore.open_writing(path, manifest, index, views) as store:
            begun = time.perf_counter()
            label_missing(store, teacher, workers=bench.workers, views_together=views, shown=False)
            found[views] = views * len(index) / (time.perf_counter() - begun)
    return [
        ("teacher, bare compiled forward", f"{bare:,.0f} images/s", ""),
        *(
            (f"teacher_logits, {views} views a decode", f"{speed:,.0f} images/s", f"{speed / bare:.3f}")
            for views, speed in found.items()
        ),
    ]


def rate(forward: Callable[[], object], count: int, seconds: float) -> float:
    """Images a second, once warm."""
    for _ in range(5):
        forward()
    torch.cuda.synchronize()
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        for _ in range(10):
            forward()
        torch.cuda.synchronize()
        done += 10 * count
    return done / (time.perf_counter() - begun)


def student_rows(bench: Bench, index: SampleIndex, teacher: Teacher) -> list[tuple[str, str, str]]:
    """Offline against online, and how long offline waits for views."""
    store = made_up_store(bench.scratch("gpu-store") / "store.zarr", index, "argmax", unit_rows=512)
    rows = []
    for student in bench.students:
        result = online.race_of(bench, student, store, teacher, workers=bench.workers)
        ideal, found = online.speed_ups(result)
        speed = f"{result.rate(online.OFFLINE).median:,.0f} views/s, × {found:.2f} online"
        rows.append((f"{student}: offline step", speed, f"{found / ideal:.3f}"))
        rows.append(
            (f"{student}: waiting for views", f"{bench.workers} workers", f"{waiting(bench, student, store):.3f}")
        )
    return rows


def waiting(bench: Bench, student: str, store: LabelStore) -> float:
    """The share of an uninterrupted offline run that stands still for data."""
    settings = settings_of(student, bench.batch, distill="hard", precision="bf16")
    ranks = Ranks(device=choose_device("cuda"))
    with training(store, settings, workers=bench.workers, ranks=ranks) as (feed, engine):
        begun = warm = 0.0
        for number, step in zip(itertools.count(), feed.steps(0, 0, 1000), strict=False):
            sums = engine.learn(step, number)
            if number == 9:
                sums.sum().item()
                begun, warm = time.perf_counter(), feed.waited
            if begun and time.perf_counter() - begun > bench.seconds:
                break
        torch.cuda.synchronize()
        return (feed.waited - warm) / (time.perf_counter() - begun)


def decode_rows(bench: Bench) -> list[tuple[str, str, str]]:
    """nvJPEG beside libjpeg-turbo on one core."""
    from torchvision.io import decode_jpeg

    payloads = bench.photographs.payloads[:256]
    data = [torch.frombuffer(bytearray(payload), dtype=torch.uint8) for payload in payloads]
    try:
        decode_jpeg(data[:2], device="cuda")
    except RuntimeError as error:
        return [("nvJPEG", f"not in this torchvision: {str(error).splitlines()[0][:80]}", "")]

    def on_gpu() -> int:
        for start in range(0, len(data), 64):
            decode_jpeg(data[start : start + 64], device="cuda")
        torch.cuda.synchronize()
        return len(data)

    runs = {"nvJPEG": on_gpu, "libjpeg-turbo, one core": lambda: len([decode(payload) for payload in payloads])}
    result = race(runs, seconds=bench.seconds / 2)
    return [(f"decode: {name}", f"{result.rate(name).median:,.0f} images/s", "") for name in runs]
