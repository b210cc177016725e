"""How do several processes write one store, when what an earlier run left must be swept by one that is alone?

A second lock stands beside the store's own, ``<store>.writers.lock``. Whoever comes takes it whole if it can; then it
is the *first*: nobody writes, it may sweep, and it lets the others in when it is done (`Seat.share`). Who comes later
takes a share, and waits for the first to let it in. A single process keeps it whole for as long as it writes.

So a store is swept only while nobody writes to it: a run that starts while a process of an earlier one still lives is
told so. The system lets go of a share however its process ends; on S3 a lease expires (`pipeline.durable.s3`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from pipeline.durable.local import LocalObjects, lock_path
from pipeline.durable.objects import Objects
from pipeline.errors import StoreError

PATIENCE_S = 2.0
"""A worker that was forked just before its parent was killed shares the parent's seat until it first runs."""


class Seat(Protocol):
    """The right to write, alone or with others."""

    patience_s: float
    """How long the claim of a process that was killed may last"""
    poll_s: float

    first: bool
    """Whether nobody else may write yet"""

    def take(self, *, follows: bool, alone: bool) -> bool:
        """Take what can be had now."""
        ...

    def share(self) -> None:
        """Let others write too."""
        ...

    def holder(self) -> str:
        """Who has it, as far as that is known."""
        ...

    def leave(self) -> None:
        """Give the seat up."""
        ...


@contextlib.contextmanager
def seated(objects: Objects, *, alone: bool, follows: bool, wait_s: float) -> Iterator[Seat]:
    """A seat at the store, waited for `wait_s` at most.

    One that must be `alone` is waited for as long as a killed process may keep it: a moment, and on S3 until its lease
    has expired.

    One that `follows` is never first.
    """
    seat: Seat = _LocalSeat(objects.root) if isinstance(objects, LocalObjects) else _remote_seat(objects)
    begun = time.monotonic()
    longest = seat.patience_s if alone else wait_s
    try:
        while not seat.take(follows=follows, alone=alone):
            if time.monotonic() - begun > longest:
                raise StoreError(
                    f"{objects.name} is being written by {seat.holder()} (waited for {longest:g} s). Wait until that "
                    "ends, or end it; then run this again."
                )
            time.sleep(seat.poll_s)
        yield seat
    finally:
        seat.leave()


def _remote_seat(objects: Objects) -> Seat:
    from pipeline.durable.s3 import S3Objects  # here, because most runs never need it

    assert isinstance(objects, S3Objects)
    return objects.seat()


class _LocalSeat:
    """A seat as a flock, whole or shared, on a file beside the store."""

    def __init__(self, root: Path) -> None:
        self.path, self._owner = lock_path(root, ".writers.lock"), lock_path(root, ".lock")
        self.first, self.patience_s, self.poll_s = False, PATIENCE_S, 0.05
        self._descriptor: int | None = None

    def take(self, *, follows: bool, alone: bool) -> bool:
        """Take what can be had now."""
        descriptor = self._opened()
        modes = [] if follows else [fcntl.LOCK_EX]
        for mode in [*modes, *([] if alone else [fcntl.LOCK_SH])]:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                self.first = mode == fcntl.LOCK_EX
                return True
        return False

    def share(self) -> None:
        """From whole to shared; nothing is written between."""
        if self.first and self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
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

    def leave(self) -> None:
        """Give the seat up."""
        if self._descriptor in _HELD:  # not in a forked child, where the number may be another file's by now
            _HELD.discard(self._descriptor)
            os.close(self._descriptor)
        self._descriptor = None

    def _opened(self) -> int:
        if self._descriptor is None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise StoreError(
                    f"cannot lock {self.path}: {error.strerror}. Give an --out that can be written."
                ) from None
            _HELD.add(self._descriptor)
        return self._descriptor


_HELD: set[int] = set()
"""Descriptors of the seats that this process holds"""


def _let_go_in_child() -> None:
    # a forked child shares the seat: without this, a worker that outlives a killed parent keeps the next run out
    for descriptor in _HELD:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
