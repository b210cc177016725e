"""What is run for a table, what of it is still to do, and how is it done?

A `Step` is one command of the project with its place in the work folder. Its name ends in a digest of the command and
of all that it needs, so the same run is done once however many tables ask for it, and a changed flag makes another
step. A finished step has a receipt with its command and seconds; the commands go on by themselves from where they were
killed. All paths are relative to the work folder, which is where the commands run.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import multiprocessing
import os
import runpy
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkProcess
from pathlib import Path

import torch

from pipeline.durable.file import write_json
from pipeline.errors import UserError
from pipeline.progress import Progress

POLL = 0.05


@dataclass(frozen=True, slots=True)
class Step:
    """``python -m module flags --out path``."""

    module: str
    title: str
    flags: tuple[str, ...]
    needs: tuple[Step, ...] = ()
    suffix: str = ""
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        said = json.dumps([self.module, self.flags, self.suffix, [step.digest for step in self.needs]])
        object.__setattr__(self, "digest", hashlib.blake2b(said.encode(), digest_size=5).hexdigest())

    @property
    def path(self) -> str:
        """Where its result lies."""
        return f"{self.module.rpartition('.')[2]}/{self.title}-{self.digest}{self.suffix}"

    @property
    def arguments(self) -> list[str]:
        """After ``python``."""
        return ["-m", self.module, *self.flags, "--out", self.path]

    def receipt(self, work: Path) -> Path:
        """Written when it is done."""
        return work / "receipts" / f"{self.path.replace('/', '-')}.json"

    def done(self, work: Path) -> bool:
        """Whether it is finished, and its result still there."""
        return self.receipt(work).exists() and (work / self.path).exists()

    def seconds(self, work: Path) -> float:
        """How long its last (and usually only) start took."""
        return float(json.loads(self.receipt(work).read_text(encoding="utf-8"))["seconds"])


def in_order(steps: Iterable[Step]) -> list[Step]:
    """Every step that is needed, once, after what it needs."""
    found: dict[str, Step] = {}

    def visit(step: Step) -> None:
        if step.path not in found:
            for need in step.needs:
                visit(need)
            found[step.path] = step

    for step in steps:
        visit(step)
    return list(found.values())


def run(
    steps: Iterable[Step], work: Path, jobs: int, *, until: float = math.inf, after: Callable[[], None] = lambda: None
) -> bool:
    """Do what is not done, `jobs` at a time; the first that fails ends it, and nothing that was finished is lost. False
    where the time (of time.monotonic) came first: what was running was told to stop, and goes on from there when it is
    started again. `after` is called when a step is done."""
    waiting = [step for step in in_order(steps) if not step.done(work)]
    for module in {step.module for step in waiting}:
        importlib.import_module(module)  # once here, rather than in every process
    running: dict[Step, tuple[ForkProcess, float]] = {}
    with Progress("evidence", total=len(waiting), unit="steps") as progress, _ended(running):
        while waiting or running:
            if time.monotonic() >= until:
                return False
            while len(running) < jobs and (step := _next(waiting, work)):
                waiting.remove(step)
                running[step] = (_start(step, work), time.perf_counter())
            for step in [step for step, (process, _) in running.items() if process.exitcode is not None]:
                process, begun = running.pop(step)
                _settle(step, work, process.exitcode, time.perf_counter() - begun)
                progress.advance(1, note=step.title)
                after()
            time.sleep(POLL)
    return True


def _next(waiting: Sequence[Step], work: Path) -> Step | None:
    """The first step whose needs are done."""
    return next((step for step in waiting if all(need.done(work) for need in step.needs)), None)


@contextmanager
def _ended(running: dict[Step, tuple[ForkProcess, float]]) -> Iterator[None]:
    """Whatever happens, no command is left behind."""
    try:
        yield
    finally:
        for process, _ in running.values():
            process.terminate()
            process.join()


def commands(steps: Iterable[Step]) -> Iterator[str]:
    """As a user would type them, in an order that works."""
    for step in in_order(steps):
        yield shlex.join(["python", *step.arguments])


def _start(step: Step, work: Path) -> ForkProcess:
    process = multiprocessing.get_context("fork").Process(target=_become, args=(step, work))
    process.start()
    return process


def _become(step: Step, work: Path) -> None:
    """Turn this forked process, which has imported everything already, into the command."""
    os.chdir(work)
    Path("logs").mkdir(exist_ok=True)
    Path(step.path).parent.mkdir(exist_ok=True)
    output = Path("logs", f"{step.path.replace('/', '-')}.txt").open("a", encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stderr = output
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    torch.set_num_threads(1)  # a forked process must not use its parent's thread pool; and jobs share the cores
    sys.argv = step.arguments[1:]
    del sys.modules[step.module]
    runpy.run_module(step.module, run_name="__main__", alter_sys=True)


def _settle(step: Step, work: Path, code: int | None, seconds: float) -> None:
    if code != 0:
        log = work / "logs" / f"{step.path.replace('/', '-')}.txt"
        last = log.read_text(encoding="utf-8")[-600:].strip()
        raise UserError(f"'python {' '.join(step.arguments)}' ended with {code}, in {work}: {last}")
    write_json(step.receipt(work), {"command": step.arguments, "seconds": round(seconds, 2)})
