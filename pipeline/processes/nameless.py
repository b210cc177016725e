"""Where is memory that processes share, and that goes when the last of them does?"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def nameless(size: int) -> int:
    """A descriptor of `size` bytes of memory that has no name."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("shared", os.MFD_CLOEXEC)
    else:
        descriptor, path = tempfile.mkstemp(prefix="shared")
        Path(path).unlink()
    os.ftruncate(descriptor, size)
    return descriptor
