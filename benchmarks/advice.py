"""Are the estimates honest by which a run that waits is told what would help?

The same photographs are drawn one view a decode, as by a student who was not advised, and as each remedy would have it:
three views of a picture at once, tiled, packed smaller, from a picture cache, from a view cache. From the first
contestant's own efforts `pipeline.feeding.advice` predicts the others, which then show what they really are. One core,
in turn; ratios within a round, of processor time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from benchmarks.bench import Bench, one_core
from benchmarks.packing import packed
from benchmarks.race import Contestant, race
from benchmarks.render import SIDE, WINDOW
from benchmarks.report import Table, grid
from benchmarks.tiles import kept_turns
from pipeline.feeding.advice import REPEATS, Measurement
from pipeline.feeding.watch import pixels_left, seconds_of_a_byte
from pipeline.packing.retiling import retile
from pipeline.picture_cache.kept import PictureCache
from pipeline.rendering.effort import Effort
from pipeline.rendering.renderer import Renderer
from pipeline.rendering.view_cache import views_in
from pipeline.shards.index import SampleIndex, scan
from pipeline.shards.patterns import expand
from pipeline.views.recipe import Recipe

PLAIN, MAX_SIDE = "one view a decode", 400
REPEATED, TILED, SMALLER, CACHED, KEPT = (
    *("--repeats 3", "pack --tiled", f"pack --max-side {MAX_SIDE} (and labels anew)", "--picture-cache"),
    "--view-cache",
)


def measure(bench: Bench) -> Table:
    """Predict, and race."""
    photographs = bench.photographs.whole_windows(WINDOW)
    plain = photographs.indexed(bench.scratch("plain"), len(photographs))
    retile(plain.urls, bench.folder / "tiled")
    tiled = scan(expand([str(bench.folder / "tiled")]))
    smaller = packed(photographs, bench.scratch("smaller"), MAX_SIDE)
    cache = PictureCache(bench.folder / "cache", 1 << 34).prepared()
    spent = Effort()
    with one_core():
        runs = {
            PLAIN: turns(plain, spent=spent),
            REPEATED: turns(plain, views=REPEATS),
            TILED: turns(tiled),
            SMALLER: turns(smaller),
            CACHED: turns(plain, cache=cache),
            KEPT: kept_turns(plain, views_in(bench.folder / "views", 1 << 34, Recipe(), plain, 1)),
        }
        for _ in range(-(-len(plain) // WINDOW)):
            runs[CACHED]()
            runs[KEPT]()
        result = race(runs, seconds=bench.seconds, fewest=bench.fewest)
    found = measurement(plain, spent)
    predicted = {name: rate / found.draws for name, rate in found.remedies().items()}
    rows = [
        [name, f"{predicted[name]:.2f}", ratio.text(), f"{predicted[name] / ratio.median:.2f}"]
        for name in (REPEATED, TILED, SMALLER, CACHED, KEPT)
        if name in predicted and (ratio := result.ratio(name, PLAIN, busy=True))
    ]
    figures = {f"{row[0]}, predicted of what it is": float(row[3]) for row in rows}
    share = (spent.reading + spent.decoding) / spent.seconds
    return Table(
        name="advice",
        title="What a waiting run is told would help, and what it really gives: drawing DeiT's recipe at 224",
        columns=("remedy", "× as fast, predicted", "× as fast, processor time", "predicted / real"),
        rows=grid(rows),
        figures=figures,
        notes=(
            f"{len(photographs)} photographs, one core, {result.rounds} rounds in turn; ratios are medians "
            f"(smallest–largest) of those within a round. Reading and decoding were {100 * share:.0f} % of drawing; "
            f"the views look at {100 * spent.box_pixels / spent.pixels:.0f} % of a picture.",
        ),
    )


def turns(
    index: SampleIndex, *, views: int = 1, cache: PictureCache | None = None, spent: Effort | None = None
) -> Contestant:
    """A mix window a turn, in so many new views at once; `spent` takes in what that cost."""
    files, recipe = index.files(), Recipe()
    pixels = np.empty((WINDOW * views, SIDE, SIDE, 3), np.uint8)
    windows, first = itertools.cycle(range(max(1, len(index) // WINDOW))), itertools.count(0, views)

    def turn() -> int:
        row_N = np.arange(WINDOW) + next(windows) * WINDOW
        row_N = row_N[row_N < len(index)]
        renderer = Renderer(recipe, index, files, cache_bytes=0, pictures=cache)
        start = next(first)
        view_B = np.repeat(np.arange(start, start + views), len(row_N))
        renderer.render(np.tile(row_N, views), view_B, pixels[: len(view_B)])
        if spent is not None:
            spent.add(renderer.take_effort())
        return len(view_B)

    return turn


def measurement(index: SampleIndex, spent: Effort) -> Measurement:
    """What a student who waits all the time would see."""
    return Measurement(
        seconds=1.0,
        working=0.0,
        views=spent.views,
        effort=spent,
        workers=1,
        cores=1,
        repeats=1,
        cached=False,
        drawn_once=False,
        fills=False,
        uses=float("inf"),
        view_bytes=3 * SIDE * SIDE,
        max_side=MAX_SIDE,
        smaller=pixels_left(index, MAX_SIDE),
        byte_s=min(_probes()),
    )


def _probes() -> Iterator[float]:
    return (seconds_of_a_byte() for _ in range(5))
