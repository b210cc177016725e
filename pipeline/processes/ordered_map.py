"""How is one function applied to many items in several processes, in order, without piling up work or orphans?

`ordered_map` keeps a few items a worker in flight and yields results in the order of the items, so that nothing that is
made from them can depend on the number of workers; with none, the calls happen here. An error ends it at once: what
has not begun is dropped. A worker leaves interrupts to its parent, and ends with it, however that ends.

Nobody waits here for somebody who may be dead. Workers share nothing, no queue and no lock that one of them could take
with it: each has a pipe of its own, one item at a time on its way, and a thread of the parent that waits for the answer
or for the worker's end, whichever comes first. Who is done is killed, not asked to end (docs/decisions/0130).
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, Generic, TypeVar, cast

from pipeline.errors import UserError
from pipeline.processes.worker import start_worker

IN_FLIGHT = 4  # items a worker: enough to never wait, few enough to hold in memory

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(function: Callable[[T], R], items: Iterable[T], *, workers: int) -> Iterator[R]:
    """Give `function` of each item, in the order of the items, computed by `workers` processes or, with 0, here."""
    if workers == 0:
        yield from map(function, items)
        return
    source = iter(items)
    with _Pool(function, workers) as pool:
        pending = deque(pool.submit(item) for item in itertools.islice(source, workers * IN_FLIGHT))
        while pending:
            yield pending.popleft().result()
            pending.extend(pool.submit(item) for item in itertools.islice(source, 1))


class _Pool(Generic[T, R]):
    """Workers, each with a thread here that speaks with it."""

    def __init__(self, function: Callable[[T], R], workers: int) -> None:
        self._workers: list[_Worker] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(workers, "worker")  # which begins no thread before it has something to do
        try:
            for _ in range(workers):
                self._workers.append(_Worker(function))
                self._idle.put(self._workers[-1])
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> _Pool[T, R]:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def submit(self, item: T) -> Future[R]:
        """Have the function of an item worked out by whoever is free next."""
        return self._threads.submit(self._call, item)

    def _call(self, item: T) -> R:
        worker = self._idle.get()
        try:
            return cast(R, worker.call(item))
        finally:
            self._idle.put(worker)  # even a dead one: the next call must find out, and not wait for a free worker

    def end(self) -> None:
        """Kill the workers; all that they were asked for is answered, or not wanted any more."""
        for worker in self._workers:
            worker.process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()


class _Worker:
    """A process that applies the function to one item at a time."""

    def __init__(self, function: Callable[[Any], object]) -> None:
        self.process, self.connection = start_worker(_work, function)

    def call(self, item: object) -> object:
        """The function of the item; what it raises is raised here."""
        try:
            self.connection.send(item)
            if self.connection not in wait([self.connection, self.process.sentinel]):
                raise EOFError
            error, answer = self.connection.recv()
        except (EOFError, OSError):  # it ended before it was asked, meanwhile, or in the middle of its answer
            raise UserError(
                "a worker process died, perhaps for lack of memory. Run again with fewer --workers."
            ) from None
        if error is not None:
            raise error
        return answer


def _work(connection: Connection, function: Callable[[Any], object]) -> None:
    with contextlib.suppress(EOFError):
        while True:
            connection.send_bytes(_answer(function, connection.recv()))


def _answer(function: Callable[[Any], object], item: object) -> memoryview:
    """What is sent: an error or None, and the answer."""
    try:
        return ForkingPickler.dumps((None, function(item)))
    except Exception as error:
        return ForkingPickler.dumps((_portable(error), None))


def _portable(error: Exception) -> Exception:
    """The error, if it can be sent at all; where it happened goes with it."""
    where = "in a worker process:\n" + "".join(traceback.format_exception(error))
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        return RuntimeError(where)
    error.add_note(where)
    return error
