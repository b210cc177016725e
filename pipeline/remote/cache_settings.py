"""Which cache does this process use? The one that its command's flags name, or else the environment, or the defaults.

A command says it for as long as it runs (`using`); worker processes are handed what it said with their arguments
(`pipeline.processes.worker`).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ShardError
from pipeline.remote.cache import DEFAULT_BYTES, Cache

DIR_VARIABLE, SIZE_VARIABLE = "DISTILL_CACHE_DIR", "DISTILL_CACHE_SIZE"
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Where what came from URLs lies on this node, and how many bytes of it."""

    folder: str
    limit: int

    @classmethod
    def of(cls, folder: str | None, limit: int | None) -> CacheSettings:
        """The settings of a folder and a size, of which either may be left to its default."""
        return cls(folder or _default_folder(), DEFAULT_BYTES if limit is None else limit)

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ) -> CacheSettings:
        """The settings in the environment's variables, for whoever reads shards without a command."""
        size = env.get(SIZE_VARIABLE)
        return cls.of(env.get(DIR_VARIABLE), bytes_of(size) if size else None)


_caches: dict[CacheSettings, Cache] = {}
_used: list[CacheSettings] = []


@contextlib.contextmanager
def using(settings: CacheSettings) -> Iterator[None]:
    """Have this process use that cache, while the context lasts."""
    _used.append(settings)
    try:
        yield
    finally:
        _used.pop()


def current() -> CacheSettings:
    """The settings of the cache that this process uses: those of `using`, or else the environment's."""
    return _used[-1] if _used else CacheSettings.from_environment()


def cache() -> Cache:
    """The cache that this process uses, made when it is first asked for."""
    settings = current()
    if settings not in _caches:
        _caches[settings] = Cache(Path(settings.folder).expanduser(), settings.limit)
    return _caches[settings]


def bytes_of(text: str, flag: str = "--cache-size") -> int:
    """The number of bytes that a person writes as 500G, 64GiB or 1000000."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if not match or match[2] == "I":
        raise ShardError(f"{flag} {text!r} is no size. Give bytes, or a number such as 500G or 64GiB.")
    return int(float(match[1]) * UNITS[match[2]])


def _default_folder() -> str:
    return str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "offline-distiller")
