"""What does drawing a view cost of a tiled photograph, against the plain one and against timm's transform?

The same photographs, packed and tiled (`stages.tile`), the same views, one view a decode: the case of a student without
repeated augmentation. Processor time decides here, for it is what a worker has too little of; the views' checksums
are compared before anything is measured.
"""

from __future__ import annotations

import numpy as np

from benchmarks.bench import Bench, one_core
from benchmarks.race import race
from benchmarks.render import PEER_UINT8, WINDOW, our_turns, timm_turns
from benchmarks.report import Table, grid
from pipeline.packing.retiling import retile
from pipeline.rendering.renderer import Renderer
from pipeline.shards.index import SampleIndex, scan
from pipeline.shards.patterns import expand
from pipeline.views.recipe import Recipe

PLAIN, TILED = "ours, plain", "ours, tiled"


def measure(bench: Bench) -> Table:
    """Tile, compare, race."""
    photographs = bench.photographs.whole_windows(WINDOW)
    plain = photographs.indexed(bench.scratch("plain"), len(photographs))
    out = bench.folder / "tiled"
    summary = retile(plain.urls, out)
    tiled = scan(expand([str(out)]))
    some = 16 if bench.tiny else WINDOW
    with one_core():
        same = _compared(plain, tiled)
        runs = {
            PEER_UINT8: timm_turns(photographs.payloads, some, to_uint8=True),
            PLAIN: our_turns(plain, views=1, cache_bytes=0),
            TILED: our_turns(tiled, views=1, cache_bytes=0),
        }
        result = race(runs, seconds=bench.seconds, fewest=bench.fewest)
    sizes = {PEER_UINT8: plain, PLAIN: plain, TILED: tiled}
    rows = [
        [
            name,
            f"{sizes[name].lengths.mean() / 1000:.1f}",
            f"{1000 * result.cost(name, busy=True).median:.3f}",
            result.ratio(name, PLAIN, busy=True).text(),
            result.ratio(name, PEER_UINT8, busy=True).text(),
            result.ratio(name, PLAIN).text(),
        ]
        for name in result.turns
    ]
    figures = {
        f"{name} against {base} ({clock})": result.ratio(name, base, busy=clock == "processor").median
        for name, base in ((TILED, PLAIN), (TILED, PEER_UINT8), (PLAIN, PEER_UINT8))
        for clock in ("processor", "wall")
    }
    whole = ", ".join(f"{count} {reason}" for reason, count in sorted(summary.whole.items())) or "none"
    columns = ("one core, one view a decode", "kB a photograph", "processor ms a view", "× plain", "× timm uint8")
    return Table(
        name="tiles",
        title="Drawing views of tiled photographs: DeiT's recipe at 224",
        columns=(*columns, "× plain, wall time"),
        rows=grid(rows),
        figures=figures,
        notes=(
            f"{len(photographs)} photographs (stayed whole: {whole}); {same:,} views had equal checksums before. "
            f"{result.rounds} rounds in turn; ratios are medians (smallest–largest) of those within a round, of "
            "processor time but in the last column.",
        ),
    )


def _compared(plain: SampleIndex, tiled: SampleIndex) -> int:
    """How many views were compared: view 0 of all rows."""
    row_B, recipe = np.arange(len(plain)), Recipe()
    pixels_BHWC = np.empty((len(row_B), recipe.image_size, recipe.image_size, 3), np.uint8)
    ours, theirs = (
        Renderer(recipe, index, index.files(), cache_bytes=0).render(row_B, np.zeros_like(row_B), pixels_BHWC).crc_B
        for index in (plain, tiled)
    )
    assert np.array_equal(ours, theirs), "tiled photographs have other pixels"
    return len(row_B)
