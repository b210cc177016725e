"""Which pixels has a row, of those that its views need, and which are kept for the next call?

A call says which box of a row all of its views lie in, and of a tiled picture (`pipeline.pictures.parts`) that box
alone is decoded. What was decoded is kept, as long as there is room, and answers for every box inside it. A row that is
asked for again with another box is likely to be asked for once more: then it is decoded whole.

With a `PictureCache` what somebody on this node has decoded before is read from there, and what is decoded here goes
there, whole, as long as it takes more.
"""

from __future__ import annotations

from collections import OrderedDict
from time import perf_counter

from pipeline.errors import ImageError
from pipeline.picture_cache.kept import PictureCache
from pipeline.picture_cache.of_index import picture_of
from pipeline.pictures.parts import Box, Shown, decode_part
from pipeline.rendering.effort import Effort
from pipeline.shards.files import ShardFiles
from pipeline.shards.index import SampleIndex
from pipeline.shards.rows import payload_of, require_class_once
from pipeline.views.recipe import Recipe


class DecodedRows:
    """Decoded pictures by row; those used longest ago make room."""

    def __init__(
        self, recipe: Recipe, index: SampleIndex, files: ShardFiles, limit: int, cache: PictureCache | None = None
    ) -> None:
        self.recipe, self.index, self.files, self.limit, self.cache = recipe, index, files, limit, cache
        self.effort = Effort()
        self._kept: OrderedDict[int, Shown | None] = OrderedDict()
        self._bytes = 0

    def get(self, row: int, box: Box) -> Shown | None:
        """The decoded pixels of a row's picture, at least those in the box; None for a bad one, which is drawn grey."""
        known = row in self._kept
        kept = self._kept.get(row)
        if known and (kept is None or kept.holds(box)):
            self._kept.move_to_end(row)
            return kept
        if known:
            self._forget(row)
        shown = self._decode(row, None if known else box)
        self._count(row, box)
        self._kept[row] = shown
        self._bytes += _bytes_of(shown)
        while self._bytes > self.limit and len(self._kept) > 1:
            self._forget(next(iter(self._kept)))
        return shown

    def _forget(self, row: int) -> None:
        self._bytes -= _bytes_of(self._kept.pop(row))

    def _count(self, row: int, box: Box) -> None:
        height, width = int(self.index.heights[row]), int(self.index.widths[row])
        self.effort.pixels += height * width
        self.effort.box_pixels += box[2] * box[3]
        self.effort.row_pixels += box[2] * width

    def _decode(self, row: int, box: Box | None) -> Shown | None:
        """From the node's cache, if it is there; else from the shard."""
        picture = None if self.cache is None else picture_of(self.index, row)
        if self.cache is None or picture is None:
            return self._decode_payload(row, box)
        begun = perf_counter()
        if (shown := self.cache.crop(picture, box)) is not None:
            require_class_once(self.index, self.files, row)
            self.effort.looking += perf_counter() - begun
            self.effort.looked_up += 1
            return shown
        shown = self._decode_payload(row, None if self.cache.takes else box)
        if shown is not None:
            begun = perf_counter()
            self.cache.keep(picture, shown.pixels_HWC)
            self.effort.keeping += perf_counter() - begun
        return shown

    def _decode_payload(self, row: int, box: Box | None) -> Shown | None:
        begun = perf_counter()
        payload = payload_of(self.index, self.files, row)
        read = perf_counter()
        shown = self._decode_read(row, payload, box)
        self.effort.reading += read - begun
        self.effort.decoding += perf_counter() - read
        self.effort.decoded += 1
        self.effort.parts += shown is not None and not shown.whole
        return shown

    def _decode_read(self, row: int, payload: bytes, box: Box | None) -> Shown | None:
        try:
            shown = decode_part(payload, box)
            height, width = int(self.index.heights[row]), int(self.index.widths[row])
            if (shown.height, shown.width) != (height, width):
                raise ImageError(f"is {shown.width} × {shown.height} pixels, indexed as {width} × {height}")
        except ImageError as error:
            if self.recipe.on_bad_image == "grey":
                return None
            url = self.index.urls[int(self.index.shard_of(row))]
            raise ImageError(
                f"{url}: the image of row {row} ({self.index.key(row)!r}) {error}. Remove it from the shards, or give "
                "--on-bad-image grey to draw a plain grey picture in its place."
            ) from None
        return shown


def _bytes_of(shown: Shown | None) -> int:
    return 0 if shown is None else shown.nbytes
