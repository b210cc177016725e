"""How does a store live in an S3 bucket, with the promises that it has on a disk?

S3 gives most of them: a PUT is there whole or not at all, for good, and is listed and read at once by everyone. Its
conditional PUTs give the others: ``If-None-Match: *`` for receipts (the second writer of a unit is told), and both
conditions for locks (`pipeline.durable.s3_lease`). Uploads carry a checksum that the server checks; what is read is
held to its digest by the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

from pipeline.durable.s3_bucket import Bucket
from pipeline.durable.s3_lease import Lease, S3Seat, held, seated_at
from pipeline.durable.writer_lock import Writer
from pipeline.errors import StoreError

AHEAD, READERS = 256, 16
"""Objects of a `get_many` that are asked for at once, and how many at a time"""


class S3Objects:
    """Objects as those of a bucket whose keys begin with the store's. Holds no connections: may be pickled."""

    def __init__(self, url: str) -> None:
        scheme, _, path = url.rstrip("/").partition("://")
        bucket, _, self.root = path.partition("/")
        if not bucket or not self.root:
            raise StoreError(f"{url} names no store. Give a bucket and a name: s3://bucket/store.zarr.")
        self.bucket = Bucket(f"{scheme}://{bucket}")
        self._lost: str | None = None

    @property
    def name(self) -> str:
        """The URL of the store."""
        return f"{self.bucket.url}/{self.root}"

    @property
    def folder(self) -> None:
        """None, since a bucket cannot rename; what needs a rename is done otherwise there."""
        return None

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """How many bytes every object below `prefix` has, by its key."""
        found = self.bucket.sizes(self._key(f"{prefix}/" if prefix else ""))
        return {key.removeprefix(f"{self.root}/"): size for key, size in found.items()}

    def get(self, key: str, limit: int) -> bytes:
        """Read an object whole; KeyError where it is absent, StoreError where it has more than `limit` bytes."""
        try:
            data = self.bucket.get(self._key(key), limit)
        except KeyError:
            raise KeyError(key) from None
        if len(data) > limit:
            raise StoreError(
                f"{self.name}/{key} has more than {limit} bytes, at most {limit} belong there. "
                "Run the teacher's stage again: it computes what is damaged."
            )
        return data

    def get_many(self, keys: Iterable[str], limit: int) -> Iterator[tuple[str, bytes | None]]:
        """The bytes of these objects, several fetched at a time: an answer takes its journey, however short."""

        def read(key: str) -> bytes | None:
            try:
                return self.get(key, limit)
            except KeyError:
                return None

        wanted = list(keys)
        with ThreadPoolExecutor(READERS) as pool:
            for at in range(0, len(wanted), AHEAD):
                part = wanted[at : at + AHEAD]
                yield from zip(part, pool.map(read, part), strict=True)

    def put(self, key: str, data: bytes) -> None:
        """Write bytes under a key with one PUT, which S3 makes visible whole or not at all."""
        self._require_lease()
        self.bucket.put(self._key(key), data)

    def put_new(self, key: str, data: bytes) -> bool:
        """A PUT on the condition that there is nothing.

        If the answer to the first attempt is lost, the second finds what the first wrote, and this is False although
        the object is ours; the store then compares the bytes.
        """
        self._require_lease()
        return self.bucket.put_if(self._key(key), data, IfNoneMatch="*") is not None

    def delete(self, key: str) -> None:
        """Take an object away with one DELETE; that there is none is no error."""
        self._require_lease()
        self.bucket.delete(self._key(key))

    def lock(self) -> AbstractContextManager[None]:
        """Hold the lease ``<store>.lock``, or a StoreError once a killed holder's would have expired."""
        return held(Lease(self.bucket, f"{self.root}.lock", self._lose), self.name)

    def seat(self) -> S3Seat:
        """The right to write this store, held by leases below ``<store>.writers``."""
        return S3Seat(self.bucket, self.root, self._lose)

    def writers(self) -> list[Writer]:
        """The processes that write this store, by their leases, whose age is the server's own word."""
        return seated_at(self.bucket, self.root)

    def _key(self, key: str) -> str:
        return f"{self.root}/{key}"

    def _lose(self, why: str) -> None:
        """From here on nothing is written."""
        self._lost = self._lost or why

    def _require_lease(self) -> None:
        if self._lost is not None:
            raise StoreError(f"{self._lost} Nothing that was finished is lost: run this again.")
