"""What may stand in a checkpoint, of which type and within which bounds?

A right digest says that a checkpoint is what somebody wrote, and not that student.train did. Before anything is made of
one, each of its fields is looked at here; its tensors were looked at when it was read (`pipeline.models.weights`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from pipeline.errors import StudentError

NAMES = ("loss", "loss_class", "loss_distillation")
"""What a run keeps the means of"""

MOST_STEPS = 1 << 40
MOST_CLASSES = 1 << 16
MOST_THREADS = 1 << 12

Check = tuple[Callable[[Any], bool], str]
"""Whether a value will do, and what is needed"""


def require_weights(state: Mapping[str, Any], where: object) -> None:
    """Refuse what holds no weights, or says of them what cannot be."""
    _require(state, WEIGHTS, where)
    _require(state["meta"], META, f"{where}: meta", optional=True)


def require_student(state: Mapping[str, Any], where: object) -> None:
    """Refuse what describes no student with its weights, and how long it was trained."""
    require_weights(state, where)
    _require(state, POSITION, where)


def require_training(state: Mapping[str, Any], where: object) -> None:
    """Refuse a checkpoint, which lies at `where`, that has not all that a training needs to go on."""
    require_student(state, where)
    _require(state, TRAINING, where)
    _require(state["meta"], {name: META[name] for name in ("settings", "store")}, f"{where}: meta")


def _require(state: Mapping[str, Any], checks: Mapping[str, Check], where: object, *, optional: bool = False) -> None:
    for name, (sound, needed) in checks.items():
        if name not in state and optional:
            continue
        found = f"is {state[name]!r:.60}" if name in state else "is not there"
        if name not in state or not sound(state[name]):
            raise StudentError(
                f"{where}: {name!r} {found}; {needed} is needed. student.train did not write this: take a checkpoint "
                "that it wrote."
            )


def _is_whole(value: object, low: int = 0, high: int = MOST_STEPS) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_named(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _are_tensors(value: object) -> bool:
    return _is_named(value) and all(isinstance(item, Tensor) for item in value.values())  # type: ignore[attr-defined]


def _are_plain(value: object) -> bool:
    kinds = (str, int, float, type(None))
    return _is_named(value) and all(isinstance(item, kinds) for item in value.values())  # type: ignore[attr-defined]


def _are_names(value: object) -> bool:
    return (
        isinstance(value, (list, tuple)) and 0 < len(value) <= MOST_CLASSES and all(isinstance(n, str) for n in value)
    )


def _are_three(value: object, low: float) -> bool:
    three = isinstance(value, (list, tuple)) and len(value) == 3 and all(map(_is_number, value))
    return three and all(low <= number <= 1 for number in value)  # type: ignore[attr-defined]


def _are_means(value: object) -> bool:
    sums, counts = ("interval", "epoch"), ("interval_steps", "epoch_steps")
    return (
        _is_named(value)
        and set(value) == {*sums, *counts}  # type: ignore[call-overload]
        and all(isinstance(value[name], list) and len(value[name]) == len(NAMES) for name in sums)  # type: ignore[index]
        and all(isinstance(number, float) for name in sums for number in value[name])  # type: ignore[index]
        and all(_is_whole(value[name]) for name in counts)  # type: ignore[index]
    )


def _are_settings(value: object) -> bool:
    return _are_plain(value) and _is_whole(value.get("views"), low=1)  # type: ignore[attr-defined]


def _is_of_a_store(value: object) -> bool:
    return _are_plain(value) and isinstance(value.get("fingerprint"), str)  # type: ignore[attr-defined]


WEIGHTS: dict[str, Check] = {
    "spec": (_is_named, "a description of the student"),
    "model": (_are_tensors, "a dictionary of tensors"),
    "ema": (lambda value: value is None or _are_tensors(value), "None, or a dictionary of tensors"),
    "meta": (_is_named, "a dictionary"),
}
POSITION: dict[str, Check] = {
    "epoch": (_is_whole, "a whole number"),
    "step": (_is_whole, "a whole number"),
}
META: dict[str, Check] = {
    "class_names": (lambda value: value is None or _are_names(value), "None, or a list of names"),
    "mean": (lambda value: _are_three(value, 0.0), "a list of three numbers from 0 to 1"),
    "std": (lambda value: _are_three(value, 1e-6), "a list of three numbers above 0 and up to 1"),
    "recipe": (_is_named, "a dictionary"),
    "distill": (_are_plain, "a dictionary of plain values"),
    "teacher": (lambda value: isinstance(value, str), "a name"),
    "store": (_is_of_a_store, "a dictionary with a fingerprint"),
    "threads": (lambda value: _is_whole(value, 1, MOST_THREADS), f"a number up to {MOST_THREADS}"),
    "world": (lambda value: _is_whole(value, 1), "a number of processes"),
    "settings": (_are_settings, "a dictionary of plain values with a number of views"),
}
TRAINING: dict[str, Check] = {
    "optimizer": (_is_named, "the state of an optimiser"),
    "scaler": (_are_plain, "a dictionary of plain values"),
    "means": (_are_means, "the sums of the losses since the last line and epoch"),
    "best": (lambda value: value is None or _is_number(value), "None, or a number"),
}
