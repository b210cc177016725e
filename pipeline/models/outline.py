"""How large is a network that a file describes, before any memory is given to it?

A file of some kilobytes can describe a network of some terabytes, or of millions of layers. So the network is first
made of shapes alone (torch's meta device), and no further than the weights reach that came with the description: a
network that its weights cannot fill is refused while it grows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from pipeline.errors import WeightsError

SPARE_TENSORS, SPARE_NUMBERS = 256, 1 << 24
"""What a network may have beyond its weights: tables that are worked out when it is made, and heads of its own"""


@contextlib.contextmanager
def outlined(weights: Iterable[Tensor], where: str) -> Iterator[None]:
    """Networks that are made in here have shapes and no numbers, and may be little larger than these weights."""
    shapes = [tensor.numel() for tensor in weights]
    most_tensors, most_numbers = 2 * len(shapes) + SPARE_TENSORS, 2 * sum(shapes) + SPARE_NUMBERS
    tensors = numbers = 0

    def grow(_module: nn.Module, _name: str, tensor: Tensor | None) -> None:
        nonlocal tensors, numbers
        if tensor is not None:
            tensors, numbers = tensors + 1, numbers + tensor.numel()
        if tensors > most_tensors or numbers > most_numbers:
            raise WeightsError(
                f"{where} describes a network far larger than its weights: of more than {most_tensors:,} tensors or "
                f"{most_numbers:,} numbers, where {len(shapes):,} tensors of {sum(shapes):,} numbers are there. "
                "They do not belong together."
            )

    hooks = [register_module_parameter_registration_hook(grow), register_module_buffer_registration_hook(grow)]
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            yield
    finally:
        for hook in hooks:
            hook.remove()
