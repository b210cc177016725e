"""What does a server have, and what does it say of it?

`known_of` is the size of a file and a tag that tells this version of it from others, `listed` the names that a pattern
means, `small_file` a file that is read whole, past the node's cache. An attempt may take `START_S` seconds and then
`SLOWEST` bytes a second; what goes wrong is said of the URL (`named`).
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ShardError, UserError
from pipeline.remote.client import (
    STALL_S,
    attempts,
    is_empty_range,
    is_forbidden,
    is_permanent,
    place_of,
    remote,
    say,
    scheme_of,
)

START_S = 60.0
SLOWEST = 256 << 10
TAGS = ("ETag", "LastModified", "Last-Modified", "modify", "mtime", "blob_id")
"""What servers of several kinds say that tells one version of a file from another"""
SHA256 = "sha256:"
"""What a tag that is made of a SHA-256 begins with"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Known:
    """What a server says of an object: its size, and a tag that tells its versions apart."""

    size: int
    tag: str


def known_of(url: str, *, stall_s: float = STALL_S, start_s: float = START_S) -> Known:
    """Ask a server for the size and the tag of the object at a URL."""

    def ask() -> dict[str, Any]:
        found = remote(url, stall_s=stall_s).call("info", url, within_s=start_s)
        assert isinstance(found, dict)
        return found

    info = named(url, lambda: attempts(url, ask))
    size = info.get("size")
    if not isinstance(size, int) or info.get("type") == "directory":
        raise ShardError(
            f"{url}: the server gives no length for it, so it could not be known to be whole. Download it."
        )
    if size == 0:
        raise ShardError(f"{url} is empty (0 bytes). Upload or pack it again.")
    return Known(size, _tag_of(info))


def listed(pattern: str) -> list[str]:
    """The objects that a URL with ``*`` stands for, in the order of their names."""
    if scheme_of(pattern) in ("http", "https"):
        raise ShardError(
            f"{pattern}: a web server cannot be asked what it has. Name the shards by braces, such as {{000..127}}."
        )
    found = named(
        pattern, lambda: attempts(pattern, lambda: remote(pattern).call("glob", pattern, within_s=START_S * 5))
    )
    if not found:
        raise ShardError(f"nothing matches {pattern}. Name the tars, such as 's3://bucket/train/*.tar'.")
    place = place_of(pattern)
    start = place if place.endswith("//") else f"{place}/"
    return sorted(start + str(name).lstrip("/") for name in found)


def small_file(url: str, limit: int) -> bytes | None:
    """The bytes of a small object, past the cache, in one request; None where there is none.

    A server that will not say whether it has it (401, 403) is taken to have none, and that is told.
    """

    def ask() -> bytes | None:
        try:
            found: bytes = remote(url).call("cat_file", url, start=0, end=limit + 1, within_s=START_S + limit / SLOWEST)
            return found
        except FileNotFoundError:
            return None
        except Exception as error:
            if is_forbidden(error):
                log.warning("%s: %s; it is taken not to be there, and not used", url, say(error))
                return None
            if is_empty_range(error):
                return b""
            raise

    data: bytes | None = named(url, lambda: attempts(url, ask))
    if data is not None and len(data) > limit:
        raise ShardError(f"{url} has more than {limit:,} bytes; so many are allowed.")
    return data


def named(url: str, call: Callable[[], Any]) -> Any:
    """The answer of a call; an error in it becomes one that names the URL."""
    try:
        return call()
    except ShardError:
        raise
    except UserError as error:
        raise ShardError(str(error) if url in str(error) else f"{url}: {error}") from error
    except FileNotFoundError as error:
        hidden = "repository not found" in str(error)  # so the Hugging Face Hub says of what one may not see
        hint = "Name the shards where they are" + (", or log in if they are private." if hidden else ".")
        raise ShardError(f"{url} is not there. {hint}") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        if is_permanent(error):
            raise ShardError(f"{url} cannot be read: {say(error)}. Check the address and the credentials.") from error
        raise


def _tag_of(info: dict[str, Any]) -> str:
    """What tells this version of an object from others; the Hugging Face Hub names the SHA-256 of large files."""
    large = info.get("lfs")
    if isinstance(large, dict) and large.get("sha256"):
        return f"{SHA256}{large['sha256']}"
    return next((str(info[name]) for name in TAGS if info.get(name)), "")
