"""How many bytes do all pictures take, whoever writes them?

One small file holds the number and its crc32c, and whoever changes which pictures there are, holds the lock on it
(flock): so the number never falls behind what is on the disk, whenever a process is killed. Bytes are added before a
file is made, and taken off after one is gone. Where the number cannot be read, files are counted.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

NUMBER, CRC = struct.Struct("<8sq"), struct.Struct("<I")
MAGIC = b"PICBYTES"
FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(slots=True)
class Account:
    """How many bytes the cache uses, for one process that has locked the file which says so."""

    descriptor: int
    used: int

    def add(self, count: int) -> None:
        """Write down that `count` more bytes are used, or fewer where it is negative."""
        self.set(self.used + count)

    def set(self, used: int) -> None:
        """Write down that so many bytes are used in all."""
        self.used = max(used, 0)
        text = NUMBER.pack(MAGIC, self.used)
        os.pwrite(self.descriptor, text + CRC.pack(google_crc32c.value(text)), 0)


@contextmanager
def account(path: Path, count: Callable[[], int]) -> Iterator[Account]:
    """The account of all processes, locked; `count` finds the number anew where the file does not say it."""
    descriptor = os.open(path, FLAGS, 0o600)  # by each process for itself: a forked one would share the lock
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        used = _number(os.pread(descriptor, NUMBER.size + CRC.size, 0))
        found = Account(descriptor, used or 0)
        if used is None:
            found.set(count())
        yield found
    finally:
        os.close(descriptor)


def _number(data: bytes) -> int | None:
    if len(data) != NUMBER.size + CRC.size:
        return None
    magic, used = NUMBER.unpack_from(data)
    (crc,) = CRC.unpack_from(data, NUMBER.size)
    known = magic == MAGIC and used >= 0 and crc == google_crc32c.value(data[: NUMBER.size])
    return used if known else None
