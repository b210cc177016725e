"""Who may write what lies on a disk? Whoever holds an flock on a file beside it.

    <store>.lock            held by the one writer; says which process that is
    <store>.writers.lock    held whole by the first of several writers, shared by those that it lets in
    <store>.writers/        a small file of each of them, which says how it gets on; held by nobody

The system lets go of a lock however its process ends. A process that was forked from a holder lets go at once: a worker
that outlives its killed parent must not keep the next run out.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.durable.writer_lock import Writer, read_said, this_process, write_said
from pipeline.errors import StoreError

PATIENCE_S = 2.0
"""A worker that was forked just before its parent was killed shares the parent's seat until it first runs."""

_HELD: set[int] = set()
"""Descriptors of the locks that this process holds, or waits for"""


def lock_path(root: Path, suffix: str) -> Path:
    """The file of that suffix beside a directory, the same one through whichever link the directory is named."""
    return Path(f"{os.path.realpath(root)}{suffix}")


class Flock:
    """A lock on a file, which is made if it is not there; the file also says who holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def take(self, mode: int) -> bool:
        """Take it in this mode (`fcntl.LOCK_EX`, `LOCK_SH`) if it can be had now; OSError where it cannot be asked."""
        try:
            fcntl.flock(self._opened(), mode | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def share(self) -> None:
        """Let others hold it too, from now on; it waits where another was quicker to take it in between."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def said(self) -> str:
        """The process that holds the lock alone, as it wrote there; empty where it wrote nothing."""
        return os.pread(self._opened(), 200, 0).decode("utf-8", "replace").strip()

    def say(self) -> None:
        """Write there who holds it: a courtesy, so a full disk must not keep a store from resuming."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._opened(), 0)
            os.pwrite(self._opened(), f"{this_process()}\n".encode(), 0)

    def leave(self) -> None:
        """Let go of it, whether it was had or not."""
        if self._descriptor in _HELD:  # not in a forked child, where the number may be another file's by now
            _HELD.discard(self._descriptor)
            os.close(self._descriptor)
        self._descriptor = None

    def _opened(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            _HELD.add(self._descriptor)
        return self._descriptor


class LocalSeat:
    """A seat as an flock, whole or shared, on a file beside the store."""

    def __init__(self, root: Path) -> None:
        self.name, self.first, self.patience_s, self.poll_s = str(root), False, PATIENCE_S, 0.05
        self._flock, self._owner = Flock(lock_path(root, ".writers.lock")), lock_path(root, ".lock")
        self._said = lock_path(root, ".writers") / f"{socket.gethostname()}-{os.getpid()}.json"

    def take(self, *, follows: bool, alone: bool) -> bool:
        """Take the lock, whole if nobody has any of it, else a share; whether it could be had without waiting."""
        modes = [*([] if follows else [fcntl.LOCK_EX]), *([] if alone else [fcntl.LOCK_SH])]
        try:
            self._flock.path.parent.mkdir(parents=True, exist_ok=True)
            taken = next(filter(self._flock.take, modes), None)
        except OSError as error:
            raise StoreError(
                f"cannot lock {self._flock.path}: {error.strerror}. Give an --out that can be written."
            ) from None
        self.first = taken == fcntl.LOCK_EX
        if self.first:
            sweep_said(self._said.parent)
        return taken is not None

    def share(self) -> None:
        """Turn the whole right to write into a shared one; nobody can write in between."""
        if self.first:
            self._flock.share()
        self.first = False

    def holder(self) -> str:
        """The process that holds the store's own lock, if it is of this machine and still there."""
        with contextlib.suppress(OSError, ValueError):
            said = self._owner.read_text(encoding="utf-8").strip()
            _, number, _, machine = said.split(" ", 3)
            os.kill(int(number), 0)  # which only asks whether it is there
            if machine == socket.gethostname():
                return said
        return "other processes"

    def say(self, told: Mapping[str, Any]) -> None:
        """Write how this process gets on into a file of its own, whole, though not flushed to disk."""
        with contextlib.suppress(OSError):
            self._said.parent.mkdir(exist_ok=True)
            write_said(self._said, told)

    def leave(self) -> None:
        """Give the right up, or the wait for it; it does no harm twice."""
        with contextlib.suppress(OSError):
            self._said.unlink(missing_ok=True)
            self._said.parent.rmdir()
        self._flock.leave()


def read_all_said(root: Path) -> list[Writer]:
    """What all processes said of themselves that write, or were killed while they did; by rank."""
    folder = lock_path(root, ".writers")
    found = [read_said(path) for path in sorted(folder.glob("*.json"))]
    return sorted(filter(None, found), key=lambda writer: int(writer.told.get("rank") or 0))


def sweep_said(folder: Path) -> None:
    """Remove the files in which killed processes spoke of themselves; only one that is alone may."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def _let_go_in_child() -> None:
    for descriptor in _HELD:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
