"""What did `stages.pack` write beside the shards: the names of the classes, and the digest of each shard?

``classes.json`` is ``{"classes": ["cat", "dog"]}``: the name of class 0, of class 1, and so on. Anyone may write one.
``pack.json`` says how the shards were made, what is in them, and the sha256 of each; a scan holds the shards to it.
Both are read strictly, because a wrong name or digest is worse than none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ShardError
from pipeline.shards import local_path

CLASSES_FILE = "classes.json"
PACK_FILE = "pack.json"
MAX_BYTES = 16 * 1024 * 1024
DIGEST = re.compile(r"[0-9a-f]{64}")
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSummary:
    """One shard that was written."""

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSummary:
    """What pack.json says."""

    fingerprint: str
    """The sha256 of all that decides the shards' bytes."""
    options: dict[str, int | None]
    """The flags that do."""
    images: int
    """Rows."""
    unlabelled: int
    """Rows without a class."""
    rejected: int
    """Images that were left out; rejected.csv lists them."""
    remade: dict[str, int]
    """Payloads that are not the file's own bytes, by the reason."""
    per_class: dict[str, int]
    """Rows of each class, by its name (or number)."""
    shards: tuple[ShardSummary, ...]

    def to_json(self) -> bytes:
        """The text of pack.json: sorted, without times and places."""
        record = asdict(self)
        record["shards"] = {entry.pop("name"): entry for entry in record["shards"]}
        return (json.dumps(record, indent=2, sort_keys=True) + "\n").encode()


def read_pack(folder: Path) -> PackSummary:
    """What the pack.json in a folder says; it must be as `to_json` writes it."""
    path = folder / PACK_FILE
    content = _read_object(path) or {}
    try:
        shards = tuple(ShardSummary(name=name, **entry) for name, entry in content["shards"].items())
        summary = PackSummary(**{**content, "shards": shards})
        same = isinstance(summary.options, dict) and summary.to_json() == path.read_bytes()
    except (TypeError, KeyError, AttributeError, ValueError):
        same = False
    if not same:
        raise ShardError(f"{path} is not as pack wrote it. Remove {folder} and pack again, or choose another --out.")
    return summary


def class_names_beside(urls: Iterable[str]) -> tuple[str, ...] | None:
    """The class names that stand beside the shards; None where no folder has any, an error where two disagree."""
    found = [(folder / CLASSES_FILE, read_class_names(folder / CLASSES_FILE)) for folder in _folders(urls)]
    named = [(path, names) for path, names in found if names is not None]
    for path, names in named[1:]:
        if names != named[0][1]:
            raise ShardError(
                f"{named[0][0]} names {_brief(named[0][1] or ())}, {path} names {_brief(names or ())}: class numbers "
                "would mean two things. Pack both with the same --classes."
            )
    return named[0][1] if named else None


def read_class_names(path: Path) -> tuple[str, ...] | None:
    """The names in one classes.json; None where there is no such file."""
    content = _read_object(path)
    if content is None:
        return None
    names = content.get("classes") if len(content) == 1 else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ShardError(f'{path} must hold {{"classes": [name, …]}} and nothing else. Mend it, or delete it.')
    require_class_names(names, path)
    return tuple(names)


def require_class_names(names: Sequence[str], where: Path | str) -> None:
    """Refuse names that are empty, twice there, or cannot be printed."""
    seen: set[str] = set()
    for name in names:
        if not name.strip() or UNPRINTABLE.search(name):
            raise ShardError(f"{where}: the class name {name!r} is empty or cannot be printed. Rename the class.")
        if name in seen:
            raise ShardError(f"{where}: the class {name!r} is named twice. Name each class once.")
        seen.add(name)


def digests_beside(urls: Sequence[str]) -> dict[str, str]:
    """The sha256 of each shard that a pack.json beside it speaks of."""
    known = {folder: _digests(folder / PACK_FILE) for folder in _folders(urls)}
    local = [(url, local_path(url)) for url in urls if "://" not in url]
    return {url: known[path.parent][path.name] for url, path in local if path.name in known[path.parent]}


def _digests(path: Path) -> dict[str, str]:
    content = _read_object(path)
    if content is None:
        return {}
    shards = content.get("shards")
    entries = shards if isinstance(shards, dict) else {"": None}
    found: dict[str, str] = {}
    for name, entry in entries.items():
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            raise ShardError(f"{path} does not say the sha256 of each shard. Pack again, or delete it to do without.")
        found[name] = digest
    return found


def _folders(urls: Iterable[str]) -> list[Path]:
    """The folders of local shards, each once, in order."""
    return list(dict.fromkeys(local_path(url).parent for url in urls if "://" not in url))


def _read_object(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no file."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ShardError(f"{path} has {path.stat().st_size:,} bytes; {MAX_BYTES:,} are allowed.")
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path} is no JSON: {error}. Mend it, or delete it.") from None
    if not isinstance(content, dict):
        raise ShardError(f"{path} must hold a JSON object, not {str(content)[:40]!r}. Mend it, or delete it.")
    return content


def _brief(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
