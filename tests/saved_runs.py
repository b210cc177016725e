"""A run directory as training leaves it, with random weights and no training."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch

from student.checkpoints import checkpoint
from student.network.model import Student, StudentSpec, build
from tests.small_students import rank_env

SMALL: dict[str, Any] = {"num_classes": 4, "image_size": 32, "patch_size": 8, "width": 64, "depth": 2, "drop_path": 0.1}
NAMES = ("ant", "bee", "cat", "dog")


def save_run(
    folder: Path, *, ema: bool = True, names: Sequence[str] | None = NAMES, **changes: Any
) -> tuple[Student, Student]:
    """Write a checkpoint; the student and (whether saved or not) another one as its moving average."""
    spec = StudentSpec(**{**SMALL, **changes})
    student, averaged = build(spec, seed=1).eval(), build(spec, seed=2).eval()
    folder.mkdir()
    checkpoint.save(
        folder,
        {
            "spec": spec.to_json(),
            "model": student.state_dict(),
            "ema": averaged.state_dict() if ema else None,
            "meta": {"class_names": names and list(names), "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
            "epoch": 3,
            "step": 0,
        },
    )
    return student, averaged


def run_on_ranks(command: click.Command, line: Sequence[str], output: Path, ranks: int) -> tuple[int, str]:
    """The command in so many processes with torchrun's variables: the worst exit status, and what they all said."""
    context = multiprocessing.get_context("fork")
    outputs = [output.with_suffix(f".rank{rank}") for rank in range(ranks)]
    processes = [
        context.Process(target=_main, args=(command, list(line), path, env))
        for path, env in zip(outputs, rank_env(ranks), strict=True)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        if process.exitcode is None:
            process.kill()
            process.join()
    return max(abs(process.exitcode or 0) for process in processes), "".join(path.read_text() for path in outputs)


def run_afresh(module: str, line: Sequence[str], ranks: int) -> tuple[int, str]:
    """The same with interpreters of their own: what has read from URLs must not be forked."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, *line],
            env={**os.environ, "OMP_NUM_THREADS": "1", **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for env in rank_env(ranks)
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    return max(abs(process.returncode) for process in processes), "".join(said)


def _main(command: click.Command, line: list[str], output: Path, env: dict[str, str]) -> None:
    os.environ.update(env)
    torch.set_num_threads(1)  # a forked process must not use its parent's thread pool
    with output.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        command.main(line, standalone_mode=True)
