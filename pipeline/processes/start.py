"""How are further processes started: forked where that is safe, in a fresh interpreter where it is not?

Connections to object stores do not survive a fork, so where anything lies at a URL no process is forked. An interrupt
that arrives while a process is being started waits until it has been.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import platform
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker

from pipeline.errors import UserError
from pipeline.remote.client import in_use, is_remote


def choose_start_method(urls: tuple[str, ...]) -> str:
    """Fork where that is safe and quick: local shards on Linux; a fresh process anywhere else.

    Connections do not survive a fork: neither where shards are at URLs, nor where this process has read any.
    """
    if platform.system() != "Linux":
        return "spawn"
    return "forkserver" if _far(urls) else "fork"


def checked_start_method(urls: tuple[str, ...], asked: str | None) -> str:
    """The start method that was asked for, or the best one; fork is refused where anything is at a URL."""
    if asked == "fork" and _far(urls):
        where = next((url for url in urls if is_remote(url)), "a URL")
        raise UserError(
            f"--start-method fork does not go with {where}: a forked process cannot use its parent's connections. "
            "Use forkserver or spawn, or leave the flag out."
        )
    return asked or choose_start_method(urls)


def settle_start_method(places: tuple[str, ...], asked: str | None) -> None:
    """Have all processes that this one starts, the scan's too, started in a way that goes with these places."""
    method = checked_start_method(places, asked)
    if method != "fork":
        multiprocessing.set_start_method(method, force=True)


def _far(urls: tuple[str, ...]) -> bool:
    return in_use() or any(map(is_remote, urls))


@contextlib.contextmanager
def starting(method: str | None = None) -> Iterator[None]:
    """Let interrupts wait while processes are started: in the hooks of a fork Python would discard them.

    The new process inherits that it is blocked, before it can ignore it by itself: its parent decides.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    if (method or multiprocessing.get_start_method()) != "fork":
        resource_tracker.ensure_running()  # whose start would unblock it again
    before = signal.signal(signal.SIGINT, lambda number, _frame: caught.append(number))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
        if caught:
            signal.raise_signal(signal.SIGINT)
