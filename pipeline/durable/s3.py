"""How does a store live in an S3 bucket, with the promises that it has on a disk?

S3 gives most of them: a PUT is there whole or not at all, for good, and is listed and read at once by everyone. Its
conditional PUTs give the others: ``If-None-Match: *`` for receipts (the second writer of a unit is told), and both
conditions for locks. Uploads carry a checksum that the server checks; what is read is held to its digest by the store.

A *lease* is an object ``{"holder": …, "token": …}`` that its holder writes anew every `LEASE_S` / 4 seconds, each time
only if it is still the one that it wrote before. One that was not written for `LEASE_S` seconds, by the server's own
clock, has expired, and whoever comes may take it over, on the condition that it is still the same. A holder that could
not renew in time stops writing. So of two processes that believe to hold a lease, one is about to find out, and a unit
that both write is the same bytes.

    <store>.lock               the lease of `Objects.lock`
    <store>.writers/whole      the lease of the first writer (`pipeline.durable.writer_lock`)
    <store>.writers/<token>    the lease of each writer that shares

Every call is tried `pipeline.remote.client.ATTEMPTS` times, and bounded. Holds no connections: may be pickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any

from pipeline.errors import StoreError, UserError
from pipeline.remote.client import ATTEMPTS, attempts, code_of, is_empty_range, is_permanent, remote, say

_RECEIPT = re.compile(r"receipts/[0-9]+/[0-9]+\.json")

LEASE_S = 60.0
START_S = 60.0
SLOWEST = 256 << 10
AHEAD, READERS = 256, 16
"""Receipts that are read at once, and how many at a time"""


class S3Objects:
    """Objects as those of a bucket whose keys begin with the store's."""

    def __init__(self, url: str) -> None:
        scheme, _, path = url.rstrip("/").partition("://")
        self.bucket, _, self.root = path.partition("/")
        self.url = f"{scheme}://{self.bucket}/{self.root}"
        if not self.bucket or not self.root:
            raise StoreError(f"{url} names no store. Give a bucket and a name: s3://bucket/store.zarr.")
        self._receipts: list[str] = []
        self._ahead: dict[str, bytes] = {}
        self._lost: str | None = None

    @property
    def name(self) -> str:
        """The URL."""
        return self.url

    # ---- objects

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Of every object below `prefix`, listed page by page."""
        found = self._listed(f"{self.root}/{prefix}/" if prefix else f"{self.root}/")
        self._receipts = sorted(filter(_RECEIPT.fullmatch, found), key=_numbers)
        self._ahead = {}
        return found

    def get(self, key: str, limit: int) -> bytes:
        """The bytes of an object. Receipts are small and many, so the next ones are read at the same time."""
        if key not in self._ahead and _RECEIPT.fullmatch(key):
            self._read_ahead(key, limit)
        data = self._ahead.pop(key, None)
        data = self._got(key, limit) if data is None else data
        if len(data) > limit:
            raise StoreError(
                f"{self.name}/{key} has more than {limit} bytes, at most {limit} belong there. "
                "Run the teacher's stage again: it computes what is damaged."
            )
        return data

    def put(self, key: str, data: bytes) -> None:
        """One PUT."""
        self._require_lease()
        self._ahead.pop(key, None)
        self._call(key, "put_object", len(data), Key=self._key(key), Body=data)

    def put_new(self, key: str, data: bytes) -> bool:
        """One PUT on the condition that there is nothing.

        If the answer to the first attempt is lost, the second finds what the first wrote, and this is False although
        the object is ours; the store then compares the bytes.
        """
        self._require_lease()
        self._ahead.pop(key, None)
        return self._put_if(self._key(key), data, IfNoneMatch="*") is not None

    def delete(self, key: str) -> None:
        """One DELETE."""
        self._require_lease()
        self._ahead.pop(key, None)
        self._call(key, "delete_object", 0, Key=self._key(key))

    # ---- locks

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store's lease, or a StoreError once a killed holder's would have expired."""
        lease = Lease(self, f"{self.root}.lock")
        deadline = time.monotonic() + patience_s()
        while not (held := lease.take()) and time.monotonic() < deadline:
            time.sleep(LEASE_S / 20)
        if not held:
            raise StoreError(
                f"{self.name} is being written by {lease.holder or 'another process'}; this is {_me()}. Wait until it "
                "ends, or end it; then run this again."
            )
        try:
            yield
        finally:
            lease.drop()

    def seat(self) -> S3Seat:
        """A seat among the writers of this store."""
        return S3Seat(self)

    def lose(self, why: str) -> None:
        """From here on nothing is written."""
        self._lost = self._lost or why

    def _require_lease(self) -> None:
        if self._lost is not None:
            raise StoreError(f"{self._lost} Nothing that was finished is lost: run this again.")

    # ---- calls

    def _key(self, key: str) -> str:
        return f"{self.root}/{key}"

    def _call(self, key: str, method: str, size: int = 0, *, count: int = ATTEMPTS, **arguments: Any) -> Any:
        """A call of the bucket; StoreError where it stays impossible."""
        what = f"{self.name}/{key}" if key else self.name

        def call() -> Any:
            within = START_S + size / SLOWEST
            return remote(self.url).call("call_s3", method, Bucket=self.bucket, within_s=within, **arguments)

        return self._tried(what, lambda: attempts(what, call, count=count))

    def _tried(self, what: str, call: Callable[[], Any]) -> Any:
        """The call's answer; takes note of whether the server is away."""
        try:
            answer = _as_store_error(what, call)
        except StoreError:
            remote(self.url).away = True
            raise
        remote(self.url).away = False
        return answer

    def _got(self, key: str, limit: int) -> bytes:
        what = f"{self.name}/{key}"

        def call() -> bytes:
            path, within = f"{self.bucket}/{self._key(key)}", START_S + limit / SLOWEST
            found: bytes = remote(self.url).call("cat_file", path, start=0, end=limit + 1, within_s=within)
            return found

        try:
            data: bytes = self._tried(what, lambda: attempts(what, call, permanent=is_empty_range))
        except FileNotFoundError:
            raise KeyError(key) from None
        except OSError as error:
            if is_empty_range(error):
                return b""
            raise
        return data

    def _put_if(self, key: str, data: bytes, **condition: str) -> str | None:
        """The tag of what was put; None where the condition does not hold."""
        what = f"s3://{self.bucket}/{key}"

        def call() -> Any:
            within = START_S + len(data) / SLOWEST
            bucket = remote(self.url)
            return bucket.call(
                "call_s3", "put_object", Bucket=self.bucket, Key=key, Body=data, within_s=within, **condition
            )

        try:
            answer = self._tried(what, lambda: attempts(what, call, permanent=_is_refused))
        except FileNotFoundError:  # If-Match, and it is gone
            return None
        except OSError as error:
            if _is_refused(error):
                return None
            raise
        return str(answer["ETag"])

    def _listed(self, prefix: str) -> dict[str, int]:
        """The sizes of the objects whose keys begin so, by key within the store."""
        found: dict[str, int] = {}
        page: dict[str, Any] = {}
        while True:
            more = {"ContinuationToken": page["NextContinuationToken"]} if page else {}
            try:
                page = self._call("", "list_objects_v2", Prefix=prefix, **more)
            except FileNotFoundError as error:
                raise StoreError(f"there is no bucket {self.bucket}. Make it, or give another --out.") from error
            for entry in page.get("Contents", []):
                found[entry["Key"].removeprefix(f"{self.root}/")] = int(entry["Size"])
            if not page.get("IsTruncated"):
                return dict(sorted(found.items()))

    def _read_ahead(self, key: str, limit: int) -> None:
        """The receipts that come after this one in the last listing, if it is one of them."""
        try:
            at = self._receipts.index(key)
        except ValueError:  # or another thread is reading it
            return
        keys, self._receipts = self._receipts[at : at + AHEAD], self._receipts[at + AHEAD :]

        def read(wanted: str) -> tuple[str, bytes | None]:
            try:
                return wanted, self._got(wanted, limit)
            except KeyError:
                return wanted, None

        with ThreadPoolExecutor(READERS) as pool:
            self._ahead = {wanted: data for wanted, data in pool.map(read, keys) if data is not None}


def patience_s() -> float:
    """After so long the lease of a killed process has expired."""
    return 1.5 * LEASE_S


class Lease:
    """The right to something, for as long as it is renewed."""

    def __init__(self, objects: S3Objects, key: str) -> None:
        self.objects, self.key = objects, key
        self.holder = ""
        self._token = secrets.token_hex(8)
        self._tag: str | None = None
        self._over = threading.Event()
        self._renewer: threading.Thread | None = None
        self._count = 0

    def take(self) -> bool:
        """Take it if nobody has it, or who had it has not renewed it."""
        self._tag = self.objects._put_if(self.key, self._text(), IfNoneMatch="*")
        if self._tag is None:
            tag, age, text = self.look()
            self.holder = str(_holder_of(text).get("holder", ""))
            if _holder_of(text).get("token") == self._token:  # the answer to our own first attempt was lost
                self._tag = tag
            elif tag and age > LEASE_S:
                self._tag = self.objects._put_if(self.key, self._text(), IfMatch=tag)
        if self._tag is None:
            return False
        self._renewer = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._renewer.start()
        return True

    def look(self) -> tuple[str, float, bytes]:
        """The tag, age and text of what is there; age by the server's clock. No tag where there is nothing."""
        what, path = f"s3://{self.objects.bucket}/{self.key}", f"{self.objects.bucket}/{self.key}"

        def read() -> bytes:
            found: bytes = remote(self.objects.url).call("cat_file", path, within_s=START_S)
            return found

        try:
            answer = self.objects._call(f"../{self.key}", "head_object", Key=self.key)
            text = self.objects._tried(what, lambda: attempts(what, read))
        except (FileNotFoundError, KeyError):
            return "", 0.0, b""
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return str(answer["ETag"]), (now - answer["LastModified"]).total_seconds(), text

    def drop(self) -> None:
        """Give it up; where the server is away in vain and soon, for it expires anyway."""
        self._over.set()
        if self._renewer is not None:
            self._renewer.join()
        if self._tag is not None:
            with contextlib.suppress(UserError, OSError):
                count = 1 if remote(self.objects.url).away else ATTEMPTS
                self.objects._call("", "delete_object", Key=self.key, IfMatch=self._tag, count=count)
        self._tag = None

    def _text(self) -> bytes:
        self._count += 1  # each text differs, and so each tag
        return json.dumps({"holder": _me(), "token": self._token, "renewed": self._count}).encode()

    def _renew(self) -> None:
        try:
            self._renew_until_over()
        finally:  # whatever ended it: nobody renews from here on
            if not self._over.is_set():
                self._tag = None
                self.objects.lose(f"s3://{self.objects.bucket}/{self.key} could not be renewed, or was taken over.")

    def _renew_until_over(self) -> None:
        renewed = time.monotonic()
        while not self._over.wait(LEASE_S / 4):
            begun, tag = time.monotonic(), None
            with contextlib.suppress(UserError, OSError):
                tag = self.objects._put_if(self.key, self._text(), IfMatch=self._tag or "")
                if tag is None:
                    found, _, text = self.look()
                    tag = found if _holder_of(text).get("token") == self._token else None
                    if tag is None:
                        break
            if tag is not None:
                self._tag, renewed = tag, begun
            if time.monotonic() - renewed > LEASE_S * 3 / 4:
                break


class S3Seat:
    """A seat as leases: one that is whole, or one beside others."""

    def __init__(self, objects: S3Objects) -> None:
        self.objects, self.patience_s, self.poll_s = objects, patience_s(), LEASE_S / 20
        self.first = False
        folder = f"{objects.root}.writers"
        self._folder = f"{folder}/"
        self._whole = Lease(objects, f"{folder}/whole")
        self._share = Lease(objects, f"{folder}/{secrets.token_hex(8)}")

    def take(self, *, follows: bool, alone: bool) -> bool:
        """Take what can be had now: first write one's own claim, then look for others'."""
        if not follows and self._whole.take():
            if not self._others():
                self.first = True
                return True
            self._whole.drop()
            self._whole = Lease(self.objects, self._whole.key)
        if alone or not self._share.take():
            return False
        tag, age, _ = self._whole.look()
        if tag and age <= LEASE_S:
            self._share.drop()
            self._share = Lease(self.objects, f"{self._folder}{secrets.token_hex(8)}")
            return False
        return True

    def share(self) -> None:
        """First claim a share, then give up the whole."""
        if self.first:
            self._share.take()
            self._whole.drop()
        self.first = False

    def holder(self) -> str:
        """Leases of seats do not say."""
        return "other processes"

    def leave(self) -> None:
        """Give up what is held."""
        for lease in (self._whole, self._share):
            lease.drop()

    def _others(self) -> bool:
        """Whether any share of another has not expired; those that have are removed."""
        for key in self.objects._listed(self._folder):
            lease = Lease(self.objects, key)
            if key == self._whole.key:
                continue
            tag, age, _ = lease.look()
            if tag and age <= LEASE_S:
                return True
            if tag:
                with contextlib.suppress(UserError, OSError):
                    self.objects._call("", "delete_object", Key=key, IfMatch=tag)
        return False


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
        if _is_refused(error) or is_empty_range(error) or not is_permanent(error):
            raise
        raise StoreError(
            f"{what}: {say(error)}. Check the address and the credentials; then run this again."
        ) from error


def _is_refused(error: Exception) -> bool:
    """Whether a condition did not hold."""
    return isinstance(error, FileExistsError) or code_of(error) in ("PreconditionFailed", "412")


def _numbers(receipt: str) -> list[int]:
    """View and run: receipts are read in this order, and listed in that of their names (10 before 2)."""
    return [int(number) for number in re.findall("[0-9]+", receipt)]


def _holder_of(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
