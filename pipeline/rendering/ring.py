"""Where do rendered batches live? In preallocated slots of anonymous memory that all processes share.

One slot holds one batch: which views were asked for (rows, views) and what came of them (pixels, checksums,
thumbnails). Only slot numbers travel between processes, so nothing is pickled, collated or copied, and no message can
fill a pipe.

The memory is a memfd where the system has it (Linux: not bounded by /dev/shm, and gone with its last user, however that
one dies), else an unlinked temporary file. A forked worker inherits the mapping; a spawned one receives the descriptor.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from multiprocessing import reduction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.processes.nameless import nameless

LUMA = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A batch of views in shared memory: which rows and views were asked for, and what was drawn."""

    row_B: NDArray[np.int64]
    view_B: NDArray[np.int64]
    crc_B: NDArray[np.uint32]
    pixels_BHWC: NDArray[np.uint8]
    luma_B16: NDArray[np.uint8]
    bad_B: NDArray[np.uint8]
    """1 where the row's picture could not be decoded and is drawn grey."""

    def first(self, count: int) -> Slot:
        """The same slot, cut to its first `count` views."""
        return Slot(**{name: getattr(self, name)[:count] for name in FIELDS})

    def answers(self) -> Slot:
        """A copy without the pixels, for whoever needs it after the slot has been used again."""
        copies = {name: getattr(self, name).copy() for name in FIELDS if name != "pixels_BHWC"}
        return Slot(**copies, pixels_BHWC=self.pixels_BHWC[:0])

    def name_of(self, at: int) -> str:
        """The row and the view at a place of the batch, in words for a message."""
        return f"row {self.row_B[at]}, view {self.view_B[at]}"


FIELDS = tuple(field.name for field in fields(Slot))


class Ring:
    """`slots` slots for up to `batch` views of `side` × `side` pixels each."""

    def __init__(self, slots: int, batch: int, side: int, descriptor: int | None = None) -> None:
        assert slots > 0 and batch > 0 and side > 0
        self.slots, self.batch, self.side = slots, batch, side
        # the wide types first, so that each array is aligned whatever the side
        self._parts: list[tuple[type[np.generic], tuple[int, ...]]] = [
            *((np.int64, (batch,)), (np.int64, (batch,)), (np.uint32, (batch,))),
            *((np.uint8, (batch, side, side, 3)), (np.uint8, (batch, LUMA)), (np.uint8, (batch,))),
        ]
        self._sizes = [np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in self._parts]
        self._stride = -(-sum(self._sizes) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._descriptor = nameless(slots * self._stride) if descriptor is None else descriptor
        self._memory = mmap.mmap(self._descriptor, slots * self._stride)

    def __reduce__(self) -> tuple[Callable[..., Ring], tuple[Any, ...]]:
        return _attach, (self.slots, self.batch, self.side, reduction.DupFd(self._descriptor))

    def __del__(self) -> None:
        if hasattr(self, "_memory"):
            os.close(self._descriptor)

    @property
    def nbytes(self) -> int:
        """How many bytes of shared memory the ring takes."""
        return self.slots * self._stride

    @property
    def memory(self) -> NDArray[np.uint8]:
        """All bytes of the ring as one array that shares its memory."""
        return np.frombuffer(self._memory, np.uint8)

    def slot(self, number: int) -> Slot:
        """The arrays of the slot with this number, which share the ring's memory."""
        starts = itertools.accumulate(self._sizes[:-1], initial=number * self._stride)
        arrays = [
            np.frombuffer(self._memory, dtype, math.prod(shape), start).reshape(shape)
            for (dtype, shape), start in zip(self._parts, starts, strict=True)
        ]
        return Slot(**dict(zip(FIELDS, arrays, strict=True)))


def _attach(slots: int, batch: int, side: int, descriptor: Any) -> Ring:
    return Ring(slots, batch, side, descriptor.detach())
