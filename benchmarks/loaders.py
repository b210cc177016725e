"""What is lost between rendering and a batch, and how do other loaders fare?

The most that a loader can give is what its processes render when nothing is handed over: that is measured first (each
process draws its share of the same batches into memory of its own). Then ours, through the ring, and also of views that
are kept (`--view-cache`), and the peers with DeiT's transform; all of them for whole epochs over the same rows, with as
many workers. There are so many rows that our workers' caches of decoded pictures forget them between epochs, as they do
those of any data set that is not small.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import numpy as np

from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.photographs import Photographs
from benchmarks.race import Contestant, Race, race
from benchmarks.report import Table, grid
from pipeline.pictures.images import size_of
from pipeline.rendering.loader import CACHE_BYTES, Loader, Request, requests_of
from pipeline.rendering.renderer import Renderer
from pipeline.rendering.view_cache import views_in
from pipeline.shards.index import SampleIndex
from pipeline.views.recipe import Recipe

BARE, OURS = "bare rendering, no loader", "ours: Loader"
BARE_MANY, OURS_MANY = "bare rendering, 8 views a decode", "ours: Loader, 8 views a decode"
KEPT = "ours: Loader, from the view cache"
OWN = (BARE, BARE_MANY, OURS, OURS_MANY, KEPT)
BATCH = peers.BATCH
FEWEST, MOST = 16, 128
"""Batches of an epoch."""


class BareCrew:
    """Processes that render their share of batches and hand nothing over; what no loader can beat."""

    def __init__(self, index: SampleIndex, workers: int) -> None:
        context = multiprocessing.get_context("fork")
        self.processes: list[BaseProcess] = []
        self.crew: list[Connection] = []
        for number in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_render_share, args=(theirs, index, number, workers), daemon=True)
            process.start()
            self.processes.append(process)
            theirs.close()
            self.crew.append(ours)

    def render(self, first_view: int, views: int) -> int:
        """One epoch of so many views; each process takes every so-manieth stretch of rows."""
        for connection in self.crew:
            connection.send((first_view, views))
        return sum(connection.recv() for connection in self.crew)

    def close(self) -> None:
        """End them; a closed connection alone would not, since those that were forked later hold it too."""
        for process in self.processes:
            process.kill()
            process.join()


def _render_share(connection: Connection, index: SampleIndex, number: int, workers: int) -> None:
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    parent = multiprocessing.parent_process()
    assert parent is not None
    renderer = Renderer(Recipe(), index, index.files(), cache_bytes=CACHE_BYTES)
    pixels = np.empty((BATCH, peers.SIDE, peers.SIDE, 3), np.uint8)
    try:
        while connection in wait([connection, parent.sentinel]):  # ends with its parent, however that ends
            first, views = connection.recv()
            done = 0
            for row_B, view_B in _share(index, first, views, number, workers):
                renderer.render(row_B, view_B, pixels[: len(row_B)])
                done += len(row_B)
            connection.send(done)
    except EOFError:
        return


def _share(index: SampleIndex, first: int, views: int, number: int, workers: int) -> Iterator[Request]:
    """Every `workers`-th stretch of rows, in all views."""
    stretches = list(requests_of(np.arange(len(index)), 0, BATCH))
    for row_B, _ in stretches[number::workers]:
        for view in range(first, first + views):
            yield row_B, np.full(len(row_B), view)


def our_epochs(loader: Loader, index: SampleIndex, views: int) -> Contestant:
    """Every row in so many new views a turn."""
    first = itertools.count(0, views)

    def turn() -> int:
        return sum(len(slot.row_B) for slot in loader.render(_share(index, next(first), views, 0, 1)))

    return turn


def kept_epochs(loader: Loader, index: SampleIndex) -> Contestant:
    """Every row a turn, in the view that was kept at the first turn."""
    return lambda: sum(len(slot.row_B) for slot in loader.render(_share(index, 0, 1, 0, 1)))


def bare_epochs(crew: BareCrew, views: int) -> Contestant:
    """The same without a loader."""
    first = itertools.count(0, views)
    return lambda: crew.render(next(first), views)


def measure(bench: Bench) -> Table:
    """Race them all."""
    rows = BATCH if bench.tiny else rows_beyond_caches(bench.photographs, bench.workers)
    index = bench.photographs.indexed(bench.scratch("loaders"), rows)
    payloads = tuple(itertools.islice(itertools.cycle(bench.photographs.payloads), rows))
    many = 2 if bench.tiny else 8
    notes: list[str] = [f"{rows:,} rows an epoch."]
    if rows == MOST * BATCH:
        notes.append("The pictures are so small that they may all stay decoded in our workers' caches.")
    with ExitStack() as stack:
        runs: dict[str, Contestant] = {}
        for name, world, views in ((BARE, index, 1), (BARE_MANY, index, many)):  # processes before any thread
            crew = BareCrew(world, bench.workers)
            stack.callback(crew.close)
            runs[name] = bare_epochs(crew, views)
        for name, world, views in ((OURS, index, 1), (OURS_MANY, index, many)):
            loader = stack.enter_context(Loader(Recipe(), world, batch=BATCH, workers=bench.workers, together=views))
            runs[name] = our_epochs(loader, world, views)
        views_kept = views_in(bench.folder / "views", 1 << 40, Recipe(), index, 1)
        loader = stack.enter_context(Loader(Recipe(), index, batch=BATCH, workers=bench.workers, view_cache=views_kept))
        runs[KEPT] = kept_epochs(loader, index)
        runs[KEPT]()
        for name, peer in peer_loaders(bench, index, payloads, notes).items():
            runs[name] = lambda peer=peer: peers.count_views(peer)  # type: ignore[misc]
        result = race(runs, seconds=bench.seconds, fewest=bench.fewest)
    return table(result, bench.workers, notes)


def rows_beyond_caches(photographs: Photographs, workers: int) -> int:
    """Twice as many as all workers can keep decoded, within bounds."""
    decoded = statistics.fmean(3 * width * height for width, height in map(size_of, photographs.payloads))
    batches = -(-2 * workers * CACHE_BYTES // int(decoded * BATCH))
    return BATCH * min(max(batches, FEWEST), MOST)


def peer_loaders(bench: Bench, index: SampleIndex, payloads: tuple[bytes, ...], notes: list[str]) -> dict[str, object]:
    """The others, with as many workers."""
    found = {
        "timm create_loader, float": peers.timm_loader(payloads, bench.workers, to_uint8=False),
        "timm create_loader, uint8 half": peers.timm_loader(payloads, bench.workers, to_uint8=True),
        "WebDataset + timm transform": peers.webdataset_loader(index.urls, bench.workers),
    }
    if not bench.with_litdata:
        notes.append("litdata was not asked for: --with-litdata installs it outside the project's environment.")
        return found
    try:
        found["litdata + timm transform"] = peers.litdata_loader(payloads, bench.workers, bench.scratch("litdata"))
    except Exception as error:  # whatever an installation or a foreign library raises, the others are still measured
        notes.append(f"litdata was asked for and skipped: {type(error).__name__}: {error}")
    return found


def table(result: Race, workers: int, notes: list[str]) -> Table:
    """Views a second, and ratios to bare rendering and of ours to each."""
    rows, figures = [], {}
    for name in result.turns:
        many = name in (BARE_MANY, OURS_MANY)
        share = result.ratio(name, BARE_MANY if many else BARE)
        ahead = "" if name in OWN else result.ratio(OURS, name).text()
        rows.append([name, f"{result.rate(name).median:,.0f}", share.text(".3f"), ahead])
        figures[f"{name}, share of bare"] = share.median
        if ahead:
            figures[f"ours against {name}"] = result.ratio(OURS, name).median
    return Table(
        name="loaders",
        title=f"Loaders end to end with {workers} workers: DeiT's recipe at 224, batches of {BATCH}",
        columns=("loader", "views/s", "of bare rendering", "ours is × as fast"),
        rows=grid(rows),
        figures=figures,
        notes=(f"{result.rounds} rounds in turn; medians (smallest–largest) of ratios within a round.", *notes),
    )
