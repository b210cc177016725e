"""Which shards does a pattern mean?

`expand` turns what a user wrote (braces, globs, ``~``, several values) into an ordered tuple of shards, each of which
is there, is a file, is not empty and is named once.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.errors import ShardError
from pipeline.remote.client import SCHEMES, is_remote
from pipeline.remote.files import listed

MAX_SHARDS = 1_000_000
MAX_BRACES = 50
NUMBERS = re.compile(r"(\d{1,18})\.\.(\d{1,18})(?:\.\.(\d{1,18}))?")
LETTERS = re.compile(r"([a-z])\.\.([a-z])|([A-Z])\.\.([A-Z])")


def expand(patterns: str | Sequence[str]) -> tuple[str, ...]:
    """The shards that the patterns mean, in the order in which they were given; globs in the order of their names.

    A path that exists as it stands is taken literally, and a folder (a URL that ends in a slash) means the tars in it.
    Relative paths stay relative.
    """
    shards: dict[tuple[int, int] | str, str] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for shard in _expand_one(pattern):
            identity = shard if is_remote(shard) else _identity(shard)
            if identity in shards:
                raise ShardError(
                    f"{shard} is the same shard as {shards[identity]}, and its rows would count twice. Name each once."
                )
            shards[identity] = shard
    if not shards:
        raise ShardError("no shards were named. Give tars, globs or braces, such as 'data/train/*.tar'.")
    return tuple(shards.values())


def _expand_one(pattern: str) -> list[str]:
    _require_plain(pattern)
    if "://" in pattern:
        items = (f"{item}*.tar" if item.endswith("/") else item for item in _braces_of(pattern))
        return [url for item in items for url in (listed(item) if "*" in item else [item])]
    try:
        pattern = str(Path(pattern).expanduser())
    except RuntimeError as error:
        raise ShardError(f"{pattern}: {error}") from None
    if Path(pattern).is_dir():
        return _matches(f"{glob.escape(pattern)}/*.tar", pattern)
    if os.path.lexists(pattern):
        return [pattern]
    return [path for item in _braces_of(pattern) for path in _matches(item, pattern)]


def _require_plain(pattern: str) -> None:
    """Refuse what is no path, and what asks for a command or an unknown service."""
    scheme, found, _ = pattern.partition("://")
    if pattern.strip().lower().startswith("pipe:"):
        raise ShardError(f"{pattern!r} would run a command, and none is run. Download the shards, then name the files.")
    if found and scheme not in SCHEMES:
        raise ShardError(f"{pattern!r}: unknown scheme {scheme!r}; known are {', '.join(SCHEMES)}, and plain paths.")
    if not pattern or "\0" in pattern:
        raise ShardError(f"{pattern!r} is not a path. Give tars, globs or braces, such as 'data/train/*.tar'.")


def _matches(item: str, pattern: str) -> list[str]:
    """The files that one item without braces means: itself, or what its glob finds."""
    found = [item]
    if glob.has_magic(item) and not os.path.lexists(item):
        found = sorted(glob.glob(item, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute patterns
    if found and all(os.path.lexists(path) for path in found):
        return found
    parent = Path(item).parent
    known = f"the folder {parent} has no such file" if parent.is_dir() else f"there is no folder {parent}"
    asked = "" if item == pattern else f" (asked for by {pattern})"
    if "[" in pattern:
        known += " ([…] is a pattern, and [[] stands for a bracket)"
    raise ShardError(f"nothing matches {item}{asked}: {known}. Name the tars, such as 'data/train/*.tar'.")


def _identity(path: str) -> tuple[int, int]:
    """The device and number of a file, so that links to one file count as that file."""
    try:
        status = Path(path).stat()
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror}.") from None
    if stat.S_ISDIR(status.st_mode):
        raise ShardError(f"{path} is a folder, not a shard. Name the tars in it: '{path}/*.tar'.")
    if not stat.S_ISREG(status.st_mode):
        raise ShardError(f"{path} is not a regular file; a shard must be one, because its rows are read in place.")
    if status.st_size == 0:
        raise ShardError(f"{path} is empty (0 bytes). Fetch or pack it again.")
    return status.st_dev, status.st_ino


def _braces_of(pattern: str) -> list[str]:
    """`pattern` with its braces expanded, as a shell does."""
    if pattern.count("{") != pattern.count("}") or pattern.count("{") > MAX_BRACES:
        raise ShardError(f"{pattern[:200]}: its braces do not match, or are over {MAX_BRACES}.")
    items = list(itertools.islice(_braces(pattern), MAX_SHARDS + 1))
    if len(items) > MAX_SHARDS:
        raise ShardError(f"{pattern[:200]} asks for more than {MAX_SHARDS:,} shards.")
    return items


def _braces(text: str) -> Iterator[str]:
    start = text.find("{")
    if start < 0:
        yield text
        return
    stop = _closing(text, start)
    for middle in _alternatives(text[start + 1 : stop]):
        for tail in _braces(text[stop + 1 :]):
            yield text[:start] + middle + tail


def _closing(text: str, start: int) -> int:
    """The place of the brace that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ShardError(f"{text[:200]}: its braces do not match.")


def _alternatives(body: str) -> Iterator[str]:
    """What stands for ``{body}``: a range, a list, or (like a shell) itself with its braces."""
    if match := NUMBERS.fullmatch(body):
        first, last, step = match[1], match[2], int(match[3] or 1) or 1
        padded = any(len(number) > 1 and number.startswith("0") for number in (first, last))
        width = max(len(first), len(last)) if padded else 0
        yield from (f"{number:0{width}d}" for number in _span(int(first), int(last), step))
    elif match := LETTERS.fullmatch(body):
        first, last = (letter for letter in match.groups() if letter)
        yield from (chr(code) for code in _span(ord(first), ord(last), 1))
    else:
        parts = _split(body)
        for part in parts:
            for item in _braces(part):
                yield item if len(parts) > 1 else "{" + item + "}"


def _span(first: int, last: int, step: int) -> range:
    return range(first, last + 1, step) if first <= last else range(first, last - 1, -step)


def _split(body: str) -> list[str]:
    """`body` cut at the commas that are in no inner braces."""
    parts, depth = [""], 0
    for letter in body:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
