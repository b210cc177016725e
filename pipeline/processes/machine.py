"""On which machine is this? What a measured speed must be read beside."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

PROCESSORS = Path("/proc/cpuinfo")


def machine() -> dict[str, str]:
    """Its processor, how many cores this process may use, its system, Python and torch, as texts."""
    return {
        "processor": _processor(),
        "cores": str(granted_cores()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def granted_cores() -> int:
    """How many cores this process may use: as the scheduler grants them, or all where a system (macOS) has no say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def version(package: str) -> str:
    """The version of a package that is installed here, as its metadata say; "absent" where it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _processor() -> str:
    """The model's name where Linux tells it."""
    try:
        lines = PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, named), platform.processor() or platform.machine())
