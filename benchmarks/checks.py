"""What does it cost to prove each view and to look its labels up, beside drawing it?

On one core, for the same batches: rendering as it is (checksum and thumbnail are part of it), the checksums alone, the
thumbnails alone, and what the student does with the store's side: read units, gather, compare. The last is timed over
whole epochs, so that reading and decoding each unit once is in it.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch

from benchmarks.bench import Bench, one_core
from benchmarks.labels_at_hand import made_up_store
from benchmarks.race import Contestant, race
from benchmarks.render import WINDOW, our_turns
from benchmarks.report import Table, grid
from pipeline.proofs.checksums import checksum, samples, thumbnails
from pipeline.proofs.same_views import Seen, compare_views
from pipeline.rendering.renderer import Renderer
from pipeline.shards.index import SampleIndex
from pipeline.store.reader import StoreReader
from pipeline.views.recipe import Recipe
from student.feed.order import Order
from student.feed.stored_answers import StoredAnswers, needed
from student.feed.tensors import teacher_labels

RENDER, CHECKSUM, THUMBNAIL = "rendering, all of it", "checksum (crc32c)", "thumbnail (luma)"
KEEPS = {"argmax": "hard", "topk:10": "soft", "dense": "soft"}


def measure(bench: Bench) -> Table:
    """Race them; shares of rendering."""
    index = bench.photographs.indexed(bench.scratch("checks"), bench.rows(1024))
    stores = {
        keep: made_up_store(bench.scratch(f"checks-{keep[:4]}") / "store.zarr", index, keep, unit_rows=512)
        for keep in KEEPS
    }
    with one_core():
        pixels_BHWC = _drawn(index)
        runs: dict[str, Contestant] = {
            RENDER: our_turns(index, views=1, cache_bytes=0),
            CHECKSUM: lambda: len([checksum(image) for image in pixels_BHWC]),
            THUMBNAIL: lambda: len(thumbnails([samples(image) for image in pixels_BHWC])),
        }
        for keep, distill in KEEPS.items():
            runs[_look_up(keep)] = epochs_of_labels(stores[keep], distill, batch=256)
        result = race(runs, seconds=bench.seconds / 2, fewest=bench.fewest)
    base = result.cost(RENDER, busy=True).median
    rows, shares = [], {}
    for name in runs:
        micros = 1e6 * result.cost(name, busy=True).median
        shares[name] = result.ratio(RENDER, name, busy=True).median
        rows.append([name, f"{micros:,.1f}", f"{shares[name]:.2%}"])
    total = {keep: shares[CHECKSUM] + shares[THUMBNAIL] + shares[_look_up(keep)] for keep in KEEPS}
    rows += [
        [f"checksum + thumbnail + labels, {keep}", f"{1e6 * base * s:,.1f}", f"{s:.2%}"] for keep, s in total.items()
    ]
    return Table(
        name="checks",
        title="Proof and labels beside rendering, one core",
        columns=("what", "µs a view (processor time)", "of rendering"),
        rows=grid(rows),
        figures={f"share of rendering, {keep}": share for keep, share in total.items()},
        notes=(
            f"{result.rounds} rounds in turn. Made-up logits of 1,000 classes; labels include reading and decoding "
            "each unit once an epoch, gathering batches of 256, comparing checksums and making tensors.",
        ),
    )


def _look_up(keep: str) -> str:
    return f"label look-up, {keep}"


def _drawn(index: SampleIndex) -> np.ndarray:
    row_B = np.arange(min(WINDOW, len(index)))
    pixels_BHWC = np.empty((len(row_B), 224, 224, 3), np.uint8)
    Renderer(Recipe(), index, index.files()).render(row_B, np.zeros_like(row_B), pixels_BHWC)
    return pixels_BHWC


def epochs_of_labels(store: StoreReader, distill: str, batch: int) -> Contestant:
    """An epoch of looking labels up, as `student.feed.feed.Feed` does it."""
    manifest = store.manifest
    order = Order(manifest.recipe, rows=manifest.rows, views=(0,), run_rows=manifest.unit_rows, batch=batch)
    for step in range(order.steps):
        order.batch(0, step)
    thumbnail_B16 = np.zeros((batch, 16), np.uint8)
    names, cpu, epochs = needed(manifest, soft=distill == "soft", luma=False), torch.device("cpu"), itertools.count()

    def turn() -> int:
        next(epochs)
        answers, views = StoredAnswers(store, names, keep_units=16), 0
        for step in range(order.steps):
            share = order.batch(0, step)
            answers.expect(share)
            gathered = answers.gather(share)
            teacher_labels(manifest.keep, gathered.labels, manifest.temperatures, cpu)
            compare_views(Seen(gathered.labelled.crc_B, thumbnail_B16[: len(share)]), gathered.labelled)
            views += len(share)
        answers.close()
        return views

    return turn
