"""What a bucket alone can do to a store: faults, pages, leases. What all media promise: test_conformance."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pipeline.remote.client
from pipeline.durable import s3 as s3_objects
from pipeline.durable import s3_lease
from pipeline.durable.objects import open_objects
from pipeline.durable.s3 import S3Objects
from pipeline.durable.s3_bucket import Bucket
from pipeline.durable.writer_lock import seated
from pipeline.errors import ContractError, StoreError
from pipeline.inspection.audit import audit
from pipeline.labelling import generations
from pipeline.store.reader import StoreReader
from pipeline.store.writer import StoreWriter
from tests.many_ranks import eventually
from tests.servers.flaky import proxy
from tests.servers.s3 import forget, point_at
from tests.stores import fill, index_of, labels_of, manifest_of, open_writing, same_labels, tree

INDEX = index_of(70)
MANIFEST = manifest_of(INDEX, "topk:3")
VIEWS = 2
LEASE_S, SOON_S = s3_lease.LEASE_S, 6.0
"""A lease, and one whose end is waited for: long enough that a busy machine renews it in time"""
KEY = "argmax/c.0.0"


def objects_of(s3: Any, url: str) -> dict[str, bytes]:
    """What the bucket has under the store's name, by another client."""
    prefix = url.removeprefix("s3://bucket/") + "/"
    found = s3.list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])
    return {e["Key"].removeprefix(prefix): s3.get_object(Bucket="bucket", Key=e["Key"])["Body"].read() for e in found}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The same store on a disk."""
    path = tmp_path_factory.mktemp("local") / "store.zarr"
    with open_writing(path, MANIFEST, INDEX, VIEWS) as store:
        fill(store)
        store.finish()
    return {name: data for name, data in tree(path).items() if not name.endswith("/")}


# ---- the bucket


def test_many_are_read_several_at_a_time_and_none_by_whoever_asks(s3: Any, url: str, monkeypatch) -> None:
    objects, waited = S3Objects(url), []
    keys = [f"receipts/{view}/{run}.json" for view in (0, 2, 10) for run in range(12)]
    for key in keys:
        objects.put(key, key.encode())
    got = Bucket.get

    def count_got(self: Bucket, key: str, limit: int) -> bytes:
        if threading.current_thread() is threading.main_thread():
            waited.append(key)
        return got(self, key, limit)

    monkeypatch.setattr(s3_objects, "AHEAD", 8)
    monkeypatch.setattr(Bucket, "get", count_got)
    assert list(objects.get_many(keys, 99)) == [(key, key.encode()) for key in keys]
    assert waited == []


def test_a_list_of_several_pages_is_whole(s3: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = S3Objects(url)
    for number in range(7):
        objects.put(f"crc/c.0.{number}", b"x")
    original, pages = Bucket._call, []

    def small(self: Bucket, key: str, method: str, size: int = 0, **arguments: Any) -> Any:
        pages.append(method)
        return original(self, key, method, size, **arguments, **({"MaxKeys": 3} if "list" in method else {}))

    monkeypatch.setattr(Bucket, "_call", small)
    assert len(objects.sizes()) == 7 and pages.count("list_objects_v2") == 3


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("s3://bucket", "names no store. Give a bucket and a name"),
        ("https://host/store.zarr", "kept on a file system or in S3"),
        ("s3://nobucket/store.zarr", "there is no bucket nobucket. Make it, or name another"),
    ],
)
def test_places_that_cannot_hold_a_store(s3: Any, where: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        open_objects(where).sizes()
    assert open_objects(Path("s3://bucket/x/store.zarr")).name == "s3://bucket/x/store.zarr"


# ---- the store


def test_a_store_in_s3_is_the_one_on_a_disk_and_is_read_there(s3: Any, url: str, local: dict[str, bytes]) -> None:
    with open_writing(url, MANIFEST, INDEX, VIEWS) as store:
        fill(store)
        store.finish()
    assert objects_of(s3, url) == local
    reader = StoreReader.open(url)
    for unit in reader.layout.units():
        assert same_labels(reader.read(unit.view, unit.run), labels_of(MANIFEST, unit))
    assert reader.index.digest() == INDEX.digest() and audit(reader.name) == []
    s3.put_object(Bucket="bucket", Key=f"{url.removeprefix('s3://bucket/')}/{KEY}", Body=b"other bytes")
    with pytest.raises(StoreError, match=r"argmax/c\.0\.0.* has 11 bytes"):
        StoreReader.open(url)


def test_labels_at_a_url_are_never_made_room_for(s3: Any, url: str) -> None:
    with open_writing(url, MANIFEST, INDEX, VIEWS) as store:
        fill(store)
        store.finish()
    before = objects_of(s3, url)
    other = dataclasses.replace(MANIFEST, luma=False)
    with pytest.raises(ContractError) as changed:
        open_writing(url, other, INDEX, VIEWS)
    generations.bring_back(url, other)
    with pytest.raises(
        StoreError, match="At a URL it cannot be set aside, since a bucket has no rename, and labels are"
    ):
        generations.set_aside(url, str(changed.value))
    generations.keep_one(url)
    assert objects_of(s3, url) == before
    for key in before:
        if key == "COMPLETE" or (key.startswith("receipts/") and key != "receipts/base.json"):
            s3.delete_object(Bucket="bucket", Key=f"{url.removeprefix('s3://bucket/')}/{key}")
    generations.set_aside(url, "No label was ever finished.")
    assert objects_of(s3, url) == {}


@pytest.mark.parametrize("fault", ["refuse", "error", "cut"])
def test_faults_now_and_then_change_nothing(server, s3, url, local, fault, monkeypatch) -> None:
    """A cut answer to a conditional PUT is the hard one: it was done, and the next attempt is told that it exists."""
    with proxy(server[0], lambda number: fault if number % 10 == 1 else "pass", cut_at=60) as between:
        point_at(between.port, monkeypatch)
        with open_writing(url, MANIFEST, INDEX, VIEWS) as store:
            fill(store)
            store.finish()
        assert audit(StoreReader.open(url).name) == []
    assert objects_of(s3, url) == local


@pytest.mark.parametrize("fault", ["refuse", "error", "stall"])
def test_a_server_that_stays_away_ends_in_time_and_nothing_is_lost(server, s3, url, local, fault, monkeypatch) -> None:
    away, stall_s = threading.Event(), pipeline.remote.client.STALL_S
    with proxy(server[0], lambda _: fault if away.is_set() else "pass", cut_at=20) as between:
        point_at(between.port, monkeypatch)
        begun = time.monotonic()
        with (
            pytest.raises(StoreError, match=r"attempts|could not be renewed"),
            open_writing(url, MANIFEST, INDEX, VIEWS) as store,
        ):
            fill(store, store.missing()[:2])
            monkeypatch.setattr(s3_lease, "LEASE_S", SOON_S)
            monkeypatch.setattr(pipeline.remote.client, "STALL_S", 0.3)  # while it is there it may take its time
            away.set()
            forget()
            begun = time.monotonic()
            fill(store)
        assert time.monotonic() - begun < 100
    monkeypatch.setattr(pipeline.remote.client, "STALL_S", stall_s)
    point_at(server[0], monkeypatch)
    with open_writing(url, MANIFEST, INDEX, VIEWS) as store:
        monkeypatch.setattr(s3_lease, "LEASE_S", LEASE_S)
        assert len(store.missing()) == len(store.layout.units()) - 2
        fill(store)
        store.finish()
    assert objects_of(s3, url) == local


def _write(url: str, pause: float) -> None:
    with open_writing(url, MANIFEST, INDEX, VIEWS) as store:
        for unit in store.missing():
            store.write(unit, labels_of(MANIFEST, unit))
            time.sleep(pause)
        time.sleep(600)  # a kill cannot come too late


def test_a_killed_writer_leaves_what_it_finished_and_its_lease_expires(
    s3: Any, url: str, local: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = multiprocessing.get_context("fork").Process(target=_write, args=(url, 0.05), daemon=True)
    child.start()
    prefix = url.removeprefix("s3://bucket/") + "/receipts/0/"
    eventually(lambda: s3.list_objects_v2(Bucket="bucket", Prefix=prefix).get("KeyCount", 0) >= 2)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    monkeypatch.setattr(s3_lease, "LEASE_S", SOON_S)
    with open_writing(url, MANIFEST, INDEX, VIEWS) as store:  # waits for the lease of the killed one
        monkeypatch.setattr(s3_lease, "LEASE_S", LEASE_S)
        assert len(store.missing()) <= len(store.layout.units()) - 2
        fill(store)
        store.finish()
    assert objects_of(s3, url) == local


def test_going_on_costs_a_listing_and_the_receipts(s3: Any, url: str, local: dict[str, bytes], monkeypatch) -> None:
    with open_writing(url, MANIFEST, INDEX, VIEWS) as store:
        fill(store, store.layout.units()[:-1])
    asked: list[str] = []
    call, got = Bucket._call, Bucket.get

    def count_call(self: Bucket, key: str, method: str, size: int = 0, **arguments: Any) -> Any:
        asked.append(method)
        return call(self, key, method, size, **arguments)

    def count_got(self: Bucket, key: str, limit: int) -> bytes:
        asked.append(key.partition("/store.zarr/")[2])
        return got(self, key, limit)

    monkeypatch.setattr(Bucket, "_call", count_call)
    monkeypatch.setattr(Bucket, "get", count_got)
    with open_writing(url, MANIFEST, INDEX, VIEWS) as store:
        assert store.missing() == store.layout.units()[-1:]
        receipts = [key for key in asked if key.startswith("receipts/") and key != "receipts/base.json"]
        assert sorted(receipts) == sorted(unit.receipt_key for unit in store.layout.units()[:-1])
        assert not [key for key in asked if key.startswith(tuple(f"{name}/c" for name in store.layout.unit_arrays()))]
        assert asked.count("list_objects_v2") == 1
        fill(store)
        store.finish()
    assert objects_of(s3, url) == local
    objects = S3Objects(url)
    objects.delete("argmax/c.0.0")
    objects.put("crc/c.1.1", b"cut")
    objects.put("luma/c.1.0.0", bytes(len(local["luma/c.1.0.0"])))
    with open_writing(url, MANIFEST, INDEX, VIEWS) as store:
        assert [(unit.view, unit.run) for unit in store.missing()] == [(0, 0), (1, 1)]
        fill(store)
        store.finish()
    assert [finding.where for finding in audit(url)] == [f"{url}/luma/c.1.0.0"]
    with open_writing(url, MANIFEST, INDEX, VIEWS, recheck=True) as store:
        assert [(unit.view, unit.run) for unit in store.missing()] == [(1, 0)]
        fill(store)
        store.finish()
    assert objects_of(s3, url) == local


# ---- leases


def patiently(seconds: float = 180) -> Iterator[None]:
    """Again and again, for longer than anything takes."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.05)


def take_over(s3: Any, key: str) -> None:
    """Put another's lease there; again and again, as the test server may let a renewal through at the same moment."""
    s3.put_object(Bucket="bucket", Key=key, Body=b'{"token": "of another"}')


def test_a_holder_whose_lease_was_taken_over_stops_writing(s3: Any, often: None, url: str) -> None:
    objects = S3Objects(url)
    taken_over = r"could not be renewed, or was taken over.*run this again"
    with objects.lock(), pytest.raises(StoreError, match=taken_over):
        for _ in patiently():
            take_over(s3, url.removeprefix("s3://bucket/") + ".lock")
            objects.put(KEY, b"x")
    left = s3.get_object(Bucket="bucket", Key=url.removeprefix("s3://bucket/") + ".lock")["Body"].read()
    assert left == b'{"token": "of another"}', "another's lease is not removed"


def test_a_writer_that_lost_its_seat_stops_writing(s3: Any, often: None, url: str) -> None:
    open_writing(url, MANIFEST, INDEX, VIEWS).close()
    objects = S3Objects(url)
    with seated(objects.seat(), alone=False, follows=False, wait_s=0), StoreWriter.attach(objects) as store:
        (seat,) = (key for key in objects.bucket.sizes(f"{objects.root}.writers/"))
        with pytest.raises(StoreError, match=r"could not be renewed, or was taken over.*run this again"):
            for _ in patiently():
                take_over(s3, seat)
                store.write(store.layout.units()[0], labels_of(MANIFEST, store.layout.units()[0]))
                objects.delete(store.layout.units()[0].receipt_key)


def test_a_holder_whose_renewal_ends_in_an_unforeseen_error_stops_writing(
    s3: Any, often: None, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    objects = S3Objects(url)
    with objects.lock():
        monkeypatch.setattr(s3_lease, "_holder_of", lambda _: 1 / 0)
        with pytest.raises(StoreError, match=r"could not be renewed, or was taken over.*run this again"):
            for _ in patiently():
                take_over(s3, url.removeprefix("s3://bucket/") + ".lock")
                objects.put(KEY, b"x")


def test_a_look_at_a_lease_is_tried_again(s3: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.remote.client, "FIRST_PAUSE_S", 0.01)
    objects, place = S3Objects(url), pipeline.remote.client.remote(url)
    original, failed = place.call, []

    def call(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cat_file" and len(failed) < 2:
            failed.append(name)
            raise ValueError("the answer was cut")  # what is no OSError
        return original(name, *args, **kwargs)

    with objects.lock():
        monkeypatch.setattr(place, "call", call)
        tag, _, text = s3_lease.look(objects.bucket, f"{objects.root}.lock")
    assert tag and b"token" in text and len(failed) == 2
