"""Where may a command write its results, and is that known before the work begins?"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from pipeline.errors import UserError


def require_new_folder(out: str | Path) -> None:
    """Refuse, for what makes a folder of its own, files and the folder that one stands in, with those around it."""
    if "://" in str(out):
        return
    where = Path(out).resolve()
    if where in (Path.cwd(), *Path.cwd().parents):
        raise UserError(f"--out {out} is the folder that this is run in, or one around it. Name a new one.")
    for place in (where, *where.parents):
        if place.is_file():
            raise UserError(f"--out {out}: {place} is a file, and a folder is needed there. Name a new one.")


def beside(out: str, suffix: str) -> Path:
    """Where a command writes a small result of its store: beside it, or here if the store is at a URL."""
    path = Path(out.rstrip("/").rpartition("/")[2] if "://" in out else out)
    stem = path.stem if path.suffix in (".zarr", ".json") else path.name  # v1.2 and v1.3 are two stores
    return path.with_name(stem + suffix)


def require_writable(path: Path, flag: str) -> None:
    """Refuse now, and not when hours of work are done, a result's place that cannot be written; makes its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}. Give another {flag}.") from error
