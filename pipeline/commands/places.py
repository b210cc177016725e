"""Which flags name places, and what must be true of a place before the work begins?

A flag says by its type what it names: `InputPath` is on this machine, and `UrlOrPath` perhaps is not; `OutputFolder`,
`CacheFolder`, `ResultFile`, `RecordFile` and `OutputStore` are written, and have a place of their own. The types
convert as click's do; `require_places` refuses what does not fit when the command begins, so that it fails as all user
errors do.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pipeline.errors import UserError
from pipeline.processes.start import settle_start_method
from pipeline.remote.client import SCHEMES

REPLACED = (".json", ".csv", ".npz", ".png")
"""Suffixes of results: a file that is there may make room for another of them, unless it is one of `RECORDS`"""

RECORDS = ("fit.json", "pack.json", "classes.json", "demo.json", "config.json", "preprocessing.json", "zarr.json")
"""Names of files that belong to what took long"""


class InputPath(click.Path):
    """The type of a flag that names something on this machine to be read."""

    def __init__(self, **limits: bool) -> None:
        super().__init__(path_type=Path, **limits)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty name, which a path would take for the current folder."""
        if value == "":
            self.fail("'' names no file or folder", param, ctx)
        return super().convert(value, param, ctx)

    def require(self, place: str, flag: str) -> None:
        """Refuse a URL where only a path will do: it would become a folder named ``s3:``."""
        if place.startswith(tuple(f"{scheme}:/" for scheme in SCHEMES)):
            raise click.UsageError(f"{flag} takes a path on this machine, and {place} looks like a URL")


class OutputFolder(InputPath):
    """The type of a flag that names a folder to be written."""

    def require(self, place: str, flag: str) -> None:
        """Refuse a folder without a name of its own, too."""
        super().require(place, flag)
        _require_own_place(place, flag)


class CacheFolder(OutputFolder):
    """A folder that is shared by commands, for what can be made again."""

    def require(self, place: str, flag: str) -> None:
        """Refuse a label store, too."""
        super().require(place, flag)
        if (Path(place) / "zarr.json").exists():
            raise _in_a_store(flag, place, Path(place))


class ResultFile(OutputFolder):
    """A file that is written, and may replace an earlier result; with suffixes, in one of these formats."""

    def __init__(self, *suffixes: str, **limits: bool) -> None:
        super().__init__(**limits)
        self.suffixes = suffixes

    def require(self, place: str, flag: str) -> None:
        """Refuse to replace what is no result, and a name that promises another format, too."""
        super().require(place, flag)
        path = Path(place)
        _require_no_other_file(path, flag)
        if self.suffixes and path.suffix.lower() not in self.suffixes:
            known = " or ".join(self.suffixes)
            raise UserError(f"{flag} {place} ends in {path.suffix!r}; it can be written as {known}.")


class RecordFile(OutputFolder):
    """A file to which each run adds a line; who reads it refuses what is no record of that kind."""


class UrlOrPath(click.types.StringParamType):
    """What lies on this machine or in an object store; `shown` is what help calls it."""

    def __init__(self, shown: str) -> None:
        self.name = shown


class OutputStore(UrlOrPath):
    """A label store that is written, here or in an object store."""


SHARDS, STORE = UrlOrPath("pattern"), UrlOrPath("store")
"""Shards, as patterns, and a label store, which are read."""


def require_places(context: click.Context) -> None:
    """Refuse what cannot be read or written as the flags name it."""
    named = list(_named(context))
    for kind, flag, place in named:
        if isinstance(kind, InputPath):
            kind.require(place, flag)
        elif isinstance(kind, OutputStore) and "://" not in place:
            _require_own_place(place, flag)
    for store in (Path(place).resolve() for kind, _, place in named if isinstance(kind, OutputStore)):
        for kind, flag, place in named:
            where = Path(place).resolve()
            if isinstance(kind, OutputFolder) and store in (where, *where.parents):
                raise _in_a_store(flag, place, store)


def settle_for_urls(context: click.Context) -> None:
    """Where a flag names a URL, no process may be forked any more: clients of object stores do not survive it."""
    places = tuple(place for kind, _, place in _named(context) if isinstance(kind, UrlOrPath))
    if any("://" in place for place in places):
        settle_start_method(places, context.params.get("start_method"))


def _named(context: click.Context) -> Iterator[tuple[InputPath | UrlOrPath, str, str]]:
    """The type and the flag of each place that the command was given, and the place."""
    for param in context.command.params:
        if isinstance(param.type, InputPath | UrlOrPath):
            value: Any = context.params.get(param.name or "")
            for place in value if param.multiple else () if value is None else (value,):
                yield param.type, max(param.opts, key=len), str(place)


def _require_own_place(place: str, flag: str) -> None:
    """Refuse results without a name, and such as would lie among the objects of a label store."""
    where = Path(place).resolve()
    if not place or not where.name:
        raise click.UsageError(f"{flag} {place!r} names no file or folder of its own")
    for folder in where.parents:
        if (folder / "zarr.json").exists():
            raise _in_a_store(flag, place, folder)


def _in_a_store(flag: str, place: str, folder: Path) -> UserError:
    return UserError(f"{flag} {place} lies in {folder}, which is a Zarr store. Choose a place outside of it.")


def _require_no_other_file(place: Path, flag: str) -> None:
    """Refuse results in the place of shards, checkpoints, records, or anything that is not a result."""
    if not place.is_file() or (place.suffix.lower() in REPLACED and place.name not in RECORDS):
        return
    with place.open("rb") as file:
        if not place.suffix and file.read(1) in (b"", b"{"):  # our own JSON under a name without a suffix
            return
    raise UserError(f"{flag} {place} is there, and is no result that may be replaced. Name another file.")
