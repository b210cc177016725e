"""What does a view cost of a tiled photograph, or from what a node keeps, against drawing the plain one, and timm's?

The same photographs, packed, tiled (`stages.tile`), kept decoded (`--picture-cache`) and kept drawn (`--view-cache`),
the same views, one view a decode: the case of a student without repeated augmentation. Processor time decides here, for
it is what a worker has too little of; the views' checksums are compared before anything is measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench import Bench, one_core
from benchmarks.race import Contestant, Race, race
from benchmarks.render import PEER_UINT8, SIDE, WINDOW, our_turns, timm_turns
from benchmarks.report import Table, grid
from pipeline.packing.retiling import retile
from pipeline.picture_cache.kept import PictureCache
from pipeline.picture_cache.of_index import bytes_of_all, pictures_in
from pipeline.rendering.renderer import Renderer
from pipeline.rendering.view_cache import CachedRenderer, ViewCache, bytes_of_view, views_in
from pipeline.shards.index import SampleIndex, scan
from pipeline.shards.patterns import expand
from pipeline.views.recipe import Recipe

PLAIN, TILED, CACHED = "ours, plain", "ours, tiled", "ours, plain, from the picture cache"
KEPT = "ours, from the view cache"


def measure(bench: Bench) -> Table:
    """Tile, compare, race."""
    photographs = bench.photographs.whole_windows(WINDOW)
    plain = photographs.indexed(bench.scratch("plain"), len(photographs))
    out = bench.folder / "tiled"
    summary = retile(plain.urls, out)
    tiled = scan(expand([str(out)]))
    some = 16 if bench.tiny else WINDOW
    with one_core():
        pictures = pictures_in(bench.folder / "pictures", 2 * bytes_of_all(plain), plain)
        _drawn(plain, pictures)  # which keeps all of them
        views = views_in(bench.folder / "views", 1 << 40, Recipe(), plain, 1)
        _drawn(plain, views=views)  # likewise
        same = _compared(_drawn(plain), _drawn(tiled), _drawn(plain, pictures), _drawn(plain, views=views))
        runs = {
            PEER_UINT8: timm_turns(photographs.payloads, some, to_uint8=True),
            PLAIN: our_turns(plain, views=1, cache_bytes=0),
            TILED: our_turns(tiled, views=1, cache_bytes=0),
            CACHED: our_turns(plain, views=1, cache_bytes=0, pictures=pictures),
            KEPT: kept_turns(plain, views),
        }
        result = race(runs, seconds=bench.seconds, fewest=bench.fewest)
    whole = ", ".join(f"{count} {reason}" for reason, count in sorted(summary.whole.items())) or "none"
    return _table(
        result,
        {
            PEER_UINT8: plain.lengths.mean() / 1000,
            PLAIN: plain.lengths.mean() / 1000,
            TILED: tiled.lengths.mean() / 1000,
            CACHED: bytes_of_all(plain) / len(plain) / 1000,
            KEPT: bytes_of_view(SIDE) / 1000,
        },
        f"{len(photographs)} photographs (stayed whole: {whole}); {same:,} views had equal checksums before.",
    )


def _table(result: Race, kilobytes: Mapping[str, float], about: str) -> Table:
    """What a view costs of each kind, and how many times as fast as the plain and timm's it is."""
    rows = [
        [
            name,
            f"{kilobytes[name]:.1f}",
            f"{1000 * result.cost(name, busy=True).median:.3f}",
            result.ratio(name, PLAIN, busy=True).text(),
            result.ratio(name, PEER_UINT8, busy=True).text(),
            result.ratio(name, PLAIN).text(),
        ]
        for name in result.turns
    ]
    figures = {
        f"{name} against {base} ({clock})": result.ratio(name, base, busy=clock == "processor").median
        for name, base in ((TILED, PLAIN), (TILED, PEER_UINT8), (CACHED, PLAIN), (KEPT, PLAIN), (PLAIN, PEER_UINT8))
        for clock in ("processor", "wall")
    }
    columns = (
        "one core, one view a decode",
        "kB a photograph or view",
        "processor ms a view",
        "× plain",
        "× timm uint8",
    )
    return Table(
        name="tiles",
        title="Drawing views of tiled photographs: DeiT's recipe at 224",
        columns=(*columns, "× plain, wall time"),
        rows=grid(rows),
        figures=figures,
        notes=(
            f"{about} {result.rounds} rounds in turn; ratios are medians (smallest–largest) of those within a round, "
            "of processor time but in the last column.",
        ),
    )


def _drawn(
    index: SampleIndex, pictures: PictureCache | None = None, views: ViewCache | None = None
) -> NDArray[np.uint32]:
    """The checksums of view 0 of all rows."""
    row_B = np.arange(len(index))
    renderer = Renderer(Recipe(), index, index.files(), cache_bytes=0, pictures=pictures)
    draws = renderer if views is None else CachedRenderer(renderer, views)
    return draws.render(row_B, np.zeros_like(row_B), np.empty((len(row_B), SIDE, SIDE, 3), np.uint8)).crc_B


def kept_turns(index: SampleIndex, views: ViewCache) -> Contestant:
    """A mix window a turn, of which view 0 was drawn before."""
    draws = CachedRenderer(Renderer(Recipe(), index, index.files(), cache_bytes=0), views)
    pixels_BHWC = np.empty((WINDOW, SIDE, SIDE, 3), np.uint8)
    windows = itertools.cycle(range(max(1, len(index) // WINDOW)))

    def turn() -> int:
        row_B = np.arange(WINDOW) + next(windows) * WINDOW
        row_B = row_B[row_B < len(index)]
        draws.render(row_B, np.zeros_like(row_B), pixels_BHWC[: len(row_B)])
        return len(row_B)

    return turn


def _compared(plain_B: NDArray[np.uint32], *others_B: NDArray[np.uint32]) -> int:
    """How many views were compared."""
    assert all(np.array_equal(plain_B, other_B) for other_B in others_B), "other pixels"
    return len(plain_B)
