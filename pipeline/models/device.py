"""On which device, and in which number format, does a model compute here? The one place that knows.

Teachers, fits and students all ask here: a device that cannot compute is refused in one way, and 'auto' means the same
to each of them.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from pipeline.errors import DeviceError, first_line

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

NATIVE_BF16 = 8
"""The first major compute capability that has bf16; cards before it (Turing, Volta) emulate it, slowly"""


def choose_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device that `name` means, 'auto' being the best one here; one that cannot compute is refused.

    A process of a node gives its `local_rank`: it has the GPU of that number, where the name tells none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        device = torch.device("cuda", local_rank) if name == "cuda" and local_rank is not None else device
        torch.zeros(1, device=device).item()  # which the meta device cannot say
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error, None)
        raise DeviceError(f"--device {name} cannot be used here ({reason}); use cpu, or auto.") from error
    return device


def settle_precision(asked: str, device: torch.device, known: Collection[str] = tuple(PRECISIONS)) -> str:
    """The precision that 'auto' stands for on this device, among those `known`; any other is what it is."""
    if asked != "auto":
        return asked
    if device.type != "cuda":
        return "fp32"
    emulated = torch.cuda.get_device_capability(device)[0] < NATIVE_BF16
    return "fp16" if emulated and "fp16" in known else "bf16"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context in which forward passes are computed in this precision."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32")


def make_repeatable(device: torch.device) -> None:
    """The same bits for the same batch, every time: no algorithm chosen by a race, no silent TF32."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
