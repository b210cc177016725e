"""What does Ctrl-C do while there is nobody yet to take it: while modules are imported, and while Python ends?

A `KeyboardInterrupt` in the middle of an import ends in a page of traceback, or is swallowed by an extension that takes
it for a failed import. Nothing has been begun then, and after the command nothing is left to do: so one line is written
and the process ends. In between `pipeline.commands.command.Command` has interrupts raised as usual.

The packages of commands call `leave_at_once` first of all, where Python imports them for ``python -m``; whoever imports
them as a library keeps the handler that there is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

SCRIPT = "distill"
STATUS = 128 + signal.SIGINT
BEFORE, AFTER = "error: interrupted before anything was begun\n", "error: interrupted when all was done\n"

_said = BEFORE


def is_command() -> bool:
    """Whether this process is to be a command: the installed script, or that of ``python -m``.

    Until Python has found the latter's module, that is its first argument.
    """
    return sys.argv[:1] == ["-m"] or f"/{''.join(sys.argv[:1])}".endswith(f"/{SCRIPT}")


def leave_at_once() -> None:
    """From now on an interrupt writes one line and ends the process; where it is ignored, it stays ignored."""
    mine = threading.current_thread() is threading.main_thread()
    if mine and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Inside this context an interrupt is raised as usual; afterwards it ends the process at once again."""
    global _said
    if signal.getsignal(signal.SIGINT) is not _leave:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
        _said = AFTER
    except BaseException:
        _said = ""  # the error, or the interrupt, is told by whoever takes it
        raise
    finally:
        signal.signal(signal.SIGINT, _leave)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os.write(2, _said.encode())
    os._exit(STATUS)
