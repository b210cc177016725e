"""What do 64 ranks and 14 million rows cost outside of rendering and the teacher?

    python -m benchmarks.scaling --rows 14000000 --views 90 --ranks 64

No picture is read and no teacher asked: an index of that many rows is made up, and the parts of a run that grow with
rows, units or ranks are timed one by one, on this machine and its disk. Prints a table as Markdown.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np

from benchmarks.commands import resident
from pipeline.durable.local import LocalObjects
from pipeline.labelling.tasks import _packed, handout_of, tasks_of
from pipeline.labels.keeps import parse_keep
from pipeline.processes.world import Place
from pipeline.remote.cache_settings import DIR_VARIABLE
from pipeline.shards.index import SampleIndex
from pipeline.shards.index_file import LARGE
from pipeline.shards.samples import key_hashes
from pipeline.store.contents import read_base
from pipeline.store.layout import Layout, Unit
from pipeline.store.manifest import Manifest, TeacherCard, unit_rows_for
from pipeline.store.reader import read_index
from pipeline.store.receipts import Base, Contract, Digest, UnitTable, complete, read_complete, unit_keys, unit_receipt
from pipeline.store.recovery import index_objects
from pipeline.views.recipe import Recipe

SHARD_ROWS = 10_000

Found = tuple[float, int, int]


@click.command()
@click.option("--rows", default=14_000_000)
@click.option("--views", default=90)
@click.option("--ranks", default=64)
def main(rows: int, views: int, ranks: int) -> None:
    """Time the parts of a run that are neither pixels nor teacher."""
    table = Table()
    with table.timed("make up the index"):
        index = made_up(rows)
    nbytes = sum(array.nbytes for array in index.arrays().values())
    table.say("index in memory", f"{nbytes / 1e6:,.0f} MB")
    with table.timed("check the index (who scans or unpacks it, once)"):
        SampleIndex.from_arrays(index.urls, index.class_names, index.arrays())
    with table.timed("digest of the index (the same, once)"):
        digest = index.digest()
    manifest = manifest_of(index, digest)
    layout = Layout.of(manifest, index, views, 0, {})
    units = [Unit(view, run) for view in range(views) for run in range(layout.runs)]
    table.say("unit_rows; units", f"{manifest.unit_rows}; {len(units):,}")
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("TMPDIR")))
    os.environ[DIR_VARIABLE] = str(folder / "cache")
    try:
        objects = LocalObjects(folder / "store.zarr")
        open_index(table, objects, layout, store_index(table, objects, layout, index), ranks)
        hand_out(table, units, ranks)
        records(table, objects, layout, units)
    finally:
        shutil.rmtree(folder)
    table.show(rows, views, ranks)


def made_up(rows: int) -> SampleIndex:
    """Keys of ten bytes, pictures of 10 kB, in shards of `SHARD_ROWS`."""
    keys = np.char.zfill(np.arange(rows).astype("S10"), 10)
    row_R = np.arange(rows, dtype=np.int64)
    starts = np.minimum(np.arange(-(-rows // SHARD_ROWS) + 1, dtype=np.int64) * SHARD_ROWS, rows)
    return SampleIndex(
        urls=tuple(f"s3://bucket/train/{number:06d}.tar" for number in range(len(starts) - 1)),
        class_names=None,
        shard_sizes=np.diff(starts) * 11_264 + 1024,
        shard_starts=starts,
        key_bytes=np.frombuffer(keys.tobytes(), np.uint8),
        key_starts=np.arange(rows + 1, dtype=np.int64) * 10,
        key_hash=key_hashes(keys.tolist()),
        classes=(row_R % 21_841).astype(np.int32),
        offsets=row_R % SHARD_ROWS * 11_264 + 512,
        lengths=np.full(rows, 10_000, np.int64),
        payload_crc=(row_R * 2654435761 % 2**32).astype(np.uint32),
        widths=np.full(rows, 500, np.int32),
        heights=np.full(rows, 375, np.int32),
    )


def manifest_of(index: SampleIndex, digest: str) -> Manifest:
    card = TeacherCard(
        name="made up", weights_sha256="ab" * 32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), input_size=224,
        classes=21_841, precision="bf16", batch_size=128,
    )  # fmt: skip
    recipe = Recipe()
    return Manifest(
        recipe=recipe, index_digest=digest, rows=len(index), teacher=card, keep=parse_keep("topk:10"),
        temperatures=(1.0, 3.0), num_classes=21_841, class_names=None, class_map=None,
        unit_rows=unit_rows_for(len(index), recipe.mix_window), luma=True,
    )  # fmt: skip


def store_index(table: Table, objects: LocalObjects, layout: Layout, index: SampleIndex) -> Base:
    digests = {}
    with table.timed("write the index into the store (rank 0)"):
        for key, data in index_objects(layout, index):
            objects.put(key, data)
            digests[key] = Digest.of(data)
    size = sum(objects.sizes("index").values())
    table.say("index in the store", f"{size / 1e6:,.0f} MB in {len(digests)} objects")
    return Base(contract=Contract(manifest="m", index="i"), views=layout.views, objects=digests)


def open_index(table: Table, objects: LocalObjects, layout: Layout, base: Base, ranks: int) -> None:
    """As the ranks of one node do, in processes of their own."""
    with table.timed("read the index from the store, check and unpack it (first rank of a node, once)"):
        index = read_index(objects, layout, base)
    assert index.mapped == (sum(array.nbytes for array in index.arrays().values()) >= LARGE)
    with table.timed(f"open it {ranks} times while it is in use (every other rank, once)"):
        for _ in range(ranks):
            read_index(objects, layout, base)
    table.say("pickled for one spawned worker", f"{len(pickle.dumps(index)) / 1e3:,.0f} kB")
    took, private, shared = in_new_process(look_up, index)
    what = "a spawned worker gets it and looks up 1,000 rows"
    table.say(what, f"{took:.2f} s; {private / 1e6:,.1f} MB of its own, {shared / 1e6:,.0f} MB shared")
    del index
    took, private, _ = in_new_process(open_first, objects, layout, base)
    what = "open it when nobody has it in use: hash it (first rank of a node of a later run, once)"
    table.say(what, f"{took:.2f} s; {private / 1e6:,.1f} MB of its own")


def in_new_process(function: Callable[..., Found], *arguments: object) -> Found:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_timed_alone, function, pickle.dumps(arguments)).result()


def _timed_alone(function: Callable[..., object], sent: bytes) -> Found:
    """Seconds, and by how much this process's own and its shared pages grow."""
    before, begun = resident(), time.perf_counter()
    kept = function(*pickle.loads(sent))  # noqa: S301 - our own bytes
    took, after = time.perf_counter() - begun, resident()
    assert kept is not None
    return took, after["RssAnon"] - before["RssAnon"], after["RssFile"] - before["RssFile"]


def look_up(index: SampleIndex) -> SampleIndex:
    row_B = np.arange(1000) * 2654435761 % len(index)
    for array in (index.key_hash, index.classes, index.offsets, index.widths):
        array[row_B].sum()
    index.key(int(row_B[1]))
    return index


def open_first(objects: LocalObjects, layout: Layout, base: Base) -> SampleIndex:
    return read_index(objects, layout, base)


def hand_out(table: Table, units: list[Unit], ranks: int) -> None:
    with table.timed("list the tasks (every rank)"):
        tasks = tasks_of(units, 8)
    table.say("tasks; bytes published", f"{len(tasks):,}; {len(_packed(tasks)) / 1e3:,.0f} kB")
    port = 29500 + os.getpid() % 2000
    taken = [0] * ranks
    ready: list[float] = []

    def take(rank: int) -> None:
        place = Place(rank=rank, world=ranks, address="127.0.0.1", port=port)
        with handout_of(place, timeout_s=300) as handout:
            todo = handout.announce(tasks) if place.leads else handout.listen()
            ready.append(time.perf_counter())
            for _ in todo:
                taken[rank] += 1
            handout.settle(lambda _: None)

    begun = time.perf_counter()
    threads = [threading.Thread(target=take, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begun
    assert sum(taken) == len(tasks)
    table.say(f"{ranks} ranks meet and have the list (threads of one process)", f"{max(ready) - begun:.2f} s")
    table.say("all tasks handed out, from start to end", f"{took:.2f} s, {1e3 * took / len(tasks):.2f} ms a task")


def records(table: Table, objects: LocalObjects, layout: Layout, units: list[Unit]) -> None:
    arrays = layout.unit_arrays()
    contract = Contract(manifest="m" * 64, index="i" * 64)
    texts = UnitTable(layout.views, layout.runs, list(arrays))
    digest = Digest(100_000, "ab" * 32)
    root = objects.root / "receipts"
    with table.timed("write all receipts (without fsync; spread over all ranks)"):
        for unit in units:
            keys = unit_keys(arrays, unit)
            data = unit_receipt(unit, contract, dict.fromkeys(keys, digest))
            path = objects.root / unit.receipt_key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            texts[unit] = [digest] * len(keys)
    table.say("receipts", f"{len(units):,}, {len(data)} bytes each")
    assert root.exists()
    with table.timed("list all receipts (rank 0, at start and at the end)"):
        found = objects.sizes("receipts")
    with table.timed("read all receipts (rank 0, when resuming or finishing)"):
        for key in found:
            objects.get(key, 1 << 20)
    base = Base(contract=contract, views=layout.views, objects={"zarr.json": digest})
    with table.timed("make COMPLETE (rank 0)"):
        record = complete(base, texts)
    table.say("COMPLETE", f"{len(record) / 1e6:,.1f} MB")
    with table.timed("read and check COMPLETE (every reader, once)"):
        read_complete(record)
    assert read_base(objects) is None


class Table:
    """What was measured."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []

    def say(self, what: str, value: str) -> None:
        self.rows.append((what, value))
        click.echo(f"{what}: {value}", err=True)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.say(what, f"{time.perf_counter() - begun:.2f} s")

    def show(self, rows: int, views: int, ranks: int) -> None:
        click.echo(
            f"{rows:,} rows × {views} views, {ranks} ranks; {platform.machine()}, {os.cpu_count()} cores, shared\n"
        )
        click.echo("| what | measured |\n|---|---|")
        for what, value in self.rows:
            click.echo(f"| {what} | {value} |")


if __name__ == "__main__":
    main()
