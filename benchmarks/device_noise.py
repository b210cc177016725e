"""Which noise stands in the erased boxes of many views at once, on any device?

NumPy's Philox4x64-10, written down again in 64-bit integers that wrap, as a device has them: the words of
`pipeline.rendering.noise`, and so its pixels, bit for bit.

    key      (the sample's key hash, the recipe's seed)
    counter  (running, from 1; the view; the purpose; 0)

Shapes: N views, W words of 16 bits each, K blocks of four 64-bit words.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.views.philox import Purpose

MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
ROUNDS, BLOCK = 10, 16
"""Words of 16 bits in a block"""
LOW = (1 << 32) - 1


def words(key_N: NDArray[np.uint64], view_N: NDArray[np.int64], seed: int, count: int, device: torch.device) -> Tensor:
    """The first `count` words [N, W] of each view, 0 to 65,535."""
    blocks = -(-count // BLOCK)
    running_1K = torch.arange(1, blocks + 1, device=device)[None]
    key_N1 = torch.from_numpy(key_N.view(np.int64).copy()).to(device)[:, None]
    view_N1 = torch.from_numpy(view_N.astype(np.int64)).to(device)[:, None]
    zero_NK = torch.zeros((len(key_N), blocks), dtype=torch.int64, device=device)
    counter = (zero_NK + running_1K, zero_NK + view_N1, zero_NK + int(Purpose.NOISE), zero_NK)
    block_NK4 = torch.stack(_philox(counter, (zero_NK + key_N1, zero_NK + _signed(seed))), -1)
    return block_NK4.view(torch.int16).flatten(1)[:, :count].int() & 0xFFFF  # the lower words first, on all devices


def _philox(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Four words for each counter."""
    (a, b, c, d), (first, second) = counter, key
    for _ in range(ROUNDS):
        high_a, low_a = _product(a, MULTIPLIERS[0])
        high_c, low_c = _product(c, MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ first, low_c, high_a ^ d ^ second, low_a
        first, second = first + _signed(WEYL[0]), second + _signed(WEYL[1])
    return a, b, c, d


def _product(value: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """The upper and the lower 64 bits of a product without signs, by halves."""
    low, high = value & LOW, value >> 32 & LOW
    factor_low, factor_high = factor & LOW, factor >> 32
    middle = high * factor_low + (low * factor_low >> 32 & LOW)
    other = low * factor_high + (middle & LOW)
    return high * factor_high + (middle >> 32 & LOW) + (other >> 32 & LOW), value * _signed(factor)


def _signed(word: int) -> int:
    """The same 64 bits as a number with a sign."""
    return word - (1 << 64) if word >> 63 else word
