"""What becomes of work that took long, when a flag says that another is to take its place?

It is set aside: one rename beside its place, whole, with all that lies in it. `store.zarr` becomes
`store.previous.zarr`, a run `runs/student` becomes `runs/student.previous`; while that name is taken, -2, -3, … follow.
Whatever instant the process is killed at, the work lies under one of the two names.

It stays there until what replaces it is whole, and one generation longer: then `keep_one` removes all that was set
aside but the newest that had been finished. Whoever removes says what is its own; other people's files stay.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from pipeline.durable.folder import claimed
from pipeline.durable.local import failure, flush_directory
from pipeline.errors import ShardError, UserError

log = logging.getLogger(__name__)


def asides(path: Path) -> list[Path]:
    """The places to which what lay at this path has been moved, the newest first."""
    place = _real(path)
    stem, suffix = _parts(place)
    form = re.compile(rf"{re.escape(stem)}\.previous(?:-([0-9]{{1,6}}))?{re.escape(suffix)}")
    if not place.parent.is_dir():
        return []
    named = ((form.fullmatch(entry.name), entry) for entry in place.parent.iterdir() if entry.is_dir())
    found = [(int(match[1] or 1), entry) for match, entry in named if match is not None]
    return [entry for _, entry in sorted(found, reverse=True)]


def put_aside(path: Path, why: str, *, folders: Collection[str] | None = None) -> Path:
    """Move a folder aside, and say where it is now, and how large; one with others than these `folders` stays."""
    place = _real(path)
    if Path.cwd().is_relative_to(place):
        raise UserError(f"{path} is the folder that this is run in, or one around it, and stays. Name another --out.")
    foreign = [] if folders is None else sorted(p.name for p in place.iterdir() if p.is_dir() and p.name not in folders)
    if foreign:
        raise UserError(f"{why} {path} also has the folder {foreign[0]}, and so is not moved. Name another --out.")
    taken = asides(path)
    target = _named(place, 1 + (_number(place, taken[0]) if taken else 0))
    told = size_text(place)
    _move(place, target)
    log.warning(
        "%s %s is set aside, not removed: %s (%s). It stays until the new one is whole, and is the one "
        "earlier generation that is kept then; remove it yourself where its room is needed.", why, path, target, told,
    )  # fmt: skip
    return target


def bring_back(path: Path, aside: Path) -> None:
    """Move what was set aside to its place, which must be free or an empty folder."""
    _move(aside, _real(path))
    log.warning("%s is what was set aside as %s: it is there again", path, aside)


def keep_one(path: Path, *, finished: Callable[[Path], bool], remove: Callable[[Path], None]) -> None:
    """Remove what was set aside of `path`, which is whole now, except the newest that had been finished.

    One process at a time: what is kept takes a name that became free, and another would remove it by that name.
    """
    newest = _named(_real(path), 1)
    if asides(path) in ([], [newest]):
        return
    try:
        with claimed(newest):
            _keep_one(path, finished, remove)
    except ShardError:  # another process is at it, and leaves the same
        log.debug("what was set aside of %s is left to another process", path)
    except (UserError, OSError) as error:
        log.warning("what was set aside of %s stays: %s", path, error)


def _keep_one(path: Path, finished: Callable[[Path], bool], remove: Callable[[Path], None]) -> None:
    found = asides(path)
    if not found:
        return
    kept = found[0] if len(found) == 1 else next(filter(finished, found), found[0])
    for aside in found:
        if aside != kept:
            try:
                told = size_text(aside)
                remove(aside)
            except (UserError, OSError) as error:
                log.warning("%s stays: %s", aside, error)
                continue
            if aside.exists():  # other people's files are in it
                continue
            log.warning("%s is removed (%s), since %s is whole; %s is kept", aside, told, path, kept)
    numbered = (_named(_real(path), number) for number in itertools.count(1))
    first = next(place for place in numbered if place == kept or not os.path.lexists(place))
    if kept != first:
        _move(kept, first)
        log.warning("%s is %s now", kept, first)


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Remove these files of a folder, in this order, and the folder if nothing else is in it."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other people's files are in it
        folder.rmdir()


def size_text(folder: Path) -> str:
    """The bytes of all files in a folder, as people read them."""
    total = sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())
    power = min(4, (len(str(total)) - 1) // 3)
    return f"{total / 1000**power:.4g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


def _move(source: Path, target: Path) -> None:
    """One durable rename; the target must be free or an empty folder."""
    try:
        source.replace(target)
        flush_directory(target.parent)
    except OSError as error:
        raise failure("move", source, error) from error


def _named(place: Path, number: int) -> Path:
    stem, suffix = _parts(place)
    return place.with_name(f"{stem}.previous{'' if number == 1 else f'-{number}'}{suffix}")


def _number(place: Path, aside: Path) -> int:
    stem, suffix = _parts(place)
    text = aside.name[len(f"{stem}.previous") : len(aside.name) - len(suffix)]
    return int(text.lstrip("-") or 1)


def _parts(place: Path) -> tuple[str, str]:
    return (place.stem, ".zarr") if place.suffix == ".zarr" else (place.name, "")


def _real(path: Path) -> Path:
    """Through links: what is moved is the folder, and it stays on its disk."""
    return Path(os.path.realpath(path))
