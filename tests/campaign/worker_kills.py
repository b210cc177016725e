"""Does a command whose worker process is killed (by the system for memory, say) say so, and never wait for it?

Real commands with two workers, each in a process of its own that writes down when its workers begin and are let go. One
of them gets SIGKILL: each in turn, at a random moment of its life, and in its last 12 ms. The command must end by
itself, with what it makes or with an error that says what died; and the same command, given again, makes what an
undisturbed one makes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing.connection
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch

from pipeline.processes import ordered_map as pool
from stages import fit_teacher, pack, teacher_logits, verify_logits
from student import evaluate, train
from tests.campaign import kills
from tests.campaign.tally import Scale, Tally
from tests.faults import in_child, wait_for
from tests.pictures import class_folders
from tests.small_students import STUDENT, record, weights
from tests.stores import tree

TITLE = "SIGKILL of single workers of each command, at random moments and in their last 12 ms"
SHOWS = "never a hang; an error that says what died, and the same command again makes the same"
FULL, REDUCED = 210, 7
LAST_S = 0.012
PATIENCE_S = 120.0
"""How long after its time a command is given before it hangs; a loaded machine is slow, too"""
DIED = ("a worker process died", "A rendering process ended with exit code -9")

Made = Callable[[Path], object]


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """What is run, and what it makes."""

    name: str
    main: click.Command
    line: str
    """Its flags; {out} is what it makes, {world} what there is."""
    made: Made
    before: str = ""
    """What lies in the place of {out} before; nothing if empty."""


@dataclasses.dataclass(frozen=True, slots=True)
class Life:
    """Of a worker, on the clock that all processes share."""

    process: int
    begun: float
    ended: float | None


def commands() -> list[Command]:
    """Those that have workers."""
    shards, here = "--shards {world}/shards/*.tar", "--device cpu --workers 2 --log-level error"
    packed = "--images {world}/images --out {out} --samples-per-shard 8 --workers 2"
    teacher = f"--model {kills.NET} --weights {{world}}/teacher.safetensors --teacher-size view"
    small = f"--image-size {kills.SIDE} --mix-window 8 --views 2 --batch-size 16 --unit-rows 32"
    run = f"{' '.join(STUDENT)} --epochs 2 --batch 34 --warmup-epochs 0.5 --no-dvclive --checkpoint-every 1"
    fit = f"--model {kills.NET} --image-size 32 --recipe light --batch 16 --epochs 2"
    judged = "--checkpoint {world}/run --device cpu --workers 2 --out {out}"
    return [
        Command("pack", pack.main, packed, tree),
        Command("pack, packed before", pack.main, packed, tree, before="packed"),
        Command("teacher_logits", teacher_logits.main, f"{shards} --out {{out}} {teacher} {small} {here}", tree),
        Command("verify_logits", verify_logits.main, f"--logits {{world}}/store.zarr --out {{out}} {here}", _nothing),
        Command(
            "train",
            train.main,
            f"--logits {{world}}/store.zarr --out {{out}} --val-shards {{world}}/shards/*.tar {run} {here}",
            lambda out: ({name: value.tolist() for name, value in weights(out).items()}, record(out)),
        ),
        Command("evaluate", evaluate.main, f"{judged} {shards}", Path.read_bytes),
        Command("fit_teacher", fit_teacher.main, f"{shards} --out {{out}} {fit} {here}", tree),
    ]


def _nothing(_: Path) -> object:
    return None


def make_world(place: Path) -> None:
    """Pictures and what the commands before make of them."""
    kills.make_world(place, rows=64)
    class_folders(place / "images", {"ant": 20, "bee": 20, "cat": 20}, size=(40, 30))
    for number, name in ((0, "packed"), (2, "store.zarr"), (4, "run")):
        status, said, _ = execute(commands()[number], place, place / name)
        assert status == 0, said


def run(scale: Scale, place: Path) -> Tally:
    """Command after command, worker after worker."""
    tally, generator = Tally(), np.random.default_rng(scale.seed)
    make_world(place)
    every = commands()
    count, told = -(-scale.count(FULL, REDUCED) // len(every)), 0
    for position, command in enumerate(every):
        status, said, lives = execute(command, place, out := _fresh(command, place))
        assert status == 0 and lives, said
        expected = command.made(out)
        for number in range(position, position + count):  # so that few of them are not all of one kind
            told += _case(tally, command, place, expected, lives, number, generator)
    tally.require(told > 0, "no kill ever hit a worker")
    tally.note(
        f"{len(every)} commands; {told} of {tally.count - 1} kills ended one, the others came too late to matter."
    )
    return tally


def _case(
    tally: Tally, command: Command, place: Path, expected: object, lives: list[Life], number: int,
    generator: np.random.Generator, patience_s: float = PATIENCE_S,
) -> bool:  # fmt: skip
    """Kill one worker; whether that ended the command."""
    worker = number // 2 % len(lives)
    life = lives[worker]
    length = (life.ended or life.begun) - life.begun
    at = length * generator.uniform(0, 1) if number % 2 else max(length - generator.uniform(0, LAST_S), 0)
    name = f"{command.name}, worker {worker}, {at * 1000:.0f} of {length * 1000:.0f} ms"
    out = _fresh(command, place)
    status, said, _ = execute(command, place, out, kill=(worker, at), patience_s=patience_s)
    if status is None:
        tally.case(silent=f"{name}: it waits for ever")
        return False
    told = status == 1 and any(words in said for words in DIED) and "Traceback" not in said
    if status and not told:
        tally.case(failure=f"{name}: it ended with {status}: {said[-300:]}")
        return False
    if told:
        status, said, _ = execute(command, place, out)
    same = status == 0 and command.made(out) == expected
    tally.case(silent=None if same else f"{name}: after it, something else is made ({status}: {said[-200:]})")
    return told


def _fresh(command: Command, place: Path) -> Path:
    out = place / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.unlink(missing_ok=True)
    if command.before:
        shutil.copytree(place / command.before, out)
    return out


def execute(
    command: Command, world: Path, out: Path, *, kill: tuple[int, float] | None = None, patience_s: float = PATIENCE_S
) -> tuple[int | None, str, list[Life]]:
    """The exit status (None: it did not end), what was said, and its workers' lives; `kill` one so long after birth."""
    said, lives = world / "said.txt", world / "lives.txt"
    lives.write_text("")
    line = [word.format(world=world, out=out) for word in command.line.split()]
    child = in_child(lambda: _work(command.main, line, said, lives))
    if kill is not None:
        _kill(child, lives, *kill)
    status = _ended(child, time.monotonic() + patience_s)
    return status, said.read_text(errors="replace"), _lives(lives)


def _work(main: click.Command, line: list[str], said: Path, lives: Path) -> None:
    with said.open("w") as file:
        sys.stdout = sys.stderr = file
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        torch.set_num_threads(1)
        _watch(lives)
        try:
            main.main(line, standalone_mode=True)
        except SystemExit as end:
            file.flush()
            os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))


def _watch(lives: Path) -> None:
    """In the command's process: write down when a worker begins, and when it is first let go."""
    log = os.open(lives, os.O_WRONLY | os.O_APPEND)
    start, kill = BaseProcess.start, BaseProcess.kill

    def started(self: BaseProcess) -> None:
        start(self)
        os.write(log, f"begun {self.pid} {time.monotonic()}\n".encode())

    def killed(self: BaseProcess) -> None:
        os.write(log, f"ended {self.pid} {time.monotonic()}\n".encode())
        kill(self)

    BaseProcess.start, BaseProcess.kill = started, killed  # type: ignore[method-assign]


def _lives(path: Path) -> list[Life]:
    begun: dict[int, float] = {}
    ended: dict[int, float] = {}
    for line in path.read_text().splitlines():
        what, process, moment = line.split()
        (begun if what == "begun" else ended).setdefault(int(process), float(moment))
    return [Life(process, moment, ended.get(process)) for process, moment in begun.items()]


def _kill(child: int, path: Path, worker: int, after_s: float) -> None:
    """Kill a worker so long after it began, if both it and its command are there then."""
    while len(lives := _lives(path)) <= worker:
        if _gone(child):
            return
        time.sleep(0.0005)
    time.sleep(max(lives[worker].begun + after_s - time.monotonic(), 0))
    if _lives(path)[worker].ended is None:  # what was let go may be another's number by now
        with contextlib.suppress(ProcessLookupError):
            os.kill(lives[worker].process, signal.SIGKILL)


def _gone(child: int) -> bool:
    """Whether a process of ours has ended; it is still there to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _ended(child: int, deadline: float) -> int | None:
    while not _gone(child):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            wait_for(child)
            return None
        time.sleep(0.002)
    return wait_for(child)


def sabotage(place: Path) -> Tally:
    """A parent that looks only for answers, and holds its workers' ends of the pipes open: it must be seen to hang."""
    tally, generator = Tally(), np.random.default_rng(0)
    class_folders(place / "images", {"ant": 40, "bee": 40}, size=(400, 300))
    command = commands()[0]
    with _deaf():
        status, said, lives = execute(command, place, out := _fresh(command, place))
        assert status == 0, said
        expected = command.made(out)
        while tally.sound or not tally.count:
            _case(tally, command, place, expected, lives, 2 * tally.count + 1, generator, patience_s=3.0)
            if tally.count == 12:
                break
    return tally


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    wait: Any = pool.wait
    kept: list[object] = []

    def start(self: BaseProcess) -> None:
        kept.extend(self._args)  # type: ignore[attr-defined]
        real(self)

    real = BaseProcess.start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "wait", lambda objects: wait(objects[:1]))
        patch.setattr(multiprocessing.connection.Connection, "close", lambda _self: None)
        patch.setattr(BaseProcess, "start", start)
        yield
