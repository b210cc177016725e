"""Which weights does a student start from when not from random ones, and which of them fit?

Sources: a run of ours, a folder that `student.export` wrote, or a file in timm's own names (DeiT's published weights
are such files). Three differences are bridged and reported tensor by tensor: another resolution (the position embedding
is resampled, bicubic and antialiased; its rows for the tokens are kept), another number of classes (new heads), and a
request for new heads. Any other difference means another architecture, and is refused.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from timm.layers import resample_abs_pos_embed  # type: ignore[attr-defined]
from timm.models import clean_state_dict
from torch import Tensor

from pipeline.errors import StudentError
from pipeline.models.weights import read_weights
from student.checkpoints import checkpoint
from student.checkpoints.contents import require_weights
from student.checkpoints.run_folder import LAST, is_marked, path_of
from student.network.model import LARGEST, Student


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What became of each of the student's tensors, by name."""

    loaded: tuple[str, ...]
    resampled: tuple[str, ...]
    fresh: tuple[str, ...]
    """Still random: the heads of another set of classes."""

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        parts += [f"resampled to this resolution: {', '.join(self.resampled)}"] if self.resampled else []
        parts += [f"new and random: {', '.join(self.fresh)}"] if self.fresh else []
        return "; ".join(parts)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Initial:
    """Weights that a new student can start from, and the file that they were read from."""

    file: Path
    state: dict[str, Tensor]
    class_names: tuple[str, ...] | None = None
    """What its heads tell apart, where it says so."""


def initial_file(path: Path, which: str = LAST) -> Path:
    """The file that is meant by a run directory, an exported folder, or a file."""
    if not path.exists():
        raise StudentError(f"--init {path}: no such file or directory.")
    exported = path / "model.safetensors"
    if not path.is_file() and not exported.is_file():
        return path_of(path, which)
    if which != LAST:
        raise StudentError(
            f"--init-which {which}: {path} is no run directory. Leave --init-which out, or name the run."
        )
    return path if path.is_file() else exported


def read_initial(path: Path, *, which: str = LAST, ema: bool = False) -> Initial:
    """The weights in a run directory, an exported folder, or a file; of ours it is that ends in its own digest."""
    file = initial_file(path, which)
    of_a_run = file.suffix == path_of(path).suffix if path.is_dir() else is_marked(file)
    if not of_a_run:
        if ema:
            raise StudentError(
                f"--init-ema: {file} is no checkpoint of student.train and holds one set of weights. "
                "Leave --init-ema out, or give a run that was trained with --ema."
            )
        return Initial(file=file, state=read_weights(file))
    found = checkpoint.load(path, which)
    require_weights(found, file)
    if ema and found["ema"] is None:
        raise StudentError(
            f"--init-ema: {file} holds no moving average of the weights. "
            "Leave --init-ema out, or give a run that was trained with --ema."
        )
    names = found["meta"].get("class_names")
    state = cast(dict[str, Tensor], found["ema" if ema else "model"])
    return Initial(file=file, state=state, class_names=None if names is None else tuple(names))


def init_from(
    student: Student, state: Mapping[str, Tensor], *, new_heads: bool = False, where: str = "--init"
) -> Start:
    """Load `state` into the student, bridging resolution and classes; refuse whatever else does not fit."""
    own = student.net.state_dict()
    given, fresh = _matched(student, own, state, new_heads, where)
    _require_answers(student, given, where)
    resampled = []
    if _is_of_another_grid(student, given.get("pos_embed")):
        given["pos_embed"] = _resample(student, given["pos_embed"], where)
        resampled.append("pos_embed")
    for name, tensor in given.items():
        _require_fit(student, name, tensor, own[name], where)
    student.net.load_state_dict(given, strict=False)
    loaded = sorted(given.keys() - set(resampled))
    return Start(loaded=tuple(loaded), resampled=tuple(resampled), fresh=tuple(sorted(fresh)))


def require_alike(student: Student, state: Mapping[str, Tensor], *, new_heads: bool, where: str) -> None:
    """Refuse names and shapes of another architecture; the student need have no numbers, nor are any looked at."""
    own = student.net.state_dict()
    given, _ = _matched(student, own, state, new_heads, where)
    for name, tensor in given.items():
        if name != "pos_embed" or not _is_of_another_grid(student, tensor):
            _require_shape(student, name, tensor, own[name], where)


def _matched(
    student: Student, own: Mapping[str, Tensor], state: Mapping[str, Tensor], new_heads: bool, where: str
) -> tuple[dict[str, Tensor], set[str]]:
    """What is taken from `state`, by the names of the student's tensors, and which of these stay new."""
    given = {name.removeprefix("net."): tensor for name, tensor in clean_state_dict(dict(state)).items()}
    heads = {name for head in student.classifiers() for name in own if name.startswith(f"{head}.")}
    fresh = {name for name in heads if new_heads or _other_classes(own[name], given.get(name))}
    given = {name: tensor for name, tensor in given.items() if name not in fresh}
    _require_names(student, own.keys() - fresh, given.keys(), where)
    return given, fresh


def _require_answers(student: Student, given: Mapping[str, Tensor], where: str) -> None:
    """Refuse the export of one of two heads: that one doubled, the other zero, so that their mean is the one."""
    heads = {head: [given[name] for name in given if name.startswith(f"{head}.")] for head in student.classifiers()}
    silent = [head for head, tensors in heads.items() if tensors and not any(t.any() for t in tensors)]
    if len(heads) == 2 and len(silent) == 1:
        raise StudentError(
            f"{where}: {silent[0]} is all zero, as where one head was exported (student.export --head); the other is "
            "doubled there. Export with --head fused, start from the run itself, or give --new-heads."
        )


def _other_classes(own: Tensor, given: Tensor | None) -> bool:
    return (
        given is not None
        and given.ndim == own.ndim
        and own.shape[1:] == given.shape[1:]
        and own.shape[0] != given.shape[0]
    )


def _is_of_another_grid(student: Student, given: Tensor | None) -> bool:
    """Whether there is a position embedding of tokens and patches, as ViTs have it, of another length."""
    net = cast(Any, student.net)
    return given is not None and hasattr(net, "num_prefix_tokens") and net.pos_embed.shape != given.shape


def _resample(student: Student, given: Tensor, where: str) -> Tensor:
    """A position embedding [1, tokens + patches, width] for the student's grid of patches."""
    net = cast(Any, student.net)
    tokens = 0 if getattr(net, "no_embed_class", False) else net.num_prefix_tokens
    side = math.isqrt(max(given.shape[1] - tokens, 0)) if given.ndim == 3 else 0
    fits = given.ndim == 3 and given.shape[0] == 1 and given.shape[2] == net.embed_dim and side <= LARGEST["image_size"]
    if not fits or side == 0 or side * side != given.shape[1] - tokens:
        raise StudentError(
            f"{where}: pos_embed of shape {tuple(given.shape)} is no square grid of patches with {tokens} tokens "
            f"of width {net.embed_dim}, as {student.spec.model} needs. {_REMEDY}"
        )
    return cast(Tensor, resample_abs_pos_embed(given, list(net.patch_embed.grid_size), num_prefix_tokens=tokens))


_REMEDY = "Check --model and its sizes against what was trained: only resolution and classes may differ."


def _require_names(student: Student, own: set[str], given: set[str] | Any, where: str) -> None:
    for what, names in (("lacks", own - given), ("has what the student has not:", given - own)):
        if names:
            some = ", ".join(sorted(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            raise StudentError(f"{where} does not fit {student.spec.model}: it {what} {some}. {_REMEDY}")


def _require_fit(student: Student, name: str, given: Tensor, own: Tensor, where: str) -> None:
    _require_shape(student, name, given, own, where)
    if not torch.isfinite(given).all():
        raise StudentError(f"{where}: {name} holds values that are not finite. Start from an earlier checkpoint.")


def _require_shape(student: Student, name: str, given: Tensor, own: Tensor, where: str) -> None:
    if given.shape != own.shape:
        raise StudentError(
            f"{where} does not fit {student.spec.model}: {name} is {tuple(given.shape)} there, "
            f"{tuple(own.shape)} here. {_REMEDY}"
        )
    if given.is_floating_point() != own.is_floating_point():
        raise StudentError(f"{where}: {name} is of the type {given.dtype}, and should be {own.dtype}. {_REMEDY}")
