"""From which model, with which weights, does a fit begin? What cannot be built, or had, is refused before the scan."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from pipeline.errors import TeacherError, first_line
from pipeline.models.weights import load_strictly
from pipeline.shards.index import SampleIndex
from pipeline.teacher.hub import require_hub
from pipeline.teacher.loading import HUBS, build_own, is_own, require_known
from pipeline.teacher.model_folder import require_sound_model


def require_model(name: str, *, pretrained: bool, arguments: dict[str, Any]) -> None:
    """Refuse early, before any shard is read, a model that cannot be built, or whose weights cannot be had."""
    if is_own(name):
        _require_plain(name, pretrained=pretrained, arguments=arguments)
        return
    require_known(name)
    if pretrained:
        try:
            require_hub(name)
        except Exception as error:  # as when they are loaded
            raise _not_had(name, error) from error
    if name.startswith(HUBS) or "num_classes" in arguments:
        return
    try:
        with torch.device("meta"), contextlib.suppress(RuntimeError):  # which has no numbers, and may not suffice
            timm.create_model(name, pretrained=False, **arguments)
    except _MISFIT as error:
        raise _not_built(name, arguments, error) from error


_MISFIT = (TypeError, AssertionError, ValueError, AttributeError)
"""What timm raises where arguments do not fit a model."""


def _not_built(name: str, arguments: dict[str, Any], error: Exception) -> TeacherError:
    asked = ", ".join(f"{key}={value}" for key, value in arguments.items() if key != "num_classes")
    return TeacherError(
        f"--model {name} cannot be built with these --model-arg ({asked or 'none'}): "
        f"{str(error) or 'they do not fit'}. Check their names and values."
    )


def _not_had(name: str, error: Exception) -> TeacherError:
    return TeacherError(
        f"The pretrained weights of {name} cannot be had: {first_line(error)}. Give a file with --weights, or "
        "--no-pretrained to begin from random weights."
    )


def build_model(
    name: str, num_classes: int, *, seed: int, pretrained: bool, arguments: dict[str, Any], own_head: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    """The model with a head for these classes, or with its own; fresh weights are drawn from `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251
        if is_own(name):
            return _own_model(name, num_classes, pretrained=pretrained, arguments=arguments)
        require_known(name)
        require_sound_model(name, weights=pretrained)
        if "num_classes" in arguments:
            raise TeacherError(f"--model-arg num_classes is not yours to give: the shards have {num_classes} classes.")
        if not (own_head and pretrained):
            arguments = {**arguments, "num_classes": num_classes}
        try:
            if pretrained:
                require_hub(name)
            model: nn.Module = timm.create_model(name, pretrained=pretrained, **arguments)
        except _MISFIT as error:
            raise _not_built(name, arguments, error) from error
        except Exception as error:  # hub clients raise whatever their transport raises
            if not pretrained:
                raise
            raise _not_had(name, error) from error
    return model, dict(model.pretrained_cfg)  # type: ignore[arg-type]


def _own_model(
    name: str, num_classes: int, *, pretrained: bool, arguments: dict[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """One of the user's own, which must fit as it is."""
    _require_plain(name, pretrained=pretrained, arguments=arguments)
    model, config = build_own(name)
    if config["num_classes"] != num_classes:
        raise TeacherError(
            f"{name} gives {config['num_classes']} logits, the shards have {num_classes} classes. Return a model for "
            f"{num_classes}."
        )
    return model, config


def _require_plain(name: str, *, pretrained: bool, arguments: dict[str, Any]) -> None:
    if pretrained or arguments:
        flag = "--pretrained" if pretrained else "--model-arg"
        raise TeacherError(f"{flag} is for timm's models; {name} is a function of yours. Leave it out.")


def require_own_head(model: nn.Module, index: SampleIndex, fresh: list[str]) -> None:
    """Refuse to take a model as it is whose head was not trained for these classes."""
    found = int(getattr(model, "num_classes", index.num_classes))
    if fresh or found != index.num_classes:
        what = "a new, random head" if fresh else f"{found} classes"
        raise TeacherError(
            f"--epochs 0 takes the model as it is, which has {what}; the shards have {index.num_classes} classes. "
            "Give weights that were trained for these classes, or some --epochs to learn them."
        )


def begin_from(model: nn.Module, state: Mapping[str, Tensor], where: str) -> list[str]:
    """Load every tensor of `state`; only the head of a timm model for other classes stays new. Returns what did."""
    own = model.state_dict()
    heads: Any = getattr(model, "pretrained_cfg", {}).get("classifier", ())
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    fresh = sorted(
        name
        for name in own
        if name.rpartition(".")[0] in heads and name in state and state[name].shape != own[name].shape
    )
    load_strictly(model, {**state, **{name: own[name] for name in fresh}}, where)
    return fresh
