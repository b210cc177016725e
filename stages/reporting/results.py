"""What did the students, the teacher and the store come to? Everything that a report tells, read from files.

    reports/students/KIND-SEED.json        what student.evaluate measured (and .speed.json, .npz beside it); files of
                                           earlier releases lack settings, parameters and reliability
    reports/students/KIND-SEED.tokens.json what student.tokens measured
    runs/KIND-SEED/metrics.jsonl           the record of the training run
    reports/teacher.json, teacher.csv      how the teacher was fitted
    reports/labels-train.json, labels-val.json, verify.json

KIND is what the student learned from (none, hard, soft), SEED its seed. What is absent is left out of the report; what
is there and cannot be understood is an error with its file's name.
"""

from __future__ import annotations

import csv
import json
import statistics
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError

CALLED = {"none": "no teacher", "hard": "hard labels", "soft": "soft labels"}
KINDS = tuple(CALLED)
HEADS = {"class": "class head", "distillation": "distillation", "fused_logits": "both fused"}
BEST_HEAD = "fused_logits"
OTHERS = 4
"""Colours for kinds of students that are not known by name"""

DAMAGE = (KeyError, ValueError, TypeError, OSError, EOFError, csv.Error, zipfile.BadZipFile, zlib.error)
"""What a damaged file raises, whichever of these forms it has"""

T = TypeVar("T")
Line = dict[str, Any]


class ReportError(UserError):
    """The results to report on are absent or cannot be understood."""


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure, measured once for each seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """The sample standard deviation over the seeds; 0 where there is only one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    def __str__(self) -> str:
        text = f"{100 * self.mean:.1f}"
        return f"{text} ± {100 * self.deviation:.1f}" if len(self.values) > 1 else text


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentResult:
    """One student: its scores on held-out pictures and how it got there; what older files lack is empty."""

    kind: str
    seed: int
    images: int
    accuracy: dict[str, float]
    """Top-1 of each head; all other figures are of the head that a user would take"""
    loss: float
    calibration: float
    as_teacher: float | None
    """How often it names the teacher's class."""
    epochs: tuple[Line, ...]
    steps: tuple[Line, ...]
    answers: dict[str, NDArray[np.int64]] | None
    """Per held-out row that has a label: row, truth, the class that is named, and the teacher's where it was asked"""
    settings: Line = field(default_factory=dict)
    """The flags that it was trained with"""
    parameters: int | None = None
    bins: tuple[tuple[int, int, float], ...] = ()
    """Of each bin of confidence: images, how many of them are right, mean confidence"""
    speed: Line = field(default_factory=dict)
    """How fast, and on what, it was judged"""

    @property
    def best(self) -> float:
        """The accuracy of the head that a user would take: both fused, or the only one."""
        return self.accuracy[_head(self.accuracy)]

    @property
    def right(self) -> NDArray[np.bool_] | None:
        """Whether it names the class of each held-out picture that has one."""
        return None if self.answers is None else np.equal(self.answers["named"], self.answers["truth"])

    def median(self, name: str) -> float | None:
        """The median over its training of `images_per_second`, or of `wait`, the share of time spent waiting."""
        found = [line[name] for line in self.steps if name in line]
        return statistics.median(found) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All results that were found: students, teacher and labels."""

    students: tuple[StudentResult, ...]
    tokens: dict[str, Line] = field(default_factory=dict)
    """Of one student of each kind (the last, where several were looked at)"""
    teacher: Line = field(default_factory=dict)
    teacher_curve: tuple[dict[str, float], ...] = ()
    labels: Line = field(default_factory=dict)
    teacher_accuracy: float | None = None
    """On the held-out pictures"""
    verified: Line = field(default_factory=dict)

    @property
    def kinds(self) -> list[str]:
        """The kinds of students that there are (none, hard, soft or other), the plain one first."""
        found = {student.kind for student in self.students}
        return [kind for kind in KINDS if kind in found] + sorted(found - set(KINDS))

    @property
    def colours(self) -> dict[str, str]:
        """The page's colour of each kind, and of the teacher; those that are not known by name take turns."""
        others = [kind for kind in self.kinds if kind not in KINDS]
        return {kind: kind for kind in (*KINDS, "teacher")} | {
            k: f"other{n % OTHERS + 1}" for n, k in enumerate(others)
        }

    def of(self, kind: str) -> list[StudentResult]:
        """The students of one kind, sorted by seed."""
        return sorted((s for s in self.students if s.kind == kind), key=lambda s: s.seed)

    def best(self, kind: str) -> Spread | None:
        """The accuracy of a kind's students over its seeds; None where there are none."""
        found = tuple(student.best for student in self.of(kind))
        return Spread(found) if found else None

    def mean(self, value: Callable[[StudentResult], float | None], kind: str | None = None) -> float | None:
        """The mean of a figure over those students, of one kind or of all, that have it."""
        found = [value(student) for student in (self.students if kind is None else self.of(kind))]
        known = [v for v in found if v is not None]
        return statistics.fmean(known) if known else None

    def heads(self, kind: str) -> dict[str, Spread]:
        """The accuracy of each head that students of this kind have."""
        found = {head: tuple(s.accuracy[head] for s in self.of(kind) if head in s.accuracy) for head in HEADS}
        return {head: Spread(values) for head, values in found.items() if values}

    def gains(self) -> dict[str, Spread]:
        """By distilled kind, how much more accurate it is than the plain one; seed by seed where they share seeds."""
        plain = {student.seed: student.best for student in self.of("none")}
        found = {}
        for kind in self.kinds:
            pairs = [s.best - plain[s.seed] for s in self.of(kind) if s.seed in plain]
            if kind != "none" and pairs:
                found[kind] = Spread(tuple(pairs))
        return found

    def summary(self) -> dict[str, Any]:
        """The few figures by which experiments are compared: accuracy, gain, and the teacher's accuracy."""
        kinds = {
            kind: {head: round(spread.mean, 4) for head, spread in self.heads(kind).items()} for kind in self.kinds
        }
        gains = {kind: round(spread.mean, 4) for kind, spread in self.gains().items()}
        teacher = {} if self.teacher_accuracy is None else {"teacher": round(self.teacher_accuracy, 4)}
        return {**kinds, "gain": gains, **teacher}


def called(kind: str) -> str:
    """What the page calls a kind of student."""
    return CALLED.get(kind, kind)


def read_results(results: Path, runs: Path, summary: Path | None = None) -> Results:
    """Read all results that lie there; `summary` is the labelling's, where it does not lie in its usual place."""
    folder = results / "students"
    students = tuple(_read_students(folder, runs))
    if not students:
        raise ReportError(
            f"{folder} holds no scores of students (KIND-SEED.json). Run 'dvc repro evaluate', or "
            "student.evaluate --out there."
        )
    tokens = {path.name.rpartition("-")[0]: _json(path) for path in sorted(folder.glob("*-*.tokens.json"))}
    teacher = _json(results / "teacher.json", {})
    unmixed = _json(results / "labels-val.json", {}).get("unmixed") or {}
    held_out = unmixed.get("top1")  # null where no held-out view is unmixed and labelled
    held_out = teacher.get("val_top1") if held_out is None else held_out
    return Results(
        students=students,
        tokens=tokens,
        teacher=teacher,
        teacher_accuracy=None if held_out is None else float(held_out),
        teacher_curve=tuple(_csv(results / "teacher.csv")),
        labels=_json(results / "labels-train.json", {}) or (_json(summary, {}) if summary else {}),
        verified=_json(results / "verify.json", {}),
    )


def _read_students(folder: Path, runs: Path) -> Iterable[StudentResult]:
    for path in sorted(folder.glob("*.json")):
        kind, dash, seed = path.stem.rpartition("-")
        if not dash or not seed.isdigit():  # what lies beside it has another word before its .json
            continue
        yield _understood(path, partial(_student, path, kind, int(seed), runs))


def _student(path: Path, kind: str, seed: int, runs: Path) -> StudentResult:
    found = _json(path)
    scores = found["student"]
    agreement = scores["agreement"]
    log = _lines(runs / path.stem / "metrics.jsonl")
    best = _head(scores)
    return StudentResult(
        kind=kind,
        seed=seed,
        images=int(scores["labelled"]),
        accuracy={head: float(scores[head]["top1"]) for head in HEADS if head in scores},
        loss=float(scores[best]["loss"]),
        calibration=float(scores[best]["ece"]),
        as_teacher=agreement.get(f"{best}/teacher"),
        epochs=tuple(line for line in log if line["kind"] == "epoch"),
        steps=tuple(line for line in log if line["kind"] == "steps"),
        answers=read_answers(path.with_suffix(".npz"), best),
        settings=found.get("settings", {}),
        parameters=found.get("parameters"),
        bins=tuple((int(n), int(right), float(sure)) for n, right, sure in scores.get("reliability", {}).get(best, ())),
        speed=_json(path.with_name(f"{path.stem}.speed.json"), {}),
    )


def _head(scores: Mapping[str, object]) -> str:
    """Whose answers a user would take: both heads fused, or the only one."""
    return BEST_HEAD if BEST_HEAD in scores else "class"


def read_answers(path: Path, head: str) -> dict[str, NDArray[np.int64]] | None:
    """What one head, and the teacher where it was asked, named each picture that has a label."""
    if not path.exists():
        return None
    columns = {"row": "row", "truth": "truth", "teacher": "teacher", "named": head}

    def read() -> dict[str, NDArray[np.int64]]:
        with np.load(path, allow_pickle=False) as found:
            known_N = found["truth"] >= 0
            return {
                name: found[stored].astype(np.int64)[known_N] for name, stored in columns.items() if stored in found
            }

    answers = _understood(path, read)
    return answers if "named" in answers else None


def _lines(path: Path) -> list[Line]:
    if not path.exists():
        return []

    def read() -> list[Line]:
        lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
        return [{**line, "kind": line["kind"]} for line in lines]

    return _understood(path, read)


def _csv(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []

    def read() -> list[dict[str, float]]:
        with path.open(encoding="utf-8", newline="") as file:
            return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]

    return _understood(path, read)


def _json(path: Path, otherwise: Line | None = None) -> Line:
    if otherwise is not None and not path.exists():
        return otherwise

    def read() -> Line:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise TypeError("not a JSON object")
        return found

    return _understood(path, read)


def _understood(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except DAMAGE as error:
        raise ReportError(
            f"{path} is not understood ({type(error).__name__}: {error}). Write it again: dvc repro."
        ) from error


def mean_curve(lines: Sequence[Sequence[Line]], name: str) -> list[tuple[float, float]]:
    """(updates so far, mean of `name`) over several runs, where all of them have it."""
    found: dict[int, list[float]] = {}
    for run in lines:
        for line in run:
            if name in line:
                found.setdefault(int(line["update"]), []).append(float(line[name]))
    return [(update, statistics.fmean(v)) for update, v in sorted(found.items()) if len(v) == len(lines)]
