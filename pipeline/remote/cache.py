"""Where do the bytes of a remote shard lie on this node, and how do they get there once and not once a process?

    descriptor = cache().open("s3://bucket/train/000003.tar", size)    # fetched if need be; in use until it is closed

A folder holds whole shards under the sha256 of their URL, up to a number of bytes. Whoever needs one that is not there
takes that shard's lock (flock) and fetches it; the others on this node wait for the lock and find it. A shard is
fetched under a temporary name, held to the length that the server and the index say (and to the SHA-256 that the server
names, or its MD5 where the server's tag is one), flushed, and renamed. What is not whole never has the name; where
nobody has the shard's lock, it was left by a process that was killed, and goes.

Who uses a shard has it open with a shared flock. To make room, shards that were used longest ago go, if the flock on
them can be had: what is in use stays. If nothing can go, that is an error and not a fuller disk.

A fetch is tried `ATTEMPTS` times; an attempt may take `START_S` seconds and then `SLOWEST` bytes a second, and ends
when nothing comes for `STALL_S` seconds. So each wait here has an end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import queue
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import ShardError, UserError
from pipeline.remote.client import ATTEMPTS, STALL_S, attempts, remote
from pipeline.remote.files import SHA256, SLOWEST, START_S, Known, known_of, named

DEFAULT_BYTES = 64 << 30
HELD = 4
"""Shards that were asked for by path, without a descriptor, and stay in use until so many more were"""
MD5 = re.compile(r'"?([0-9a-f]{32})"?')
WHOLE, PART = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{40}\.[0-9a-f]{16}\.part")
"""The names that are given here; files of any other are somebody else's"""


class Cache:
    """The folder in which a node keeps whole shards that it has fetched, and how many bytes they may take."""

    def __init__(
        self, folder: Path, limit: int = DEFAULT_BYTES, *, stall_s: float = STALL_S, start_s: float = START_S
    ) -> None:
        self.folder, self.limit, self.stall_s, self.start_s = folder, limit, stall_s, start_s
        self._held: deque[int] = deque()
        self._ahead: queue.SimpleQueue[tuple[str, int | None]] = queue.SimpleQueue()
        self._asked_ahead: set[str] = set()
        self._worker: threading.Thread | None = None

    # ---- reading

    def open(self, url: str, size: int | None = None) -> int:
        """A descriptor of the whole shard, which stays in the cache until the descriptor is closed.

        With `size`, what is here in that size is taken without asking the server; without, the server is asked if it
        still has the same.
        """
        known = None if size is not None else self._known(url)
        place = self._place(url)
        for _ in range(3):
            descriptor = self._opened(place, size, known)
            if descriptor is not None:
                return descriptor
            with self._locked(place, url):
                descriptor = self._opened(place, size, known)
                if descriptor is not None:
                    return descriptor
                self._fetch(url, place, known or self._known(url), size)
        raise ShardError(f"{url} left the cache {self.folder} as often as it came. Give a larger --cache-size.")

    def path(self, url: str) -> Path:
        """Where the shard lies; it stays there until `HELD` more were asked for by path."""
        self._held.append(self.open(url))
        while len(self._held) > HELD:
            os.close(self._held.popleft())
        return self._place(url)

    def ahead(self, url: str, size: int | None = None) -> None:
        """Fetch it in the background, if nobody else does; if that fails, whoever reads it will say so."""
        if url in self._asked_ahead:
            return
        self._asked_ahead = {url}
        if self._worker is None:
            self._worker = threading.Thread(target=self._fetch_ahead, name="ahead", daemon=True)
            self._worker.start()
        self._ahead.put((url, size))

    def _known(self, url: str) -> Known:
        return known_of(url, stall_s=self.stall_s, start_s=self.start_s)

    def _opened(self, place: Path, size: int | None, known: Known | None) -> int | None:
        """The shard, if it is here and what was asked for."""
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failure(error) from error
        status = os.fstat(descriptor)
        same = status.st_size == (size if known is None else known.size)
        if known is not None and same:
            same = _note_of(place).get("tag") == known.tag
        if same and _lock(descriptor, fcntl.LOCK_SH) and os.fstat(descriptor).st_nlink:
            with contextlib.suppress(OSError):
                os.utime(descriptor)  # used now: what was used longest ago goes first
            return descriptor
        os.close(descriptor)
        return None

    # ---- fetching

    def _fetch_ahead(self) -> None:
        while True:
            url, size = self._ahead.get()
            place = self._place(url)
            with contextlib.suppress(UserError, OSError), self._locked(place, url, wait=False) as ours:
                descriptor = self._opened(place, size, None)
                if descriptor is not None:
                    os.close(descriptor)
                elif ours:
                    self._fetch(url, place, self._known(url), size)

    def _fetch(self, url: str, place: Path, known: Known, size: int | None) -> None:
        """Bring the shard under its name, whole."""
        if size is not None and known.size != size:
            raise ShardError(
                f"{url} has {known.size:,} bytes, and had {size:,} when it was indexed: it is another file, or was "
                "changed. Restore it, or name the right one by --shards."
            )
        self.make_room(known.size, place)
        wrong: set[str] = set()
        sha256 = named(url, lambda: attempts(url, lambda: self._attempt(url, place, known, wrong)))
        note = {"url": url, "size": known.size, "tag": known.tag, "sha256": sha256}
        _note_path(place).write_text(json.dumps(note, sort_keys=True) + "\n", encoding="utf-8")

    def _attempt(self, url: str, place: Path, known: Known, wrong: set[str]) -> str:
        part = place.with_name(f"{place.name}.{secrets.token_hex(8)}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)  # it may have been removed meanwhile
            within = self.start_s + known.size / SLOWEST
            remote(url, stall_s=self.stall_s).call("get_file", url, str(part), within_s=within)
            with part.open("rb") as file:  # by name: whether clients write in place or replace is theirs to choose
                found = os.fstat(file.fileno()).st_size
                if found != known.size:
                    raise OSError(f"{found:,} of {known.size:,} bytes came")
                md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
                while block := file.read(1 << 20):
                    md5.update(block)
                    sha256.update(block)
                found_md5, found_sha256 = md5.hexdigest(), sha256.hexdigest()
                _require_digest(known.tag, found_md5, found_sha256, wrong)
                os.fsync(file.fileno())
            part.replace(place)
            return found_sha256
        except FileNotFoundError as error:
            if str(error.filename) != str(part):
                raise  # the server's word that it has none
            raise OSError(f"what came was removed from {self.folder}") from error
        finally:
            part.unlink(missing_ok=True)

    # ---- room

    def make_room(self, needed: int, place: Path | None = None) -> None:
        """Let shards go, the ones that were used longest ago first, until `needed` bytes fit.

        They are for `place`, whose lock the caller has.
        """
        with self._locked(self.folder / "room", "the cache"):
            entries, total = [], 0
            for path in self.folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    whole = WHOLE.fullmatch(path.name)
                    if not whole and (not PART.fullmatch(path.name) or self._remove_left(path, place)):
                        continue
                    status = path.stat()
                    total += status.st_size
                    if whole:
                        entries.append((status.st_mtime_ns, path, status.st_size))
            for _, path, size in sorted(entries):
                if total + needed <= self.limit:
                    return
                if _remove_unused(path):
                    _note_path(path).unlink(missing_ok=True)
                    total -= size
            if total + needed > self.limit:
                raise ShardError(
                    f"the cache {self.folder} may hold {self.limit:,} bytes; {total:,} are in use, and a shard of "
                    f"{needed:,} is needed. Give a larger --cache-size, or fewer --workers."
                )

    def _remove_left(self, part: Path, ours: Path | None) -> bool:
        """Remove a part that a killed process left: whoever brings one has the lock of its place."""
        name = part.name.partition(".")[0]
        if ours is not None and ours.name == name:
            part.unlink(missing_ok=True)
            return True
        with self._locked(part.with_name(name), name, wait=False) as left:
            if left:
                part.unlink(missing_ok=True)
            return left

    @contextlib.contextmanager
    def _locked(self, place: Path, url: str, *, wait: bool = True) -> Iterator[bool]:
        """One process of this node at a time; the wait ends when whoever holds it must have ended."""
        longest = ATTEMPTS * (self.start_s + self.limit / SLOWEST)
        deadline = time.monotonic() + longest
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(place.with_name(place.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._failure(error) from error
        try:
            while not (ours := _lock(descriptor, fcntl.LOCK_EX)) and wait:
                if time.monotonic() > deadline:
                    raise ShardError(f"{url} is being fetched by another process for {longest:g} s. End it.")
                time.sleep(0.02)
            yield ours
        except OSError as error:
            raise self._failure(error) from error
        finally:
            os.close(descriptor)

    def _place(self, url: str) -> Path:
        return self.folder / hashlib.sha256(url.encode()).hexdigest()[:40]

    def _failure(self, error: OSError) -> ShardError:
        said = os.strerror(error.errno) if error.errno else str(error)
        remedy = (
            "Make room, or give a smaller --cache-size" if error.errno == errno.ENOSPC else "Give another --cache-dir"
        )
        return ShardError(f"the cache {self.folder} cannot be used: {said}. {remedy}.")


def _require_digest(tag: str, md5: str, sha256: str, wrong: set[str]) -> None:
    """Hold what came to its SHA-256, or to a tag that looks like its MD5.

    An encrypted object has a tag of that look that is none: where the same bytes come twice, the tag is not believed.
    """
    if tag.startswith(SHA256) and tag != f"{SHA256}{sha256}":
        raise OSError(f"what came has SHA-256 {sha256[:12]}, the server names {tag.removeprefix(SHA256)[:12]}")
    match = MD5.fullmatch(tag)
    if match and match[1] != md5 and md5 not in wrong:
        wrong.add(md5)
        raise OSError(f"what came has MD5 {md5}, the server's tag is {match[1]}")


def _lock(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_unused(path: Path) -> bool:
    """Remove a file unless somebody has it in use."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        if not _lock(descriptor, fcntl.LOCK_EX):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)


def _note_path(place: Path) -> Path:
    return place.with_name(place.name + ".json")


def _note_of(place: Path) -> dict[str, Any]:
    try:
        found = json.loads(_note_path(place).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
