"""What a store may ask of its medium, whichever it is: a disk, and a bucket of a real S3 server, promise the same."""

from __future__ import annotations

import os
import pickle
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.durable import local_lock, s3_lease
from pipeline.durable.objects import Objects, is_temporary, open_objects
from pipeline.durable.writer_lock import Seat, seated, this_process
from pipeline.errors import StoreError
from pipeline.remote.client import is_remote
from tests.many_ranks import eventually

KEY = "argmax/c.0.0"
ALONE, WITH_OTHERS = {"alone": True}, {"alone": False}


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store may be made."""
    if request.param == "disk":
        return str(tmp_path / "deep" / "store.zarr")
    request.getfixturevalue("s3")
    return str(request.getfixturevalue("url"))


@pytest.fixture
def objects(place: str) -> Objects:
    """Of nothing yet."""
    return open_objects(place)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is refused is so at once, and not when a killed holder would have gone."""
    monkeypatch.setattr(local_lock, "PATIENCE_S", 0.1)
    monkeypatch.setattr(s3_lease, "LEASE_S", 10.0)
    monkeypatch.setattr(s3_lease, "patience_s", lambda: 0.1)


# ---- objects


def test_what_is_put_is_got_listed_and_deleted(objects: Objects, place: str) -> None:
    assert objects.name == place and objects.sizes() == {}
    objects.put("zarr.json", b"{}")
    objects.put(KEY, b"one")
    objects.put(KEY, b"other")
    assert objects.get(KEY, 5) == b"other"
    objects.put("empty", b"")
    assert objects.get("empty", 10) == b""
    assert list(objects.sizes().items()) == [(KEY, 5), ("empty", 0), ("zarr.json", 2)], "in the order of the keys"
    objects.delete(KEY)
    objects.delete(KEY)
    objects.delete("never/was")
    assert sorted(objects.sizes()) == ["empty", "zarr.json"]
    with pytest.raises(KeyError, match=KEY):
        objects.get(KEY, 5)
    objects.put(KEY, b"again")
    assert objects.get(KEY, 5) == b"again"


def test_a_prefix_is_a_directory_and_not_a_beginning(objects: Objects) -> None:
    for key in ("crc/c.0.0", "crc/c.0.1", "crc32/c.0.0", "crc.json", "luma/crc/c"):
        objects.put(key, b"x")
    assert objects.sizes("crc") == {"crc/c.0.0": 1, "crc/c.0.1": 1}
    assert objects.sizes("nothing") == {}


def test_two_stores_side_by_side_do_not_see_each_other(objects: Objects, place: str) -> None:
    other = open_objects(f"{place}2")
    other.put(KEY, b"theirs")
    assert objects.sizes() == {}
    objects.put(KEY, b"ours")
    assert other.get(KEY, 10) == b"theirs" and other.sizes() == {KEY: 6}


def test_more_than_is_allowed_is_refused(objects: Objects) -> None:
    objects.put(KEY, b"x" * 100)
    assert objects.get(KEY, 100) == b"x" * 100
    with pytest.raises(StoreError, match="at most 99 belong there"):
        objects.get(KEY, 99)
    with pytest.raises(StoreError, match="at most 99 belong there"):
        list(objects.get_many([KEY], 99))


def test_many_are_given_in_the_order_in_which_they_are_asked_for(objects: Objects) -> None:
    keys = [f"receipts/{view}/{run}.json" for view in (10, 2, 0) for run in range(11)]
    for key in keys:
        objects.put(key, key.encode())
    asked = [*keys[:5], "receipts/3/0.json", *keys[5:], "zarr.json"]
    expected = [(key, key.encode() if key in keys else None) for key in asked]
    assert list(objects.get_many(iter(asked), 99)) == expected
    assert list(objects.get_many([], 99)) == []


def test_many_are_never_stale(objects: Objects, place: str) -> None:
    other, keys = open_objects(place), ["receipts/0/0.json", "receipts/0/1.json", "receipts/0/2.json"]
    for key in keys:
        objects.put(key, b"old")
    assert [data for _, data in objects.get_many(keys, 9)] == [b"old"] * 3
    other.delete(keys[1])
    other.put(keys[2], b"new")
    assert [data for _, data in objects.get_many(keys, 9)] == [b"old", None, b"new"]


def test_reading_many_may_be_given_up(objects: Objects) -> None:
    keys = [f"receipts/0/{run}.json" for run in range(20)]
    for key in keys:
        objects.put(key, b"x")
    for key, data in objects.get_many(keys, 9):
        assert (key, data) == (keys[0], b"x")
        break
    assert objects.get(keys[1], 9) == b"x"


def test_what_can_be_renamed_is_moved_with_all_that_is_in_it(objects: Objects, place: str) -> None:
    objects.put(KEY, b"x")
    if objects.folder is None:
        assert "://" in place, "what has a path has a folder"
        return
    objects.folder.rename(f"{place}.aside")
    assert objects.sizes() == {} and open_objects(f"{place}.aside").get(KEY, 1) == b"x"


def test_put_new_does_not_replace(objects: Objects) -> None:
    assert objects.put_new(KEY, b"first")
    assert not objects.put_new(KEY, b"second")
    assert objects.get(KEY, 10) == b"first"
    objects.delete(KEY)
    assert objects.put_new(KEY, b"third")
    assert objects.get(KEY, 10) == b"third"


def test_of_several_that_put_new_at_once_one_is_told_that_it_did(objects: Objects, place: str) -> None:
    writers, together = [open_objects(place) for _ in range(6)], threading.Barrier(6)

    def put(number: int, key: str) -> bool:
        together.wait()
        return writers[number].put_new(key, b"%d" % number)

    with ThreadPoolExecutor(6) as pool:
        for turn in range(8):
            key = f"receipts/0/{turn}.json"
            told = list(pool.map(put, range(6), [key] * 6))
            assert told.count(True) == 1
            assert objects.get(key, 9) == b"%d" % told.index(True)


def test_a_reader_sees_the_old_bytes_or_the_new(objects: Objects, place: str) -> None:
    texts, over = {b"a" * 300_000, b"b" * 200_000}, threading.Event()
    objects.put(KEY, max(texts))

    def write() -> None:
        writer = open_objects(place)
        while not over.is_set():
            for text in texts:
                writer.put(KEY, text)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            assert {objects.get(KEY, 1 << 20) for _ in range(20)} <= texts
            listed = objects.sizes().items()  # perhaps with the next one, under its temporary name
            assert {size for key, size in listed if not is_temporary(key)} <= {200_000, 300_000}
        finally:
            over.set()
        writing.result()


def test_a_put_leaves_no_other_name(objects: Objects) -> None:
    objects.put(KEY, b"x")
    objects.put(KEY, b"y")
    objects.put_new(KEY, b"z")
    objects.put_new("zarr.json", b"z")
    assert list(objects.sizes()) == [KEY, "zarr.json"]
    assert not any(map(is_temporary, objects.sizes()))


def test_objects_travel_to_other_processes(objects: Objects) -> None:
    objects.put(KEY, b"x")
    other = pickle.loads(pickle.dumps(objects))
    assert (other.name, other.get(KEY, 1), other.sizes()) == (objects.name, b"x", {KEY: 1})


# ---- locks


def test_a_second_writer_is_told_who_the_first_is(objects: Objects, place: str, impatient: None) -> None:
    with objects.lock():
        with pytest.raises(StoreError) as error, open_objects(place).lock():
            pass
        me = f"process {os.getpid()} on {socket.gethostname()}"
        assert str(error.value) == (
            f"{place} is being written by {me}; this is {me}. Wait until it ends, or end it; then run this again."
        )
        objects.put(KEY, b"x")
        assert list(objects.sizes()) == [KEY], "the lock lies beside the store"
    with open_objects(place).lock():
        pass


def test_a_lock_ends_with_whatever_ends_its_holder(objects: Objects, place: str, impatient: None) -> None:
    with pytest.raises(ZeroDivisionError), objects.lock():
        raise ZeroDivisionError
    with open_objects(place).lock():
        pass


def take(seat: Seat, *, alone: bool, follows: bool = False) -> bool:
    """What can be had now."""
    return seat.take(alone=alone, follows=follows)


@pytest.mark.parametrize(("first", "then"), [(ALONE, ALONE), (ALONE, WITH_OTHERS), (WITH_OTHERS, ALONE)])
def test_one_that_is_alone_keeps_all_others_out(
    place: str, impatient: None, first: dict[str, bool], then: dict[str, bool]
) -> None:
    def seat() -> Seat:
        return open_objects(place).seat()

    with seated(seat(), alone=False, follows=False, wait_s=0):
        pass
    with seated(seat(), **first, follows=False, wait_s=0) as held:
        assert held.first
        with pytest.raises(StoreError) as error, seated(seat(), **then, follows=False, wait_s=0):
            pass
        waited = "0.1" if then["alone"] else "0"
        who = this_process() if is_remote(place) else "other processes"  # a seat on a disk knows of none
        assert str(error.value) == (
            f"{place} is being written by {who} (waited for {waited} s). Wait until that ends, or end it; "
            "then run this again."
        )
        assert open_objects(place).sizes() == {}, "seats lie beside the store"
    with seated(seat(), **then, follows=False, wait_s=0) as held:
        assert held.first


def test_writers_come_in_when_the_first_lets_them(place: str, impatient: None) -> None:
    first, second, third = (open_objects(place).seat() for _ in range(3))
    assert take(first, alone=False) and first.first
    assert not take(second, alone=False) and not take(third, alone=False, follows=True)
    first.share()
    assert not first.first
    assert take(second, alone=False) and not second.first
    assert take(third, alone=False, follows=True) and not third.first
    first.leave()
    second.leave()
    last = open_objects(place).seat()
    assert not take(last, alone=True), "the third still writes"
    third.leave()
    assert take(last, alone=True) and last.first
    last.leave()


def test_those_who_write_are_known_to_whoever_looks(place: str, often: None) -> None:
    """A lease says with its next renewal what it is told."""

    def told() -> list[tuple[int, bool | None, object]]:
        return [(writer.pid, writer.alive, writer.told.get("rate")) for writer in open_objects(place).writers()]

    assert told() == []
    with seated(open_objects(place).seat(), alone=True, follows=False, wait_s=0) as seat:
        seat.say({"rank": 0, "state": "labels", "rate": 5.0})
        eventually(lambda: told() == [(os.getpid(), True, 5.0)])
        assert [writer.state for writer in open_objects(place).writers()] == ["labels"]
    assert told() == []


def test_one_that_follows_is_never_first(place: str) -> None:
    with seated(open_objects(place).seat(), alone=False, follows=True, wait_s=0) as seat:
        assert not seat.first


def test_the_lock_and_the_seats_are_two_things(objects: Objects, place: str, impatient: None) -> None:
    with seated(objects.seat(), alone=True, follows=False, wait_s=0), open_objects(place).lock():
        objects.put(KEY, b"x")
    assert objects.get(KEY, 1) == b"x"
