"""How is a worker process started, so that it knows what its parent knows, and ends when its parent does?

A worker has a pipe to its parent, and among its arguments the parent's settings of the node's cache
(`pipeline.remote.cache_settings`). It leaves signals to its parent, which may want to finish something first;
so a parent that is at its end, however it came there, kills it.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from pipeline.processes.start import starting
from pipeline.remote import cache_settings
from pipeline.remote.cache_settings import CacheSettings

Work = Callable[..., None]

_STARTED: weakref.WeakSet[BaseProcess] = weakref.WeakSet()


def start_worker(
    work: Work, *args: object, method: str | None = None, name: str | None = None
) -> tuple[BaseProcess, Connection]:
    """Start a process that does `work(connection, *args)`; the process, and this end of its connection."""
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    settings = cache_settings.current()
    process: BaseProcess = context.Process(target=_live, args=(settings, work, theirs, *args), name=name, daemon=True)
    with starting(context.get_start_method()):
        _STARTED.add(process)
        process.start()
    theirs.close()  # else the end of the worker would not be the end of what it says
    return process, ours


@atexit.register
def _kill_all() -> None:
    """Before `multiprocessing` asks them to end and waits, in a hook that was registered before this one."""
    for process in multiprocessing.active_children():
        if process in _STARTED:
            process.kill()


def _live(settings: CacheSettings, work: Work, connection: Connection, *args: object) -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with cache_settings.using(settings):
        work(connection, *args)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
