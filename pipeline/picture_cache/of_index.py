"""What is kept of an index's pictures on this node, and how much room would all of them take?

`pictures_in` opens the cache that `--picture-cache` names. `bounded` says beforehand which share of all that is asked
for a cache can hold: never more than was allowed, nor than is free on that disk.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pipeline.picture_cache.entry import Picture, disk_bytes
from pipeline.picture_cache.kept import PictureCache
from pipeline.shards.index import SampleIndex
from pipeline.spread import from_end_to_end

LEFT_FREE, ASKED = 0.05, 256
"""Of what is free on the disk: so much is left to others. Of how many it is asked whether they are kept"""

log = logging.getLogger(__name__)


def picture_of(index: SampleIndex, row: int) -> Picture | None:
    """What a row's picture is called in the cache; None where its header could not be read."""
    width, height = int(index.widths[row]), int(index.heights[row])
    if not (width and height):
        return None
    return Picture(
        payload_crc=int(index.payload_crc[row]),
        length=int(index.lengths[row]),
        key_hash=int(index.key_hash[row]),
        width=width,
        height=height,
    )


def bytes_of_all(index: SampleIndex) -> int:
    """How many bytes on disk all pictures of an index would take, decoded."""
    known_R = (index.widths > 0) & (index.heights > 0)
    return int(disk_bytes(index.widths[known_R], index.heights[known_R]).sum())


def pictures_in(folder: Path, limit: int, index: SampleIndex) -> PictureCache:
    """The cache in that folder, ready; what it can hold is told."""
    asked = from_end_to_end(len(index), ASKED).tolist()
    some = [found for row in asked if (found := picture_of(index, row)) is not None]
    return bounded(PictureCache(folder, limit).prepared(), len(index), bytes_of_all(index), some, made="decoded")


def bounded(cache: PictureCache, count: int, wanted: int, some: Sequence[Picture], *, made: str) -> PictureCache:
    """The cache, which never takes more than is free there; how much of `wanted` bytes it can hold is told.

    `some` stand for all: they say which part of it is there already.
    """
    (used, free), limit = cache.used_and_free(), cache.limit
    cache.spared = int(free * LEFT_FREE)
    cache.limit = min(limit, used + free - cache.spared)
    room, kept = max(0, cache.limit - used), cache.share_kept(some)
    about = f"{count:,} {cache.what} take {_size(wanted)} {made}; it holds {_size(used)}"
    if wanted * (1 - kept) <= room:
        log.info("%s %s: %s", cache.name, cache.folder, about)
    else:
        why = "are free there" if cache.limit < limit else f"{cache.flag}-size allows"
        log.warning(
            "%s %s: %s, and %s more %s: about %.0f %% of the %s will be kept, the others are %s each time",
            cache.name, cache.folder, about, _size(room), why, 100 * (kept + room / wanted), cache.what, made,
        )  # fmt: skip
    return cache


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
