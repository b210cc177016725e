"""The students' part of the receipt (`benchmarks.gpu`): what is left of a bare step when views are drawn and proven?

For each student the bare step (plain torch and timm on a batch that lies on the device: forward, both losses, backward,
AdamW), eager, and the engine's own with its blocks compiled; then training as `student.train` does it: drawn by
workers, proven, gathered, learned, sums read a step late. Plain; with three repeats (one picture decoded for three
views); from tiled shards; from decoded pictures that the node keeps; and from drawn views, as a student goes on whose
views are few for its epochs. Beside that the seconds from a command to its first step, and the same step with the
teacher beside it.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from benchmarks.bench import Bench
from benchmarks.labels_at_hand import IMAGENET, settings_of
from benchmarks.photographs import CLASSES
from benchmarks.receipt import Found, Receipt
from pipeline.models.device import autocast
from pipeline.packing.tiled import tiled
from pipeline.picture_cache.of_index import pictures_in
from pipeline.processes.ordered_map import ordered_map
from pipeline.rendering.view_cache import views_in
from pipeline.shards.index import SampleIndex
from pipeline.store.reader import StoreReader
from pipeline.teacher.teacher import Teacher
from student.dataset import StoredViews
from student.feed.feed import Feed, Step, largest_share
from student.feed.targets import TeacherLabels
from student.learning.engine import Engine
from student.learning.settings import Settings
from student.network.model import build
from student.ranks.ranks import Ranks, Stop
from student.run.loop import Run, _send

BATCHES = {"tiny": 1024, "small": 1024, "base": 512, "toy": 8}
ONE_AT_A_TIME = 128
ROOT = Path(__file__).parents[1]


class Students:
    """Their rows; the first ones tell the most."""

    def __init__(
        self, bench: Bench, store: StoreReader, teacher: Callable[..., Teacher], receipt: Receipt, precision: str
    ) -> None:
        self.bench, self.store, self.teacher, self.receipt = bench, store, teacher, receipt
        self.device, self.precision = receipt.device, "bf16" if precision == "fp16" else precision
        self.seconds = 0.0 if bench.small else 6.0
        self.side = store.manifest.recipe.image_size
        self._tiled: SampleIndex | None = None

    def first_rows(self) -> None:
        """The smallest student, which starves first; and how long a user looks at nothing."""
        first, *_ = self.bench.students
        cases = ("plain", "three repeats", "tiled", "picture cache", "three repeats and picture cache", "view cache")
        self.rows_of(first, cases)
        self.commanded(first, "eager")

    def more_rows(self) -> None:
        """The others."""
        for student in self.bench.students[1:]:
            self.rows_of(student, ("plain", "three repeats"))
        first, *others = self.bench.students
        self.receipt.row(f"{first}: the teacher beside it", partial(self.online, first), takes=12)
        self.commanded(first, "--compile")
        for student in others:
            self.rows_of(student, ("view cache", "picture cache", "tiled"), bare=False)

    def commanded(self, student: str, how: str) -> None:
        """How long a user waits for the first step."""
        name, compiled = f"from command to first step, {how}", how == "--compile"
        if self.bench.tiny or (compiled and self.bench.small):
            self.receipt.skip(name, "--small compiles nothing" if compiled else "--tiny starts no command")
            return
        work = partial(self.first_step, student, *([how] if compiled else []))
        self.receipt.row(name, work, takes=40 if compiled else 20, most=90)

    def rows_of(self, student: str, cases: tuple[str, ...], *, bare: bool = True) -> None:
        """One student, bare and fed."""
        receipt, batch = self.receipt, BATCHES[student]
        if bare:
            best = receipt.row(f"{student}: bare step, eager, batch {batch}", partial(self.bare, student), takes=8)
            self._best = (False, best)
            name = f"{student}: the engine's step on a resident batch"
            receipt.row(f"{name}, eager", partial(self.resident, student, best, compiled=False), takes=10)
            if self.bench.small:
                receipt.skip(f"{name}, compiled", "--small compiles nothing")
            else:
                work = partial(self.resident, student, best, compiled=True)
                found = receipt.row(f"{name}, compiled", work, takes=35, most=90)
                if found and (not best or found.figure > best.figure):
                    self._best = (True, found)
        compiled, best = self._best
        for case in cases:
            name = f"{student}: student.train, {case}{', compiled' if compiled else ''}"
            if case.endswith("cache") and self.bench.picture_cache is None:
                receipt.skip(name, "no --picture-cache was given")
                continue
            work = partial(self.fed, student, case, compiled, best)
            receipt.row(name, work, takes=20 + 15 * (case == "tiled"), most=75)

    # ---- rows

    def bare(self, student: str) -> Found:
        """Plain torch, and nothing of this project."""
        settings = self.settings(student)
        net, batch, device = self.net(settings).to(self.device), settings.batch, self.device
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
        x_BCHW = torch.randn(batch, 3, self.side, self.side, device=device).to(memory_format=torch.channels_last)
        class_B = torch.randint(0, CLASSES, (batch,), device=device)

        def step() -> None:
            with autocast(device, self.precision):
                heads = net(x_BCHW)
            loss = torch.stack([F.cross_entropy(logits.float(), class_B) for logits in heads]).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()

        speed = rate(step, batch, device, self.seconds / 2)
        return Found(text=f"{speed:,.0f} views/s", figure=speed)

    def net(self, settings: Settings) -> nn.Module:
        """timm's own, in training."""
        sizes = {"embed_dim": settings.width, "depth": settings.depth, "num_heads": settings.heads}
        given: Any = {name: value for name, value in sizes.items() if value is not None}
        net: Any = timm.create_model(
            settings.model, num_classes=CLASSES, drop_path_rate=settings.drop_path, img_size=self.side, **given
        )
        net.set_distilled_training(True)
        trained: nn.Module = net.train()
        return trained

    def resident(self, student: str, bare: Found | None, *, compiled: bool) -> Found:
        """The engine's step on one batch again and again."""
        with self.training(student, "plain", compiled=compiled) as (feed, engine):
            step = next(feed.steps(0, 0, 1000))
            step = dataclasses.replace(step, pixels_BHWC=step.pixels_BHWC.clone())
            numbers, begun = itertools.count(), time.perf_counter()
            engine.learn(step, next(numbers))
            settle(self.device)
            first = time.perf_counter() - begun
            speed = rate(lambda: engine.learn(step, next(numbers)), step.count, self.device, self.seconds / 2)
        share = speed / bare.figure if bare else None
        return Found(text=f"{speed:,.0f} views/s (first step after {first:.1f} s)", figure=speed, share=share)

    def fed(self, student: str, case: str, compiled: bool, bare: Found | None) -> Found:
        """As `student.train` does it."""
        with self.training(student, case, compiled=compiled) as (feed, engine):
            speed, waited = paced(feed, self.learning(feed, engine), self.device, self.seconds)
            drawn, _ = paced(feed, lambda step, number: None, self.device, self.seconds / 2)
        share = speed / bare.figure if bare else None
        text = f"{speed:,.0f} views/s (without a student {drawn:,.0f})"
        return Found(text=text, figure=speed, share=share, waited=waited)

    def online(self, student: str) -> Found:
        """The same step, but that the teacher is asked about its views then and there."""
        teacher = self.teacher(ONE_AT_A_TIME, compiled=False)
        with self.training(student, "plain", compiled=False) as (feed, engine):
            learn = self.learning(feed, engine)

            def with_teacher(step: Step, number: int) -> None:
                with torch.inference_mode():
                    parts = step.pixels_BHWC.split(ONE_AT_A_TIME)
                    argmax_B = torch.cat([teacher.forward(part).argmax(1) for part in parts])
                learn(dataclasses.replace(step, teacher=TeacherLabels(argmax_B=argmax_B.clone())), number)

            speed, waited = paced(feed, with_teacher, self.device, self.seconds)
        names = (f"{student}: student.train, plain", f"{student}: student.train, plain, compiled")
        offline = next((self.receipt.figures[name] for name in names if name in self.receipt.figures), None)
        told = f", offline is {offline / speed:.2f} times as fast" if offline else ""
        return Found(text=f"{speed:,.0f} views/s{told}", figure=speed, waited=waited)

    def first_step(self, student: str, *more: str) -> Found:
        """Seconds from the start of the command to the line about its first step."""
        out, settings = self.bench.scratch(f"first-step{len(more)}"), self.settings(student)
        line = [
            *(sys.executable, "-m", "student.train", "--logits", self.store.name, "--out", str(out / "run")),
            *("--model", settings.model, "--batch", str(settings.batch), "--epochs", "1000", "--max-steps", "2"),
            *("--log-every", "1", "--distill", "hard", "--precision", self.precision, "--no-dvclive"),
            *("--device", str(self.device), "--workers", str(self.bench.workers), *more),
            *(word for name in ("width", "depth", "heads") if (value := getattr(settings, name)) is not None
              for word in (f"--{name}", str(value))),
        ]  # fmt: skip
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        begun, found, said = time.perf_counter(), None, deque[str](maxlen=5)
        process = subprocess.Popen(
            line, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            assert process.stdout
            for text in process.stdout:
                said.append(text)
                if found is None and re.search(r"\bstep\s+0*1\b", text):
                    found = time.perf_counter() - begun
        finally:
            process.kill()
            process.wait()
        if found is None:
            raise RuntimeError(f"no step: {' '.join(said)[-90:]}")
        return Found(text=f"{found:.1f} s", figure=found)

    # ---- parts

    def settings(self, student: str, **more: Any) -> Settings:
        """Of a run that never ends by itself."""
        given = {"distill": "hard", "precision": self.precision, **more}
        settings = settings_of(student, BATCHES[student], **given)
        return dataclasses.replace(settings, views=self.store.layout.views)

    @contextmanager
    def training(self, student: str, case: str, *, compiled: bool) -> Iterator[tuple[Feed, Engine]]:
        """A run as `student.run.launch` puts it together, without its files."""
        settings = self.settings(student, compile=compiled, repeats=3 if case.startswith("three repeats") else 1)
        index = self.tiled() if case == "tiled" else self.store.index
        cache = self.bench.picture_cache
        kept = pictures_in(cache, 1 << 40, index) if case.endswith("picture cache") and cache else None
        recipe, many = self.store.manifest.recipe, 1 if case == "view cache" else settings.views
        view_cache = views_in(cache, 1 << 40, recipe, index, 1) if case == "view cache" and cache else None
        views = StoredViews(
            self.store, index=index, batch=settings.batch, seed=0, views=many, repeats=settings.repeats,
            device=self.device, workers=self.bench.workers, pictures=kept, view_cache=view_cache,
        )  # fmt: skip
        with closing(views):
            feed, order = views.start(), views.order
            student_net = build(settings.spec(CLASSES, self.side), seed=0)
            ranks = Ranks(device=self.device)
            engine = Engine(
                student_net, settings, settings.schedule_of(order.steps), ranks, **IMAGENET,
                largest=largest_share(order, 1),
            )  # fmt: skip
            if kept is not None or view_cache is not None:
                self.fill(feed)
            yield feed, engine

    def fill(self, feed: Feed) -> None:
        """One epoch, so that every picture has been decoded once, or its view drawn."""
        for _ in feed.steps(0, 0, 1):
            pass

    def tiled(self) -> SampleIndex:
        """The same pictures, tiled."""
        if self._tiled is None:
            own, photographs = self.store.index, self.bench.photographs
            found = ordered_map(tiled, photographs.payloads, workers=self.bench.workers)
            again = dataclasses.replace(photographs, payloads=tuple(made.payload for made in found))
            packed = again.indexed(self.bench.folder / "gpu-tiled", len(own), per_shard=int(own.shard_starts[1]))
            self._tiled = dataclasses.replace(packed, class_names=own.class_names, stands_for=own.digest())
        return self._tiled

    def learning(self, feed: Feed, engine: Engine) -> Callable[[Step, int], None]:
        """One step, its sums read when the next one is queued."""
        folder = self.bench.folder
        run = Run(
            directory=folder, settings=engine.settings, engine=engine, feed=feed, stop=Stop(), validate=None, meta={}
        )
        under_way: deque[Any] = deque()

        def learn(step: Step, number: int) -> None:
            under_way.append(_send(run, step, engine.learn(step, number)))
            while len(under_way) > (self.device.type == "cuda"):
                reading = under_way.popleft()
                if reading.arrived is not None:
                    reading.arrived.synchronize()
                assert all(value == value for value in reading.sums.tolist()), "the loss is not a number"

        return learn


def paced(feed: Feed, learn: Callable[[Step, int], None], device: torch.device, seconds: float) -> tuple[float, float]:
    """Views a second and the share of waiting, once a few steps are done."""
    begun, waited, views, warm = 0.0, 0.0, 0, 0.0
    for number, step in enumerate(feed.steps(0, 0, 1000)):
        learn(step, number)
        if begun:
            views += step.count
            if time.perf_counter() - begun > seconds:
                break
        elif not warm:  # whatever was compiled is: what has been drawn meanwhile is used up before the clock starts
            settle(device)
            warm = time.perf_counter()
        elif not seconds or time.perf_counter() - warm > seconds / 2:
            settle(device)
            begun, waited = time.perf_counter(), feed.waited
    settle(device)
    spent = time.perf_counter() - begun
    return views / spent, (feed.waited - waited) / spent


def rate(work: Callable[[], object], count: int, device: torch.device, seconds: float) -> float:
    """Images a second, once warm."""
    for _ in range(3):
        work()
    settle(device)
    begun, done = time.perf_counter(), 0
    while not done or time.perf_counter() - begun < seconds:
        for _ in range(5):
            work()
        settle(device)
        done += 5 * count
    return done / (time.perf_counter() - begun)


def settle(device: torch.device) -> None:
    """Wait for what was handed to the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
