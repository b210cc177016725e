"""How do files of one directory become objects that are there whole and for good, or not at all?

`put` writes to a temporary name in the same directory, flushes the file to the disk, renames it, and flushes the
directory; directories that it makes are flushed into their parents first. Whatever instant it is killed at, the name
holds the old bytes, the new bytes, or nothing. Nothing is ever written in place, so a name that is a hard or symbolic
link into a cache is replaced and the cache is not touched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pipeline.durable.local_lock import Flock, LocalSeat, lock_path, read_all_said
from pipeline.durable.writer_lock import Writer, this_process
from pipeline.errors import StoreError


class LocalObjects:
    """Objects as files of one directory. Holds no open files, so it may be forked and pickled."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._flushed: set[Path] = set()
        """Directories that are known to be in their parents for good"""

    @property
    def name(self) -> str:
        """The path of the directory, as a user knows the store."""
        return str(self.root)

    @property
    def folder(self) -> Path:
        """The directory as a path, since this medium can rename; a bucket has none."""
        return self.root

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """How many bytes every file below `prefix` has, by its key."""
        found: dict[str, int] = {}
        top = self.root / prefix
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(f"{self.root} is a file, and a store is a directory. Name another place.")
        try:
            for directory, _, names in os.walk(top, onerror=_raise_unless_absent):
                base = os.path.relpath(directory, self.root)
                for name in names:
                    key = name if base == "." else f"{base}/{name}"
                    found[key] = _size(Path(directory, name))
        except OSError as error:
            raise failure("list", top, error) from error
        return dict(sorted(found.items()))

    def get(self, key: str, limit: int) -> bytes:
        """Read a file whole; KeyError where it is absent, StoreError where it has more than `limit` bytes."""
        path = self.root / key
        try:
            # without O_NONBLOCK a FIFO of that name would wait for a writer for ever
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            raise KeyError(key) from None
        except OSError as error:
            raise failure("read", path, error) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise StoreError(f"{path} is not a regular file. Remove it; the store has files only.")
        with os.fdopen(descriptor, "rb") as file:  # buffered: one unbuffered read may give less than there is
            if status.st_size > limit:
                raise StoreError(f"{path} has {status.st_size} bytes, at most {limit} belong there. {_RESTORE}")
            try:
                return file.read(min(limit, status.st_size) + 1)  # so much memory is taken, whatever is read
            except OSError as error:
                raise failure("read", path, error) from error

    def get_many(self, keys: Iterable[str], limit: int) -> Iterator[tuple[str, bytes | None]]:
        """The bytes of these files, one after the other, each read when it is asked for."""
        for key in keys:
            try:
                data = self.get(key, limit)
            except KeyError:
                data = None
            yield key, data

    def put(self, key: str, data: bytes) -> None:
        """Write bytes under a key so that they are there whole and for good: flushed, renamed, directory flushed."""
        self._put(self.root / key, data, _renamed, tries=3)

    def put_new(self, key: str, data: bytes) -> bool:
        """The same with a hard link in place of the rename, which does not replace what is there."""
        return self._put(self.root / key, data, _linked, tries=3)

    def delete(self, key: str) -> None:
        """Remove a file, and the directories that this leaves empty, so that no trace of the key is left."""
        path = self.root / key
        try:
            path.unlink(missing_ok=True)
            for parent in path.relative_to(self.root).parents[:-1]:
                (self.root / parent).rmdir()
                self._flushed.discard(self.root / parent)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.EEXIST, errno.ENOTDIR):
                raise failure("remove", path, error) from error
        with contextlib.suppress(OSError):  # a removal that is lost with the power is made again by the next sweep
            flush_directory(path.parent)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold an flock on ``<root>.lock``; the system lets go of it however this process ends."""
        lock = Flock(lock_path(self.root, ".lock"))
        try:
            try:
                self._make_directory(lock.path.parent)
                holder = None if lock.take(fcntl.LOCK_EX) else lock.said() or "another process"
            except OSError as error:
                raise failure("lock", lock.path, error) from error
            if holder is not None:
                raise StoreError(
                    f"{self.name} is being written by {holder}; this is {this_process()}. Wait until it ends, or end "
                    "it; then run this again."
                )
            lock.say()
            yield
        finally:
            lock.leave()

    def seat(self) -> LocalSeat:
        """The right to write this store, held by an flock on ``<root>.writers.lock``."""
        return LocalSeat(self.root)

    def writers(self) -> list[Writer]:
        """The processes that write this store, by the small files that they keep beside it."""
        return read_all_said(self.root)

    def _put(self, path: Path, data: bytes, named: Callable[[Path, Path], bool], *, tries: int) -> bool:
        with self._temporary(path, data) as temporary:
            try:
                if placed := named(temporary, path):
                    flush_directory(path.parent)
                return placed
            except FileNotFoundError:
                if tries == 1 or not path.parent.is_dir():
                    raise
        return self._put(path, data, named, tries=tries - 1)  # another that finishes has swept the temporary file

    @contextlib.contextmanager
    def _temporary(self, path: Path, data: bytes) -> Iterator[Path]:
        """A flushed file with these bytes beside `path`, for the caller to give its name to; gone afterwards."""
        temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
        try:
            self._write_beside(path, temporary, data)
            yield temporary
        except OSError as error:
            raise failure("write", path, error) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _write_beside(self, path: Path, temporary: Path, data: bytes) -> None:
        self._make_directory(path.parent)
        try:
            _write_file(temporary, data)
        except FileNotFoundError:  # another process has removed what was the last file there, and the folder with it
            if not self.root.is_dir():
                raise
            self._flushed -= {path.parent, *path.parent.parents}
            self._make_directory(path.parent)
            _write_file(temporary, data)

    def _make_directory(self, directory: Path) -> None:
        """Make the directory and its parents, each flushed into its own parent before anything is put in it."""
        if directory in self._flushed or directory == directory.parent:
            return
        if not directory.is_dir():
            self._make_directory(directory.parent)
            Path(os.path.realpath(directory)).mkdir(exist_ok=True)  # a link whose folder was moved gets a new one
        if directory == self.root or self.root in directory.parents:
            flush_directory(directory.parent)
        self._flushed.add(directory)


_RESTORE = "Restore it from a copy, or run the teacher's stage again: it computes what is damaged."


def _renamed(temporary: Path, path: Path) -> bool:
    temporary.replace(path)
    return True


def _linked(temporary: Path, path: Path) -> bool:
    """Whether the file has its name now, which nothing had before."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        if path.exists():  # no hard links on this file system: the check and the rename are two steps
            return False
        temporary.replace(path)
    return True


def _write_file(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        flush(descriptor)
    finally:
        os.close(descriptor)


def is_same_file(descriptor: int, path: Path) -> bool:
    """Whether an open file or folder is still the one of that name: another process may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def flush(descriptor: int) -> None:
    """Have what was written to an open file, or a directory, on the disk for good.

    On macOS fsync ends where the disk has the bytes in a memory of its own, which a power cut empties; F_FULLFSYNC has
    it write them. Where a file system does not know that (a share, say), fsync is what there is.
    """
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        try:
            fcntl.fcntl(descriptor, full)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise
    os.fsync(descriptor)


def flush_directory(directory: Path) -> None:
    """Have the names in a directory written to the disk, as the bytes of its files were."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a link that leads nowhere
        return -1


def _raise_unless_absent(error: OSError) -> None:
    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
        raise error


def failure(verb: str, path: Path, error: OSError) -> StoreError:
    """What the system said, about which file, with how much room, and what helps."""
    said = os.strerror(error.errno) if error.errno else str(error)
    room = _room(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "Make room, or give another --out"
    elif error.errno == errno.EFBIG:
        remedy = "Raise the limit on file sizes (ulimit -f), or give another --out"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = "Check who owns it and how it is mounted"
        remedy += "" if verb in ("list", "read") else ", or give another --out"
    else:
        remedy = "Check the disk"
    return StoreError(
        f"cannot {verb} {path}: {said}{room}. {remedy}; then run this again: nothing that was finished is lost."
    )


def _room(path: Path) -> str:
    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            return f" ({shutil.disk_usage(place).free / 1e6:,.1f} MB free)"
    return ""
