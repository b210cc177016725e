"""Is a picture that was kept decoded ever shown as anything but what was decoded?

A cache of pictures is damaged at random: bits and bytes, cuts, exchanges, files of another decoder, links, holes, the
ledger. Each time a crop of every picture is asked for, and the whole: what is shown must be what was decoded.
Afterwards the cache must take what is missing again, within its bound.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.picture_cache import entry
from pipeline.picture_cache.entry import Picture
from pipeline.picture_cache.kept import PictureCache
from tests.campaign.tally import Scale, Tally

TITLE = "damaged picture caches: bits, cuts, exchanges, other decoders, links, holes, the ledger"
SHOWS = "0 silent, the bound kept"
PICTURES, FULL, REDUCED = 12, 5000, 150

Kept = dict[Picture, np.ndarray]
Damage = Callable[[np.random.Generator, list[Path], Path], None]


def run(scale: Scale, place: Path) -> Tally:
    """One damage after another, each to a sound cache."""
    tally, generator = Tally(), np.random.default_rng(scale.seed)
    kept = dict(_picture(generator, number) for number in range(PICTURES))
    limit = sum(picture.disk_bytes for picture in kept)
    for seed, made_by in ((0, bytes(8)), (1, None)):  # the cache of another decoder lies beside, to copy from
        _filled(place / f"{seed}", kept, limit, made_by)
    strangers = sorted((place / "0").rglob("*-*-*-*"))
    count = scale.count(FULL, REDUCED)
    for number in range(count):
        files = sorted((place / "1").rglob("*-*-*-*"))
        damage = DAMAGES[number % len(DAMAGES)]
        damage(generator, files, strangers[generator.integers(len(strangers))])
        _look(tally, generator, place / "1", kept, limit, damage.__name__.strip("_"))
    tally.note(
        f"{count:,} damages of {len(DAMAGES)} kinds; after each, {PICTURES} crops and {PICTURES} whole pictures."
    )
    return tally


def sabotage(place: Path) -> Tally:
    """Bands that are not held to their checksums."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(entry, "_are_sound", lambda *_: True)
        return run(Scale(share=0.0), place)


def _picture(generator: np.random.Generator, number: int) -> tuple[Picture, np.ndarray]:
    height, width = (int(generator.integers(1, 90)) for _ in range(2))
    pixels_HWC = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    crc = int(generator.integers(1 << 32))
    return Picture(payload_crc=crc, length=9 + number, key_hash=number, width=width, height=height), pixels_HWC


def _filled(folder: Path, kept: Kept, limit: int, made_by: bytes | None = None) -> PictureCache:
    cache = PictureCache(folder, limit, made_by=made_by).prepared()
    for picture, pixels_HWC in kept.items():
        cache.keep(picture, pixels_HWC)
    return cache


def _look(tally: Tally, generator: np.random.Generator, folder: Path, kept: Kept, limit: int, name: str) -> None:
    cache, silent = PictureCache(folder, limit).prepared(), None
    for picture, pixels_HWC in kept.items():
        top = int(generator.integers(picture.height))
        height = int(generator.integers(1, picture.height - top + 1))
        for box in ((top, 0, height, picture.width), None):
            shown = cache.crop(picture, box)
            wanted = pixels_HWC if box is None else pixels_HWC[top : top + height]
            if shown is not None and not np.array_equal(shown.cut(box or (0, 0, *wanted.shape[:2])), wanted):
                silent = f"{name}: other pixels of {picture.name}"
    tally.case(silent=silent)
    _filled(folder, kept, limit)
    missing = [picture.name for picture in kept if cache.crop(picture, None) is None]
    size = sum(-(-path.lstat().st_size // entry.BLOCK) * entry.BLOCK for path in folder.rglob("*-*-*-*"))
    tally.require(
        not missing and size <= limit, f"{name}: afterwards {missing} are not kept, and {size} of {limit} used"
    )


# ---- what can happen to files


def _bit(generator: np.random.Generator, files: list[Path], _: Path) -> None:
    _change(generator, files, lambda data, at: data.__setitem__(at, data[at] ^ 1 << int(generator.integers(8))))


def _bytes(generator: np.random.Generator, files: list[Path], _: Path) -> None:
    def change(data: bytearray, at: int) -> None:
        stop = min(at + int(generator.integers(1, 64)), len(data))
        data[at:stop] = generator.bytes(stop - at)

    _change(generator, files, change)


def _hole(generator: np.random.Generator, files: list[Path], _: Path) -> None:
    """What a power cut leaves of a file whose bytes were not yet on the disk."""

    def change(data: bytearray, at: int) -> None:
        data[at:] = bytes(len(data) - at)

    _change(generator, files, change)


def _shifted(generator: np.random.Generator, files: list[Path], _: Path) -> None:
    """Rows in one another's place."""

    def change(data: bytearray, at: int) -> None:
        data[:] = data[:at] + data[at:][1:] + data[at : at + 1]

    _change(generator, files, change)


def _cut(generator: np.random.Generator, files: list[Path], _: Path) -> None:
    path = _some(generator, files)
    os.truncate(path, int(generator.integers(path.stat().st_size)))


def _longer(generator: np.random.Generator, files: list[Path], _: Path) -> None:
    path = _some(generator, files)
    path.write_bytes(path.read_bytes() + generator.bytes(int(generator.integers(1, 99))))


def _exchanged(generator: np.random.Generator, files: list[Path], _: Path) -> None:
    first, second = (_some(generator, files) for _ in range(2))
    aside = first.with_name("aside")
    first.rename(aside)
    if second.exists():
        second.rename(first)
    aside.rename(second if second != first else first)


def _copied(generator: np.random.Generator, files: list[Path], _: Path) -> None:
    first, second = (_some(generator, files) for _ in range(2))
    second.write_bytes(first.read_bytes())


def _of_another_decoder(generator: np.random.Generator, files: list[Path], stranger: Path) -> None:
    del generator
    path = next(path for path in files if path.name == stranger.name)
    path.write_bytes(stranger.read_bytes())


def _link(generator: np.random.Generator, files: list[Path], stranger: Path) -> None:
    path = _some(generator, files)
    path.unlink()
    path.symlink_to(stranger)


def _gone(generator: np.random.Generator, files: list[Path], _: Path) -> None:
    path = _some(generator, files)
    path.unlink()
    (path.parents[1] / "ledger").unlink()  # or its bytes would be missed: nothing tells a ledger what was taken away


def _ledger(generator: np.random.Generator, files: list[Path], _: Path) -> None:
    path = files[0].parents[1] / "ledger"
    data = bytearray(path.read_bytes())
    data[int(generator.integers(len(data)))] ^= 1 << int(generator.integers(8))
    path.write_bytes(data)


def _unfinished(generator: np.random.Generator, files: list[Path], stranger: Path) -> None:
    """Left by a process that was killed."""
    del generator
    shutil.copy(stranger, files[0].parents[1] / "parts" / stranger.name)


def _some(generator: np.random.Generator, files: list[Path]) -> Path:
    return files[int(generator.integers(len(files)))]


def _change(generator: np.random.Generator, files: list[Path], change: Callable[[bytearray, int], object]) -> None:
    path = _some(generator, files)
    data = bytearray(path.read_bytes())
    change(data, int(generator.integers(len(data))))
    path.write_bytes(data)


DAMAGES: tuple[Damage, ...] = (
    *(_bit, _bytes, _hole, _shifted, _cut, _longer, _exchanged, _copied),
    *(_of_another_decoder, _link, _gone, _ledger, _unfinished),
)
