"""Which 64-bit number stands for a sample's key? The first eight bytes of its BLAKE2b digest, little-endian."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def key_hash(key: str | bytes) -> int:
    """The 64-bit identity that a sample's draws are keyed by."""
    data = key.encode() if isinstance(key, str) else key
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def key_hashes(keys: Iterable[bytes]) -> NDArray[np.uint64]:
    """`key_hash` of many keys."""
    return np.fromiter((key_hash(key) for key in keys), np.uint64)
