"""At which step do views go on, for this process and for the workers of a `DataLoader`?

Workers hold copies of a data set, and with `persistent_workers` they hold them over many epochs; so the position lies
in memory that all of them share, a line for each worker and line 0 for the process that owns the data set. Whoever sets
a position sets all lines; a worker that has given its part of an epoch moves its own line to the next.
"""

from __future__ import annotations

from multiprocessing import context
from multiprocessing.sharedctypes import RawArray
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StudentError
from student.feed.usable import require_whole

MOST_WORKERS = 512


class Position:
    """At which epoch and step this process, and each worker of it, goes on; in memory that workers share."""

    def __init__(self) -> None:
        self._memory = RawArray("q", 2 * (MOST_WORKERS + 1) + 1)

    @property
    def _numbers(self) -> NDArray[np.int64]:
        return np.frombuffer(self._memory, np.int64)

    @property
    def _lines(self) -> NDArray[np.int64]:
        return self._numbers[1:].reshape(-1, 2)

    def get(self, worker: int | None = None) -> tuple[int, int]:
        """The epoch and step at which this process, or one worker of it, goes on."""
        if worker is not None and worker >= MOST_WORKERS:
            raise StudentError(f"Worker {worker} of a DataLoader is one too many. Use at most {MOST_WORKERS}.")
        self._numbers[0] |= worker is not None
        epoch, step = self._lines[0 if worker is None else 1 + worker].tolist()
        return epoch, step

    def advance(self, epoch: int, step: int, worker: int | None = None) -> None:
        """Note where this process, or one worker of it, goes on from now."""
        self._lines[0 if worker is None else 1 + worker] = epoch, step

    def set(self, epoch: int, step: int) -> None:
        """Note that every worker goes on at this epoch and step."""
        require_whole("epoch", epoch)
        require_whole("step", step)
        self._lines[:] = epoch, step
        self._numbers[0] = 0

    def begin(self, epoch: int) -> None:
        """Note that every worker begins an epoch; where all stand in that epoch already, nothing moves."""
        first, step = self.get()
        same = first == epoch and bool((self._lines == self._lines[0]).all())
        self.set(epoch, step if same else 0)

    @property
    def known(self) -> bool:
        """Whether this process knows how far its views have come: not if workers gave them."""
        return not self._numbers[0]

    def __getstate__(self) -> dict[str, Any]:
        """To a process that is being started the memory itself; elsewhere a copy."""
        starting = context.get_spawning_popen() is not None
        return {"_memory": self._memory} if starting else {"copy": self._numbers.tolist()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        if "copy" in state:
            self._numbers[:] = state["copy"]
        else:
            self._memory = state["_memory"]
