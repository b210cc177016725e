"""What lies in a run's folder under which name, and does a checkpoint there prove itself?

A checkpoint ends in the SHA-256 of all that is before it, in the comment of its zip (`student.checkpoints.checkpoint`).
Nothing here needs torch, so that one can look at a run in a moment.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import StudentError

LAST, PREVIOUS, BEST = "last", "previous", "best"
RECORD, STATUS, LOCK = "metrics.jsonl", "status.json", ".lock"
_MARK = b"sha256:"
COMMENT = len(_MARK) + 64
"""Bytes of the digest at a checkpoint's end"""


def path_of(run: Path, which: str = LAST) -> Path:
    """The file of a checkpoint in a run's folder: of `last`, `previous` or `best`."""
    return run / f"{which}.pt"


def opened(path: Path) -> BinaryIO:
    """A checkpoint of a run that may be saving another: then `last` has no name for a moment, and `previous` has."""
    deadline = time.monotonic() + 0.5
    while True:
        try:
            return path.open("rb")
        except FileNotFoundError:
            saving = path == path_of(path.parent) and path_of(path.parent, PREVIOUS).exists()
            if not saving or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def require_digest(file: BinaryIO, path: Path) -> None:
    """A checkpoint must end in its own digest, and that digest must be right."""
    found = digest_of(file, max(os.fstat(file.fileno()).st_size - COMMENT, 0))
    written = file.read()
    if not written.startswith(_MARK):
        raise StudentError(f"{path} is cut short, or not a checkpoint of student.train: it does not end in its digest.")
    if written != found:
        raise StudentError(
            f"{path} is damaged: its SHA-256 is {found[7:23].decode()}…, and was "
            f"{written[7:23].decode(errors='replace')}… when it was written."
        )


def is_marked(path: Path) -> bool:
    """Whether a file ends as checkpoints of student.train do, and others do not."""
    with opened(path) as file:
        file.seek(max(os.fstat(file.fileno()).st_size - COMMENT, 0))
        return file.read(len(_MARK)) == _MARK


def digest_of(file: BinaryIO, end: int) -> bytes:
    """The mark and digest that a checkpoint with bytes [0, end) must end in; leaves the file at `end`."""
    digest = hashlib.sha256()
    while data := file.read(min(end - file.tell(), 1 << 20)):
        digest.update(data)
    return _MARK + digest.hexdigest().encode()
