"""How long is it, and how much memory does it take, from the start of a process to its first batch of 1.3 million rows?

The index is synthetic: one real shard of photographs under 1,300 names (hard links), whose rows have keys of their own.
The store over it is complete, as a reader demands; its checksums are true for the first batch, which is all that
is looked at. Then a fresh process does what `student.train` does, up to its first step, with nothing left out: import,
open, map the index, draw the witness views, build the student, render and prove the batch. The first process of all
finds nothing in the cache and unpacks the index; it has rows of its own.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from unittest.mock import patch

import numpy as np

from benchmarks.bench import Bench
from benchmarks.commands import Usage, watch
from benchmarks.labels_at_hand import manifest_of
from benchmarks.photographs import CLASSES
from benchmarks.report import Table, grid
from pipeline.labelling.writers import open_to_label
from pipeline.labels.soft_labels import encode
from pipeline.remote.cache_settings import DIR_VARIABLE
from pipeline.rendering.renderer import Renderer
from pipeline.shards.index import SampleIndex
from pipeline.shards.samples import key_hashes
from pipeline.store.manifest import unit_rows_for
from pipeline.store.unit_labels import UnitLabels
from student.feed.usable import order_of
from student.learning.settings import Settings

ROWS, PER_SHARD, BATCH = 1_300_000, 1000, 256


def measure(bench: Bench) -> Table:
    """Make the store, start the process a few times."""
    folder = bench.scratch("startup")
    shards, per_shard = (2, 16) if bench.tiny else (ROWS // PER_SHARD, PER_SHARD)
    index = synthetic_index(bench, folder, shards, per_shard)
    store, batch = folder / "store.zarr", 8 if bench.tiny else BATCH
    make_store(store, index, batch)
    with patch.dict(os.environ, {DIR_VARIABLE: str(folder / "cache")}):
        cold, cold_stages = first_batch(bench, store, folder / "cold", batch)
        runs = [first_batch(bench, store, folder / f"run{n}", batch) for n in range(bench.fewest)]
    usage, stages = sorted(runs, key=lambda run: run[0].seconds)[len(runs) // 2]
    import_s, opened_s, ready_s = stages["imported"], stages["launched"], stages["first batch"]
    rows = [
        ["interpreter, imports", f"{import_s:.2f}"],
        ["store, index, witness views, student, workers", f"{opened_s - import_s:.2f}"],
        [f"first batch ({batch} views)", f"{ready_s - opened_s:.2f}"],
        ["start to first batch, seconds", f"{ready_s:.2f}"],
        ["peak of the process, MB", f"{usage.parent / 1e6:,.0f}"],
        ["peak of it once modules are imported, MB", f"{stages['imported bytes'] / 1e6:,.0f}"],
        ["resident beyond the imports at the first batch, MB: own memory", f"{stages['RssAnon'] / 1e6:,.0f}"],
        ["… of files that are mapped, such as the index", f"{stages['RssFile'] / 1e6:,.0f}"],
        ["… of the slots that workers render into", f"{stages['RssShmem'] / 1e6:,.0f}"],
        ["peak of each worker, MB (shared memory included)", " ".join(f"{c / 1e6:,.0f}" for c in usage.children)],
        ["where the index is not unpacked yet: start to first batch, seconds", f"{cold_stages['first batch']:.2f}"],
        ["… peak of the process, MB", f"{cold.parent / 1e6:,.0f}"],
    ]
    return Table(
        name="startup",
        title=f"Start to first batch over {len(index):,} rows in {len(index.urls):,} shards",
        columns=("what", "figure"),
        rows=grid(rows),
        figures={
            "start to first batch, seconds": ready_s,
            "peak of the process, bytes": usage.parent,
            "peak beyond the imports, bytes": usage.parent - stages["imported bytes"],
        },
        notes=(f"The middle one of {len(runs)} runs. Seconds since the process was started, wall.",),
    )


def synthetic_index(bench: Bench, folder: Path, shards: int, per_shard: int) -> SampleIndex:
    """One real shard under many names."""
    one = bench.photographs.indexed(folder / "one", per_shard, per_shard)
    original, urls = Path(one.urls[0]), []
    (folder / "data").mkdir()
    for number in range(shards):
        urls.append(str(folder / "data" / f"{number:06d}.tar"))
        os.link(original, urls[-1])
    rows = shards * per_shard
    keys = [b"%09d" % row for row in range(rows)]
    tiled = {name: np.tile(getattr(one, name), shards) for name in ("offsets", "lengths", "payload_crc", "widths")}
    return SampleIndex(
        urls=tuple(urls),
        class_names=None,
        shard_sizes=np.tile(one.shard_sizes, shards),
        shard_starts=np.arange(0, rows + 1, per_shard),
        key_bytes=np.frombuffer(b"".join(keys), np.uint8),
        key_starts=np.arange(0, 9 * rows + 1, 9),
        key_hash=key_hashes(keys),
        classes=np.full(rows, -1, np.int32),  # the samples behind these names have none of their own
        heights=np.tile(one.heights, shards),
        **tiled,
    )


def settings_for(batch: int) -> Settings:
    """The run whose first batch is waited for."""
    return Settings(batch=batch, views=1, width=64, depth=1, heads=1)


def make_store(path: Path, index: SampleIndex, batch: int) -> None:
    """A complete store whose checksums are true in the first batch."""
    manifest = manifest_of(index, "argmax", unit_rows=unit_rows_for(len(index), 64))
    with open_to_label(path, manifest, index, 1) as store:
        order = order_of(store, index, batch=batch, seed=0, views=1, repeats=1, labelled_only=False)
        first = order.batch(0, 0)
        pixels_BHWC = np.empty((len(first), 224, 224, 3), np.uint8)
        drawn = Renderer(manifest.recipe, index, index.files()).render(first.row_B, first.view_B, pixels_BHWC)
        crc_R = np.zeros(len(index), np.uint32)
        crc_R[first.row_B] = drawn.crc_B
        for unit in store.missing():
            start, stop = store.layout.rows_of(unit)
            logits = np.zeros((stop - start, CLASSES), np.float32)
            labels = encode(logits, manifest.keep, manifest.temperatures)
            luma = np.zeros((stop - start, 16), np.uint8)
            store.write(unit, UnitLabels(labels=labels, crc_B=crc_R[start:stop], luma_B16=luma))
        store.finish()


def first_batch(bench: Bench, store: Path, out: Path, batch: int) -> tuple[Usage, dict[str, float]]:
    """Start a process, and read what it says it took."""
    arguments = ["-m", "benchmarks.first_batch", str(store), str(out), str(batch), str(bench.workers)]
    usage = watch(arguments, forked=bench.tiny)
    stages: dict[str, float] = json.loads(usage.output.strip().splitlines()[-1])
    return usage, stages
