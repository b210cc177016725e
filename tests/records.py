"""The record of a run that was never run: what its log is told, step by step."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from student.run.run_log import RunLog


def write(run: Path, updates: range, *, epoch: int = 0, update: int = 0, **options: Any) -> str:
    """Ten steps an epoch, a line every five."""
    stream = io.StringIO()
    log = RunLog(run, epoch=epoch, update=update, total=40, stream=stream, **options)
    for number in updates:
        if number % 5 == 0:
            line = {"epoch": (number - 1) // 10, "step": (number - 1) % 10 + 1, "update": number, "loss": 1 / number}
            log.steps(line, rate=3812.4, wait=0.012, left=720)
        if number % 10 == 0:
            log.epoch({"epoch": number // 10 - 1, "update": number, "loss": 1 / number, "top1": number / 100})
    log.close()
    return stream.getvalue()
