"""Stores whose answers are their rows' own classes."""

from __future__ import annotations

import numpy as np

from pipeline.labelling.writers import open_to_label
from pipeline.labels.keeps import parse_keep
from pipeline.labels.soft_labels import encode
from pipeline.rendering.renderer import Renderer
from pipeline.shards.index import scan
from pipeline.store.unit_labels import UnitLabels
from pipeline.views.recipe import Recipe
from tests.stores import manifest_of

ROWS, VIEWS, SIDE = 20, 2, 32
RECIPE = Recipe(seed=3, image_size=SIDE, mix_window=8)
NAMES = ["ant", "bee", "cat"]


def store_of(path, urls, keep, *, wrong=()):
    """A finished store whose answers are the row's own class with probability 0.9, then the next one."""
    index = scan(urls)
    manifest = manifest_of(
        index, keep, recipe=RECIPE, num_classes=3, class_names=tuple(NAMES), temperatures=(1.0,), unit_rows=16
    )
    renderer = Renderer(RECIPE, index, index.files())
    with open_to_label(path, manifest, index, VIEWS) as store:
        for unit in store.missing():
            rows = np.arange(*store.layout.rows_of(unit))
            out = np.empty((len(rows), SIDE, SIDE, 3), np.uint8)
            drawn = renderer.render(rows, np.full(len(rows), unit.view), out)
            shares = np.array([[0.9, 0.07, 0.03]])
            logits = np.stack([np.roll(shares[0], index.classes[row]) for row in rows])
            labels = encode(np.log(logits).astype(np.float32), parse_keep(keep), manifest.temperatures)
            crc_B = np.where(np.isin(rows, wrong), drawn.crc_B ^ np.uint32(1), drawn.crc_B)
            store.write(unit, UnitLabels(labels=labels, crc_B=crc_B, luma_B16=drawn.luma_B16))
        store.finish()
    return path
