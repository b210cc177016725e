"""How does a student leave for any program that knows timm?

As a folder of two files: ``model.safetensors`` in timm's own names, and ``config.json`` with the architecture, its
sizes, the preprocessing and the class names. ``timm.create_model("local-dir:FOLDER", pretrained=True)`` builds it
again.

timm's answer in evaluation is the mean of both heads, which is `fused`. One head alone needs no other architecture: its
classifier doubled and the other one zero have it as their mean, exactly.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import timm
import torch
from timm.models import get_model_args
from timm.models._hub import save_config_for_hf
from torch import Tensor

from pipeline.durable.file import telling, write_with
from pipeline.errors import StudentError
from student.network.model import Heads, Student, build, fuse

WEIGHTS, CONFIG = "model.safetensors", "config.json"
HEADS = ("fused", "class", "distillation")
TOLERANCE = 1e-5
"""Largest difference of a logit between one model of timm and another of the same weights."""

_OWN = ("architecture", "num_classes", "input_size", "fixed_input_size", "pool_size", "first_conv", "classifier")
"""What we keep of timm's own entry: its licence, tags and addresses are those of other weights."""


def write_timm(student: Student, folder: Path, prepared: dict[str, Any], head: str = "fused") -> float:
    """Write both files once timm answers with them as the student does; the largest difference of a logit."""
    require_head(student, head)
    with telling(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".timm-*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".timm-", dir=folder) as name:
        made = Path(name)
        _write(student, made, prepared, head)
        difference = _checked(student, made, head)
        (folder / CONFIG).unlink(missing_ok=True)  # a config is there only with the weights that it belongs to
        for file in (WEIGHTS, CONFIG):
            (made / file).replace(folder / file)
    return difference


def _write(student: Student, folder: Path, prepared: dict[str, Any], head: str) -> None:
    net = cast(Any, build(student.spec, seed=0).net)
    net.pretrained_cfg = {name: net.pretrained_cfg[name] for name in _OWN if name in net.pretrained_cfg}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in timm_state(student, head).items()}
    weights = safetensors.torch.save(state, metadata={"format": "pt"})
    write_with(folder / WEIGHTS, lambda path: path.write_bytes(weights))
    write_with(folder / CONFIG, lambda path: _write_config(net, path, prepared, head))


def _checked(student: Student, folder: Path, head: str) -> float:
    size = student.spec.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours = chosen(student(images), head)
        theirs = cast(Tensor, read_timm(folder)(images))
    difference = (ours - theirs).abs().max().item()
    if not difference <= TOLERANCE:
        raise StudentError(
            f"timm's logits differ from the student's by {difference:.3g}, more than {TOLERANCE:g}: none is written. "
            "Use the timm that trained it."
        )
    return difference


def chosen(heads: Heads, head: str) -> Tensor:
    """The answer that is asked for; the only one where there is one head."""
    if heads.dist is None:
        return heads.cls
    return {"fused": fuse(heads), "class": heads.cls, "distillation": heads.dist}[head]


def timm_state(student: Student, head: str) -> dict[str, Tensor]:
    """The weights by timm's names, such that timm's evaluation answers with that head."""
    state = dict(student.net.state_dict())
    if head == "fused" or not student.two_heads:
        return state
    for number, classifier in enumerate(student.classifiers()):
        factor = 2.0 if number == HEADS.index(head) - 1 else 0.0
        for name in (f"{classifier}.weight", f"{classifier}.bias"):
            if name in state:
                state[name] = state[name] * factor
    return state


def require_head(student: Student, head: str) -> None:
    """Refuse to export a `head` that this student does not have."""
    if head == "distillation" and not student.two_heads:
        raise StudentError(
            f"{student.spec.model} has one head, and no distillation head to export. "
            "Leave --head out, or give --head class."
        )


def read_timm(folder: Path) -> torch.nn.Module:
    """Load the model in an exported folder by timm alone, as anyone would."""
    logging.getLogger("timm").setLevel(logging.WARNING)  # it tells of every step of loading
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def _write_config(net: torch.nn.Module, path: Path, prepared: dict[str, Any], head: str) -> None:
    size = prepared["center_crop"]
    save_config_for_hf(
        net,
        str(path),
        model_config={"label_names": prepared["class_names"], "head": head},
        model_args=get_model_args(net),
        data_config={
            "input_size": (3, size, size),
            "crop_pct": prepared["crop_pct"],
            "interpolation": prepared["interpolation"],
            "mean": prepared["mean"],
            "std": prepared["std"],
        },
    )
