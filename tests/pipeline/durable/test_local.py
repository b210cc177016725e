"""What a file system alone can do to objects: kills, full disks, links. What all media promise: test_conformance."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import resource
import signal
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from pipeline.durable.local import LocalObjects, failure, flush
from pipeline.durable.objects import is_temporary, open_objects
from pipeline.errors import StoreError
from tests.faults import Calls, in_child, small_disk, wait_for

KEY = "argmax/c.0.0"


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "deep" / "store.zarr")


def test_no_directory_is_left_of_a_key_and_a_file_is_none(objects: LocalObjects) -> None:
    objects.put(KEY, b"one")
    objects.put("zarr.json", b"{}")
    with pytest.raises(KeyError):
        objects.get("zarr.json/x", 5)
    objects.delete(KEY)
    assert sorted(p.name for p in objects.root.iterdir()) == ["zarr.json"], "an empty directory is no trace of a key"
    objects.put(KEY, b"again")
    assert objects.get(KEY, 5) == b"again"


def test_put_new_without_hard_links(objects: LocalObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    assert objects.put_new(KEY, b"first")
    assert not objects.put_new(KEY, b"second")
    assert objects.get(KEY, 10) == b"first"


def test_bytes_are_durable_before_they_have_a_name_and_the_name_before_put_returns(objects: LocalObjects) -> None:
    with Calls().active() as calls:
        objects.put(KEY, b"x")
    # root and argmax/ are made and flushed into their parents, then the file, then its name
    assert [c for c in calls.made if c != "write"] == [
        *("mkdir", "mkdir", "fsync", "mkdir", "fsync"),
        *("fsync", "replace", "fsync"),
    ]
    assert calls.made.index("write") < len(calls.made) - 3


@pytest.mark.parametrize("new", [False, True])
def test_a_failure_at_any_call_leaves_the_old_bytes_or_the_new(tmp_path: Path, new: bool) -> None:
    for step in range(100):
        objects = LocalObjects(tmp_path / f"{step}.zarr")
        if not new:
            objects.put(KEY, b"old")
        calls = Calls(step)
        try:
            with calls.active():
                (objects.put_new if new else objects.put)(KEY, b"new")
        except StoreError as error:
            assert f"cannot write {objects.root / KEY}: Input/output error" in str(error)
        else:
            break
        found = {key: objects.get(key, 10) for key in objects.sizes()}
        assert found in ([{KEY: b"old"}, {KEY: b"new"}] if not new else [{}, {KEY: b"new"}]), calls.made
        objects.put(KEY, b"last")
        assert objects.get(KEY, 10) == b"last"
    assert 4 <= step < 99


def test_a_kill_between_write_and_rename_leaves_a_name_that_can_be_told(objects: LocalObjects) -> None:
    def killed() -> None:
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        objects.put(KEY, b"x" * 1000)

    assert wait_for(in_child(killed)) == -signal.SIGKILL
    (left,) = objects.sizes()
    assert is_temporary(left) and left.startswith("argmax/")
    assert not is_temporary(KEY) and not is_temporary("argmax/.tmp-notes")


@pytest.mark.parametrize("put", ["put", "put_new"])
def test_what_another_process_swept_is_written_again(tmp_path: Path, put: str) -> None:
    """Whoever finishes a store removes temporary files; a store that was moved away is not begun again."""

    class Swept(LocalObjects):
        """Once, before a temporary file gets its name, another process does something to it."""

        todo: list[Callable[[Path], object]]

        @contextmanager
        def _temporary(self, path: Path, data: bytes) -> Iterator[Path]:
            with super()._temporary(path, data) as temporary:
                if self.todo:
                    self.todo.pop()(temporary)
                yield temporary

    objects = Swept(tmp_path / "store.zarr")
    objects.todo = [os.unlink]
    getattr(objects, put)(KEY, b"x")
    assert objects.get(KEY, 5) == b"x"
    objects.todo = [lambda _: objects.root.rename(tmp_path / "moved")]
    with pytest.raises(StoreError, match="No such file or directory"):
        getattr(objects, put)("argmax/c.0.1", b"x")
    assert not objects.root.exists()


@pytest.mark.parametrize("put", ["put", "put_new"])
def test_a_folder_that_another_process_emptied_is_made_again(objects: LocalObjects, put: str) -> None:
    """With its last file goes the folder; and a store that was moved away is not begun again."""
    objects.put("receipts/0/0.json", b"ours")
    LocalObjects(objects.root).delete("receipts/0/0.json")
    getattr(objects, put)("receipts/0/1.json", b"new")
    assert objects.sizes() == {"receipts/0/1.json": 3}
    objects.root.rename(objects.root.with_name("moved"))
    with pytest.raises(StoreError, match="No such file or directory"):
        getattr(objects, put)("receipts/0/2.json", b"x")
    assert not objects.root.exists()


def test_a_file_that_is_linked_to_is_replaced_and_not_changed(objects: LocalObjects, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for link in (os.symlink, os.link):
        cache.write_bytes(b"cached")
        objects.put("a", b"")
        (objects.root / KEY).parent.mkdir(exist_ok=True)
        link(cache, objects.root / KEY)
        assert objects.get(KEY, 10) == b"cached" and objects.sizes()[KEY] == 6
        objects.put(KEY, b"new")
        assert cache.read_bytes() == b"cached"
        objects.delete(KEY)
        assert cache.read_bytes() == b"cached"


def test_what_is_no_file_of_a_likely_size_is_refused(objects: LocalObjects) -> None:
    objects.put("zarr.json", b"x" * 100)
    with pytest.raises(StoreError, match="has 100 bytes, at most 99 belong there"):
        objects.get("zarr.json", 99)
    os.mkfifo(objects.root / "fifo")
    with pytest.raises(StoreError, match=r"fifo is not a regular file\. Remove it"):
        objects.get("fifo", 10)
    (objects.root / "nowhere").symlink_to("gone")
    assert objects.sizes()["nowhere"] == -1
    with pytest.raises(KeyError):
        objects.get("nowhere", 10)


def test_a_root_that_is_a_file_or_a_url_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.zarr").write_bytes(b"")
    with pytest.raises(StoreError, match=r"store\.zarr is a file, and a store is a directory\. Name another place\.$"):
        LocalObjects(tmp_path / "store.zarr").sizes()
    with pytest.raises(StoreError, match="label stores are kept on a file system or in S3"):
        open_objects("https://host/store.zarr")


def test_who_only_reads_is_not_sent_to_another_out(tmp_path: Path) -> None:
    denied = PermissionError(errno.EACCES, "")
    for verb, remedy in (
        ("read", "mounted; then"),
        ("list", "mounted; then"),
        ("write", "mounted, or give another --out;"),
    ):
        assert f"Check who owns it and how it is {remedy}" in str(failure(verb, tmp_path, denied))


def test_a_full_disk_is_told_with_its_room_and_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        objects = LocalObjects(disk / "store.zarr")
        objects.put("a", b"x" * 1_000_000)
        with pytest.raises(StoreError) as error:
            objects.put("b", b"x" * 4_000_000)
        assert re.fullmatch(
            rf"cannot write {disk}/store\.zarr/b: No space left on device \(\d\.\d MB free\)\. Make room, or give "
            r"another --out; then run this again: nothing that was finished is lost\.",
            str(error.value),
        )
        assert objects.sizes() == {"a": 1_000_000}
        objects.put("b", b"x" * 1_000_000)


def test_a_limit_on_file_sizes_is_told(objects: LocalObjects) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(StoreError, match=r"File too large .*Raise the limit on file sizes \(ulimit -f\)"):
            objects.put(KEY, b"x" * 2000)
        assert objects.sizes() == {}

    assert wait_for(in_child(limited)) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_is_told(objects: LocalObjects) -> None:
    objects.put("a", b"")
    objects.root.chmod(0o500)
    with pytest.raises(StoreError, match=r"Permission denied .*Check who owns it"):
        objects.put("b", b"")


def test_a_second_writer_is_told_at_once(objects: LocalObjects) -> None:
    with objects.lock():
        begun = time.monotonic()
        with pytest.raises(StoreError, match="is being written"), LocalObjects(objects.root).lock():
            pass
        assert time.monotonic() - begun < 1
        assert not objects.root.exists(), "the lock lies beside the store"


def test_a_store_has_one_lock_however_it_is_named(objects: LocalObjects, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(objects.root, target_is_directory=True)
    (tmp_path / "folder").symlink_to(objects.root.parent, target_is_directory=True)
    others = [tmp_path / "link", tmp_path / "folder" / objects.root.name]
    with objects.lock():
        for other in others:
            with pytest.raises(StoreError, match="is being written"), LocalObjects(other).lock():
                pass
    for other in others:
        with LocalObjects(other).lock(), pytest.raises(StoreError, match="is being written"), objects.lock():
            pass


def test_a_killed_writer_leaves_no_lock_even_if_its_worker_lives_on(objects: LocalObjects) -> None:
    reading, writing = os.pipe()

    def writer() -> None:
        with objects.lock():
            worker = in_child(lambda: time.sleep(60))
            os.write(writing, worker.to_bytes(4, "little"))
            time.sleep(60)

    child = in_child(writer)
    worker = int.from_bytes(os.read(reading, 4), "little")
    with pytest.raises(StoreError, match=f"is being written by process {child} on"), objects.lock():
        pass
    os.kill(child, signal.SIGKILL)
    wait_for(child)
    try:
        os.kill(worker, 0)
        with objects.lock():
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_reading_takes_memory_for_what_is_there_and_not_for_what_is_allowed(objects: LocalObjects) -> None:
    objects.put(KEY, b"x" * 70_000)
    tracemalloc.start()
    try:
        assert objects.get(KEY, 1 << 30) == b"x" * 70_000
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_read_that_gives_less_than_is_there_is_gone_on_with(objects: LocalObjects) -> None:
    """As network file systems may, and Linux does beyond 2 GiB."""
    objects.put(KEY, bytes(range(256)) * 100)
    original = os.fdopen

    def fdopen(descriptor: int, mode: str = "r", buffering: int = -1) -> IO[Any]:
        raw = Halting(descriptor)
        return raw if buffering == 0 else io.BufferedReader(raw)

    class Halting(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            return super().readinto(memoryview(buffer)[:1000])

        def read(self, size: int | None = -1) -> bytes:
            return super().read(1000 if size is None or size < 0 else min(size, 1000))

        def readall(self) -> bytes:
            return self.read()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdopen", fdopen)
        assert objects.get(KEY, 1 << 20) == bytes(range(256)) * 100
    assert os.fdopen is original


def test_a_disk_that_keeps_bytes_in_a_memory_is_asked_for_more_than_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS has F_FULLFSYNC for that; here other numbers stand in for it: one that is known, and one that is not."""
    asked: list[object] = []
    control, sync = fcntl.fcntl, os.fsync
    monkeypatch.setattr(fcntl, "fcntl", lambda *call: (asked.append(call[1]), control(*call))[1])
    monkeypatch.setattr(os, "fsync", lambda descriptor: (asked.append("fsync"), sync(descriptor))[1])
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", fcntl.F_GETFD, raising=False)
    LocalObjects(tmp_path / "store").put("a/b", b"x")
    assert set(asked) == {fcntl.F_GETFD} and len(asked) >= 3, "the file, its directory, and those that were made"
    asked.clear()
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 9999)
    LocalObjects(tmp_path / "other").put("a/b", b"x")
    assert asked == [9999, "fsync"] * (len(asked) // 2), "a file system that does not know it"
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", fcntl.F_GETFD)
    with pytest.raises(OSError, match="Bad file descriptor"):
        flush(10**6)
