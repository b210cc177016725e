"""Which model is the teacher that the flags describe, and with which weights?

A head that was never trained cannot slip in: the number of classes is read from the weights and never asked for, every
tensor must be in the file, and nothing that the model does not know may be.

The teacher sees a view as it was trained to see pictures: its own mean and standard deviation, and its own size where
its architecture is tied to one (a ViT) or the view is smaller than what it knows; a convnet takes a larger view as it
is.
"""

from __future__ import annotations

import difflib
import importlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
from timm.models import is_model, list_models
from torch import Tensor, nn

from pipeline.errors import TeacherError, first_line
from pipeline.models.device import choose_device, make_repeatable, settle_precision
from pipeline.models.weights import load_strictly, read_weights, weights_digest
from pipeline.store.manifest import TeacherCard
from pipeline.teacher.class_map import require_map
from pipeline.teacher.class_names import BY_NAME, map_by_name, names_of
from pipeline.teacher.hub import PREFIXES, require_hub
from pipeline.teacher.model_folder import require_sound_model
from pipeline.teacher.teacher import Teacher
from pipeline.views.imagenet import MEAN, STD

HUBS = ("local-dir:", *PREFIXES)
"""How timm is told where to look for a model."""

MOST_CLASSES = 1 << 20
LARGEST_SIDE = 1 << 13
"""Of what a teacher looks at, in pixels."""

log = logging.getLogger(__name__)


def load_teacher(
    name: str,
    *,
    view_size: int,
    weights: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 128,
    input_size: str = "auto",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_map: Sequence[int] | str | None = None,
    class_names: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    compiled: bool = False,
) -> Teacher:
    """Build the teacher that the flags describe, or refuse.

    `names` are what the user calls its classes; a `class_map` of 'by-name' finds the data's `class_names` among them.
    """
    where = choose_device(device)
    make_repeatable(where)
    model, config = _own_model(name, weights) if is_own(name) else _timm_model(name, weights)
    classes = int(config["num_classes"])
    known = names_of(names, name, weights, config, of_timm=not is_own(name) and not name.startswith(HUBS))
    if isinstance(class_map, str):
        assert class_map == BY_NAME
        class_map = map_by_name(class_names, known, name)
    require_map(class_map, classes, name)
    for flag, asked in (("mean", mean), ("std", std)):
        _say_other(flag, asked, config[flag], name)
    card = TeacherCard(
        name=name,
        weights_sha256=weights_digest(model.state_dict()),
        mean=_three(mean or config["mean"], "--mean"),
        std=_three(std or config["std"], "--std"),
        input_size=_input_size(input_size, view_size, config),
        classes=classes,
        precision=settle_precision(precision, where),
        batch_size=batch_size,
    )
    return Teacher(model, card, where, class_map=class_map, compiled=compiled, names=known)


def _say_other(flag: str, asked: Sequence[float] | None, own: Sequence[float], name: str) -> None:
    """Warn of statistics that are not those that the weights were trained with."""
    if asked is not None and any(abs(a - b) > 1e-6 for a, b in zip(asked, own, strict=False)):
        log.warning(
            "--%s is %s, and the configuration of %s says %s: its answers are worse where it was trained with its own. "
            "Leave --%s out to take those", flag, _text(asked), name, _text(own), flag,
        )  # fmt: skip


def _text(values: Sequence[float]) -> str:
    return ",".join(f"{float(value):g}" for value in values)


def is_own(name: str) -> bool:
    """Whether this names a function of the user's, `module:function`, and no model of timm's."""
    return ":" in name and not name.startswith(HUBS)


def _three(values: Sequence[float], flag: str) -> tuple[float, float, float]:
    numbers = tuple(float(v) for v in values)
    sound = len(numbers) == 3 and all(0 <= v <= 1 for v in numbers) and (flag == "--mean" or min(numbers) > 0)
    if not sound:
        raise TeacherError(
            f"{flag} takes three numbers from 0 to 1 (standard deviations above 0), not {values}. "
            "Divide by 255 what is in levels."
        )
    return numbers[0], numbers[1], numbers[2]


def _input_size(asked: str, view_size: int, config: Mapping[str, Any]) -> int:
    """The side at which the teacher looks at a view (see the module's docstring)."""
    if asked == "view":
        return view_size
    if asked != "auto":
        if not asked.isdecimal() or not 1 <= int(asked) <= LARGEST_SIDE:
            raise TeacherError(f"--teacher-size {asked} is not auto, view, or 1 to {LARGEST_SIDE} pixels.")
        return int(asked)
    own = int(config["input_size"][-1])
    return own if config.get("fixed_input_size") else max(own, view_size)


def require_known(name: str) -> None:
    """Refuse a name that timm does not know, and say which are near it."""
    if not name.startswith(HUBS) and not is_model(name.split(".")[0]):
        if Path(name).is_dir():
            raise TeacherError(f"timm has no model {name!r}, which is a folder. Is --model {HUBS[0]}{name} meant?")
        near = difflib.get_close_matches(name.split(".")[0], list_models(), n=6)
        raise TeacherError(
            f"timm has no model {name!r}; near it: {', '.join(near) or 'none'}. "
            "For a model of your own use --model module:function."
        )


def require_at_hand(name: str, weights: Path | None) -> None:
    """Refuse early, before any shard is read, a model or a file that is not there."""
    if not is_own(name):
        require_known(name)
    if weights is not None:
        if not weights.is_file():
            read_weights(weights)  # which says what is wrong
    elif not is_own(name):
        try:
            _require_source(name)
        except Exception as error:  # as when they are loaded
            raise _not_had(name, error) from error


def _require_source(name: str) -> None:
    """A folder or a hub to take the weights from."""
    if name.startswith(HUBS[0]):
        folder = Path(name.removeprefix(HUBS[0]))
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} is no folder")
        return
    require_hub(name)


def _timm_model(name: str, weights: Path | None) -> tuple[nn.Module, dict[str, Any]]:
    require_known(name)
    if weights is None:
        model = _pretrained(name)
    else:
        state = read_weights(weights)
        require_sound_model(name, state)
        model = _shaped_like(name, state, weights)
        load_strictly(model, state, f"--weights {weights}")
    return model, dict(model.pretrained_cfg)


def _pretrained(name: str) -> Any:
    """timm's own weights for the model (or those of a local-dir: folder), with the head that they bring."""
    require_sound_model(name)
    try:
        _require_source(name)
        model: Any = timm.create_model(name, pretrained=True)
    except Exception as error:  # hub clients raise whatever their transport raises
        raise _not_had(name, error) from error
    if not model.pretrained_cfg.get("num_classes"):
        raise TeacherError(
            f"{name} has no classification head (0 classes); choose weights that were trained to classify."
        )
    if model.num_classes != model.pretrained_cfg["num_classes"]:
        raise TeacherError(
            f"{name} was built with {model.num_classes} classes, its weights have "
            f"{model.pretrained_cfg['num_classes']}: its head would be random. Use weights that were trained for your "
            "classes (stages.fit_teacher), or --class-map."
        )
    return model


def _not_had(name: str, error: Exception) -> TeacherError:
    remedy = (
        "Name a folder that stages.fit_teacher or student.export wrote."
        if name.startswith(HUBS[0])
        else "Fetch them where there is a network and keep the hub's cache; or name a folder that has them "
        "(local-dir:FOLDER), or a file (--weights)."
    )
    return TeacherError(f"The pretrained weights of {name} cannot be had: {first_line(error)}. {remedy}")


def _shaped_like(name: str, state: Mapping[str, Tensor], weights: Path) -> Any:
    """The architecture, with as many classes as the file's head has."""
    arch: Any = timm.create_model(name, pretrained=False)
    heads = arch.pretrained_cfg.get("classifier")
    head = heads[0] if isinstance(heads, (tuple, list)) else heads
    rows = state.get(f"{head}.weight")
    if rows is None:
        raise TeacherError(
            f"{weights} has no tensor {head}.weight: a teacher without a trained head is refused. "
            f"Is it a {name} that was trained to classify?"
        )
    own = arch.state_dict()[f"{head}.weight"]
    if rows.ndim != own.ndim or rows.shape[1:] != own.shape[1:] or rows.shape[0] == arch.num_classes:
        return arch  # whatever does not fit is told when it is loaded
    if not 1 <= rows.shape[0] <= MOST_CLASSES:
        raise TeacherError(
            f"{weights}: {head}.weight has {rows.shape[0]:,} rows, one a class; 1 to {MOST_CLASSES:,} are allowed. "
            "Check the file."
        )
    model: Any = timm.create_model(name, pretrained=False, num_classes=int(rows.shape[0]))
    model.pretrained_cfg = {**model.pretrained_cfg, "num_classes": int(rows.shape[0])}
    return model


def _own_model(name: str, weights: Path | None) -> tuple[nn.Module, dict[str, Any]]:
    """What `build_own` gives; with --weights the file is loaded into it, strictly."""
    model, config = build_own(name)
    if weights is not None:
        load_strictly(model, read_weights(weights), f"--weights {weights}")
    return model, config


def build_own(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """The nn.Module that `module:function` returns, and what it says of itself: classes, statistics, input size."""
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise TeacherError(
            f"--model {name} cannot be imported: {error}. It must name a function that returns a model, in a module "
            "that Python finds from here (the current directory, or PYTHONPATH)."
        ) from error
    try:
        model = function()
    except (Exception, SystemExit) as error:  # somebody else's code may raise anything
        raise TeacherError(
            f"--model {name} gave no model: {type(error).__name__}: {error}. It is called without arguments."
        ) from error
    if not isinstance(model, nn.Module):
        raise TeacherError(f"--model {name} returned a {type(model).__name__}; it must return a torch.nn.Module.")
    config = dict(getattr(model, "pretrained_cfg", None) or {})
    for field in (
        "num_classes",
        "mean",
        "std",
        "input_size",
        "label_names",
    ):  # what it says goes before what timm knew of it
        said = getattr(model, field, None)
        if said is not None and not isinstance(said, Tensor):  # a tensor of that name is part of the model
            config[field] = said
    if "num_classes" not in config:
        raise TeacherError(f"--model {name}: set `model.num_classes` to the number of logits that it gives.")
    if "mean" not in config or "std" not in config:
        log.warning(
            "%s has no `mean` and `std`; ImageNet's are taken. Set them on the model, or use --mean and --std.", name
        )
    size = config.get("input_size")
    own = {"input_size": (3, size, size) if isinstance(size, int) else size} if size else {"input_size": (3, 0, 0)}
    return model, {"mean": MEAN, "std": STD, **config, **own}
