"""How much faster is a step with stored labels than one with the teacher beside it, and when has labelling paid?

For each student four things take turns: the teacher alone on a batch in memory, a step without a teacher, a step with
stored labels, and the same step with a live teacher (its answers go through the same encoding). If nothing is lost,
offline over online is (teacher + student) / student, with both parts as measured alone. Views are rendered in all
steps, and in this process.

With label making counted, R students (or R uses of each view) cost R offline steps and one labelling, against R online
steps. That is computed from the measured parts, with the labelling taken as one teacher pass and one rendering a view.
"""

from __future__ import annotations

import dataclasses
import itertools
from contextlib import ExitStack

import numpy as np
import torch

from benchmarks.bench import Bench
from benchmarks.labels_at_hand import TEMPERATURES, made_up_store, random_teacher, settings_of, training
from benchmarks.race import Contestant, Race, race
from benchmarks.render import our_turns
from benchmarks.report import Table, grid
from benchmarks.student_step import steps
from pipeline.labels.keeps import parse_keep
from pipeline.labels.soft_labels import encode
from pipeline.models.device import choose_device
from pipeline.rendering.loader import CACHE_BYTES
from pipeline.store.reader import StoreReader
from pipeline.teacher.teacher import Teacher
from student.feed.feed import Feed
from student.feed.tensors import teacher_labels
from student.learning.engine import Engine
from student.ranks.ranks import Ranks

TEACHER, ALONE, OFFLINE, ONLINE, RENDER = "teacher", "student", "offline", "online", "render"
REUSES = (1, 2, 5, 10)


def measure(bench: Bench) -> Table:
    """Race the four, student by student."""
    index = bench.photographs.indexed(bench.scratch("online"), bench.rows(512))
    store = made_up_store(bench.scratch("online-store") / "store.zarr", index, "argmax", unit_rows=512)
    teacher = random_teacher(bench.teacher, precision=bench.precision, batch=bench.batch)
    rows, figures = [], {}
    for student in bench.students:
        result = race_of(bench, student, store, teacher)
        ideal, found = speed_ups(result)
        whole = {reuse: whole_cost(result, reuse) for reuse in REUSES}
        rows.append([
            student,
            *(f"{1000 * result.cost(name).median:.1f}" for name in (TEACHER, ALONE, OFFLINE, ONLINE)),
            f"{found:.2f}", f"{ideal:.2f}", f"{found / ideal:.3f}",
            *(f"{whole[reuse]:.2f}" for reuse in REUSES),
        ])  # fmt: skip
        figures[f"{student}, share of ideal"] = found / ideal
        figures |= {f"{student}, whole cost R={reuse}": whole[reuse] for reuse in REUSES}
    return Table(
        name="online",
        title=f"Offline against online: {bench.teacher} in {bench.precision} beside DeiT students, batch {bench.batch}",
        columns=(
            *("student", "teacher, ms a view", "step without teacher", "offline step", "online step"),
            *("offline × as fast", "if nothing were lost", "share of that", *(f"whole cost R={r}" for r in REUSES)),
        ),
        rows=grid(rows),
        figures=figures,
        notes=(
            "Milliseconds a view, medians. Shares are medians of ratios within a round.",
            "Whole cost: how many times as fast as online with label making counted, for R students or uses of a view; "
            "computed from the parts: R · online / (teacher + rendering at 8 views a decode + R · offline). At R = 1 "
            "it is 1 or a little less: the same work is done, and views are drawn twice.",
        ),
    )


def race_of(bench: Bench, student: str, store: StoreReader, teacher: Teacher, *, workers: int = 0) -> Race:
    """One student's four contestants, and rendering alone."""
    ranks = Ranks(device=choose_device(str(teacher.device)))
    pixels = np.random.default_rng(0).integers(0, 256, (bench.batch, 224, 224, 3)).astype(np.uint8)
    with ExitStack() as stack:

        def runs_of(distill: str) -> tuple[Feed, Engine]:
            settings = settings_of(student, bench.batch, distill=distill, precision=bench.precision)
            return stack.enter_context(training(store, settings, workers=workers, ranks=ranks))

        runs: dict[str, Contestant] = {
            TEACHER: lambda: len(teacher(pixels)),
            ALONE: steps(*runs_of("none")),
            OFFLINE: steps(*runs_of("hard")),
            ONLINE: online_steps(*runs_of("hard"), teacher),
            RENDER: our_turns(store.index, views=2 if bench.tiny else 8, cache_bytes=CACHE_BYTES),
        }
        return race(runs, seconds=bench.seconds / 2, fewest=bench.fewest)


def online_steps(feed: Feed, engine: Engine, teacher: Teacher) -> Contestant:
    """One step a turn, answered by the teacher while the student waits."""
    source, numbers, keep = feed.steps(0, 0, 1000), itertools.count(), parse_keep("argmax")

    def turn() -> int:
        step = next(source)
        logits_BC = teacher(step.pixels_BHWC.cpu().numpy())
        labels = teacher_labels(keep, encode(logits_BC, keep, TEMPERATURES), TEMPERATURES, torch.device(teacher.device))
        engine.learn(dataclasses.replace(step, teacher=labels), next(numbers)).sum().item()
        return step.count

    return turn


def speed_ups(result: Race) -> tuple[float, float]:
    """Offline over online: as the parts would have it, and as it is."""
    teacher, alone = (result.cost(name).median for name in (TEACHER, ALONE))
    return (teacher + alone) / alone, result.ratio(OFFLINE, ONLINE).median


def whole_cost(result: Race, reuse: int) -> float:
    """How many times as fast as online, label making counted."""
    teacher, offline, online, render = (result.cost(name).median for name in (TEACHER, OFFLINE, ONLINE, RENDER))
    return reuse * online / (teacher + render + reuse * offline)
