"""At which epoch and step do views go on, for this process and for the workers of a `DataLoader`?

Several workers begin one pass of a `DataLoader`, each at a moment of its own, and all of them must begin at one place.
So the first of them claims the place where the views stand and moves them on to the next epoch; the others of that pass
find the claim that is theirs: of the same seed and number of workers, of processes begun next to each other, and not
taken by themselves before. What is set or begun in the meantime is for passes that begin later.

Workers hold copies of a data set, and persistent ones hold them over many epochs. So all of this lies in memory that
they share with the process that owns the data set, memory without a name, which is their lock, too. Any other process
that comes by the data set has a place of its own, which begins where it stood then.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import context, current_process, parent_process, reduction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from pipeline.errors import StudentError
from pipeline.processes.nameless import nameless
from student.feed.usable import require_whole

MOST_WORKERS = 512
CLAIMS = 64
"""Passes that may be on their way at once"""
CLAIM = ("seed", "workers", "born", "number", "epoch", "step")
"""`born`: which child of its process the first worker of that pass is."""
LAYOUT = np.dtype(
    [
        *((name, "<i8") for name in ("epoch", "step", "untouched", "sets", "drawn_ahead", "passes")),
        ("claims", [*((name, "<i8") for name in CLAIM), ("taken", "?", MOST_WORKERS)], CLAIMS),
    ]
)
"""`taken`: which workers have used a claim."""


class Position:
    """At which epoch and step this process, and the workers of its data loaders, begin next."""

    def __init__(self) -> None:
        self._hold(nameless(LAYOUT.itemsize), os.getpid())

    def get(self) -> tuple[int, int]:
        """Where the next pass begins, or the next step of the one that this process draws by itself."""
        at = self._at
        return int(at["epoch"]), int(at["step"])

    def claim(self) -> tuple[int, int]:
        """Where this pass begins. Of a worker: where all workers of its pass do."""
        info = get_worker_info()
        if info is not None:
            return self._claim_as_worker(info.id, info.num_workers, info.seed - info.id)
        epoch, step = self.get()
        self._move(epoch + 1, 0)
        return epoch, step

    def advance(self, epoch: int, step: int, *, since: int) -> None:
        """Note where this process goes on from now, unless something was set since then."""
        if self.sets == since:
            self._move(epoch, step)

    @property
    def sets(self) -> int:
        """How often a place was set."""
        return int(self._at["sets"])

    def set(self, epoch: int, step: int) -> None:
        """Note where the next pass begins."""
        require_whole("epoch", epoch, below=2**32)
        require_whole("step", step)
        with self._locked() as at:
            at["epoch"], at["step"], at["untouched"], at["drawn_ahead"] = epoch, step, True, False
            at["sets"] += 1

    def begin(self, epoch: int) -> None:
        """Note that the next pass begins an epoch, or goes on in it, where a step of that epoch was set."""
        there, step = self.get()
        self.set(epoch, step if there == epoch and self._at["untouched"] else 0)

    @property
    def known(self) -> bool:
        """Whether this process knows how far its views have come: not if workers gave them."""
        return not self._at["drawn_ahead"]

    def _move(self, epoch: int, step: int) -> None:
        with self._locked() as at:
            at["epoch"], at["step"], at["untouched"], at["drawn_ahead"] = epoch, step, False, False

    def _claim_as_worker(self, worker: int, workers: int, seed: int) -> tuple[int, int]:
        if worker >= MOST_WORKERS:
            raise StudentError(f"Worker {worker} of a DataLoader is one too many. Use at most {MOST_WORKERS}.")
        parent = parent_process()
        if parent is not None and parent.pid != self._owner:
            raise StudentError(
                f"A DataLoader in process {parent.pid} would move the views of process {self._owner}, which opened "
                f"them. Call set_epoch(…) in {parent.pid} first, or open them there."
            )
        born = (current_process()._identity or (0,))[-1] - worker
        with self._locked() as at:
            claims = at["claims"]
            mine = (claims["number"] > 0) & (claims["seed"] == seed) & (claims["workers"] == workers)
            mine &= abs(claims["born"] - born) < workers  # an earlier pass of the same seed has others
            mine &= ~claims["taken"][:, worker]
            if mine.any():
                number = int(claims["number"][mine].min())
            else:
                at["passes"] += 1
                number = int(at["passes"])
                nobody = np.zeros(MOST_WORKERS, bool)
                claims[number % CLAIMS] = seed, workers, born, number, at["epoch"], at["step"], nobody
                at["epoch"], at["step"], at["untouched"], at["drawn_ahead"] = at["epoch"] + 1, 0, False, True
            claim = claims[number % CLAIMS]
            claim["taken"][worker] = True
            return int(claim["epoch"]), int(claim["step"])

    # ---- the memory

    @property
    def _at(self) -> NDArray[Any]:
        """What is shared, as one record; of a process that only came by it, a copy from now on."""
        if self._owner != os.getpid() and get_worker_info() is None:
            self.__setstate__({"copy": self._memory[:]})
        return np.frombuffer(self._memory, LAYOUT).reshape(())

    @contextmanager
    def _locked(self) -> Iterator[NDArray[Any]]:
        at = self._at
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield at
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _hold(self, descriptor: int, owner: int) -> None:
        self._file, self._owner = os.fdopen(descriptor, "r+b", buffering=0), owner
        self._memory = mmap.mmap(descriptor, LAYOUT.itemsize)

    def __getstate__(self) -> dict[str, Any]:
        """To a process that is being started the memory itself; elsewhere a copy."""
        if context.get_spawning_popen() is None:
            return {"copy": self._memory[:]}
        self._at  # noqa: B018  of a process that only came by it, its own
        return {"file": reduction.DupFd(self._file.fileno()), "owner": self._owner}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "copy" in state:
            self.__init__()  # type: ignore[misc]
            self._memory[:] = state["copy"]
        else:
            self._hold(state["file"].detach(), state["owner"])
