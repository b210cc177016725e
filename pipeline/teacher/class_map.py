"""Which of the teacher's classes is each class of the data? `--class-map FILE` picks and reorders them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import MismatchError


def read_class_map(path: Path, class_names: Sequence[str] | None) -> tuple[int, ...]:
    """Which teacher class is each class of the data: a JSON list, a JSON object by class name, or a number a line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MismatchError(f"--class-map {path} cannot be read: {error}.") from error
    try:
        found = json.loads(text) if text.lstrip()[:1] in ("[", "{") else [int(line) for line in text.split()]
        if isinstance(found, dict):
            found = _by_name(found, class_names, path)
        numbers = tuple(int(number) for number in found if not isinstance(number, (bool, float)))
    except (ValueError, TypeError, RecursionError) as error:
        raise MismatchError(
            f"--class-map {path} is neither a JSON list of class numbers, nor a JSON object of class name → number, "
            f"nor one number a line: {error}."
        ) from error
    if len(numbers) != len(found):
        raise MismatchError(f"--class-map {path}: every entry must be a whole number.")
    if class_names is not None and len(numbers) != len(class_names):
        raise MismatchError(
            f"--class-map {path} has {len(numbers)} entries; the shards have {len(class_names)} classes."
        )
    return numbers


def _by_name(found: dict[str, Any], class_names: Sequence[str] | None, path: Path) -> list[Any]:
    if class_names is None:
        raise MismatchError(f"--class-map {path} goes by class name, but the shards have no classes.json; use a list.")
    absent = [name for name in class_names if name not in found]
    if absent:
        raise MismatchError(f"--class-map {path} has no entry for class {absent[0]!r} ({len(absent)} are missing).")
    return [found[name] for name in class_names]


def require_map(class_map: Sequence[int] | None, classes: int, name: str) -> None:
    """Refuse a map that leads outside the teacher's classes, or two classes to one."""
    for data_class, number in enumerate(class_map or ()):
        if not 0 <= number < classes:
            raise MismatchError(
                f"--class-map sends class {data_class} to teacher class {number}; "
                f"{name} has classes 0 to {classes - 1}."
            )
    if class_map is not None and len(set(class_map)) != len(class_map):
        raise MismatchError("--class-map sends two classes to one teacher class; each needs its own.")
