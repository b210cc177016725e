"""What of a student is compiled, so that it costs one compilation and no second one?

A transformer is one block many times. The blocks run the same code on tensors of the same shapes, so that what is
compiled for the first serves them all; around them the student stays as it is. A student that does not mostly consist
of such blocks is compiled whole. Every micro-batch is filled up to one size with items that nothing is learned from
(`filled`), since another size would be another compilation; batch norm would see these, so a student that has any gets
its batches as they are, and torch makes a graph for all sizes once it has met two.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

LIMIT = 64
"""How often torch may compile one piece of code before it gives up and runs it as it is"""


def compile_student(student: nn.Module, whole: nn.Module) -> nn.Module:
    """`whole` (the student, as it is called), with its repeated blocks compiled in place, or compiled itself."""
    torch._dynamo.config.recompile_limit = LIMIT
    dynamic = None if sees_its_batch(student) else False
    blocks = repeated_blocks(student)
    for block in blocks:
        block.compile(dynamic=dynamic)
    return whole if blocks else torch.compile(whole, dynamic=dynamic)  # type: ignore[return-value]


def sees_its_batch(student: nn.Module) -> bool:
    """Whether an item's answer in training depends on what else is in the batch."""
    return any(isinstance(module, _BatchNorm) for module in student.modules())


def repeated_blocks(student: nn.Module) -> list[nn.Module]:
    """The blocks that most of the student's weights are in, if each kind of them occurs more than once."""
    blocks = list(_repeated(student))
    inside, all_ = (sum(weight.numel() for m in ms for weight in m.parameters()) for ms in (blocks, [student]))
    return blocks if 2 * inside >= all_ else []


def _repeated(module: nn.Module) -> Iterator[nn.Module]:
    children = list(module.children())
    if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(children) >= 2 * len({*map(_kind, children)}):
        yield from children
        return
    for child in children:
        yield from _repeated(child)


def _kind(module: nn.Module) -> tuple[object, ...]:
    return type(module), *((name, tuple(weight.shape)) for name, weight in module.named_parameters())


def filled(tensor: Tensor, size: int, dim: int = 0) -> Tensor:
    """The tensor with zeros behind its items, so that there are `size` of them."""
    shape = list(tensor.shape)
    shape[dim] = size - shape[dim]
    return torch.cat([tensor, tensor.new_zeros(shape)], dim) if shape[dim] else tensor
