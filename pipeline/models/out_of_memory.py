"""What is said where the device's memory is too small? Which flag makes the work smaller, and no traceback.

with within_memory(device, "Give a smaller --batch-size."):
    …                                                           # forward or backward passes
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from pipeline.errors import UserError, first_line

SAID = ("MPS backend out of memory", "can't allocate memory", "not enough memory")


@contextlib.contextmanager
def within_memory(device: torch.device, advice: str) -> Iterator[None]:
    """Inside this context, asking for more memory than `device` has ends with `advice`; other errors pass."""
    try:
        yield
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        raise UserError(f"The memory of {device} is too small: {first_line(error, None)} {advice}") from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA's has a class of its own; Apple's devices and the processor have only a message."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in SAID)
