"""What is kept of an index's pictures on this node, and how much room would all of them take?

`pictures_in` opens the cache that `--picture-cache` names and says beforehand which share of the pictures it can hold:
never more than was allowed, nor than is free on that disk.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from pipeline.picture_cache.entry import Picture, disk_bytes
from pipeline.picture_cache.kept import PictureCache
from pipeline.shards.index import SampleIndex

LEFT_FREE = 0.05
"""Of what is free on the disk: so much is left to others"""

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
    cache = PictureCache(folder, limit).prepared()
    used, wanted = cache.used(), bytes_of_all(index)
    free = int(shutil.disk_usage(folder).free * (1 - LEFT_FREE))
    cache.limit = min(limit, used + free)
    about = f"{len(index):,} pictures take {_size(wanted)} decoded; it holds {_size(used)}"
    if wanted <= cache.limit:
        log.info("picture cache %s: %s", folder, about)
    else:
        why = "are free there" if cache.limit < limit else "--picture-cache-size allows"
        log.warning(
            "picture cache %s: %s, and %s more %s: about %.0f %% of the pictures will be kept, the others are decoded "
            "each time", folder, about, _size(cache.limit - used), why, 100 * cache.limit / wanted,
        )  # fmt: skip
    return cache


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
