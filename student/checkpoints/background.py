"""How is a checkpoint written without a step that waits for the disk?

    with Writing(run) as writing:
        writing.save(state)        # a copy is taken here and now; hashing, flushing and renaming are a thread's work
        ...                        # training goes on
        writing.check()            # what the thread could not do is raised here

What is on the disk is at every instant what `checkpoint` promises: the thread does the same steps in the same order.
One state is under way at a time, so a next one waits for it, and `last` is never older than the one before. When the
context ends, however it ends, what was handed over is on the disk.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from student.checkpoints import checkpoint
from student.checkpoints.checkpoint import State

log = logging.getLogger(__name__)


class Writing:
    """Writes the checkpoints of one run, one after the other."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future[Path] | None = None

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.settle()
        finally:
            self._thread.shutdown()
            if self._under_way is not None and (error := self._under_way.exception()) is not None:
                log.warning("a checkpoint was not written: %s", error)  # the run ends by an error of its own

    def save(self, state: State) -> None:
        """Hand over a state to be written as `last`; the one that was last becomes `previous`."""
        self._begin(checkpoint.save, state)

    def save_best(self, state: State) -> None:
        """Hand over the weights of a state to be written as `best`."""
        self._begin(checkpoint.save_best, {name: state[name] for name in checkpoint.KEPT if name in state})

    def settle(self) -> None:
        """Wait until what was handed over is on the disk."""
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            under_way.result()

    def check(self) -> None:
        """Raise what the thread has failed with, if it has; waits for nothing."""
        if self._under_way is not None and self._under_way.done():
            self.settle()

    def _begin(self, write: Callable[[Path, State], Path], state: State) -> None:
        self.settle()
        self._under_way = self._thread.submit(write, self.run, copied(state))


def copied(value: Any) -> Any:
    """The same, with every tensor as a copy on the host that no step changes any more."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        same = copy.copy(value)  # state dicts have attributes besides
        same.update((key, copied(item)) for key, item in value.items())
        return same
    if isinstance(value, (list, tuple)):
        return type(value)(copied(item) for item in value)
    return value
