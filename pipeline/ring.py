"""Where do rendered batches live? In preallocated slots of anonymous memory that all processes share.

One slot holds one batch: which views were asked for (rows, views) and what came of them (pixels, checksums,
thumbnails).
Only slot numbers travel between processes, so nothing is pickled, collated or copied, and no message can fill a pipe.

The memory is a memfd where the system has it (Linux: not bounded by /dev/shm, and gone with its last user, however that
one dies), else an unlinked temporary file. A forked worker inherits the mapping; a spawned one receives the descriptor.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import reduction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LUMA = 16


@dataclass(frozen=True, slots=True)
class Slot:
    """One batch of views: the request, and the answer."""

    row_B: NDArray[np.int64]
    view_B: NDArray[np.int64]
    pixels_BHWC: NDArray[np.uint8]
    crc_B: NDArray[np.uint32]
    luma_B16: NDArray[np.uint8]

    def first(self, count: int) -> Slot:
        """The same slot, cut to its first `count` views."""
        return Slot(
            self.row_B[:count], self.view_B[:count], self.pixels_BHWC[:count], self.crc_B[:count], self.luma_B16[:count]
        )

    def answers(self) -> Slot:
        """A copy without the pixels, for whoever needs it after the slot has been used again."""
        return Slot(
            self.row_B.copy(), self.view_B.copy(), self.pixels_BHWC[:0], self.crc_B.copy(), self.luma_B16.copy()
        )


class Ring:
    """`slots` slots for up to `batch` views of `side` × `side` pixels each."""

    def __init__(self, slots: int, batch: int, side: int, descriptor: int | None = None) -> None:
        assert slots > 0 and batch > 0 and side > 0
        self.slots, self.batch, self.side = slots, batch, side
        self._parts = [batch * side * side * 3, batch * 8, batch * 8, batch * 4, batch * LUMA]
        self._stride = -(-sum(self._parts) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._descriptor = _anonymous(slots * self._stride) if descriptor is None else descriptor
        self._memory = mmap.mmap(self._descriptor, slots * self._stride)

    def __reduce__(self) -> tuple[Callable[..., Ring], tuple[Any, ...]]:
        return _attach, (self.slots, self.batch, self.side, reduction.DupFd(self._descriptor))

    def __del__(self) -> None:
        if hasattr(self, "_memory"):
            os.close(self._descriptor)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole ring."""
        return self.slots * self._stride

    def slot(self, number: int) -> Slot:
        """The arrays of one slot, in place."""
        starts = np.cumsum([number * self._stride, *self._parts])
        pixels, rows, views, crcs, lumas = (
            np.frombuffer(self._memory, dtype, size // np.dtype(dtype).itemsize, start)
            for dtype, size, start in zip(
                (np.uint8, np.int64, np.int64, np.uint32, np.uint8), self._parts, starts[:-1].tolist(), strict=True
            )
        )
        return Slot(rows, views, pixels.reshape(self.batch, self.side, self.side, 3), crcs, lumas.reshape(-1, LUMA))


def _attach(slots: int, batch: int, side: int, descriptor: Any) -> Ring:
    return Ring(slots, batch, side, descriptor.detach())


def _anonymous(size: int) -> int:
    """A descriptor of `size` bytes of memory that has no name."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("views", os.MFD_CLOEXEC)
    else:
        descriptor, path = tempfile.mkstemp(prefix="views")
        Path(path).unlink()
    os.ftruncate(descriptor, size)
    return descriptor
