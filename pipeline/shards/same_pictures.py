"""Do the shards of an index lie elsewhere now, and are they still of the same pictures?

Shards that were copied have the same sizes, and then every image is held to its crc32c when it is read. Others may show
the same, tiled where those of the index are not, or the other way round. Tiling (`pipeline.pictures.jpeg_tiling`)
changes the bytes of a payload and so the places of all that follow, and no pixel. So the other shards are scanned, and
everything that is not about bytes must be equal: rows, keys, classes, widths and heights. A payload with another crc32c
must be explained:

    tiled, the index plain    the payload says which crc32c and length it was made from; they must be those of the index
    plain, the index tiled    tiled again, it must have the crc32c and length of the index; that takes long, and is done
                              for some rows that a seed picks

What a payload says could be made up. The checksum of every view is compared when it is drawn, as for all shards.

Shapes: R rows, N some of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import MismatchError, ShardError
from pipeline.pictures.jpeg_tiling import SPANS, NotPlainError, origin_of, tile
from pipeline.remote.client import is_remote
from pipeline.remote.files import known_of
from pipeline.shards.files import ShardFiles, local_path
from pipeline.shards.index import SampleIndex, scan
from pipeline.shards.rows import payload_of
from pipeline.shards.samples import BUFFER, samples

log = logging.getLogger(__name__)

EQUAL = {
    "shard_starts": "other numbers of rows",
    "key_bytes": "other keys",
    "key_starts": "other keys",
    "classes": "other classes",
    "widths": "pictures of other sizes",
    "heights": "pictures of other sizes",
}
"""Arrays that bytes have no part in, and what it means where they differ"""
TILED_AGAIN = 200
BEGINNING = 1 << 14
"""Bytes in which what a payload says of itself mostly stands"""


def moved_to(index: SampleIndex, urls: Sequence[str]) -> SampleIndex:
    """The same rows in shards that lie elsewhere now, or in tiled (or plain) shards of the same pictures."""
    if len(urls) != len(index.urls):
        raise MismatchError(
            f"{len(urls)} shards are named, {len(index.urls)} were indexed ({index.urls[0]} …). Name the same "
            "shards, in the same order."
        )
    for number, (url, old, size) in enumerate(zip(urls, index.urls, index.shard_sizes.tolist(), strict=True)):
        found = bytes_of(url)
        if found != size:
            if begins_alike(index, number, url):
                return _in_other_bytes(index, urls)
            raise MismatchError(
                f"{url} has {found:,} bytes, the shard that was indexed ({old}) had {size:,}. Name the same "
                "shards, in the same order."
            )
    return replace(index, urls=tuple(urls))


def _in_other_bytes(index: SampleIndex, urls: Sequence[str]) -> SampleIndex:
    """The index of these shards, which have the same pictures and so the same labels."""
    log.info("%s … has other bytes than the shard that was indexed: comparing the pictures", urls[0])
    found = scan(urls, rule=replace(index.label_rule, assumed=True))
    require_same_pictures(index, found)
    return replace(found, class_names=index.class_names, stands_for=index.digest())


def bytes_of(url: str) -> int:
    """The size of the shard that lies there; a ShardError where none can be read."""
    if is_remote(url):
        return known_of(url).size
    try:
        return local_path(url).stat().st_size
    except OSError as error:
        raise ShardError(f"{url} cannot be read: {error.strerror}. Name the shards where they are now.") from None


def begins_alike(index: SampleIndex, shard: int, url: str) -> bool:
    """Whether a shard begins with the row of the index's; what is no shard does not."""
    try:
        with local_path(url).open("rb", buffering=BUFFER) as file:
            first = next(samples(file, url, file.seek(0, os.SEEK_END)), None)
    except (ShardError, OSError):
        return False
    return first is not None and first.key == index.key(int(index.arrays()["shard_starts"][shard]))


def require_same_pictures(index: SampleIndex, found: SampleIndex) -> None:
    """Refuse shards, indexed as `found`, whose rows or pictures are not those of `index`."""
    ours, theirs = index.arrays(), found.arrays()
    for name, what in EQUAL.items():
        if not np.array_equal(ours[name], theirs[name]):
            raise MismatchError(f"{_both(index, found)} have {what}. Name shards of the same pictures.")
    row = next(_unexplained(index, found), None)
    if row is not None:
        raise MismatchError(
            f"{_both(index, found)} have other pictures: that of row {row} ({index.key(row)!r}) is not the other one, "
            "tiled or plain. Name shards of the same pictures."
        )


def _both(index: SampleIndex, found: SampleIndex) -> str:
    return f"{found.urls[0]} … and the shards that were indexed ({index.urls[0]} …)"


def _unexplained(index: SampleIndex, found: SampleIndex) -> Iterator[int]:
    """Rows whose payload cannot be the other's, tiled or plain."""
    ours_R, theirs_R = _payloads(index), _payloads(found)
    plain = []
    with found.files() as files:
        for row in np.flatnonzero(np.any(ours_R != theirs_R, axis=1)).tolist():
            origin = _origin(found, files, row)
            if origin is None:
                plain.append(row)
            elif origin != tuple(ours_R[row]):
                yield row
        for row in _some(np.array(plain, np.int64)):
            if tuple(ours_R[row]) not in _tiled_again(payload_of(found, files, row)):
                yield row


def _payloads(index: SampleIndex) -> NDArray[np.int64]:
    """crc32c and length of each payload."""
    arrays = index.arrays()
    return np.stack((arrays["payload_crc"].astype(np.int64), arrays["lengths"]), axis=1)


def _origin(found: SampleIndex, files: ShardFiles, row: int) -> tuple[int, int] | None:
    """What a payload says that it was made from; None where it is not tiled."""
    arrays = found.arrays()
    shard, offset, length = int(found.shard_of(row)), int(arrays["offsets"][row]), int(arrays["lengths"][row])
    origin = origin_of(files.read(shard, offset, min(length, BEGINNING)))
    return origin_of(files.read(shard, offset, length)) if origin is None and length > BEGINNING else origin


def _some(row_N: NDArray[np.int64]) -> list[int]:
    """All rows, or those that a seed picks of many."""
    if len(row_N) > TILED_AGAIN:
        row_N = np.sort(np.random.default_rng(0).choice(row_N, TILED_AGAIN, replace=False))
    return [int(row) for row in row_N]


def _tiled_again(payload: bytes) -> Iterator[tuple[int, int]]:
    """crc32c and length of the tiled payload, in every way that was ever written; none where it stays whole."""
    for span in SPANS:
        try:
            tiled = tile(payload, span=span)
        except NotPlainError:
            return
        yield google_crc32c.value(tiled), len(tiled)
