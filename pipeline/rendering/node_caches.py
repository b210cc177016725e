"""What does a node keep of decoded pictures and drawn views, where, and how much of each? Speed only depends on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.picture_cache.kept import PictureCache
from pipeline.picture_cache.of_index import pictures_in
from pipeline.rendering.view_cache import ViewCache, views_in
from pipeline.shards.index import SampleIndex
from pipeline.views.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCaches:
    """Two folders of this node, either or none of them, and the most bytes in each; fields are called as flags."""

    picture_cache: Path | None = None
    picture_cache_size: int = 0
    view_cache: Path | None = None
    view_cache_size: int = 0

    def pictures(self, index: SampleIndex) -> PictureCache | None:
        """The cache of decoded pictures, ready; None where none is kept."""
        return pictures_in(self.picture_cache, self.picture_cache_size, index) if self.picture_cache else None

    def drawn(
        self, recipe: Recipe, index: SampleIndex, views: int, *, labelled_only: bool = False, reads: bool = True
    ) -> ViewCache | None:
        """The cache of drawn views, ready; None where none is kept."""
        if self.view_cache is None:
            return None
        size = self.view_cache_size
        return views_in(self.view_cache, size, recipe, index, views, labelled_only=labelled_only, reads=reads)
