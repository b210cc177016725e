"""How do several processes write one store, when what an earlier run left must be swept by one that is alone?

Beside its lock a store has *seats*. Whoever comes takes all of them if it can; then it is the *first*: nobody writes,
it may sweep, and it lets the others in when it is done (`Seat.share`). Who comes later takes a share, and waits for the
first to let it in. A single process keeps them all for as long as it writes.

So a store is swept only while nobody writes to it: a run that starts while a process of an earlier one still lives is
told so. On a disk a seat is an flock, which the system lets go of however its process ends
(`pipeline.durable.local_lock`); in a bucket it is a lease, which expires (`pipeline.durable.s3_lease`).

Whoever has a seat says now and then how it gets on (`Seat.say`), for people who look (`Writer`). That decides nothing.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import StoreError


class Seat(Protocol):
    """The right to write a store, which a process has alone or shares with others."""

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
        """Turn the whole right into a shared one, so that others may write beside this process."""
        ...

    def holder(self) -> str:
        """Which process holds the seat, in words for a message, as far as that is known."""
        ...

    def say(self, told: Mapping[str, Any]) -> None:
        """Let people who look know how this process gets on: a courtesy, and never an error."""
        ...

    def leave(self) -> None:
        """Give the right up; whoever waits for it may have it."""
        ...


@contextlib.contextmanager
def seated(seat: Seat, *, alone: bool, follows: bool, wait_s: float) -> Iterator[Seat]:
    """The seat, taken; waited for `wait_s` at most.

    One that must be `alone` is waited for as long as a killed process may keep it: a moment, and on S3 until its lease
    has expired.

    One that `follows` is never first.
    """
    begun, said = time.monotonic(), -math.inf
    longest = seat.patience_s if alone else wait_s
    try:
        while not seat.take(follows=follows, alone=alone):
            if time.monotonic() >= said + SAY_S:
                seat.say({"state": "waits"})
                said = time.monotonic()
            if time.monotonic() - begun > longest:
                raise StoreError(
                    f"{seat.name} is being written by {seat.holder()} (waited for {longest:g} s). Wait until that "
                    "ends, or end it; then run this again."
                )
            time.sleep(seat.poll_s)
        seat.say({"state": "begins"})
        yield seat
    finally:
        seat.leave()


SAY_S = 5.0
"""From one word to the next"""

LONGEST = 1 << 16
"""Bytes of what a process says of itself, with plenty to spare"""

SILENT_S = 90.0
"""After so long without a word a process of another machine may be gone"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """A process that writes a store, as it has told of itself."""

    host: str
    pid: int
    silent_s: float
    """Since it last said something"""
    alive: bool | None
    """None where only that process's own machine knows"""
    told: Mapping[str, Any] = field(default_factory=dict)
    """How it gets on: its rank, what it does, how much it has done in how many seconds"""

    @property
    def state(self) -> str:
        """In a word or two what the process does, or that it is gone or silent."""
        if self.alive is False:
            return "is gone (killed, or failed)"
        if self.alive is None and self.silent_s > SILENT_S:
            return "silent"
        return str(self.told.get("state", "at work"))

    @property
    def works(self) -> bool:
        """Whether the process is alive, as far as can be told from here."""
        return self.alive is not False and (self.alive is True or self.silent_s <= SILENT_S)

    @classmethod
    def of(cls, record: Any, silent_s: float) -> Writer | None:
        """The process that wrote this record of itself; None where it is no such record."""
        if not isinstance(record, dict) or type(record.get("pid")) is not int or not 0 < record["pid"] < 2**31:
            return None
        host, pid, born = str(record.get("host", "")), record["pid"], record.get("born")
        told = {name: value for name, value in record.items() if name not in ("host", "pid", "born")}
        alive = _is_there(pid, born) if host == socket.gethostname() else None
        return cls(host=host, pid=pid, silent_s=max(silent_s, 0.0), alive=alive, told=told)


def this_process() -> str:
    """This process in words, for messages to those that find its lock taken."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def myself() -> dict[str, Any]:
    """This process as values: its host, number and time of birth, by which others see whether it is still there."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())}


def write_said(path: Path, told: Mapping[str, Any]) -> None:
    """Write what this process says of itself, in place of what it said before."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({**myself(), "at": time.time(), **told}), encoding="utf-8")
    temporary.replace(path)


def read_said(path: Path) -> Writer | None:
    """What a process said of itself; None where there is nothing to be read."""
    try:
        record = json.loads(path.read_bytes()[:LONGEST])
        return Writer.of(record, time.time() - float(record["at"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _is_there(pid: int, born: object) -> bool:
    """Whether this very process runs here, and no other has its number by now."""
    try:
        os.kill(pid, 0)  # which only asks
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is another user's
    now = _born(pid)
    return born is None or now is None or now == born


def _born(pid: int) -> int | None:
    """When a process began, in ticks since the machine did; None where the system does not say, or it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return None if fields[0] == "Z" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
