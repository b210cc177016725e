"""Who may write what lies in a bucket? Whoever holds a lease: an object that its holder keeps writing anew.

It is ``{"holder": …, "token": …}``, written every `LEASE_S` / 4 seconds, each time only if it is still the one that was
written before. One that was not written for `LEASE_S` seconds, by the server's own clock, has expired, and whoever
comes may take it over, on the condition that it is still the same. A holder that could not renew in time stops writing;
its time counts from before it asked, since an answer may be late.
So of two processes that believe to hold a lease, one is about to find out, and a unit that both write is the same
bytes.

    <store>.lock               the lease of the one writer
    <store>.writers/whole      the lease of the first of several writers
    <store>.writers/<token>    the lease of each writer that shares
"""

from __future__ import annotations

import contextlib
import json
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline.durable.s3_bucket import Bucket
from pipeline.durable.writer_lock import Writer, myself, this_process
from pipeline.errors import StoreError, UserError
from pipeline.remote.client import ATTEMPTS

LEASE_S = 60.0
LONGEST = 1 << 16
"""Bytes of a lease, with plenty to spare"""


def patience_s() -> float:
    """Seconds after which the lease of a process that was killed has surely expired."""
    return 1.5 * LEASE_S


class Lease:
    """The right to something, for as long as it is renewed; `lost` is told where that ends before it is dropped."""

    def __init__(self, bucket: Bucket, key: str, lost: Callable[[str], None]) -> None:
        self.bucket, self.key = bucket, key
        self.holder = ""
        self.late = False
        """Whether it was ours when it was last asked for, but answered too late to be kept"""
        self.told: Mapping[str, Any] = {}
        """What the next renewal says of its holder, beside its name"""
        self._lost = lost
        self._token = secrets.token_hex(8)
        self._tag: str | None = None
        self._over = threading.Event()
        self._renewer: threading.Thread | None = None
        self._count = 0

    def take(self) -> bool:
        """Take it if nobody has it, or who had it has not renewed it."""
        begun = time.monotonic()
        self._tag = self.bucket.put_if(self.key, self._text(), IfNoneMatch="*")
        if self._tag is None or _is_late(begun):
            begun = time.monotonic()
            self._tag = self._put_over(LEASE_S)
        self.late = self._tag is not None and _is_late(begun)
        if self._tag is None or self.late:
            return False
        self._renewer = threading.Thread(target=self._renew, args=(begun,), name="lease", daemon=True)
        self._renewer.start()
        return True

    def drop(self) -> None:
        """Give it up; where the server is away in vain and soon, for it expires anyway."""
        self._over.set()
        if self._renewer is not None:
            self._renewer.join()
        if self._tag is not None:
            with contextlib.suppress(UserError, OSError):
                count = 1 if self.bucket.away else ATTEMPTS
                self.bucket.delete(self.key, count=count, IfMatch=self._tag)
        self._tag = None

    def _text(self) -> bytes:
        self._count += 1  # each text differs, and so each tag
        told = {"holder": this_process(), "token": self._token, "renewed": self._count}
        return json.dumps({**myself(), **self.told, **told}).encode()

    def _put_over(self, age_s: float = math.inf) -> str | None:
        """The tag of ours, put over another's that is older than that, or over our own; None where neither is there.

        Of our own, whose answer was lost or late, nobody knows how old it is.
        """
        tag, age, text = look(self.bucket, self.key)
        found = _holder_of(text)
        ours = found.get("token") == self._token
        self.holder = "" if ours else str(found.get("holder", ""))
        if not tag or (not ours and age <= age_s):
            return None
        return self.bucket.put_if(self.key, self._text(), IfMatch=tag)

    def _renew(self, renewed: float) -> None:
        try:
            self._renew_until_over(renewed)
        finally:  # whatever ended it: nobody renews from here on
            if not self._over.is_set():
                self._tag = None
                self._lost(f"s3://{self.bucket.name}/{self.key} could not be renewed, or was taken over.")

    def _renew_until_over(self, renewed: float) -> None:
        while not self._over.wait(LEASE_S / 4):
            begun, tag = time.monotonic(), None
            with contextlib.suppress(UserError, OSError):
                tag = self.bucket.put_if(self.key, self._text(), IfMatch=self._tag or "")
                if tag is None:
                    begun, tag = time.monotonic(), self._put_over()
                    if tag is None:
                        break
            if tag is not None:
                self._tag, renewed = tag, begun
            if time.monotonic() - renewed > LEASE_S * 3 / 4:
                break


@contextlib.contextmanager
def held(lease: Lease, store: str) -> Iterator[None]:
    """Hold a lease, or a StoreError once a killed holder's would have expired."""
    deadline = time.monotonic() + patience_s()
    while not (taken := lease.take()) and time.monotonic() < deadline:
        time.sleep(LEASE_S / 20)
    if not taken:
        lease.drop()
        if lease.late:
            raise too_slow(store)
        raise StoreError(
            f"{store} is being written by {lease.holder or 'another process'}; this is {this_process()}. Wait until it "
            "ends, or end it; then run this again."
        )
    try:
        yield
    finally:
        lease.drop()


class S3Seat:
    """A seat as leases: one that is whole, or one beside others."""

    def __init__(self, bucket: Bucket, root: str, lost: Callable[[str], None]) -> None:
        self.name, self.first, self.patience_s, self.poll_s = f"{bucket.url}/{root}", False, patience_s(), LEASE_S / 20
        self._bucket, self._folder, self._lost = bucket, f"{root}.writers/", lost
        self._whole, self._share = self._lease("whole"), self._lease(secrets.token_hex(8))

    def take(self, *, follows: bool, alone: bool) -> bool:
        """Take what can be had now: first write one's own claim, then look for others'."""
        if not follows and self._whole.take():
            if not self._others():
                self.first = True
                return True
            self._whole.drop()
            self._whole = self._lease("whole")
        if alone or not self._share.take():
            return False
        if _stands(self._bucket, self._whole.key):
            self._share.drop()
            self._share = self._lease(secrets.token_hex(8))
            return False
        return True

    def share(self) -> None:
        """Turn the whole right to write into a shared one: first a share is claimed, then the whole given up."""
        if self.first:
            if not self._share.take():
                raise too_slow(self.name)
            self._whole.drop()
        self.first = False

    def holder(self) -> str:
        """Words for those who hold the seat: the one who has all of it, where that is known."""
        return self._whole.holder or "other processes"

    def say(self, told: Mapping[str, Any]) -> None:
        """Let people know how this process gets on, with the next renewal of its lease."""
        self._whole.told = self._share.told = told

    def leave(self) -> None:
        """Give up the leases that are held, so that others need not wait until they run out."""
        for lease in (self._whole, self._share):
            lease.drop()

    def _lease(self, name: str) -> Lease:
        return Lease(self._bucket, self._folder + name, self._lost)

    def _others(self) -> bool:
        """Whether any share of another has not expired; those that have are removed."""
        shares = (key for key in self._bucket.sizes(self._folder) if key != self._whole.key)
        return any(_stands(self._bucket, key, sweep=True) for key in shares)


def seated_at(bucket: Bucket, root: str) -> list[Writer]:
    """The processes that have a lease to write a store, sorted by rank."""
    keys = list(bucket.sizes(f"{root}.writers/"))
    looked = [(age, _holder_of(text)) for tag, age, text in (look(bucket, key) for key in keys) if tag]
    found = [Writer.of(record, age) for age, record in looked]
    return sorted(filter(None, found), key=lambda writer: int(writer.told.get("rank") or 0))


def look(bucket: Bucket, key: str) -> tuple[str, float, bytes]:
    """The tag, age and text of a lease; no tag where there is none."""
    try:
        tag, age = bucket.age(key)
        return tag, age, bucket.get(key, LONGEST)
    except KeyError:
        return "", 0.0, b""


def _stands(bucket: Bucket, key: str, *, sweep: bool = False) -> bool:
    """Whether a lease is there and has not expired; one that has is removed, where it is to `sweep`."""
    tag, age, _ = look(bucket, key)
    if tag and age <= LEASE_S:
        return True
    if tag and sweep:
        with contextlib.suppress(UserError, OSError):
            bucket.delete(key, IfMatch=tag)
    return False


def _is_late(begun: float) -> bool:
    """Whether so much of a lease that was put after `begun` is over that it might not be renewed in time."""
    return time.monotonic() - begun > LEASE_S / 2


def too_slow(store: str) -> StoreError:
    """What is said where the server gave a lease, and too late for it to be kept."""
    return StoreError(
        f"{store}: the server took over {LEASE_S / 2:.0f} s to answer, and whoever writes must renew a lease of "
        f"{LEASE_S:.0f} s. Run this again when it answers faster: nothing that was finished is lost."
    )


def _holder_of(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
