"""Where do the arrays of a large index lie, once a node, for all of its processes to map?

An index of 14 million rows is 800 MB. The first process of a node that needs it unpacks it into one file of the cache
folder (`--cache-dir`); that one and all others map the file, read-only, and so share its pages. Opening costs them the
same whatever the rows, and a worker process is sent the file's name.

    HEAD bytes    a sealed record: the digest of the content, the length of each array, what was learned of them
    the arrays    in their fixed order, each from a new page on

How is it known that the file holds what it should, without each process looking through it?

    when it is unpacked     the arrays are checked (`pipeline.shards.index_checks`) and have the digest that was asked
                            for, before the file gets its name; it is flushed, and renamed in one step
    when nobody maps it     it may have lain there for long: who comes first hashes it, by reading, not by mapping
    while somebody maps it  it was proven by the first of them; who joins looks at its size, owner, time and head. A
                            write from outside moves the time, and then it is hashed again

Who maps it holds a shared flock, who comes takes a lock file first, so that nobody takes for proven what another is
just finding out about. What fails is unpacked anew, under a new inode: who has mapped the old one is not disturbed.
The file counts in `--cache-size` and goes when room is needed, unless it is in use. Where the folder cannot be written,
or has no room, each process holds the index in its own memory, and says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import mmap
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.durable import canonical
from pipeline.durable.canonical import NotCanonicalError
from pipeline.durable.local import flush
from pipeline.errors import ShardError, UserError
from pipeline.remote.cache_settings import cache
from pipeline.shards.index_checks import DTYPES, Arrays, Facts, Lengths, Proof, content_digest, lengths_of, size_of

log = logging.getLogger(__name__)

LARGE = 64 << 20
"""Bytes from which on an index is mapped; a smaller one is read by each process in half a second"""
HEAD = 1 << 12
PAGE = 1 << 12
READ = 1 << 20
FORMAT = "offline-distiller mapped index 1"

Blocks = Callable[[str], Iterable[Any]]
"""The bytes of an array, in parts"""
Prove = Callable[[Arrays, Callable[[], None]], Facts]
"""`pipeline.shards.index_checks.prove`"""


class OtherContentError(ValueError):
    """The arrays are sound, and not those that were asked for."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found


class Mapped(Proof):
    """Arrays in a file that this process maps and keeps in use. Pickled, it is the name of the file."""

    def __init__(self, place: Path, digest: str, arrays: Arrays, facts: Facts) -> None:
        super().__init__(arrays, facts)
        self.place, self.digest = place, digest

    def __reduce__(self) -> tuple[Callable[..., Mapped], tuple[Any, ...]]:
        return _joined, (self.place, self.digest, lengths_of(self.arrays))


def mapped(digest: str, lengths: Lengths, blocks: Blocks, prove: Prove) -> Mapped | None:
    """The arrays of this digest: mapped if they are on this node, unpacked from `blocks` if not.

    None, after a warning, where the cache folder cannot be used. What `blocks` and `prove` raise is theirs;
    OtherContentError where the blocks are of another digest.
    """
    place = _place(digest)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(place):
            return _opened(place, digest, lengths) or _unpacked(place, digest, lengths, blocks, prove)
    except OSError as error:
        said = os.strerror(error.errno) if error.errno else str(error)
        log.warning(
            "the index cannot be unpacked into %s (%s): each process holds %d MB of its own. "
            "Give a --cache-dir that can be written and has room.",
            place.parent, said, size_of(lengths) / 1e6,
        )  # fmt: skip
        return None


def _joined(place: Path, digest: str, lengths: Lengths) -> Mapped:
    """The same in another process, for which whoever sent the name keeps the file in use."""
    try:
        with _one_at_a_time(place):
            found = _opened(place, digest, lengths)
    except OSError:
        found = None
    if found is None:
        raise UserError(f"The unpacked index {place} was removed or changed while it was in use. Start again.")
    return found


def _place(digest: str) -> Path:
    """Each user has a file of their own; the name has no suffix, as that of a shard, so that it counts as one."""
    name = hashlib.sha256(f"index {digest} of {os.geteuid()}".encode()).hexdigest()[:40]
    return cache().folder.absolute() / name


@contextlib.contextmanager
def _one_at_a_time(place: Path) -> Iterator[None]:
    """While somebody unpacks or proves, others wait; the system lets go of the lock however that process ends.

    It is the lock of a shard of that name: while it is held, `pipeline.remote.cache` leaves the part alone.
    """
    descriptor = os.open(f"{place}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _opened(place: Path, digest: str, lengths: Lengths) -> Mapped | None:
    """The file, proven and in use; None where there is none, or it is not what it must be."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None  # none, or nothing that could be an index: it is replaced
    try:
        facts = _proven(descriptor, digest, lengths)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if facts is None or os.fstat(descriptor).st_nlink == 0:  # evicted between two locks
            log.info("%s is not the unpacked index that it was: it is made again", place)
            return None
        return Mapped(place, digest, _arrays(_map(descriptor), lengths), facts)
    finally:
        os.close(descriptor)


def _proven(descriptor: int, digest: str, lengths: Lengths) -> Facts | None:
    """What the head says, once the file is known to be whole."""
    status = os.fstat(descriptor)
    size = _starts(lengths)[""]
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_size != size:
        return None
    try:
        head = canonical.unseal(os.pread(descriptor, HEAD, 0).rstrip(b"\0"))
        facts = Facts(**head["facts"])
        if head != _head(digest, lengths, facts, head["mtime_ns"]):
            return None
    except (NotCanonicalError, KeyError, TypeError):
        return None
    if _alone(descriptor) or status.st_mtime_ns != head["mtime_ns"]:
        return facts if _digest(descriptor, lengths) == digest else None
    return facts


def _alone(descriptor: int) -> bool:
    """Whether no other process maps the file; so too where the file system has no such locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _unpacked(place: Path, digest: str, lengths: Lengths, blocks: Blocks, prove: Prove) -> Mapped:
    starts = _starts(lengths)
    try:
        cache().make_room(starts[""], place)
    except ShardError as error:
        raise OSError(str(error)) from error
    part = place.with_name(f"{place.name}.{secrets.token_hex(8)}.part")
    with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH)  # in use from its first moment on, by whoever has the map
            for name in DTYPES:
                file.seek(starts[name])
                for block in blocks(name):
                    file.write(block)
            file.truncate(starts[""])
            file.flush()
            arrays = _arrays(memory := _map(file.fileno()), lengths)
            facts = prove(arrays, lambda: _let_go(memory))
            found = _digest(file.fileno(), lengths)
            if found != digest:
                raise OtherContentError(found)
            mtime_ns = int(time.time()) // 2 * 2 * 10**9  # a time that every file system can keep
            file.seek(0)
            file.write(canonical.seal(_head(digest, lengths, facts, mtime_ns)))
            file.flush()
            os.utime(file.fileno(), ns=(mtime_ns, mtime_ns))
            flush(file.fileno())
            part.replace(place)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    _let_go(memory)
    return Mapped(place, digest, arrays, facts)


def _head(digest: str, lengths: Lengths, facts: Facts, mtime_ns: int) -> dict[str, object]:
    return {
        "format": FORMAT,
        "digest": digest,
        "lengths": dict(lengths),
        "facts": asdict(facts),
        "mtime_ns": mtime_ns,
    }


def _starts(lengths: Lengths) -> dict[str, int]:
    """Where each array begins in the file; under "" where the file ends."""
    starts, at = {}, HEAD
    for name, dtype in DTYPES.items():
        starts[name] = at
        at += -(-lengths[name] * dtype.itemsize // PAGE) * PAGE
    return {**starts, "": at}


def _map(descriptor: int) -> mmap.mmap:
    """The whole file. The map has a descriptor of its own, and with it the lock, until the last array is gone."""
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)


def _let_go(memory: mmap.mmap) -> None:
    """What was only looked through need not stay resident here; it can be mapped again at any time."""
    if hasattr(mmap, "MADV_DONTNEED"):
        memory.madvise(mmap.MADV_DONTNEED)


def _arrays(memory: mmap.mmap, lengths: Lengths) -> Arrays:
    starts = _starts(lengths)
    return {name: np.frombuffer(memory, dtype, lengths[name], starts[name]) for name, dtype in DTYPES.items()}


def _digest(descriptor: int, lengths: Lengths) -> str:
    """Of the arrays in the file; read, because what is mapped counts as this process's memory."""
    starts = _starts(lengths)

    def parts(name: str) -> Iterator[bytes]:
        at, left = starts[name], lengths[name] * DTYPES[name].itemsize
        while left:
            part = os.pread(descriptor, min(READ, left), at)
            if not part:
                raise OSError(f"the file ended at {at}")
            yield part
            at, left = at + len(part), left - len(part)

    return content_digest(lengths, parts)
