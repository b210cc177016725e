"""What does a command cost that runs by itself: wall time, and the most memory that each of its processes ever held?

`watch` starts it and looks at the peak resident size (VmHWM, kept by the kernel) of it and of all its descendants, a
few dozen times a second, until it ends. The largest figure of each process counts.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor, nn

from benchmarks.photographs import CLASSES, Photographs
from pipeline.errors import UserError

ROOT = Path(__file__).parents[1]
INTERVAL = 0.03
IMAGE_SIDE = 64


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one run."""

    seconds: float
    parent: int
    """Bytes at the peak."""
    children: tuple[int, ...]
    """Bytes at the peak of each descendant, largest first. Memory that processes share counts in each of them."""
    output: str

    @property
    def total(self) -> int:
        """All processes."""
        return self.parent + sum(self.children)


def watch(arguments: Sequence[str], *, forked: bool = False) -> Usage:
    """Run `python -m …` to its end; forked, it has this process's modules already, which a test does not wait for."""
    if not Path("/proc/self/status").exists():
        raise UserError("peak memory is read from /proc, which this system does not have. Measure on Linux.")
    begun, peaks = time.perf_counter(), dict[int, int]()
    with tempfile.TemporaryFile("w+") as output:
        process = _Fork(arguments, output) if forked else _spawn(arguments, output)
        while (code := process.poll()) is None:
            for pid in (process.pid, *descendants(process.pid)):
                peaks[pid] = max(peaks.get(pid, 0), peak_bytes(pid))
            time.sleep(INTERVAL)
        seconds = time.perf_counter() - begun
        output.seek(0)
        said = output.read()
    if code != 0:
        raise UserError(f"'python {' '.join(arguments[:2])} …' ended with {code}: {said[-500:]}")
    parent = peaks.pop(process.pid)
    return Usage(seconds, parent, tuple(sorted((peak for peak in peaks.values() if peak), reverse=True)), said)


def _spawn(arguments: Sequence[str], output: IO[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, text=True)


class _Fork:
    """A forked process that runs a module as `python -m` does."""

    def __init__(self, arguments: Sequence[str], output: IO[str]) -> None:
        self._process = multiprocessing.get_context("fork").Process(target=_run, args=(list(arguments), output))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit status, once it has one."""
        return self._process.exitcode


def _run(arguments: list[str], output: IO[str]) -> None:
    sys.stdout = sys.stderr = output
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    torch.set_num_threads(1)  # a forked process must not use its parent's thread pool
    sys.argv = arguments[1:]
    runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)


def descendants(pid: int) -> list[int]:
    """All processes below this one."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return children + [below for child in children for below in descendants(child)]


def peak_bytes(pid: int) -> int:
    """The most that the process was resident with; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)


def resident() -> dict[str, int]:
    """Bytes that this process is resident with: its own, of files (its modules, what it maps), and of shared memory."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0][:-1]: int(line[1]) << 10 for line in lines if line[0].startswith("Rss")}


class SmallTeacher(nn.Module):
    """Answers at once, so that a run shows what the rest costs."""

    num_classes, mean, std = CLASSES, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 16, 8, stride=8), nn.Linear(16, CLASSES)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits."""
        answer: Tensor = self.head(self.patches(x_BCHW).mean(dim=(2, 3)))
        return answer


def small_teacher() -> nn.Module:
    """For ``--model benchmarks.commands:small_teacher``; the same weights in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SmallTeacher()


def small_shards(photographs: Photographs, folder: Path, rows: int, *, size: tuple[int, int] = (96, 72)) -> str:
    """Shards of small pictures: a long run of them takes seconds. As a pattern for ``--shards``."""
    import cv2
    import numpy as np

    from pipeline.pictures.images import decode

    small = []
    for payload in photographs.payloads[:64]:
        picture_HWC = cv2.resize(decode(payload), size, interpolation=cv2.INTER_AREA)
        done, data = cv2.imencode(".jpg", np.ascontiguousarray(picture_HWC[:, :, ::-1]))
        assert done
        small.append(data.tobytes())
    Photographs(payloads=tuple(small), source="small").indexed(folder, rows, per_shard=1000)
    return f"{folder}/*.tar"


def teacher_logits(shards: str, store: Path, *, views: int = 1) -> list[str]:
    """The command that labels them with a teacher that costs nothing."""
    return [
        *("-m", "stages.teacher_logits", "--shards", shards, "--out", str(store), "--views", str(views)),
        *("--model", "benchmarks.commands:small_teacher", "--teacher-size", "view", "--device", "cpu"),
        *("--image-size", str(IMAGE_SIDE), "--workers", "1", "--keep", "topk:10", "--log-level", "warning"),
    ]


def train(store: Path, out: Path, *, batch: int) -> list[str]:
    """The command that trains a narrow student on it for one epoch."""
    return [
        *("-m", "student.train", "--logits", str(store), "--out", str(out), "--epochs", "1", "--batch", str(batch)),
        *("--width", "64", "--depth", "1", "--heads", "1", "--distill", "soft", "--tau", "3", "--device", "cpu"),
        *("--workers", "1", "--no-dvclive", "--warmup-epochs", "0.1", "--log-level", "warning"),
    ]
