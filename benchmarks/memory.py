"""Does memory grow with the data? `teacher_logits` and `student.train` over a data set, and over ten times as much."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.commands import IMAGE_SIDE, Usage, small_shards, teacher_logits, train, watch
from benchmarks.report import Table, grid

ROWS, TIMES = 1024, 10
SIZE = (320, 240)
"""Of the pictures: so large that a worker's cache of decoded ones (192 MiB) is full at the smaller size already."""


def measure(bench: Bench) -> Table:
    """Run both commands at both sizes."""
    base = bench.rows(ROWS)
    found: dict[tuple[str, int], Usage] = {}
    for times in (1, 2 if bench.tiny else TIMES):
        folder = bench.scratch(f"memory-{times}")
        shards, store = small_shards(bench.photographs, folder / "data", base * times, size=SIZE), folder / "store.zarr"
        found["teacher_logits", times] = watch(teacher_logits(shards, store), forked=bench.tiny)
        found["student.train", times] = watch(
            train(store, folder / "run", batch=8 if bench.tiny else 64), forked=bench.tiny
        )
    rows: list[list[str]] = []
    figures: dict[str, float] = {}
    for (command, times), usage in found.items():
        first = found[command, 1]
        rows.append([
            command, f"{base * times:,}", _mb(usage.parent), " + ".join(_mb(child) for child in usage.children),
            f"{usage.parent / first.parent:.3f}", f"{usage.total / first.total:.3f}", f"{usage.seconds:.1f}",
        ])  # fmt: skip
        if times > 1:
            figures |= {f"{command}, parent": usage.parent / first.parent, f"{command}, all": usage.total / first.total}
    return Table(
        name="memory",
        title="Peak memory, and with ten times the data",
        columns=("command", "rows", "parent, MB", "workers, MB", "parent ×", "all processes ×", "seconds"),
        rows=grid(rows),
        figures=figures,
        notes=(
            f"VmHWM; memory that a worker shares with its parent counts in both. Pictures of {SIZE[0]} × {SIZE[1]}, "
            f"views of {IMAGE_SIDE} pixels, top-10 labels, one worker. Most is the interpreter with torch.",
            "A worker keeps up to 192 MiB of decoded pictures; both sizes fill that.",
        ),
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f}"
