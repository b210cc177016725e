"""Which network is the student, and how does one see both of its heads?

A `StudentSpec` names a timm classifier and the few sizes that users change; `build` makes it with random weights and
verifies that every size asked for was taken, because some architectures swallow arguments that they do not know. A
timm model with a second head (DeiT, PiT, LeViT, …) shows its two answers only while it trains and their mean
afterwards: `Student` keeps that switch on, so that both heads come out in training and in evaluation, and fusing them
is ours.

Shapes: B images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import timm
import torch
from timm.models import is_model, list_models, resolve_model_input_args
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from pipeline.errors import StudentError

HEAD_WIDTH = 64
"""Width of one attention head in every DeiT: a new width that is a multiple of it gets so many heads."""

LARGEST = {
    "num_classes": 1 << 16,
    "image_size": 1 << 12,
    "patch_size": 1 << 12,
    "width": 1 << 14,
    "depth": 1 << 10,
    "heads": 1 << 10,
}
"""Of the numbers that describe a student."""
EXAMPLE = "deit_tiny_distilled_patch16_224"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StudentSpec:
    """Everything that decides the student's architecture; None leaves a size as the named model has it."""

    model: str = EXAMPLE
    """Name of a timm classifier."""
    num_classes: int
    image_size: int = 224
    """Side of the square input in pixels."""
    patch_size: int | None = None
    width: int | None = None
    """Width of the tokens (timm: embed_dim)."""
    depth: int | None = None
    heads: int | None = None
    """Attention heads; None: one for every 64 of a new width, else as the named model has them."""
    drop_path: float = 0.1
    """Stochastic depth: the rate of the last block, rising from 0 at the first."""
    drop: float = 0.0
    """Dropout before the heads."""

    def __post_init__(self) -> None:
        if not isinstance(self.model, str):
            raise StudentError(f"model is {self.model!r:.60}; the name of a timm model is needed.")
        for name, largest in LARGEST.items():
            value = getattr(self, name)
            if value is None and name not in ("num_classes", "image_size"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
                raise StudentError(f"{name} is {value!r:.60}; it must be from 1 to {largest}.")
        for name in ("drop_path", "drop"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
                raise StudentError(f"{name} is {value!r:.60}; it must be at least 0 and below 1.")
        if self.patch_size and self.image_size % self.patch_size:
            raise StudentError(
                f"An image of {self.image_size} pixels is no whole number of patches of {self.patch_size}. "
                "Choose an image size that is a multiple of the patch size."
            )

    def to_json(self) -> dict[str, object]:
        """The architecture as JSON values, to stand in a checkpoint."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, object]) -> StudentSpec:
        """The inverse of `to_json`; fields that are unknown or missing are refused."""
        known = {field.name for field in dataclasses.fields(cls)}
        if set(fields) != known:
            raise StudentError(
                f"A student is described by {sorted(known)}, this description has {sorted(fields)}. "
                "It was written by another version of this program: use that version, or train again."
            )
        return cls(**cast(dict[str, Any], dict(fields)))


class Heads(NamedTuple):
    """Logits of the class head and of the distillation head, which single-head students do not have."""

    cls: Tensor
    dist: Tensor | None


def fuse(heads: Heads, by: str = "logits") -> Tensor:
    """One answer [B, K] from both heads: the mean of the logits, or the logarithm of the mean probability."""
    if heads.dist is None:
        return heads.cls
    if by == "logits":
        return (heads.cls + heads.dist) / 2
    assert by == "probabilities", by
    return torch.logaddexp(log_softmax(heads.cls, -1), log_softmax(heads.dist, -1)) - math.log(2)


class Student(nn.Module):
    """A timm model (`net`) that always answers with `Heads`."""

    def __init__(self, net: nn.Module, spec: StudentSpec) -> None:
        super().__init__()
        self.net = net
        self.spec = spec
        self.switches = [module for module in net.modules() if hasattr(module, "distilled_training")]
        for module in self.switches:
            cast(Any, module).distilled_training = True
        self.train(self.training)

    @property
    def two_heads(self) -> bool:
        """Whether there is a distillation head beside the class head."""
        return bool(self.switches)

    def train(self, mode: bool = True) -> Student:
        """Switch to training or evaluation as usual, except modules that choose what to return: these always train."""
        super().train(mode)
        for module in self.switches:
            module.training = True  # their children, dropout and norms among them, keep the mode
        return self

    def forward(self, x_BCHW: Tensor) -> Heads:
        """The logits [B, K] of both heads; of a student with one head the second is None."""
        answer = self.net(x_BCHW)
        assert isinstance(answer, tuple) == self.two_heads, "train() and eval() belong to the student, not to .net"
        return Heads(*answer) if self.two_heads else Heads(answer, None)

    def classifiers(self) -> tuple[str, ...]:
        """Names (in the timm model) of the final linear layers, the class head first."""
        names = cast(Any, self.net).pretrained_cfg["classifier"]
        return (names,) if isinstance(names, str) else tuple(names)


def build(spec: StudentSpec, *, seed: int | None = None) -> Student:
    """The student that `spec` describes, with random weights: drawn from `seed` alone, or from torch's global state."""
    _require_known(spec.model)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        net = _create(spec)
    require_taken(net, spec)
    return Student(net, spec)


def sketch(spec: StudentSpec) -> Student | None:
    """The student without numbers: its shapes and names, in half a second and no memory; refused as by `build`.

    None where the architecture needs numbers to be built at all.
    """
    _require_known(spec.model)
    with torch.device("meta"), contextlib.suppress(RuntimeError):
        net = _create(spec)
        require_taken(net, spec)
        return Student(net, spec)
    return None


def _create(spec: StudentSpec) -> nn.Module:
    own = spec.width // HEAD_WIDTH if spec.width and spec.width % HEAD_WIDTH == 0 else None
    arguments = resolve_model_input_args(
        spec.model,
        {"img_size": spec.image_size},
        patch_size=spec.patch_size,
        embed_dim=spec.width,
        depth=spec.depth,
        num_heads=spec.heads or own,
        drop_path_rate=spec.drop_path or None,
        drop_rate=spec.drop or None,
    )
    try:
        return timm.create_model(**arguments, num_classes=spec.num_classes)
    except (TypeError, AssertionError, ValueError, AttributeError, RuntimeError, LookupError, ArithmeticError) as error:
        raise StudentError(_not_built(spec, error)) from error


_FLAGS = {
    "patch_size": "patch_size",
    "embed_dim": "width",
    "depth": "depth",
    "num_heads": "heads",
    "drop_path_rate": "drop_path",
    "drop_rate": "drop",
}
"""timm's name of an argument → ours."""


def _not_built(spec: StudentSpec, error: Exception) -> str:
    unknown = re.search(r"argument '(\w+)'", str(error))
    if unknown and unknown[1] in _FLAGS:
        field = _FLAGS[unknown[1]]
        field = "width" if getattr(spec, field) is None else field  # the heads that came with a width
        return _not_there(spec, field, "Set it to 0" if field in ("drop_path", "drop") else "Leave it out")
    asked = [name for name in ("image_size", *_FLAGS.values()) if getattr(spec, name)]
    return (
        f"{spec.model} cannot be built with {', '.join(f'{_flag(name)} {getattr(spec, name)}' for name in asked)}: "
        f"{error}. "
        "Change the sizes so that they fit together."
    )


def _not_there(spec: StudentSpec, field: str, remedy: str) -> str:
    return (
        f"{spec.model} has no {_flag(field)} that could be {getattr(spec, field)}. "
        f"{remedy}, or choose an architecture that has it ({EXAMPLE})."
    )


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"


_BUILT: dict[str, Callable[[Any], int]] = {
    "image_size": lambda net: net.patch_embed.img_size[0],
    "patch_size": lambda net: net.patch_embed.patch_size[0],
    "width": lambda net: net.embed_dim,
    "depth": lambda net: len(net.blocks),
    "heads": lambda net: net.blocks[0].attn.num_heads,
}
"""Where a built network shows the size it has."""


def require_taken(net: nn.Module, spec: StudentSpec) -> None:
    """Refuse a network that was built without the sizes asked for, as where an architecture swallows an argument."""
    for name in ("patch_size", "width", "depth", "heads"):
        asked = getattr(spec, name)
        if asked is not None and _built(net, name) != asked:
            raise StudentError(_not_there(spec, name, "Leave it out"))
    patch = _built(net, "patch_size")
    if _built(net, "image_size") is not None and patch and spec.image_size % patch:
        raise StudentError(
            f"An image of {spec.image_size} pixels is no whole number of {spec.model}'s patches of {patch}. "
            f"Choose a multiple of {patch} for --image-size, or another --patch-size."
        )


def _built(net: nn.Module, name: str) -> int | None:
    try:
        return int(_BUILT[name](net))
    except (AttributeError, TypeError, IndexError):
        return None


def _require_known(name: str) -> None:
    if ":" in name or "/" in name:
        raise StudentError(
            f"'{name}' is a place, not an architecture. Name a timm model, and give weights with --init FILE."
        )
    if not is_model(name):
        near = difflib.get_close_matches(name, list_models(), n=5, cutoff=0.5)
        raise StudentError(
            f"timm {timm.__version__} has no model '{name}'. Near it: {', '.join(near) or 'nothing'}. "
            "All names: python -c \"import timm; print(*timm.list_models(), sep='\\n')\"."
        )
