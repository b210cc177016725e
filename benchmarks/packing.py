"""What is `stages.pack --max-side` worth, and what does it do to the pixels?

The same photographs are packed as they are and with their longest side bounded. The same plan is then drawn from each:
time a view, bytes a photograph, how far the pixels of plain crops are from the original's, and (with a trained convnet
at hand) how often it says the same class about the centre crop.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench import Bench, one_core
from benchmarks.photographs import Photographs
from benchmarks.race import race
from benchmarks.render import our_turns
from benchmarks.report import Table, grid
from benchmarks.sizes import teacher_of
from pipeline.packing.sources import from_folders
from pipeline.packing.writing import PackOptions, pack
from pipeline.rendering.renderer import Renderer
from pipeline.shards.index import SampleIndex, scan
from pipeline.shards.patterns import expand
from pipeline.views.recipe import Recipe

SIDES = (None, 500, 400, 341, 256)
PHOTOGRAPHS, COMPARED = 256, 128


def measure(bench: Bench) -> Table:
    """Pack at each size and race the renderings."""
    photographs = bench.photographs.first(bench.rows(PHOTOGRAPHS))
    sides = SIDES[:2] if bench.tiny else SIDES
    worlds = {_name(side): packed(photographs, bench.scratch(f"pack-{side}"), side) for side in sides}
    with one_core():
        runs = {name: our_turns(index, views=1, cache_bytes=0) for name, index in worlds.items()}
        result = race(runs, seconds=bench.seconds / 3, fewest=bench.fewest)
        crops = {name: drawn(index, Recipe.preset("light", mixup=0.0, cutmix=0.0)) for name, index in worlds.items()}
    teacher, real = teacher_of(bench)
    says = {name: teacher(drawn(index, Recipe.preset("none"))).argmax(1) for name, index in worlds.items()}
    whole, rows, figures = _name(None), [], {}
    for name, index in worlds.items():
        off = np.abs(crops[name].astype(np.int16) - crops[whole]).mean()
        agree = f"{(says[name] == says[whole]).mean():.1%}" if real else "no trained teacher here"
        size = int(index.lengths.mean())
        ratio = result.ratio(name, whole)
        rows.append(
            [name, f"{size / 1000:.1f}", f"{1000 * result.cost(name).median:.3f}", ratio.text(), f"{off:.2f}", agree]
        )
        figures[f"{name}, × as fast"] = ratio.median
    return Table(
        name="packing",
        title="Photographs re-encoded once to a bounded longest side (pack --max-side, quality 95)",
        columns=("--max-side", "kB a photograph", "ms a view", "× as fast", "levels off, plain crops", "same top-1"),
        rows=grid(rows),
        figures=figures,
        notes=(
            f"{len(photographs)} photographs, one core, one view a decode, DeiT's recipe. Levels: mean absolute "
            "difference of crops of 35 to 100 % of the area, without augmentation. Top-1: of a trained convnet on the "
            "centre crop, against its answer on the original.",
        ),
    )


def packed(photographs: Photographs, folder: Path, side: int | None) -> SampleIndex:
    """The photographs as `stages.pack` packs them."""
    for number, payload in enumerate(photographs.payloads):
        path = folder / "images" / str(number % 2) / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(payload)
    pack(from_folders(folder / "images", [], None), folder / "data", PackOptions(max_side=side), skip_bad=True)
    return scan(expand([f"{folder}/data/*.tar"]))


def drawn(index: SampleIndex, recipe: Recipe) -> NDArray[np.uint8]:
    """View 0 of the first rows."""
    row_B = np.arange(min(COMPARED, len(index)))
    pixels_BHWC = np.empty((len(row_B), 224, 224, 3), np.uint8)
    Renderer(recipe, index, index.files()).render(row_B, np.zeros_like(row_B), pixels_BHWC)
    return pixels_BHWC


def _name(side: int | None) -> str:
    return "as they are" if side is None else str(side)
