"""How is a bucket asked so that an answer comes in time, or an error that says what to do?

Each call is bounded, by its size, and tried `pipeline.remote.client.ATTEMPTS` times with growing pauses; what stays
impossible is a StoreError with its remedy. Only what a caller must tell apart is told apart: an object that is absent
(KeyError), and a condition that does not hold (None).

Holds no connections, so it may be pickled. Keys are whole: those of the bucket.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from pipeline.errors import StoreError, UserError
from pipeline.remote.client import ATTEMPTS, attempts, code_of, is_empty_range, is_permanent, remote, say

START_S = 60.0
"""Within which any answer must begin"""
SLOWEST = 256 << 10
"""Bytes a second, added to it"""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of an S3 server, named by its URL."""

    url: str

    @property
    def name(self) -> str:
        """The bucket's name, without ``s3://``."""
        return self.url.partition("://")[2]

    def get(self, key: str, limit: int) -> bytes:
        """The bytes of an object, at most two more than `limit`; KeyError where there is none."""

        def call() -> bytes:
            found: bytes = remote(self.url).call(
                "cat_file", f"{self.name}/{key}", start=0, end=limit + 1, within_s=_seconds(limit)
            )
            return found

        try:
            data: bytes = self._tried(key, lambda: attempts(self._what(key), call, permanent=is_empty_range))
        except FileNotFoundError:
            raise KeyError(key) from None
        except OSError as error:
            if is_empty_range(error):
                return b""
            raise
        return data

    def put(self, key: str, data: bytes) -> None:
        """Write an object under a key, in place of any that was there."""
        self._call(key, "put_object", len(data), Key=key, Body=data)

    def put_if(self, key: str, data: bytes, **condition: Any) -> str | None:
        """The tag of what was put; None where the condition (`IfMatch`, `IfNoneMatch`) does not hold."""
        try:
            answer = self._call(key, "put_object", len(data), Key=key, Body=data, **condition)
        except FileNotFoundError:  # If-Match, and it is gone
            return None
        except OSError as error:
            if is_refused(error):
                return None
            raise
        return str(answer["ETag"])

    def delete(self, key: str, *, count: int = ATTEMPTS, **condition: Any) -> None:
        """Take an object away; that there is none is no error."""
        self._call(key, "delete_object", count=count, Key=key, **condition)

    def sizes(self, prefix: str) -> dict[str, int]:
        """The bytes of each object whose key begins so, in the order of the keys; listed page by page."""
        found: dict[str, int] = {}
        page: dict[str, Any] = {}
        while True:
            more = {"ContinuationToken": page["NextContinuationToken"]} if page else {}
            try:
                page = self._call(prefix, "list_objects_v2", Prefix=prefix, **more)
            except FileNotFoundError as error:
                raise StoreError(f"there is no bucket {self.name}. Make it, or name another.") from error
            found |= {entry["Key"]: int(entry["Size"]) for entry in page.get("Contents", [])}
            if not page.get("IsTruncated"):
                return dict(sorted(found.items()))

    def age(self, key: str) -> tuple[str, float]:
        """The tag of an object and the seconds since it was put, by the server's clock; KeyError if it is absent."""
        try:
            answer = self._call(key, "head_object", Key=key)
        except FileNotFoundError:
            raise KeyError(key) from None
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return str(answer["ETag"]), (now - answer["LastModified"]).total_seconds()

    @property
    def away(self) -> bool:
        """Whether the last call, with all its attempts, was in vain."""
        return remote(self.url).away

    def _call(self, key: str, method: str, size: int = 0, *, count: int = ATTEMPTS, **arguments: Any) -> Any:
        """A call of the bucket; StoreError where it stays impossible."""

        def call() -> Any:
            within = _seconds(size)
            return remote(self.url).call("call_s3", method, Bucket=self.name, within_s=within, **arguments)

        return self._tried(key, lambda: attempts(self._what(key), call, count=count, permanent=is_refused))

    def _tried(self, key: str, call: Callable[[], Any]) -> Any:
        """The call's answer; takes note of whether the server is away."""
        try:
            answer = _as_store_error(self._what(key), call)
        except StoreError:
            remote(self.url).away = True
            raise
        remote(self.url).away = False
        return answer

    def _what(self, key: str) -> str:
        return f"{self.url}/{key.rstrip('/')}"


def is_refused(error: Exception) -> bool:
    """Whether the server answered that the condition of a request did not hold."""
    return isinstance(error, FileExistsError) or code_of(error) in ("PreconditionFailed", "412")


def _seconds(size: int) -> float:
    return START_S + size / SLOWEST


def _as_store_error(what: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except StoreError:
        raise
    except UserError as error:
        raise StoreError(f"{error} Nothing that was finished is lost.") from error
    except FileNotFoundError:
        raise
    except Exception as error:
        if is_refused(error) or is_empty_range(error) or not is_permanent(error):
            raise
        raise StoreError(
            f"{what}: {say(error)}. Check the address and the credentials; then run this again."
        ) from error
