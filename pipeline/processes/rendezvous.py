"""How do ranks speak to each other without ever waiting for ever?

Through torch's TCPStore: the launcher keeps one (torchrun), or rank 0 does. It is only ever asked for counters and
small values; there are no collectives. Each call has a time-out of its own, because a call to a host that was cut off
from the network would otherwise wait as long as TCP does (a quarter of an hour and more).

Restarts reuse the launcher's store, so nothing that stands in it is believed before this has happened: each rank says
hello under a token of its own, rank 0 answers to the token with the name of the session, and all else is kept under
that name. A thread of each rank beats while its process lives, and rank 0's answers hellos.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import timedelta
from typing import TypeVar

from torch._C._distributed_c10d import TCPStore

from pipeline.errors import UserError, first_line
from pipeline.processes.world import Place

POLL_S = 0.1
LINGER_S = 3.0
T = TypeVar("T")


class LostError(UserError):
    """The other ranks cannot be reached, or have ended before this one was done with them."""


class Meeting:
    """The ranks of a run, as one of them sees the others."""

    def __init__(self, place: Place, timeout_s: float) -> None:
        self.place, self.timeout_s = place, timeout_s
        self._calls = _Calls(timeout_s, self._where)
        host = place.leads and not place.hosted
        self._store = self._calls.make(
            lambda: TCPStore(
                place.address,
                place.port,
                is_master=host,
                timeout=timedelta(seconds=timeout_s),
                wait_for_workers=False,
            )
        )
        self._token = secrets.token_hex(8)
        self._session = self._token if place.leads else ""
        self._seen: dict[int, tuple[int, float]] = {}
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._live, name="heart", daemon=True)

    @property
    def _where(self) -> str:
        return f"rank {self.place.rank} of {self.place.world} at {self.place.address}:{self.place.port}"

    # ---- small values

    def add(self, name: str, amount: int) -> int:
        """Add a number to a counter that all processes share; gives what the counter is afterwards."""
        return self._calls.make(lambda: self._store.add(self._key(name), amount))

    def put(self, name: str, value: str) -> None:
        """Publish a text under a name, where the other processes of the run find it."""
        self._set(self._key(name), value)

    def get(self, name: str) -> str | None:
        """The text that was published under a name; None as long as nobody has."""
        return self._read(self._key(name))

    def wait_for(self, name: str) -> str:
        """A value, as soon as it is published; LostError once rank 0 has been silent for the time-out."""
        while (value := self.get(name)) is None:
            self.require_alive(0)
            time.sleep(POLL_S)
        return value

    def _key(self, name: str) -> str:
        assert self._session
        return f"{self._session}/{name}"

    def _set(self, key: str, value: str) -> None:
        self._calls.make(lambda: self._store.set(key, value))

    def _read(self, key: str) -> str | None:
        found = self._calls.make(lambda: self._store.get(key) if self._store.check([key]) else None)
        return None if found is None else found.decode()

    # ---- who is there

    def join(self) -> None:
        """Tell the others that this process is there, and from now on, every few seconds, that it still is."""
        if not self.place.leads:
            self._set(f"hello/{self.place.rank}", self._token)
            deadline = time.monotonic() + self.timeout_s
            while (session := self._read(f"session/{self._token}")) is None:
                if time.monotonic() > deadline:
                    raise LostError(
                        f"{self._where}: rank 0 did not answer within {self.timeout_s:g} s (--timeout). Is it running? "
                        "Start the whole run again: it goes on where it was."
                    )
                time.sleep(POLL_S)
            self._session = session
            self.add("joined", 1)
        self._heart.start()

    def silent_for(self, rank: int) -> float:
        """Seconds since a rank was last seen to beat; since it was first asked about, if never."""
        beats, now = self.add(f"beat/{rank}", 0), time.monotonic()
        before, since = self._seen.get(rank, (-1, now))
        if beats != before:
            self._seen[rank] = beats, now
            return 0.0
        return now - since

    def require_alive(self, rank: int) -> None:
        """LostError where a rank has been silent for the time-out, or has said that it failed."""
        failed = self.get(f"failed/{rank}")
        if failed is not None:
            raise LostError(f"rank {rank} stopped: {failed}")
        if self.silent_for(rank) > self.timeout_s:
            raise LostError(
                f"{self._where} has heard nothing of rank {rank} for {self.timeout_s:g} s (--timeout). "
                "Start the same command again: it does what is missing, with any number of processes."
            )

    def wait_for_others(self, meanwhile: Callable[[], None] = lambda: None) -> list[int]:
        """Wait until each other rank has left, or was silent for the time-out; the ones that were lost."""
        lost, waiting = [], set(range(self.place.world)) - {self.place.rank}
        while waiting:
            for rank in sorted(waiting):
                if self.get(f"left/{rank}") is not None:
                    waiting.discard(rank)
                elif self.silent_for(rank) > self.timeout_s:
                    waiting.discard(rank)
                    lost.append(rank)
            meanwhile()
            time.sleep(POLL_S if waiting else 0)
        return lost

    def leave(self, failure: str = "") -> None:
        """Tell the others that this rank is done, and end; a meeting that is lost is left silently."""
        self._over.set()
        with contextlib.suppress(LostError):
            if failure and self._session:
                self.put(f"failed/{self.place.rank}", failure)
            if self._session:
                self.put(f"left/{self.place.rank}", "1")
            if failure and self.place.leads and not self.place.hosted:
                self._linger()
        self._calls.end()

    def _linger(self) -> None:
        """Keep the meeting place open until the others have heard why it closes, or for a moment."""
        deadline = time.monotonic() + min(LINGER_S, self.timeout_s)
        heard = range(1, self.place.world)
        while time.monotonic() < deadline and any(self.get(f"left/{rank}") is None for rank in heard):
            time.sleep(POLL_S)

    def _live(self) -> None:
        """Beat; as rank 0 also answer to hellos, until all have joined."""
        greeted: set[str] = set()
        pause = min(1.0, self.timeout_s / 10)
        with contextlib.suppress(LostError):  # the next call of the main thread finds the same
            while not self._over.wait(POLL_S if self._greet(greeted) else pause):
                self.add(f"beat/{self.place.rank}", 1)

    def _greet(self, greeted: set[str]) -> bool:
        """Answer to new hellos; whether some are still awaited."""
        if not self.place.leads or self.add("joined", 0) >= self.place.world - 1:
            return False
        for rank in range(1, self.place.world):
            token = self._read(f"hello/{rank}")
            if token is not None and token not in greeted:
                greeted.add(token)
                self._set(f"session/{token}", self._session)
        return True


class _Calls:
    """Calls that may hang, made one after the other by a thread that may be left behind."""

    def __init__(self, timeout_s: float, who: str) -> None:
        self.timeout_s, self.who = timeout_s, who
        self._lost: str | None = None
        self._queue: queue.SimpleQueue[tuple[Callable[[], object], Future[object]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="meeting", daemon=True).start()

    def make(self, call: Callable[[], T]) -> T:
        """Make a call to the meeting place in its turn, and give the answer; LostError where none comes in time."""
        if self._lost is not None:
            raise LostError(self._lost)
        future: Future[T] = Future()
        self._queue.put((call, future))  # type: ignore[arg-type]
        try:
            return future.result(self.timeout_s)
        except (TimeoutError, RuntimeError, OSError) as error:
            said = first_line(error, 150) if str(error) else f"no answer within {self.timeout_s:g} s (--timeout)"
            self._lost = (
                f"{self.who} cannot reach the other ranks: {said}. "
                "Start the same command again: it does what is missing, with any number of processes."
            )
            raise LostError(self._lost) from error

    def end(self) -> None:
        """Take no more calls, and end the thread that makes them."""
        self._queue.put(None)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            call, future = item
            try:
                future.set_result(call())
            except BaseException as error:  # whatever it is, the caller gets it
                future.set_exception(error)


@contextlib.contextmanager
def meet(place: Place, timeout_s: float) -> Iterator[Meeting]:
    """The meeting of a place's ranks, joined; left at the end, with the reason if it is a failure."""
    meeting = Meeting(place, timeout_s)
    try:
        meeting.join()
        yield meeting
    except BaseException as error:
        meeting.leave(first_line(error, None))
        raise
    meeting.leave()
