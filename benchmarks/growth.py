"""How do time, memory, store and start-up grow with the data? 1, 4 and 16 times as many rows, and fitted slopes.

The whole command is run, with a teacher that costs nothing. A power law rows^p is fitted through the three points of
each column: p = 1 grows with the data, p = 0 does not grow. Time is also split into what a run costs anyway and what a
view costs, by a straight line; a curve upwards would show as a middle point below that line.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from benchmarks.bench import Bench
from benchmarks.commands import IMAGE_SIDE, small_shards, teacher_logits, watch
from benchmarks.report import Table, grid
from pipeline.inspection.audit import audit
from pipeline.store.reader import StoreReader

ROWS, TIMES = 1024, (1, 4, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What one size of data costs."""

    rows: int
    labelling: float
    peak: float
    store: float
    opening: float
    verify: float


def measure(bench: Bench) -> Table:
    """Label, open and verify at each size."""
    sizes = [_measure(bench, bench.rows(ROWS) * times) for times in ((1, 2, 3) if bench.tiny else TIMES)]
    rows = [
        [
            f"{size.rows:,}", f"{size.labelling:.2f}", f"{1000 * size.labelling / size.rows:.2f}",
            f"{size.peak / 1e6:,.0f}", f"{size.store / 1e3:,.0f}", f"{1000 * size.opening:.1f}", f"{size.verify:.3f}",
        ]
        for size in sizes
    ]  # fmt: skip
    names = ("labelling", "peak", "store", "opening", "verify")
    slopes = {name: slope([size.rows for size in sizes], [getattr(size, name) for size in sizes]) for name in names}
    per_view, fixed = np.polyfit([size.rows for size in sizes], [size.labelling for size in sizes], 1).tolist()
    rows.append(["fitted p in rows^p", f"{slopes['labelling']:.2f}", "", *(f"{slopes[n]:.2f}" for n in names[1:])])
    middle = sizes[1].labelling / (fixed + per_view * sizes[1].rows)
    return Table(
        name="growth",
        title="Growth with the data",
        columns=("rows", "teacher_logits, s", "ms a view", "peak, MB", "store, kB", "open + index, ms", "verify, s"),
        rows=grid(rows),
        figures={"seconds a run": fixed, "ms a view": 1000 * per_view, **{f"slope, {n}": v for n, v in slopes.items()}},
        notes=(
            f"Straight line through the labelling times: {fixed:.2f} s a run + {1000 * per_view:.3f} ms a view; "
            f"the middle point is {middle:.2f} of it. Peak is VmHWM of the parent.",
            f"Small pictures, views of {IMAGE_SIDE} pixels, one worker, top-10 labels, a teacher that costs nothing.",
        ),
    )


def _measure(bench: Bench, rows: int) -> Size:
    folder = bench.scratch(f"growth-{rows}")
    shards, path = small_shards(bench.photographs, folder / "data", rows), folder / "store.zarr"
    usage = watch(teacher_logits(shards, path), forked=bench.tiny)
    begun = time.perf_counter()
    assert len(StoreReader.open(path).index) == rows
    opened = time.perf_counter()
    assert not audit(path)
    return Size(
        rows=rows,
        labelling=usage.seconds,
        peak=usage.parent,
        store=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        opening=opened - begun,
        verify=time.perf_counter() - opened,
    )


def slope(rows: list[int], values: list[float]) -> float:
    """p of the power law through them."""
    return float(np.polyfit(np.log(rows), np.log(values), 1)[0])
