"""Which decoder made these pixels? A digest of everything that decides them.

The libraries that decode, by name and version, the processor's kind, and the very text of the room
`pipeline.pictures`, which is the policy for odd pictures (orientation, inks, alpha, 16 bits): nobody has to remember to
count a version up.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Collection
from functools import cache
from importlib import metadata
from pathlib import Path

from PIL import features

from pipeline.pictures import images

PACKAGES, CODECS = ("simplejpeg", "pillow", "numpy"), ("jpg", "zlib", "webp")
ROOM = Path(images.__file__).parent


@cache
def decoder() -> bytes:
    """Eight bytes that name the decoder, its version and our policy: others wherever pixels may be others."""
    known = {
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "codecs": {name: features.version(name) for name in CODECS},
        "machine": platform.machine(),
        "policy": policy(ROOM),
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).digest()[:8]


def policy(room: Path, *, but: Collection[str] = ()) -> str:
    """The SHA-256 of the source of all modules of a room, `but` these: another wherever any of them has changed."""
    modules = [path for path in room.glob("*.py") if path.stem not in but]
    texts = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in modules}
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()
