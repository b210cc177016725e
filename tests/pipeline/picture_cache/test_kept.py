"""What the cache shows was decoded, of that picture, by this decoder; it never grows beyond its bound; and it helps."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import stat
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import PictureCacheError
from pipeline.picture_cache import entry
from pipeline.picture_cache.decoder import decoder
from pipeline.picture_cache.entry import Picture
from pipeline.picture_cache.kept import PARTS, PictureCache
from pipeline.picture_cache.of_index import bounded
from tests.faults import in_child, wait_for

ROOM = 1 << 24


def picture(number: int, width: int = 37, height: int = 50) -> tuple[Picture, np.ndarray]:
    """A picture that there is no second of."""
    pixels_HWC = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    which = {"payload_crc": number * 2_654_435_761 % (1 << 32), "length": 1000 + number, "key_hash": 77 + number}
    return Picture(**which, width=width, height=height), pixels_HWC


def opened(folder: Path, limit: int = ROOM) -> PictureCache:
    return PictureCache(folder / "cache", limit).prepared()


def files(folder: Path) -> list[Path]:
    found = (path for path in (folder / "cache").rglob("*-*-*-*") if path.is_file() or path.is_symlink())
    return sorted(path for path in found if path.parent.name != PARTS)


def disk_bytes(folder: Path) -> int:
    return sum(-(-path.lstat().st_size // 4096) * 4096 for path in (folder / "cache").rglob("*-*-*-*"))


@pytest.mark.parametrize("height", [1, 15, 16, 17, 50])
def test_any_rows_come_back(tmp_path: Path, height: int) -> None:
    which, pixels_HWC = picture(1, height=height)
    cache = opened(tmp_path)
    assert cache.crop(which, (0, 0, 1, 1)) is None
    cache.keep(which, pixels_HWC)
    for top in range(height):
        for bottom in range(top + 1, height + 1):
            box = (top, 3, bottom - top, 20)
            shown = opened(tmp_path).crop(which, box) if top == 0 else cache.crop(which, box)
            assert shown is not None and shown.holds(box) and (shown.height, shown.width) == (height, 37)
            assert np.array_equal(shown.cut(box), pixels_HWC[top:bottom, 3:23])
            assert len(shown.pixels_HWC) < bottom - top + 2 * entry.BAND, "more rows were read than were asked for"
    whole = cache.crop(which, None)
    assert whole is not None and np.array_equal(whole.pixels_HWC, pixels_HWC)


def test_every_flipped_byte_is_seen(tmp_path: Path) -> None:
    """In the head, the gap behind it, and the pixels; a byte of the gap is no pixel, and is not read."""
    which, pixels_HWC = picture(2, 9, 40)
    opened(tmp_path).keep(which, pixels_HWC)
    (path,) = files(tmp_path)
    sound = path.read_bytes()
    for place in range(len(sound)):
        path.write_bytes(sound[:place] + bytes((sound[place] ^ 0x40,)) + sound[place + 1 :])
        cache = PictureCache(tmp_path / "cache", ROOM)
        shown = cache.crop(which, None)
        if which.head_bytes <= place < which.start:
            assert shown is not None and np.array_equal(shown.pixels_HWC, pixels_HWC)
        else:
            assert shown is None and cache.damaged == 1 and not path.exists()


def test_only_bands_that_are_read_are_held_to_their_checksum(tmp_path: Path) -> None:
    which, pixels_HWC = picture(2, 9, 40)
    cache = opened(tmp_path)
    cache.keep(which, pixels_HWC)
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    shown = cache.crop(which, (0, 0, 32, 9))
    assert shown is not None and np.array_equal(shown.pixels_HWC, pixels_HWC[:32])
    assert cache.crop(which, (30, 0, 10, 9)) is None


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _unreadable(path: Path) -> None:
    path.write_bytes(b"something else altogether")


@pytest.mark.parametrize("damage", [_cut, _empty, _lengthen, _link, _fifo, _unreadable])
def test_damage_is_removed_and_made_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    which, pixels_HWC = picture(3)
    cache = opened(tmp_path)
    cache.keep(which, pixels_HWC)
    used = cache.used()
    damage(files(tmp_path)[0])
    assert cache.crop(which, (4, 0, 9, 9)) is None and cache.used() == 0
    cache.keep(which, pixels_HWC)
    shown = cache.crop(which, None)
    assert shown is not None and np.array_equal(shown.pixels_HWC, pixels_HWC) and cache.used() == used
    (path,) = (path for path in files(tmp_path) if path.name == which.name)
    assert stat.S_ISREG(path.lstat().st_mode)


def test_exchanged_files_are_noticed(tmp_path: Path) -> None:
    """Of one size, so that the head alone tells."""
    cache, pairs = opened(tmp_path), [picture(number) for number in range(2)]
    for which, pixels_HWC in pairs:
        cache.keep(which, pixels_HWC)
    first, second = files(tmp_path)
    other = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(other)
    assert [cache.crop(which, None) for which, _ in pairs] == [None, None] and cache.damaged == 2


def test_another_decoders_pictures_are_never_shown_and_go(tmp_path: Path) -> None:
    which, pixels_HWC = picture(4)
    old = PictureCache(tmp_path / "cache", ROOM, made_by=bytes(8)).prepared()
    old.keep(which, pixels_HWC)
    (path,) = files(tmp_path)
    copied = path.read_bytes()
    del old  # nobody uses it
    now = opened(tmp_path)
    assert now.crop(which, None) is None and not files(tmp_path) and now.used() == 0
    assert [place.name for place in (tmp_path / "cache").iterdir()] == [f"pictures-{decoder().hex()}"]
    now.keep(which, pixels_HWC)
    (path,) = files(tmp_path)
    path.write_bytes(copied)  # the very file of the other decoder
    assert now.crop(which, None) is None


def test_what_a_run_of_another_version_uses_stays_until_it_ends(tmp_path: Path, caplog) -> None:
    """Its first process, or one that was forked from it, however that ends."""
    which, pixels_HWC = picture(4)
    old = PictureCache(tmp_path / "cache", ROOM, made_by=bytes(8)).prepared()
    opened(tmp_path)
    old.keep(which, pixels_HWC)
    assert old.takes and old.crop(which, None) is not None
    child = in_child(partial(time.sleep, 600))
    del old
    opened(tmp_path)
    assert len(files(tmp_path)) == 1
    os.kill(child, signal.SIGKILL)
    assert wait_for(child) == -signal.SIGKILL
    opened(tmp_path)
    assert not files(tmp_path)
    place = tmp_path / "cache" / "pictures-0000000000000000"
    stay = f"{place}: pictures of another version stay, since they are in use"
    assert caplog.messages == [stay, stay, f"{place}: pictures of another version are removed; that takes a while"]


def test_a_folder_that_another_version_removes_while_it_is_opened_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path).keep(*picture(1))
    flock = fcntl.flock

    def late(descriptor: int, how: int) -> None:
        if how == fcntl.LOCK_SH:
            monkeypatch.undo()
            PictureCache(tmp_path / "cache", ROOM, made_by=bytes(8)).prepared()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    cache = opened(tmp_path)
    assert not files(tmp_path)
    cache.keep(*picture(2))
    assert cache.takes and cache.crop(picture(2)[0], None) is not None


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    for name in ("pictures-0123456789abcdef", "pictures-of-cats"):
        (tmp_path / "cache" / name).mkdir(parents=True)
        (tmp_path / "cache" / name / "cat.jpg").write_bytes(b"cat")
    cache = opened(tmp_path)
    cache.keep(*picture(5))
    (files(tmp_path)[0].parent / "foreign").write_bytes(b"foreign")
    opened(tmp_path)
    assert len(list((tmp_path / "cache").rglob("cat.jpg"))) == 2 and len(list(tmp_path.rglob("foreign"))) == 1


def test_the_bound_is_kept(tmp_path: Path) -> None:
    each = picture(0)[0].disk_bytes
    cache = opened(tmp_path, 5 * each + each // 2)
    for number in range(9):
        cache.keep(*picture(number))
    assert len(files(tmp_path)) == 5 and not cache.takes and cache.used() == 5 * each == disk_bytes(tmp_path)
    again = opened(tmp_path, 5 * each)
    again.keep(*picture(8))
    assert len(files(tmp_path)) == 5 and again.crop(picture(0)[0], None) is not None


def test_a_number_that_cannot_be_read_is_counted_anew(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    for number in range(3):
        cache.keep(*picture(number))
    ledger = next((tmp_path / "cache").rglob("ledger"))
    sound, used = ledger.read_bytes(), cache.used()
    for place in range(len(sound)):
        ledger.write_bytes(sound[:place] + bytes((sound[place] ^ 1,)) + sound[place + 1 :])
        assert cache.used() == used
    ledger.unlink()
    assert cache.used() == used


def _fill(folder: Path, order: np.ndarray, limit: int) -> None:
    cache = PictureCache(folder / "cache", limit).prepared()
    for number in order.tolist():
        which, pixels_HWC = picture(number)
        shown = cache.crop(which, (9, 0, 20, 30))
        assert shown is None or np.array_equal(shown.cut((9, 0, 20, 30)), pixels_HWC[9:29, :30])
        cache.keep(which, pixels_HWC)


def test_processes_share_it_and_may_be_killed(tmp_path: Path) -> None:
    """Four fill it at once; whenever they are killed, no file is torn, and all of them together keep to the bound."""
    each, generator = picture(0)[0].disk_bytes, np.random.default_rng(0)
    limit, whole = 60 * each, 0

    def four() -> list[int]:
        orders = [generator.permutation(80) for _ in range(4)]
        return [in_child(partial(_fill, tmp_path, order, limit)) for order in orders]

    for _ in range(6):
        children = four()
        time.sleep(generator.uniform(0.0, 0.05))
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert disk_bytes(tmp_path) <= limit
    children = four()
    assert [wait_for(child) for child in children] == [0] * 4
    cache = opened(tmp_path, limit)
    for number in range(80):
        which, pixels_HWC = picture(number)
        shown = cache.crop(which, None)
        assert shown is None or np.array_equal(shown.pixels_HWC, pixels_HWC)
        whole += shown is not None
    assert 55 <= whole <= 60 and cache.damaged == 0 and disk_bytes(tmp_path) == whole * each <= cache.used() <= limit


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    cache, (which, pixels_HWC) = opened(tmp_path), picture(6)

    def half() -> None:
        with cache._part(which) as descriptor:
            assert descriptor is not None
            os.write(descriptor, b"half")
            os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(in_child(half), 0)
    assert cache.crop(which, None) is None and cache.used() == which.disk_bytes
    cache.keep(which, pixels_HWC)
    assert cache.crop(which, None) is None, "a writer that may be at work is not disturbed"
    again = opened(tmp_path)
    assert again.used() == 0
    again.keep(which, pixels_HWC)
    assert again.crop(which, None) is not None


def test_many_start_at_once_beside_what_another_version_left(tmp_path: Path) -> None:
    """All of them remove it; none of them minds that another one was first."""

    def start() -> None:
        while not (tmp_path / "now").exists():
            pass
        opened(tmp_path)

    for _ in range(8):
        PictureCache(tmp_path / "cache", ROOM, made_by=bytes(8)).prepared().keep(*picture(1))
        for number in range(1, 12):
            old = tmp_path / "cache" / f"pictures-{number:016x}"
            (old / "00").mkdir(parents=True)
            (old / "ledger").touch()
        (tmp_path / "now").unlink(missing_ok=True)
        children = [in_child(start) for _ in range(6)]
        (tmp_path / "now").touch()
        assert [wait_for(child) for child in children] == [0] * 6
        assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"pictures-{decoder().hex()}"]


def test_what_is_being_written_stays_where_files_that_are_read_cannot_be_locked_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS."""
    flock, cache = fcntl.flock, opened(tmp_path)

    def as_on_a_share(file: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX and fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", as_on_a_share)
    with cache._part(picture(1)[0]) as descriptor:
        assert descriptor is not None
        opened(tmp_path)
        entry.write(descriptor, picture(1)[0], cache._maker, picture(1)[1])
    assert cache.takes and cache.crop(picture(1)[0], None) is not None


def test_many_try_the_folder_at_once(tmp_path: Path) -> None:
    """None takes the file that another one tries it with for one that was left."""

    def start() -> None:
        for _ in range(100):
            opened(tmp_path)

    children = [in_child(start) for _ in range(6)]
    assert [wait_for(child) for child in children] == [0] * 6


def test_what_is_spared_for_others_stays_free_whoever_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has been filled since the bound was set, by a second cache for example."""
    cache, free = opened(tmp_path), 100 << 20
    cache.spared = 50 << 20
    disk = os.statvfs(tmp_path)

    def left(_: object) -> os.statvfs_result:
        return os.statvfs_result((disk.f_bsize, 1, 9 * free, free, free, *disk[5:]))

    monkeypatch.setattr(os, "statvfs", left)
    for number, kept in ((1, True), (2, False)):
        cache.keep(*picture(number))
        assert cache.takes == kept and (cache.crop(picture(number)[0], None) is not None) == kept
        free = cache.spared + picture(2)[0].disk_bytes - 1


def test_a_full_disk_costs_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    cache = opened(tmp_path)
    cache.keep(*picture(7))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        cache._takes = True
        with pytest.raises(OSError), cache._account() as found:
            found.set(0)
        cache.keep(*picture(8))
    assert not cache.takes and cache.crop(picture(8)[0], None) is None and cache.crop(picture(7)[0], None) is not None
    assert caplog.messages == [
        f"no more pictures are kept in {tmp_path / 'cache'}: No space left on device. Training and labelling go on "
        "without"
    ]


@pytest.mark.parametrize("what", ["a file", "a link", "others may write"])
def test_a_folder_of_no_use_is_refused(tmp_path: Path, what: str) -> None:
    place = tmp_path / "cache" / f"pictures-{decoder().hex()}"
    if what == "a file":
        (tmp_path / "cache").write_bytes(b"")
    else:
        place.parent.mkdir()
        (tmp_path / "other").mkdir(mode=0o700)
        if what == "a link":
            place.symlink_to(tmp_path / "other")
        else:
            place.mkdir()
            place.chmod(0o777)
    with pytest.raises(PictureCacheError) as refused:
        opened(tmp_path)
    assert str(refused.value) == (
        f"the picture cache {tmp_path / 'cache'} cannot be used: File exists. Give another --picture-cache."
        if what == "a file"
        else f"{place} is a link, or others may write there. Remove it, or give another --picture-cache."
    )


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder where nobody can write")
def test_a_folder_where_nobody_can_write_is_refused() -> None:
    with pytest.raises(
        PictureCacheError, match=r"^the picture cache /proc/self/cache cannot be used: .*\. Give another"
    ):
        opened(Path("/proc/self"))


def test_a_folder_that_is_taken_away_costs_no_picture(tmp_path: Path) -> None:
    cache, (which, pixels_HWC) = opened(tmp_path), picture(9)
    (tmp_path / "cache").rename(tmp_path / "gone")
    assert cache.crop(which, None) is None
    cache.keep(which, pixels_HWC)
    assert not cache.takes


@pytest.mark.parametrize("taken", ["all", "ours"])
def test_a_folder_that_is_taken_away_has_nothing_and_no_room(tmp_path: Path, caplog, taken: str) -> None:
    """Whoever asks first how full it is: at the start, or while a run goes on."""
    cache, (which, _) = opened(tmp_path), picture(9)
    place = tmp_path / "cache"
    shutil.rmtree(place if taken == "all" else place / f"pictures-{decoder().hex()}")
    assert cache.takes and cache.share_kept([which]) == 0 == cache.used() and not cache.takes
    assert bounded(cache, 1, which.disk_bytes, [which], made="decoded").limit == 0
    gone = f"no more pictures are kept in {place}: No such file or directory. Training and labelling go on without"
    assert caplog.messages == [
        gone,
        f"picture cache {place}: 1 pictures take 0.0 MB decoded; it holds 0.0 MB, and 0.0 MB more are free there: "
        "about 0 % of the pictures will be kept, the others are decoded each time",
    ]  # fmt: skip


def test_a_folder_that_is_taken_away_hides_no_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = opened(tmp_path)

    def interrupted(*_: object) -> None:
        shutil.rmtree(tmp_path / "cache")
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.keep(*picture(9))
