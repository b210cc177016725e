"""Views drawn straight from a renderer, and files that count how often they are read."""

from __future__ import annotations

import numpy as np

from pipeline.rendering.renderer import Renderer
from pipeline.shards.files import ShardFiles

ROWS, VIEWS, SIDE = 22, 3, 32


class CountingFiles(ShardFiles):
    """Shards that count how often they are read."""

    reads = 0

    def first_time(self, row):
        """The class of a row is looked at elsewhere."""
        return False

    def read(self, shard, offset, length):
        self.reads += 1
        return super().read(shard, offset, length)


def drawn(index, recipe, rows, views, **how):
    out = np.empty((len(rows), recipe.image_size, recipe.image_size, 3), np.uint8)
    rendered = Renderer(recipe, index, index.files(), **how).render(np.array(rows), np.array(views), out)
    return out, rendered
