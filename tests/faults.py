"""Faults of the system, made to order: the nth call that changes a disk fails, a disk is full, a process is killed."""

from __future__ import annotations

import errno
import functools
import os
import signal
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec

import pytest
import torch

P = ParamSpec("P")

WRITING_CALLS = ("mkdir", "write", "fsync", "replace", "link")


class Calls:
    """Counts the calls that change a disk while it is active; the `fail_at`-th fails, or the process dies of it."""

    def __init__(
        self, fail_at: int | None = None, error: int = errno.EIO, *, kill: bool = False,
        names: Sequence[str] = WRITING_CALLS,
    ) -> None:  # fmt: skip
        self.fail_at, self.error, self.kill, self.names = fail_at, error, kill, names
        self.made: list[str] = []

    @contextmanager
    def active(self) -> Iterator[Calls]:
        with pytest.MonkeyPatch.context() as patch:
            for name in self.names:
                patch.setattr(os, name, self._wrap(name, getattr(os, name)))
            yield self

    def _wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.made.append(name)
            if len(self.made) - 1 == self.fail_at:
                if self.kill:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(self.error, os.strerror(self.error), *args[:1])
            return call(*args, **kwargs)

        return wrapped


@contextmanager
def memory_disk() -> Iterator[Path]:
    """A directory in memory where there is one: real files that are flushed at once, for tests that flush thousands."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as name:
        yield Path(name)


@contextmanager
def small_disk(path: Path, megabytes: int = 4) -> Iterator[Path]:
    """A file system of that size, or a skipped test."""
    path.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"mounting a tmpfs needs root: {mount.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def in_child(work: Callable[[], None]) -> int:
    """Run something in a forked process; its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait_for(child: int) -> int:
    """The exit status of a child, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def apart(test: Callable[P, None]) -> Callable[P, None]:
    """A test that runs in a process of its own, because of what it leaves in the one that it runs in."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        def work() -> None:
            torch.set_num_threads(1)  # a forked process must not use its parent's thread pool
            test(*args, **kwargs)

        assert wait_for(in_child(work)) == 0, "the child's traceback is in what was written to standard error"

    return run
