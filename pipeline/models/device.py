"""On which device, and in which number format, does a model compute here?"""

from __future__ import annotations

import torch

from pipeline.errors import TeacherError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """The device of that name, or the best one here for 'auto'."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # which the meta device cannot say
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TeacherError(f"--device {name} cannot be used here ({reason}); use cpu, or auto.") from error
    return device


def settle_precision(asked: str, device: torch.device) -> str:
    """The precision that 'auto' stands for on this device; any other is what it is."""
    if asked != "auto":
        return asked
    return "bf16" if device.type == "cuda" else "fp32"


def make_repeatable(device: torch.device) -> None:
    """The same bits for the same batch, every time: no algorithm chosen by a race, no silent TF32."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
