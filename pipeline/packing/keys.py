"""Under which key does an image file become a row?

The key comes from the file's path alone: the path without its extension, with what a tar or a key cannot hold written
as ``_`` and a short digest of the path behind it. Files that would share a key (``1.jpg`` and ``1.png``) all get that
digest. So a key depends neither on the seed nor on the file system, and every key is a safe name on every system.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from pipeline.shards.samples import META
from pipeline.shards.tar import RESERVED

UNSAFE = re.compile(r'[.\x00-\x1f\x7f-\x9f\\:*?"<>|\u2028\u2029\ud800-\udfff]')
MAX_KEY = 180


def keys_of(names: Sequence[str]) -> list[str]:
    """The keys of files, by their paths below the folder that is packed."""
    keys = [key_of(name) for name in names]
    count = Counter(keys)
    return [key if count[key] == 1 else f"{key}-{_short_digest(name)}" for key, name in zip(keys, names, strict=True)]


def key_of(name: str) -> str:
    """The key of one file, as long as no other file would have it."""
    folder, slash, file = name.rpartition("/")
    plain = unicodedata.normalize("NFC", folder + slash + (file.rpartition(".")[0] or file))
    key = RESERVED.sub(r"\1_\2\3", UNSAFE.sub("_", plain))
    if META.match(key):
        key = f"m{key}"
    if len(key.encode()) > MAX_KEY:
        key = key.encode()[:MAX_KEY].decode(errors="ignore").rstrip("/")
    return key if key == plain else f"{key}-{_short_digest(name)}"


def _short_digest(name: str) -> str:
    return hashlib.blake2b(os.fsencode(name), digest_size=4).hexdigest()
