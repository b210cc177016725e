"""Which decoder made these pixels? A digest of everything that decides them.

The libraries that decode, by name and version, the processor's kind, and the very text of `pipeline.pictures.images`,
which is the policy for odd pictures (orientation, inks, alpha, 16 bits): nobody has to remember to count a version up.
"""

from __future__ import annotations

import hashlib
import json
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

from PIL import features

from pipeline.pictures import images

PACKAGES, CODECS = ("simplejpeg", "pillow", "numpy"), ("jpg", "zlib", "webp")


@cache
def decoder() -> bytes:
    """Eight bytes that are others where pixels may be others."""
    known = {
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "codecs": {name: features.version(name) for name in CODECS},
        "machine": platform.machine(),
        "policy": hashlib.sha256(Path(images.__file__).read_bytes()).hexdigest(),
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).digest()[:8]
