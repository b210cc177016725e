"""Which student is in this checkpoint, with which weights, and what do its answers mean?

What evaluation, export and analysis read of a run: the student as it was trained, the moving average of its weights
where there is one, the names of its classes and the statistics by which it sees pixels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import StudentError
from pipeline.models.outline import outlined
from pipeline.views.imagenet import MEAN, STD
from student.checkpoints import checkpoint
from student.checkpoints.contents import require_student
from student.checkpoints.run_folder import RECORD
from student.network.model import Student, StudentSpec, build


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A student as it was read from a checkpoint, with what the checkpoint says of its training."""

    student: Student
    ema: Student | None
    class_names: tuple[str, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    epoch: int
    step: int
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the checkpoint says of its training: teacher, store, recipe, settings"""
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """What the run's validation found of it, by name; empty where it found nothing"""

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it was trained: the flags of student.train, as they were."""
        settings: Mapping[str, Any] = self.meta.get("settings", {})
        return settings

    @property
    def keep(self) -> str | None:
        """What the store that it learned from keeps of an answer."""
        keep: str | None = self.meta.get("store", {}).get("keep")
        return keep

    @property
    def spec(self) -> StudentSpec:
        """The architecture of the student."""
        return self.student.spec

    def weights(self, ema: bool) -> Student:
        """The student with its own weights, or with their moving average."""
        if ema and self.ema is None:
            raise StudentError(
                "This checkpoint holds no moving average of the weights. Leave --ema out, or train with --ema."
            )
        return self.ema if ema and self.ema is not None else self.student


def open_saved(path: Path, which: str = "last") -> Saved:
    """Read the student in a run's folder (its `which` checkpoint) or in a checkpoint file."""
    found = checkpoint.load(path, which)
    require_student(found, path)
    spec = StudentSpec.from_json(found["spec"])
    meta = found["meta"]
    names = meta.get("class_names")
    if names is not None and len(names) != spec.num_classes:
        raise StudentError(f"{path} names {len(names)} classes, its student has {spec.num_classes}. Train it again.")
    return Saved(
        student=_restored(spec, found["model"], path),
        ema=None if found["ema"] is None else _restored(spec, found["ema"], path),
        class_names=None if names is None else tuple(names),
        mean=tuple(meta.get("mean", MEAN)),
        std=tuple(meta.get("std", STD)),
        epoch=found["epoch"],
        step=found["step"],
        meta=meta,
        scores=_scores(path, found),
    )


def _scores(path: Path, found: checkpoint.State) -> dict[str, float]:
    """Those of the epoch that the checkpoint closes: its own, or those of the run's record beside it."""
    told = found.get("validation")
    if told is None and found["step"] == 0:
        record = (path if path.is_dir() else path.parent) / RECORD
        told = next((line for line in epochs_of(record) if line.get("epoch") == found["epoch"] - 1), None)
    if not isinstance(told, Mapping):
        return {}
    shares = {name: value for name, value in told.items() if isinstance(name, str) and "top" in name}
    return {name: float(value) for name, value in shares.items() if type(value) is float and 0 <= value <= 1}


def epochs_of(record: Path) -> list[dict[str, Any]]:
    """The epochs' lines of a run's record, the newest first; what is not whole is left out."""
    lines: list[dict[str, Any]] = []
    for text in record.read_text(encoding="utf-8", errors="replace").splitlines() if record.is_file() else ():
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and line.get("kind") == "epoch":
                lines.insert(0, line)
    return lines


def _restored(spec: StudentSpec, state: Mapping[str, Tensor], path: Path) -> Student:
    require_described(spec, state, str(path))
    student = build(spec, seed=0)
    try:
        student.load_state_dict(dict(state))
    except RuntimeError as error:
        raise StudentError(_not_its(spec, path, str(error).splitlines()[1].strip())) from error
    for name, tensor in student.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise StudentError(f"{path}: {name} holds values that are not finite. Take an earlier checkpoint.")
    return student.eval()


def require_described(spec: StudentSpec, state: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights of other names or shapes than the description asks for, before a network is made of it."""
    with outlined(state.values(), where):
        own = {name: tuple(tensor.shape) for name, tensor in build(spec, seed=0).state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in sorted(own.keys() | given.keys()):
        if own.get(name) != given.get(name):
            there, needed = (str(shapes.get(name, "not there")) for shapes in (given, own))
            raise StudentError(_not_its(spec, where, f"{name} is {there}, and should be {needed}."))


def _not_its(spec: StudentSpec, where: object, difference: str) -> str:
    return (
        f"The weights in {where} are not those of the student that it describes ({spec.model}): {difference} "
        "Was it written with another timm?"
    )
