"""How does a folder appear whole or not at all, and written by one process only?

It is filled under a hidden name beside its place, flushed to disk, and renamed: one step of the file system. The hidden
folder holds a lock that ends with its process; what a killed run left in it is swept by the next one. The lock is the
last to go, so that nobody begins in a folder that is still being removed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.durable.file import telling
from pipeline.durable.local import flush, flush_directory, is_same_file
from pipeline.errors import ShardError

LOCK = ".lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """A folder that is being filled under a temporary name, until `finish` gives it its own."""

    path: Path
    """Where to write."""
    target: Path
    """Where it will be."""

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, and flush it to disk."""
        with (self.path / name).open("wb") as file:
            file.write(data)
            file.flush()
            flush(file.fileno())

    def finish(self) -> None:
        """Put the folder in its place, which must be free or an empty folder."""
        flush_directory(self.path)
        self.path.rename(self.target)
        (self.target / LOCK).unlink(missing_ok=True)
        flush_directory(self.target)
        flush_directory(self.target.parent)


@contextmanager
def claimed(target: Path) -> Iterator[Staging]:
    """An empty staging folder for `target`, held by this process alone and removed unless it is finished."""
    place = Path(os.path.realpath(target))
    staging = Staging(path=place.parent / f".{place.name}.packing", target=place)
    with ExitStack() as stack:
        with telling(staging.path):
            with suppress(FileExistsError):
                staging.path.mkdir(parents=True)
            ours = False
            with suppress(FileNotFoundError):  # another had it until now
                lock = stack.enter_context((staging.path / LOCK).open("ab"))
                with suppress(BlockingIOError, PermissionError):  # another has it; some shares say so by the second
                    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    ours = is_same_file(lock.fileno(), staging.path / LOCK)
        if not ours:
            raise ShardError(f"{target} is being written by another process. Wait for it, or choose another --out.")
        try:
            _sweep(staging.path)
            yield staging
        finally:
            with suppress(OSError):  # what stays, the next run sweeps
                if is_same_file(lock.fileno(), staging.path / LOCK):  # once it is finished, that may be another's
                    _sweep(staging.path)
                    (staging.path / LOCK).unlink()
                    lock.close()  # some shares keep the name of an open file
                    staging.path.rmdir()


def _sweep(folder: Path) -> None:
    """Remove all but the lock, which is ours."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink(missing_ok=True)
