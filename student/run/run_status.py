"""How far is a training: what is done, by whom, how fast, how long still?

Rank 0 says now and then how it gets on, in a small file of the run (`Telling`), and `run_status` reads that, from any
machine that sees the folder, while the run goes on or after it ended in whatever way. No lock is taken, and nothing
needs torch. A run of an older release has no such file: then its record tells what it can.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.durable.writer_lock import SAY_S, Writer, read_said, write_said
from pipeline.errors import StudentError
from student.checkpoints.run_folder import PREVIOUS, RECORD, STATUS, is_marked, path_of

TAIL = 1 << 20
"""Bytes of the record that are looked at: its end"""


class Telling:
    """Writes a small file now and then that says how a run gets on, for people who look."""

    def __init__(self, path: Path, *, total: int, epochs: int | None, ranks: Sequence[Mapping[str, Any]]) -> None:
        self._path = path
        self._same = {"total": total, "epochs": epochs, "ranks": list(ranks), "since": time.time()}
        self._said = -math.inf

    @property
    def due(self) -> bool:
        """Whether the file that others look at is so old that it should be written again."""
        return time.monotonic() - self._said >= SAY_S

    def tell(self, state: str, **values: Any) -> None:
        """Write down what is done now, and how far it is; a full disk must not end a training."""
        self._said = -math.inf if state == "begins" else time.monotonic()
        with suppress(OSError, ValueError):
            write_said(self._path, {**self._same, "state": state, **values})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """How far a run is: what it does, how fast, and who works at it."""

    name: str
    state: str
    """starting, training, validating, finished, stopped, failed, killed, silent (elsewhere), unknown, or damaged"""
    told: Mapping[str, Any] = field(default_factory=dict)
    """Where it is, and how fast, in its own words"""
    writer: Writer | None = None
    """Rank 0"""
    ranks: tuple[Writer, ...] = ()
    """All of them"""
    scores: Mapping[str, float] = field(default_factory=dict)
    """What the last validation found"""
    saved_s: float | None = None
    """Since the last checkpoint"""
    why: str = ""
    """What is damaged, or which error ended it"""

    @property
    def left_s(self) -> float | None:
        """Seconds until the run is over, by its own estimate; None while nobody works at it."""
        left = self.told.get("left_s")
        if self.state not in ("training", "validating") or not isinstance(left, (int, float)) or self.writer is None:
            return None
        return max(float(left) - self.writer.silent_s, 0.0)


def run_status(run: Path) -> RunStatus:
    """How far the run in a folder is; StudentError where there is none."""
    last, lines = path_of(run), _tail(run / RECORD)
    if not any(path.exists() for path in (run / STATUS, run / RECORD, last, path_of(run, PREVIOUS))):
        raise StudentError(f"{run}: there is no run: it has neither {STATUS}, nor {RECORD}, nor {last.name}.")
    writer = read_said(run / STATUS)
    damage = f"{run / STATUS} cannot be read." if writer is None and (run / STATUS).exists() else _damage(last)
    told = {} if writer is None else writer.told
    steps: dict[str, Any] = next((line for line in reversed(lines) if line.get("kind") == "steps"), {})
    epoch: dict[str, Any] = next((line for line in reversed(lines) if line.get("kind") == "epoch"), {})
    where: Mapping[str, Any] = {name: steps[name] for name in ("epoch", "step", "update", "loss") if name in steps}
    return RunStatus(
        name=str(run),
        state="damaged" if damage else _state(writer),
        told=told or where,
        writer=writer,
        ranks=() if writer is None else tuple(_ranks(told.get("ranks"), writer.silent_s)),
        scores={name: value for name, value in epoch.items() if "top1" in name and isinstance(value, float)},
        saved_s=_age_s(last),
        why=damage or (str(told.get("why", "")) if _state(writer) == "failed" else ""),
    )


def _state(writer: Writer | None) -> str:
    if writer is None:
        return "unknown"
    said = str(writer.told.get("state"))
    if said in ("finished", "stopped", "failed"):
        return said
    if not writer.works and (said != "validates" or writer.alive is False):  # which takes long, without a word
        return "killed" if writer.alive is False else "silent"
    return {"begins": "starting", "trains": "training", "validates": "validating"}.get(said, "unknown")


def _ranks(records: Any, silent_s: float) -> list[Writer]:
    found = [Writer.of(record, silent_s) for record in records] if isinstance(records, list) else []
    return [writer for writer in found if writer is not None]


def _age_s(path: Path) -> float | None:
    """Seconds since a file was written; None where it is not there."""
    with suppress(FileNotFoundError):
        return max(time.time() - path.stat().st_mtime, 0.0)
    return None


def _damage(last: Path) -> str:
    """What is wrong with the last checkpoint, as far as its end shows."""
    try:
        if is_marked(last):
            return ""
    except (FileNotFoundError, NotADirectoryError):
        return ""
    kept = path_of(last.parent, PREVIOUS)
    remedy = f"student.train goes on from {kept.name}." if kept.exists() else "There is no other."
    return f"{last} is cut short, or not a checkpoint of student.train: it does not end in its digest. {remedy}"


def _tail(record: Path) -> list[dict[str, Any]]:
    """The last lines of a record; what is not whole is left out."""
    if not record.is_file():
        return []
    with record.open("rb") as file:
        file.seek(max(record.stat().st_size - TAIL, 0))
        texts = file.read().splitlines()
    lines = []
    for text in texts:
        with suppress(ValueError):
            line = json.loads(text)
            lines += [line] if isinstance(line, dict) else []
    return lines
