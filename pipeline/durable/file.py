"""How is a result written so that a reader sees the old one or the new one, and never a part?

Whole bytes under a temporary name in the same directory, flushed to the disk, then renamed over the old ones. Whoever
writes holds a lock on the temporary file; what a killed process left there has none, and goes with the next write.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.durable.local import failure, flush, flush_directory, is_same_file


def write_with(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file (with the same suffix), then put it in the place of `path`."""
    with telling(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        descriptor, temporary = _locked_temporary(path)
        try:
            write(temporary)
            _flush(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            flush_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(descriptor)
    return path


@contextlib.contextmanager
def telling(path: Path) -> Iterator[None]:
    """Turn what the system says while `path` is written into a user's error: which file, why, and what helps."""
    try:
        yield
    except OSError as error:
        raise failure("write", path, error) from error


def _locked_temporary(path: Path) -> tuple[int, Path]:
    """A new file beside `path`, which another that writes there takes for a killed one's until it is locked."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        temporary = Path(name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if is_same_file(descriptor, temporary):
                return descriptor, temporary
        except BaseException:
            temporary.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        os.close(descriptor)


def _sweep(path: Path) -> None:
    """Remove what killed processes left of this file."""
    for left in path.parent.glob(f".{glob.escape(path.stem)}-????????{glob.escape(path.suffix)}"):
        with contextlib.suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write a text file in UTF-8, whole or not at all; gives its path."""
    return write_with(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: object) -> Path:
    """Write the result of a command as a JSON file, whole or not at all; gives its path."""
    return write_text(path, json_text(value))


def json_text(value: object, *, escaped: bool = False) -> str:
    """JSON for people and for version control: sorted keys, indented, one final newline; `escaped` is ASCII alone."""
    return json.dumps(value, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=escaped) + "\n"


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        flush(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
