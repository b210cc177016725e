"""How does a folder appear whole or not at all, and written by one process only?

It is filled under a hidden name beside its place, flushed to disk, and renamed: one step of the file system. The hidden
folder holds a lock that ends with its process; what a killed run left in it is swept by the next one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.durable.local import flush, flush_directory
from pipeline.errors import ShardError

LOCK = ".lock"


@dataclass(slots=True, kw_only=True)
class Staging:
    """A folder that is being filled."""

    path: Path
    """Where to write."""
    target: Path
    """Where it will be."""
    finished: bool = False

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
        self.finished = True
        (self.target / LOCK).unlink(missing_ok=True)
        flush_directory(self.target)
        flush_directory(self.target.parent)


@contextmanager
def claimed(target: Path) -> Iterator[Staging]:
    """An empty staging folder for `target`, held by this process alone and removed unless it is finished."""
    place = Path(os.path.realpath(target))
    staging = Staging(path=place.parent / f".{place.name}.packing", target=place)
    staging.path.mkdir(parents=True, exist_ok=True)
    with (staging.path / LOCK).open("ab") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(os.fstat(lock.fileno()), (staging.path / LOCK).stat())
        except OSError:
            ours = False
        if not ours:
            raise ShardError(f"{target} is being written by another process. Wait for it, or choose another --out.")
        try:
            _sweep(staging.path)
            yield staging
        finally:
            if not staging.finished:
                shutil.rmtree(staging.path, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what a killed run left; its lock file is ours now."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
