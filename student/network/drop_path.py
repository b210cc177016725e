"""Which residual branches does an item skip in this epoch, whoever trains on it?

timm draws drop path from torch's global generator, for the batch as it lies on one rank: another number of ranks,
another micro-batch or another device would be another run. Here the mask is a pure function of (seed, epoch, row, view,
layer), so it moves with the item.

    masks = ItemDropPath.install(student, seed)      # in place of timm's modules; no parameters, no state
    masks.use(torch.from_numpy(masks.draw(epoch, row_B, view_B)))

Shapes: B items, L layers that drop.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from timm.layers.drop import DropPath
from torch import Tensor, nn

from pipeline.views.philox import Purpose, philox, uniform

BLOCK = Purpose.ORDER.block(256)  # apart from the blocks that the order of rows uses
VIEW_BITS = 24  # of the key; 2^40 rows are left


def key_of(row_B: NDArray[np.int64], view_B: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The 64 bits that an item's draws are keyed by."""
    return (row_B << VIEW_BITS | view_B).astype(np.uint64)


class Masks:
    """Draws which branches are dropped for which items, and hands that to the network."""

    def __init__(self, modules: list[ItemDropPath], rate_L: tuple[float, ...], seed: int) -> None:
        self.modules, self.rate_L, self.seed = modules, rate_L, seed
        self.idle: list[ItemDropPath] = []
        """Those of the first block, which never drops"""

    def draw(self, epoch: int, row_B: NDArray[np.int64], view_B: NDArray[np.int64]) -> NDArray[np.float32]:
        """0 where a branch is skipped, else 1 / (1 - rate): float32 [L, B]."""
        layers = len(self.rate_L)
        if not layers:
            return np.ones((0, len(row_B)), np.float32)
        words = philox(key_of(row_B, view_B), np.full(len(row_B), epoch, np.uint32), self.seed, BLOCK, -(-layers // 4))
        rate_L1 = np.array(self.rate_L)[:, None]
        kept_LB = rate_L1 <= uniform(words[:, :layers]).T
        scale_LB: NDArray[np.float32] = (kept_LB / (1 - rate_L1)).astype(np.float32)
        return scale_LB

    def use(self, scale_LB: Tensor) -> None:
        """The factors for the forward pass that comes next.

        Each module has its own: a number of its layer would make it another program to torch.compile.
        """
        for module, scale_B in zip(self.modules, scale_LB.contiguous(), strict=True):
            module.scale_B = scale_B
        for module in self.idle:
            module.scale_B = scale_LB.new_ones(scale_LB.shape[1])


class ItemDropPath(nn.Module):
    """Scales each item of a residual branch by its factor; the identity in evaluation."""

    scale_B: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """What a branch gave for items [B, …], scaled by what was drawn for each: 0 drops it."""
        if not self.training:
            return x
        scale_B = self.scale_B.to(x.dtype)
        if len(x) != len(scale_B):  # the item's patches or windows stand in the batch dimension (TNT, for one)
            scale_B = scale_B.repeat_interleave(len(x) // len(scale_B))
        return x * scale_B.view(-1, *[1] * (x.ndim - 1))

    @staticmethod
    def install(student: nn.Module, seed: int, *, alike: bool = False) -> Masks:
        """Replace every timm DropPath of the student.

        `alike` also puts one that never drops where a block has none and its like have: timm's first block, which is
        then the same program as the others.
        """
        every = [(parent, *named) for parent in student.modules() for named in parent.named_children()]
        places = [(parent, name, child) for parent, name, child in every if isinstance(child, DropPath)]
        like = {(type(parent), name) for parent, name, _ in places} if alike else set()
        empty = [(p, name) for p, name, child in every if type(child) is nn.Identity and (type(p), name) in like]
        modules = [ItemDropPath() for _ in places]
        for (parent, name, _), module in zip(places, modules, strict=True):
            setattr(parent, name, module)
        masks = Masks(modules, tuple(child.drop_prob for _, _, child in places), seed)
        for parent, name in empty:
            masks.idle.append(ItemDropPath())
            setattr(parent, name, masks.idle[-1])
        return masks
