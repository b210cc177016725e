"""At which step do views go on, for this process and for the workers of a `DataLoader`?

Workers hold copies of a data set, and with `persistent_workers` they hold them over many epochs; so the position lies
in shared memory, a line for each worker and line 0 for the process that owns the data set. Whoever sets a position sets
all lines; a worker that has given its part of an epoch moves its own line to the next.
"""

from __future__ import annotations

import torch

from pipeline.errors import StudentError

MOST_WORKERS = 512


class Position:
    """(epoch, step) of the next step, a line for each worker."""

    def __init__(self) -> None:
        self._lines = torch.zeros(1 + MOST_WORKERS, 2, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._by_workers = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def get(self, worker: int | None = None) -> tuple[int, int]:
        """Where this process, or one worker, goes on."""
        self._by_workers[0] |= int(worker is not None)
        if worker is not None and worker >= MOST_WORKERS:
            raise StudentError(f"Worker {worker} of a DataLoader is one too many. Use at most {MOST_WORKERS}.")
        epoch, step = self._lines[0 if worker is None else 1 + worker].tolist()
        return int(epoch), int(step)

    def advance(self, epoch: int, step: int, worker: int | None = None) -> None:
        """Move one line."""
        self._lines[0 if worker is None else 1 + worker] = torch.tensor((epoch, step))

    def set(self, epoch: int, step: int) -> None:
        """Move all lines."""
        self._lines[:] = torch.tensor((epoch, step))
        self._by_workers[0] = 0

    def begin(self, epoch: int) -> None:
        """Move all lines to the beginning of an epoch, but where all stand in it already."""
        first, step = self.get()
        if first != epoch or not bool((self._lines == self._lines[0]).all()):
            step = 0
        self.set(epoch, step)

    @property
    def known(self) -> bool:
        """Whether this process knows how far its views have come: not if workers gave them."""
        return not int(self._by_workers[0])
