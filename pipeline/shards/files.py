"""What are the bytes of a row in its shard?

`ShardFiles` reads payloads in place: a shard is opened when it is first asked for, few stay open, and a read is one
positioned call that shares no state with a forked process.

A shard at a URL is read through the node's cache (`pipeline.remote.cache`), and the one after it is fetched meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from pipeline.errors import ShardError
from pipeline.remote.cache_settings import cache
from pipeline.remote.client import is_remote

REMOTE_OPEN = 4
"""Remote shards that stay open: an open one cannot leave the cache"""


def local_path(url: str) -> Path:
    """Where the bytes of a shard lie on this machine; those of a remote one are fetched first."""
    return cache().path(url) if is_remote(url) else Path(url)


class ShardFiles:
    """The bytes of shards, for one thread; may be pickled, and used after a fork.

    With `sizes`, a shard that has another size than it had when it was indexed is refused as it is opened.
    """

    def __init__(self, urls: Sequence[str], sizes: Sequence[int] | None = None, *, limit: int = 32) -> None:
        self._open: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self._asked = bytearray()
        assert limit > 0
        assert sizes is None or len(sizes) == len(urls)
        self.urls = tuple(urls)
        self.sizes = None if sizes is None else tuple(int(size) for size in sizes)
        self.limit = min(limit, REMOTE_OPEN) if any(map(is_remote, self.urls)) else limit

    def read(self, shard: int, offset: int, length: int) -> bytes:
        """`length` bytes of shard number `shard` from `offset`; all of them, or a `ShardError`."""
        descriptor, size = self._opened(shard)
        if offset + length > size:
            raise ShardError(self._short(shard, offset + length, size))
        try:
            data = os.pread(descriptor, length, offset)
            while len(data) < length:
                more = os.pread(descriptor, length - len(data), offset + len(data))
                if not more:
                    raise ShardError(self._short(shard, offset + length, offset + len(data)))
                data += more
        except OSError as error:
            raise ShardError(f"{self.urls[shard]} cannot be read at byte {offset:,}: {error.strerror}.") from None
        return data

    def size_of(self, shard: int) -> int:
        """How many bytes the shard with this number has."""
        return self._opened(shard)[1]

    def _short(self, shard: int, wanted: int, size: int) -> str:
        url = self.urls[shard]
        return f"{url} ends at byte {size:,}, a row reaches to {wanted:,}: it was cut since it was indexed. Restore it."

    def _opened(self, shard: int) -> tuple[int, int]:
        """Descriptor and size of a shard; the one that was used longest ago makes room for a new one."""
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        if len(self._open) >= self.limit:
            os.close(self._open.popitem(last=False)[1][0])
        url = self.urls[shard]
        descriptor = self._fetched(shard) if is_remote(url) else _open_local(url)
        status = os.fstat(descriptor)
        self._open[shard] = descriptor, status.st_size
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise ShardError(f"{url} is not a regular file; name the right one by --shards.")
        if self.sizes is not None and status.st_size != self.sizes[shard]:
            self.close()
            raise ShardError(
                f"{url} has {status.st_size:,} bytes, and had {self.sizes[shard]:,} when it was indexed: "
                "it is another file, or was changed. Restore it, or name the right one by --shards."
            )
        return self._open[shard]

    def _fetched(self, shard: int) -> int:
        """A remote shard, out of the cache; the next one is fetched meanwhile, because rows are read in runs."""
        sizes = self.sizes or (None,) * len(self.urls)
        descriptor = cache().open(self.urls[shard], sizes[shard])
        if shard + 1 < len(self.urls) and is_remote(self.urls[shard + 1]):
            cache().ahead(self.urls[shard + 1], sizes[shard + 1])
        return descriptor

    def first_time(self, row: int) -> bool:
        """Whether this is the first time that it is asked about this row."""
        place, bit = row >> 3, 1 << (row & 7)
        if place >= len(self._asked):
            self._asked.extend(bytes(place + 1 - len(self._asked)))
        first = not self._asked[place] & bit
        self._asked[place] |= bit
        return first

    def close(self) -> None:
        """Close all shards; the next read opens its own again."""
        while self._open:
            os.close(self._open.popitem()[1][0])

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict(), "_asked": bytearray()}

    def __enter__(self) -> ShardFiles:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _open_local(url: str) -> int:
    try:
        return os.open(url, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        moved = "If the shards were moved, name them by --shards."
        raise ShardError(f"{url} cannot be opened: {error.strerror}. {moved}") from None
