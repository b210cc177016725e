"""Is what a folder says of its model (`local-dir:FOLDER`) of the right types, and does it fit the weights beside it?

timm believes its ``config.json``: the architecture, any arguments to it, sizes and statistics. Here each field that is
used has a type and bounds, the weights are read as data, and the network is made of shapes alone first
(`pipeline.models.outline`). What is asked of timm after that takes no more memory than the folder has bytes, twice
over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
from timm.models import is_model
from torch import Tensor

from pipeline.errors import TeacherError, first_line
from pipeline.models.outline import outlined
from pipeline.models.weights import read_weights

LOCAL, CONFIG = "local-dir:", "config.json"
MOST_BYTES = 16 << 20
LARGEST_SIDE = 2048
"""Of a picture that the model sees"""
LARGEST_COUNT = 1 << 20
"""Classes, and any other number among a model's arguments"""
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
"""In timm's order; without one of these names timm looks further, for any file of these suffixes"""
SUFFIXES = (".safetensors", ".pth", ".bin")

Check = Callable[[Any], bool]


def require_sound_model(name: str, state: Mapping[str, Tensor] | None = None, *, weights: bool = True) -> None:
    """Refuse a folder whose description is not sound, or describes another network than its weights are of.

    `state` are weights that take the place of the folder's; without `weights` none will be read. Other names are
    timm's own and need no look.
    """
    if not name.startswith(LOCAL):
        return
    folder = Path(name.removeprefix(LOCAL))
    _require_fields(_config(folder / CONFIG), folder / CONFIG)
    if state is None and not weights:
        return
    state = read_weights(_weights(folder)) if state is None else state
    try:
        with outlined(state.values(), str(folder)):
            timm.create_model(name, pretrained=False)
    except (TypeError, AssertionError, ValueError, AttributeError, RuntimeError, LookupError, ArithmeticError) as error:
        raise TeacherError(
            f"{folder / CONFIG} describes no model that timm {timm.__version__} can build: "
            f"{first_line(error)}. "
            "Name a folder that stages.fit_teacher or student.export wrote."
        ) from error


def _config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise TeacherError(f"{path} has {path.stat().st_size:,} bytes; {MOST_BYTES:,} are read.")
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise TeacherError(
            f"{path} is not there. Name a folder that stages.fit_teacher or student.export wrote."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise TeacherError(f"{path} cannot be read: {str(error)[:200]}.") from None
    if not isinstance(found, dict):
        raise TeacherError(f"{path} is no JSON object. It must be what timm's save_for_hf writes.")
    return found


def _weights(folder: Path) -> Path:
    """The file that timm will read."""
    named = [folder / name for name in WEIGHTS if (folder / name).exists()]
    others = [path for suffix in SUFFIXES for path in sorted(folder.glob(f"*{suffix}"))]
    if not named and not others:
        raise TeacherError(f"{folder} holds no weights ({', '.join(WEIGHTS)}).")
    return (named or others)[0]


def _require_fields(config: dict[str, Any], path: Path) -> None:
    """Each known field is what it must be; timm puts some of them in `pretrained_cfg`, or all of them on top."""
    inner = config.get("pretrained_cfg", {})
    if not isinstance(inner, dict):
        raise TeacherError(f"{path}: 'pretrained_cfg' is {_shown(inner)}; an object is needed.")
    if not isinstance(config.get("architecture"), str) or not is_model(config["architecture"]):
        raise TeacherError(f"{path}: 'architecture' is {_shown(config.get('architecture'))}, which timm does not know.")
    for fields in (config, inner):
        for name, (sound, needed) in FIELDS.items():
            if fields.get(name) is not None and not sound(fields[name]):
                raise TeacherError(f"{path}: {name!r} is {_shown(fields[name])}; {needed} is needed.")


def _shown(value: object) -> str:
    return repr(value)[:60]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(low: int, high: int) -> Check:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _are_three(check: Check) -> Check:
    return lambda value: isinstance(value, list) and len(value) == 3 and all(map(check, value))


def _is_size(value: object) -> bool:
    """Channels, height, width; a single side, or two, as an argument of a model."""
    sides = value if isinstance(value, list) else [value]
    return 1 <= len(sides) <= 3 and all(map(_is_whole(1, LARGEST_SIDE), sides))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_texts(value: object) -> bool:
    return isinstance(value, (list, dict)) and all(isinstance(item, str) for item in value)


def _is_plain(value: object, depth: int = 4) -> bool:
    """A plain value of moderate size: no number or list among a model's arguments may make it huge."""
    if isinstance(value, (list, dict)):
        items = list(value.values()) if isinstance(value, dict) else value
        return depth > 0 and len(items) <= 1024 and all(_is_plain(item, depth - 1) for item in items)
    if isinstance(value, str):
        return len(value) <= 1024
    return value is None or isinstance(value, bool) or (_is_number(value) and abs(value) <= LARGEST_COUNT)  # type: ignore[arg-type]


def _are_arguments(value: object) -> bool:
    sizes = ("img_size", "input_size", "patch_size", "window_size")
    return (
        isinstance(value, dict)
        and _is_plain(value)
        and all(_is_size(value[name]) for name in sizes if value.get(name) is not None)
        and all(_is_few(value[name]) for name in ("depth", "depths", "layers") if value.get(name) is not None)
    )


def _is_few(value: object) -> bool:
    counts = value if isinstance(value, list) else [value]
    return all(map(_is_whole(0, 1024), counts))


FIELDS: dict[str, tuple[Check, str]] = {
    "num_classes": (_is_whole(0, LARGEST_COUNT), f"a whole number up to {LARGEST_COUNT:,}"),
    "num_features": (_is_whole(0, LARGEST_COUNT), f"a whole number up to {LARGEST_COUNT:,}"),
    "input_size": (_are_three(_is_whole(1, LARGEST_SIDE)), f"[3, height, width] up to {LARGEST_SIDE} pixels"),
    "test_input_size": (_are_three(_is_whole(1, LARGEST_SIDE)), f"[3, height, width] up to {LARGEST_SIDE} pixels"),
    "mean": (_are_three(lambda v: _is_number(v) and 0 <= v <= 1), "a list of three numbers from 0 to 1"),
    "std": (_are_three(lambda v: _is_number(v) and 0 < v <= 1), "a list of three numbers above 0 and up to 1"),
    "crop_pct": (lambda value: _is_number(value) and 0 < value <= 1, "a number above 0 and up to 1"),
    "interpolation": (_is_text, "a text"),
    "first_conv": (lambda value: _is_text(value) or _are_texts(value), "a text, or a list of them"),
    "classifier": (lambda value: _is_text(value) or _are_texts(value), "a text, or a list of them"),
    "label_names": (_are_texts, "a list of texts"),
    "fixed_input_size": (lambda value: isinstance(value, bool), "true or false"),
    "model_args": (_are_arguments, "an object of plain values of moderate size"),
}
