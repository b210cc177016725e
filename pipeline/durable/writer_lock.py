"""How do several processes write one store, when what an earlier run left must be swept by one that is alone?

Beside its lock a store has *seats*. Whoever comes takes all of them if it can; then it is the *first*: nobody writes,
it may sweep, and it lets the others in when it is done (`Seat.share`). Who comes later takes a share, and waits for the
first to let it in. A single process keeps them all for as long as it writes.

So a store is swept only while nobody writes to it: a run that starts while a process of an earlier one still lives is
told so. On a disk a seat is an flock, which the system lets go of however its process ends
(`pipeline.durable.local_lock`); in a bucket it is a lease, which expires (`pipeline.durable.s3_lease`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from typing import Protocol

from pipeline.errors import StoreError


class Seat(Protocol):
    """The right to write, alone or with others."""

    name: str
    """The store, as a user knows it"""
    patience_s: float
    """How long the claim of a process that was killed may last"""
    poll_s: float
    """How long to wait before trying again"""
    first: bool
    """Whether nobody else may write yet"""

    def take(self, *, follows: bool, alone: bool) -> bool:
        """Take what can be had now: everything, unless it `follows`; else a share, unless it must be `alone`."""
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
def seated(seat: Seat, *, alone: bool, follows: bool, wait_s: float) -> Iterator[Seat]:
    """The seat, taken; waited for `wait_s` at most.

    One that must be `alone` is waited for as long as a killed process may keep it: a moment, and on S3 until its lease
    has expired.

    One that `follows` is never first.
    """
    begun = time.monotonic()
    longest = seat.patience_s if alone else wait_s
    try:
        while not seat.take(follows=follows, alone=alone):
            if time.monotonic() - begun > longest:
                raise StoreError(
                    f"{seat.name} is being written by {seat.holder()} (waited for {longest:g} s). Wait until that "
                    "ends, or end it; then run this again."
                )
            time.sleep(seat.poll_s)
        yield seat
    finally:
        seat.leave()


def this_process() -> str:
    """How a process names itself to those that find its lock taken."""
    return f"process {os.getpid()} on {socket.gethostname()}"
