"""A real terminal of so many columns, in which a command runs: what it shows, and Ctrl-C typed into it.

`Screen` plays what was written as a terminal does, so that a test sees lines as a person would.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

AS_EVER = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
"""Whoever runs the tests in the background ignores interrupts, and so would a command that is not begun by this."""
CTRL_C = b"\x03"


@dataclass(slots=True)
class Terminal:
    """A process and the other end of its terminal."""

    pid: int
    master: int
    written: bytearray = field(default_factory=bytearray)
    status: int | None = None
    """Of the process, once it has ended: its exit status, or minus the signal that ended it."""

    def read(self, until: Callable[[bytes], bool] = lambda _: False, *, seconds: float = 300.0) -> bytes:
        """Take what is written, up to the end of the process, or until enough is there."""
        deadline = time.monotonic() + seconds
        while not until(bytes(self.written)):
            assert time.monotonic() < deadline, bytes(self.written)
            if not select.select([self.master], [], [], 0.05)[0]:
                continue
            try:
                self.written += os.read(self.master, 1 << 16)
            except OSError:  # the last one who had it open is gone
                _, status = os.waitpid(self.pid, 0)
                self.status = os.waitstatus_to_exitcode(status)
                break
        return bytes(self.written)

    def press(self, key: bytes) -> None:
        """Type."""
        os.write(self.master, key)


@contextlib.contextmanager
def terminal(line: Sequence[str], *, columns: int, env: Mapping[str, str] | None = None) -> Iterator[Terminal]:
    """``python …`` in a terminal of its own, which is ended with the context."""
    pid, master = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # whatever it is for who runs the tests
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.execve(sys.executable, [sys.executable, *line], {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})})
    found = Terminal(pid, master)
    try:
        yield found
    finally:
        if found.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, 9)
            os.waitpid(pid, 0)
        os.close(master)


def screen(written: bytes, columns: int) -> list[str]:
    """The lines that a terminal of that width shows; a line that is too long goes on in the next one."""
    lines, row, column = [""], 0, 0
    text = written.decode()
    at = 0
    while at < len(text):
        if text.startswith("\x1b[2K", at):
            lines[row], at = "", at + 4
            continue
        char, at = text[at], at + 1
        assert char != "\x1b", "another control sequence than the one that is used"
        if char == "\r":
            column = 0
        elif char == "\n":
            row += 1
        else:
            if column == columns:
                row, column = row + 1, 0
            while len(lines) <= row:
                lines.append("")
            lines[row] = lines[row][:column].ljust(column) + char + lines[row][column + 1 :]
            column += 1
        while len(lines) <= row:
            lines.append("")
    return lines
