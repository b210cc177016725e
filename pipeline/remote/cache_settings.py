"""Which cache does this process use? As `--cache-dir` and `--cache-size` say, or the environment, or the defaults.

The flags are put into the environment, where worker processes find them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipeline.errors import ShardError
from pipeline.remote.cache import DEFAULT_BYTES, Cache

DIR_VARIABLE, SIZE_VARIABLE = "DISTILL_CACHE_DIR", "DISTILL_CACHE_SIZE"
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


_caches: dict[tuple[str, str], Cache] = {}


def cache() -> Cache:
    """The cache of this process, as the flags (or the environment) say."""
    folder = os.environ.get(DIR_VARIABLE) or _default_folder()
    size = os.environ.get(SIZE_VARIABLE) or str(DEFAULT_BYTES)
    key = folder, size
    if key not in _caches:
        _caches[key] = Cache(Path(folder).expanduser(), bytes_of(size))
    return _caches[key]


def bytes_of(text: str, flag: str = "--cache-size") -> int:
    """The number of bytes that a person writes as 500G, 64GiB or 1000000."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if not match or match[2] == "I":
        raise ShardError(f"{flag} {text!r} is no size. Give bytes, or a number such as 500G or 64GiB.")
    return int(float(match[1]) * UNITS[match[2]])


def _default_folder() -> str:
    return str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "offline-distiller")
