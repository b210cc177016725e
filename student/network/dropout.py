"""Which numbers does dropout silence for an item in this epoch, whoever trains on it?

torch draws dropout from one generator for the whole micro-batch, so that another number of micro-batches or ranks is
another run. Here whether a number is kept is a hash of (the item's keys, the call, its place in the item), in whole
numbers, the same on every device. The item's keys are Philox words of (seed, epoch, row, view).

    drops = ItemDropout.install(student, seed)       # in place of torch's modules that drop; no parameters, no state
    drops.use(torch.from_numpy(drops.draw(epoch, row_B, view_B)))

Some architectures of timm drop without a module, and those can only be told (`drops_by_itself`).

Shapes: B items, N numbers of one item.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.views.philox import Purpose, philox
from student.network.drop_path import key_of

BLOCK = Purpose.ORDER.block(512)  # apart from the blocks that the order of rows and drop path use
WORD = 0xFFFFFFFF


class Drops:
    """Draws the keys by which numbers are dropped for each item, and hands them to the network."""

    def __init__(self, modules: list[ItemDropout], seed: int) -> None:
        self.modules, self.seed = modules, seed

    def draw(self, epoch: int, row_B: NDArray[np.int64], view_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """The keys for these items of an epoch: two words of 32 bits each, as int64 [2, B]."""
        epoch_B = np.full(len(row_B), epoch, np.uint32)
        return np.ascontiguousarray(philox(key_of(row_B, view_B), epoch_B, self.seed, BLOCK)[:, :2].T.astype(np.int64))

    def use(self, key_2B: Tensor) -> None:
        """Set the keys, two for each item, that the next forward pass draws from."""
        for number, module in enumerate(self.modules):
            module.key_2B, module.call = key_2B, number << 16  # so many calls, and each module its own


class ItemDropout(nn.Module):
    """Dropout of rate `p` whose choice moves with the item; the identity in evaluation."""

    key_2B: Tensor
    call = 0

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # each call is another one, which a compiled graph would be compiled for
    def forward(self, x: Tensor) -> Tensor:
        """The items [B, …], each number kept (and made larger for those that are not), or 0."""
        if not self.training:
            return x
        self.call += 1
        items = self.key_2B.shape[1]
        kept_BN = kept(self.key_2B, self.call, x.numel() // items, self.p)
        return x * kept_BN.view(x.shape).to(x.dtype) / (1 - self.p)

    @staticmethod
    def install(student: nn.Module, seed: int) -> Drops:
        """Replace every `nn.Dropout` of the student by one whose draws belong to the item; gives these."""
        places = [
            (parent, name, child)
            for parent in student.modules()
            for name, child in parent.named_children()
            if type(child) is nn.Dropout and child.p > 0
        ]
        modules = [ItemDropout(child.p) for _, _, child in places]
        for (parent, name, _), module in zip(places, modules, strict=True):
            setattr(parent, name, module)
        return Drops(modules, seed)


def kept(key_2B: Tensor, call: int, numbers: int, p: float) -> Tensor:
    """Which of the numbers of each item are kept: bool [B, N]."""
    place_N = _mixed(torch.arange(numbers, device=key_2B.device) ^ _mixed(torch.tensor(call)).item())
    first_B1, second_B1 = key_2B[:, :, None]
    return _mixed(_mixed(place_N ^ first_B1) ^ second_B1) >= int(p * (WORD + 1))


def _mixed(word: Tensor) -> Tensor:
    """A bijection of 32-bit words that carries each bit to all others; no product leaves the 63 bits of an int64."""
    word = (word ^ word >> 15) * 0x2C1B3C6D & WORD
    word = (word ^ word >> 12) * 0x297A2D39 & WORD
    return word ^ word >> 15


def drops_by_itself(student: nn.Module, drop: float, drops: Drops) -> bool:
    """Whether a student that should drop has no module for it: then it draws from torch's generator."""
    return drop > 0 and not drops.modules and any(getattr(m, "drop_rate", 0) for m in student.modules())
