"""How is one function applied to many items in several processes, in order, without piling up work or orphans?

`ordered_map` keeps a few items a worker in flight and yields results in the order of the items, so that nothing that is
made from them can depend on the number of workers; with none, the calls happen here. An error ends it at once: what
has not begun is dropped. A worker leaves interrupts to its parent, and ends with it, however that ends.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from pipeline.errors import UserError
from pipeline.processes.start import starting

IN_FLIGHT = 4  # items a worker: enough to never wait, few enough to hold in memory

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(function: Callable[[T], R], items: Iterable[T], *, workers: int) -> Iterator[R]:
    """`function` of each item, in order; `workers` processes, or none."""
    if workers == 0:
        yield from map(function, items)
        return
    pool = ProcessPoolExecutor(workers, initializer=_follow_parent)
    pending: deque[Future[R]] = deque()
    queue = iter(items)
    try:
        with starting():
            pending.extend(pool.submit(function, item) for item in itertools.islice(queue, workers * IN_FLIGHT))
        while pending:
            yield pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in itertools.islice(queue, 1))
    except BrokenProcessPool:
        raise UserError("a worker process died, perhaps for lack of memory. Run again with fewer --workers.") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _follow_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
