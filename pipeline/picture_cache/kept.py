"""Which pictures need not be decoded, because somebody on this node has decoded them before?

    cache = PictureCache(folder, limit).prepared()
    shown = cache.crop(picture, box)            # None: decode it, and
    cache.keep(picture, pixels_HWC)             # let the others have it

A folder of one file a picture (`entry`), for each decoder its own; all processes of a node share it, and a later run
finds it again. A file is written under another name, by one process at a time, and renamed when it is whole. When the
next picture would exceed the bound nothing more is added, and nothing goes: every epoch asks for every picture once, so
whatever went out would be asked for before what came in. What is damaged is removed, and decoded again. Drawn views are
kept in the same way (`pipeline.rendering.view_cache`).

Who has prepared a cache holds a shared flock on its folder, together with forked processes; a process that was sent the
cache ends before its sender. The folder of another decoder goes if nobody holds it.

Whatever goes wrong here costs time and no pixel: pictures are then decoded, as without a cache. So too where the folder
is removed while it is in use.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
import shutil
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.durable.local import is_same_file
from pipeline.errors import PictureCacheError
from pipeline.picture_cache import entry
from pipeline.picture_cache.decoder import decoder
from pipeline.picture_cache.entry import DamagedError, Picture, Pixels
from pipeline.picture_cache.ledger import Account, account
from pipeline.pictures.parts import Box, Shown

FOLDER = re.compile(r"([a-z]+)-[0-9a-f]{16}")
GONE = re.compile(r"([a-z]+)-[0-9a-f]{16}\.[0-9a-f]{8}\.gone")
NAME = re.compile(r"([0-9a-f]{8})-([0-9a-f]{16})-([0-9a-f]+)-([0-9]{1,9})x([0-9]{1,9})")
PARTS, LEDGER = "parts", "ledger"

log = logging.getLogger(__name__)


class PictureCache:
    """Decoded pictures, or drawn views, on this node; may be pickled, and used after a fork."""

    def __init__(self, folder: Path, limit: int, *, made_by: bytes | None = None, what: str = "pictures") -> None:
        self.folder, self.limit, self.what = folder, limit, what
        self._maker = made_by or decoder()
        self._place = folder / f"{what}-{self._maker.hex()}"
        self.spared = 0
        """Bytes of the disk that are left to others."""
        self._takes = True
        self.damaged = 0

    @property
    def name(self) -> str:
        """What messages call it: picture cache, or view cache."""
        return f"{self.what.removesuffix('s')} cache"

    @property
    def flag(self) -> str:
        """The flag that names its folder."""
        return f"--{self.name.replace(' ', '-')}"

    @property
    def takes(self) -> bool:
        """Whether another picture would be kept, as far as this process knows."""
        return self._takes

    # ---- beginning

    def prepared(self) -> PictureCache:
        """Make the folder, and remove what killed processes and other decoders left; a folder of no use is refused."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            while not self._held():
                self._place.mkdir(mode=0o700, exist_ok=True)
            (self._place / PARTS).mkdir(mode=0o700, exist_ok=True)
            status = self._place.lstat()
            if self._place.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise PictureCacheError(
                    f"{self._place} is a link, or others may write there. Remove it, or give another {self.flag}."
                )
            self._remove_others()
            with self._account() as found:
                self._remove_unfinished(found)  # and so would others, with the probe, if they were not locked out
                (probe := self._place / PARTS / secrets.token_hex(8)).touch()
                probe.unlink()
        except OSError as error:
            raise PictureCacheError(
                f"the {self.name} {self.folder} cannot be used: {error.strerror}. Give another {self.flag}."
            ) from None
        return self

    def share_kept(self, some: Sequence[Picture]) -> float:
        """Which share of these is here, 0 to 1, damaged or not."""
        return sum(os.path.lexists(self._path(picture)) for picture in some) / max(len(some), 1)

    def used(self) -> int:
        """How many bytes all pictures in the cache take, those of other processes included."""
        return self.used_and_free()[0]

    def used_and_free(self) -> tuple[int, int]:
        """How many bytes all pictures take, and how many are free on that disk; none where the folder is gone."""
        try:
            with self._account() as found:
                return found.used, shutil.disk_usage(self._place).free
        except OSError as error:
            self._take_no_more(error)
            return 0, 0

    def _held(self) -> bool:
        """Whether the folder is there, and is in use from now on: as long as this object or a forked one lives."""
        try:
            descriptor = os.open(self._place, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        ended = weakref.finalize(self, os.close, descriptor)
        with suppress(OSError):  # some shares lock no folders
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if is_same_file(descriptor, self._place):
            return True
        ended()  # another version has just removed it
        return False

    def _remove_others(self) -> None:
        """What other versions made and nobody uses: nobody will look at it again, and it takes room."""
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another process removes it, too
                if path == self._place or path.lstat().st_uid != os.geteuid() or not path.is_dir() or path.is_symlink():
                    continue
                if self._is_ours(FOLDER, path) and (path / LEDGER).is_file():
                    path = self._set_aside(path)
                if self._is_ours(GONE, path):
                    shutil.rmtree(path, ignore_errors=True)

    def _set_aside(self, path: Path) -> Path:
        """A folder of another version under a name by which nobody looks for it; as it is, if it is in use."""
        with _alone(path, fcntl.LOCK_EX) as alone:
            if not alone:
                log.warning("%s: %s of another version stay, since they are in use", path, self.what)
                return path
            log.warning("%s: %s of another version are removed; that takes a while", path, self.what)
            return path.rename(path.with_name(f"{path.name}.{secrets.token_hex(4)}.gone"))

    def _is_ours(self, pattern: re.Pattern[str], path: Path) -> bool:
        found = pattern.fullmatch(path.name)
        return found is not None and found[1] == self.what

    def _remove_unfinished(self, found: Account) -> None:
        """What is being written is locked by its writer; what is not, was left by one that was killed."""
        for path in (self._place / PARTS).iterdir():
            with _alone(path, fcntl.LOCK_SH) as alone:
                if alone:
                    path.unlink(missing_ok=True)
                    if (match := NAME.fullmatch(path.name)) is not None:
                        found.add(-_named(match).disk_bytes)

    def _count(self) -> int:
        """What all files take, by their names."""
        names = (match for name in self._names() if (match := NAME.fullmatch(name)))
        return sum(_named(match).disk_bytes for match in names)

    def _names(self) -> Iterator[str]:
        for place in self._place.iterdir():
            if place.is_dir() and not place.is_symlink():
                with os.scandir(place) as found:
                    yield from (file.name for file in found)

    # ---- reading

    def crop(self, picture: Picture, box: Box | None) -> Shown | None:
        """The rows of a picture that a box lies in, or all of them; None where they are not here."""
        top, height = (0, picture.height) if box is None else (box[0], box[2])
        path = self._path(picture)
        try:
            first, pixels_HWC = entry.read(path, picture, self._maker, max(top, 0), min(top + height, picture.height))
        except FileNotFoundError:
            return None
        except (DamagedError, OSError) as error:  # an OSError is a symbolic link, for example
            self._forget(picture, path, error)
            return None
        size = {"height": picture.height, "width": picture.width}
        return Shown(pixels_HWC=pixels_HWC, top=first, left=0, nbytes=pixels_HWC.nbytes, **size)

    def _forget(self, picture: Picture, path: str, error: Exception) -> None:
        """Remove a damaged file, unless another process has put a sound one in its place."""
        self.damaged += 1
        log.debug("%s: %s", path, error)
        with suppress(OSError), self._account() as found:
            try:
                entry.read(path, picture, self._maker, 0, picture.height)
            except FileNotFoundError:
                return
            except (DamagedError, OSError):
                Path(path).unlink()
                found.add(-picture.disk_bytes)

    # ---- writing

    def keep(self, picture: Picture, pixels_HWC: Pixels) -> None:
        """Take a picture in, if there is room and nobody else is doing so."""
        if not self._takes:
            return
        try:
            with self._part(picture) as descriptor:
                if descriptor is not None:
                    entry.write(descriptor, picture, self._maker, pixels_HWC)
        except OSError as error:
            self._take_no_more(error)

    def _take_no_more(self, error: OSError) -> None:
        if not self._takes:
            return
        self._takes = False
        log.warning(
            "no more %s are kept in %s: %s. Training and labelling go on without",
            self.what,
            self.folder,
            error.strerror,
        )

    @contextmanager
    def _part(self, picture: Picture) -> Iterator[int | None]:
        """A descriptor to write a picture to, which then gets its name; None where it is not to be written."""
        part, path = self._place / PARTS / picture.name, Path(self._path(picture))
        descriptor = self._begun(picture, part, path)
        if descriptor is None:
            yield None
            return
        try:
            yield descriptor
            with self._account():
                part.rename(path)
        except BaseException:
            with suppress(OSError), self._account() as found:
                part.unlink(missing_ok=True)
                found.add(-picture.disk_bytes)
            raise
        finally:
            os.close(descriptor)

    def _begun(self, picture: Picture, part: Path, path: Path) -> int | None:
        with self._account() as found:
            if os.path.lexists(path) or os.path.lexists(part):
                return None
            if found.used + picture.disk_bytes > self.limit or self._disk_is_full(picture.disk_bytes):
                self._takes = False
                return None
            path.parent.mkdir(mode=0o700, exist_ok=True)
            found.add(picture.disk_bytes)
            try:
                descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except OSError:
                found.add(-picture.disk_bytes)
                raise
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return descriptor

    def _disk_is_full(self, wanted: int) -> bool:
        """Whether others would have less than is spared for them; they may have written since the limit was set."""
        disk = os.statvfs(self._place)
        return disk.f_bavail * disk.f_frsize < self.spared + wanted

    @contextmanager
    def _account(self) -> Iterator[Account]:
        with account(self._place / LEDGER, self._count) as found:
            yield found

    def _path(self, picture: Picture) -> str:
        return f"{self._place}/{picture.payload_crc & 0xFF:02x}/{picture.name}"


@contextmanager
def _alone(path: Path, lock: int) -> Iterator[bool]:
    """Whether no process has a lock on a file or folder that excludes this one; inside none gets one."""
    descriptor = None
    try:
        descriptor = os.open(path, entry.FLAGS)
        fcntl.flock(descriptor, lock | fcntl.LOCK_NB)
        alone = True
    except OSError as error:
        alone = not isinstance(error, BlockingIOError)  # it is gone, or nothing that could be locked
    try:
        yield alone
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _named(match: re.Match[str]) -> Picture:
    crc, key, length = (int(match[group], 16) for group in (1, 2, 3))
    return Picture(payload_crc=crc, key_hash=key, length=length, width=int(match[4]), height=int(match[5]))
