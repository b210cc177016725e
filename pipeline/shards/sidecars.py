"""What did `stages.pack` write beside the shards: the names of the classes, and the digest of each shard?

``classes.json`` is ``{"classes": ["cat", "dog"]}``: the name of class 0, of class 1, and so on. Anyone may write one.
``pack.json`` says how the shards were made, what is in them, and the sha256 of each; a scan holds the shards to it.
Both are read strictly, because a wrong name or digest is worse than none.

Beside shards at URLs they mean the same. Each is asked for once a folder, and several folders at a time; a file that is
not there is fine, one that cannot be told to be there or not is an error. Two cases are told and passed over: a server
that answers 401 or 403 although it gives the shards (many do so for what is not there, to who may not list), and a URL
with a query, which is signed for one object alone.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from pipeline.durable.file import json_text
from pipeline.errors import ShardError
from pipeline.remote.client import is_remote
from pipeline.remote.files import small_file

log = logging.getLogger(__name__)

T = TypeVar("T")

CLASSES_FILE = "classes.json"
PACK_FILE = "pack.json"
MAX_BYTES = 16 * 1024 * 1024
ASKED_AT_ONCE = 16
DIGEST = re.compile(r"[0-9a-f]{64}")
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSummary:
    """What pack.json says of one shard."""

    name: str
    rows: int
    bytes: int
    sha256: str


def size_text(images: int, shards: Sequence[ShardSummary]) -> str:
    """How many images lie in how many tars of how many megabytes, as people read it."""
    megabytes = sum(shard.bytes for shard in shards) / 1e6
    return f"{images:,} images in {len(shards)} tars, {megabytes:,.1f} MB"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSummary:
    """What pack.json says: how shards were made, of what, and what is in them."""

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
    whole: dict[str, int] | None = None
    """Payloads that could not be tiled, by the reason; None where that was not asked for."""

    def to_json(self) -> bytes:
        """The text of pack.json: sorted, and without times or paths, so that the same pictures give the same bytes."""
        record = asdict(self)
        if self.whole is None:
            del record["whole"]
        record["shards"] = {entry.pop("name"): entry for entry in record["shards"]}
        return json_text(record, escaped=True).encode()


def classes_json(names: Sequence[str]) -> bytes:
    """The text of classes.json, which names the classes of the shards beside it."""
    return json_text({"classes": list(names)}).encode()


def read_pack(folder: Path) -> PackSummary:
    """What the pack.json in a folder says; it must be as `to_json` writes it."""
    path = folder / PACK_FILE
    written = _local_bytes(path) or b"{}"
    content = _object_in(written, path)
    try:
        shards = tuple(ShardSummary(name=name, **entry) for name, entry in content["shards"].items())
        summary = PackSummary(**{**content, "shards": shards})
        same = isinstance(summary.options, dict) and summary.to_json() == written
    except (TypeError, KeyError, AttributeError, ValueError):
        same = False
    if not same:
        raise ShardError(f"{path} is not as pack wrote it. Remove {folder} and pack again, or choose another --out.")
    return summary


def class_names_beside(urls: Sequence[str]) -> tuple[str, ...] | None:
    """The class names that stand beside the shards; None where no folder has any, an error where two disagree."""
    if signed := [url for url in urls if _is_signed(url)]:
        shown = signed[0].partition("?")[0]
        log.warning("%s is a URL for one object alone: no class names and digests are asked for beside it", shown)
    places = [_beside(folder, CLASSES_FILE) for folder in _folders(urls)]
    found = zip(places, _each(read_class_names, places), strict=True)
    named = [(place, names) for place, names in found if names is not None]
    for place, names in named[1:]:
        if names != named[0][1]:
            raise ShardError(
                f"{named[0][0]} names {_brief(named[0][1])}, {place} names {_brief(names)}: class numbers "
                "would mean two things. Pack both with the same --classes."
            )
    return named[0][1] if named else None


def read_class_names(place: Path | str) -> tuple[str, ...] | None:
    """The names in one classes.json; None where there is no such file."""
    content = _read_object(place)
    if content is None:
        return None
    names = content.get("classes") if len(content) == 1 else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ShardError(f'{place} must hold {{"classes": [name, …]}} and nothing else. Mend it, or delete it.')
    require_class_names(names, place)
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
    folders = _folders(urls)
    known = dict(zip(folders, _each(_digests, [_beside(folder, PACK_FILE) for folder in folders]), strict=True))
    found: dict[str, str] = {}
    for url in urls:
        folder, name = _folder_of(url), _name_of(url)
        if folder is not None and name in known[folder]:
            found[url] = known[folder][name]
    return found


def _digests(place: Path | str) -> dict[str, str]:
    content = _read_object(place)
    if content is None:
        return {}
    shards = content.get("shards")
    entries = shards if isinstance(shards, dict) else {"": None}
    found: dict[str, str] = {}
    for name, entry in entries.items():
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            raise ShardError(f"{place} does not say the sha256 of each shard. Pack again, or delete it to do without.")
        found[name] = digest
    return found


# ---- where shards lie


def _folders(urls: Iterable[str]) -> list[Path | str]:
    """The folders of the shards, each once, in order; without those of signed URLs."""
    return [folder for folder in dict.fromkeys(map(_folder_of, urls)) if folder is not None]


def _is_signed(url: str) -> bool:
    return is_remote(url) and "?" in url


def _folder_of(url: str) -> Path | str | None:
    """The folder of a shard; None where nothing can be asked for beside it."""
    if _is_signed(url):
        return None
    return url.rpartition("/")[0] if is_remote(url) else Path(url).parent


def _name_of(url: str) -> str:
    """What pack.json calls a shard."""
    if not is_remote(url):
        return Path(url).name
    name = url.rpartition("/")[2]
    return unquote(name) if url.startswith(("http://", "https://")) else name


def _beside(folder: Path | str, name: str) -> Path | str:
    return folder / name if isinstance(folder, Path) else f"{folder}/{name}"


def _each(read: Callable[[Path | str], T], places: Sequence[Path | str]) -> list[T]:
    """What each place holds; those at URLs are read at the same time."""
    if not any(map(is_remote, places)):
        return list(map(read, places))
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        return list(pool.map(read, places))


# ---- JSON


def _read_object(place: Path | str) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no file."""
    data = small_file(place, MAX_BYTES) if isinstance(place, str) else _local_bytes(place)
    return None if data is None else _object_in(data, place)


def _object_in(data: bytes, place: Path | str) -> dict[str, Any]:
    """The object that a file's bytes are."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{place} is no JSON: {error}. Mend it, or delete it.") from None
    if not isinstance(content, dict):
        raise ShardError(f"{place} must hold a JSON object, not {str(content)[:40]!r}. Mend it, or delete it.")
    return content


def _local_bytes(path: Path) -> bytes | None:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ShardError(f"{path} has {path.stat().st_size:,} bytes; {MAX_BYTES:,} are allowed.")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror}.") from None


def _brief(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
