"""A large index is unpacked once a node and mapped by all; what is not what it must be is never used."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.durable.objects import open_objects
from pipeline.errors import ShardError, StoreError, UserError
from pipeline.remote.cache import Cache
from pipeline.remote.cache_settings import cache
from pipeline.shards import index as index_module
from pipeline.shards import index_checks as columns
from pipeline.shards import index_file as mapped
from pipeline.shards.index import SampleIndex, from_blocks, share
from pipeline.shards.index_checks import DTYPES, Facts, content_digest, lengths_of
from pipeline.shards.index_file import HEAD, Mapped, OtherContentError
from pipeline.store.reader import StoreReader, find_complete, find_layout, read_index, stored_index
from tests.servers.s3 import forget, point_at, s3_server
from tests.stores import finished, index_of, manifest_of

ROWS = 300
INDEX = index_of(ROWS)
SIZES = lengths_of(INDEX.arrays())
SPAWN, FORK = (multiprocessing.get_context(method) for method in ("spawn", "fork"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and every index counts as large."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DISTILL_CACHE_DIR", str(folder))
    monkeypatch.setenv("DISTILL_CACHE_SIZE", "1G")
    monkeypatch.setattr(index_module, "LARGE", 1)
    return folder


def unpacked_again(_name: str) -> Iterator[Any]:
    raise AssertionError("the index is on this node already")


def opened(blocks: Callable[[str], Any] = lambda name: [INDEX.arrays()[name]]) -> SampleIndex:
    return from_blocks(INDEX.urls, INDEX.class_names, INDEX.digest(), SIZES, blocks)


def place_of(index: SampleIndex) -> Path:
    assert isinstance(index.proof, Mapped)
    return index.proof.place


def same(index: SampleIndex) -> bool:
    return all(np.array_equal(array, INDEX.arrays()[name]) for name, array in index.arrays().items())


def test_the_second_maps_what_the_first_has_unpacked(folder: Path) -> None:
    first = opened()
    second = opened(unpacked_again)
    assert first.mapped
    assert second.mapped
    assert same(first)
    assert same(second)
    assert place_of(first) == place_of(second)
    assert place_of(first).parent == folder
    assert second.digest() == INDEX.digest()
    assert second.key(7) == INDEX.key(7)
    assert (second.num_classes, second.unlabelled) == (5, 0)
    with pytest.raises(ValueError, match="read-only"):
        second.classes[0] = 1


def test_blocks_may_be_cut_anywhere() -> None:
    index = opened(lambda name: np.array_split(INDEX.arrays()[name], 7))
    assert same(index)


def test_a_mapped_index_is_sent_as_a_name() -> None:
    index = opened()
    sent = pickle.dumps(index)
    assert len(sent) < 1000 < len(pickle.dumps(INDEX))
    again = pickle.loads(sent)
    assert again.mapped
    assert same(again)
    assert (again.urls, again.class_names) == (INDEX.urls, INDEX.class_names)


def test_one_in_memory_is_sent_whole_and_stays_read_only() -> None:
    again = pickle.loads(pickle.dumps(INDEX))
    assert not again.mapped
    assert same(again)
    assert again.digest() == INDEX.digest()
    with pytest.raises(ValueError, match="read-only"):
        again.classes[0] = 1


def test_sharing_moves_it_out_of_memory() -> None:
    index = dataclasses.replace(INDEX, urls=("elsewhere.tar",))
    shared = share(index)
    assert shared.mapped
    assert same(shared)
    assert shared.urls == ("elsewhere.tar",)
    assert share(shared) is shared
    assert place_of(opened(unpacked_again)) == place_of(shared)


def test_small_ones_need_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "LARGE", 1 << 20)
    assert not opened().mapped
    assert not share(INDEX).mapped
    assert not folder.exists()


def test_what_was_checked_is_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    index = opened()

    def checked_again(*_: object) -> Facts:
        raise AssertionError("the arrays are the same")

    monkeypatch.setattr(columns, "prove", checked_again)
    monkeypatch.setattr(mapped, "_digest", checked_again)
    assert dataclasses.replace(index, urls=("elsewhere.tar",)).mapped
    assert dataclasses.replace(INDEX, urls=("elsewhere.tar",)).digest() == INDEX.digest()
    assert opened(unpacked_again).mapped  # while another has it mapped
    assert pickle.loads(pickle.dumps(index)).mapped
    with pytest.raises(AssertionError, match="the arrays are the same"):
        dataclasses.replace(index, classes=index.classes + 1)


def test_other_arrays_lose_the_proof() -> None:
    changed = dataclasses.replace(opened(), classes=INDEX.classes + 1)
    assert not changed.mapped
    assert changed.num_classes == 6
    assert changed.digest() != INDEX.digest()
    with pytest.raises(ShardError, match="classes must lie in"):
        dataclasses.replace(opened(), classes=INDEX.classes - 9)


def test_what_verify_reads_it_reads_anew() -> None:
    opened()
    other = index_of(ROWS, salt=1)
    with pytest.raises(OtherContentError):
        from_blocks(INDEX.urls, None, INDEX.digest(), SIZES, lambda name: [other.arrays()[name]], anew=True)


# ---- damage


def spoil(place: Path, how: str) -> None:
    """Change the file as an accident might; in place, so that it stays the same file."""
    if how == "a folder":
        place.unlink()
        place.mkdir()
        return
    if how == "a link":
        place.rename(place.with_name("aside"))
        place.symlink_to(place.with_name("aside"))
        return
    place.chmod(0o600)
    with place.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if how == "emptied":
            file.truncate(0)
        elif how == "cut":
            file.truncate(size - 1)
        elif how == "grown":
            file.write(b"\0")
        elif how == "foreign":
            file.seek(0)
            file.write(b"\x89PNG" * (size // 4))
        else:
            at = {"head": 40, "first array": HEAD, "last array": size - 4096}[how]
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))


ACCIDENTS = ("emptied", "cut", "grown", "foreign", "head", "first array", "last array", "a link")


@pytest.mark.parametrize("how", ACCIDENTS)
def test_damage_is_noticed_and_mended(how: str) -> None:
    place = place_of(opened())
    spoil(place, how)
    index = opened()
    assert index.mapped
    assert same(index)
    assert not place.is_symlink()
    assert same(opened(unpacked_again))


def test_damage_is_noticed_though_the_time_says_nothing() -> None:
    place = place_of(opened())
    before = place.stat().st_mtime_ns
    spoil(place, "last array")
    os.utime(place, ns=(before, before))
    assert same(opened())


@pytest.mark.parametrize("how", [how for how in ACCIDENTS if how not in ("emptied", "cut")])
def test_damage_while_it_is_mapped_is_noticed_by_who_joins(how: str) -> None:
    holder = opened()
    spoil(place_of(holder), how)
    assert same(opened())
    assert same(opened(unpacked_again))


def test_what_cannot_be_replaced_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    place = place_of(opened())
    spoil(place, "a folder")
    with caplog.at_level(logging.WARNING):
        index = opened()
    assert not index.mapped
    assert same(index)
    assert "each process holds" in caplog.text


def test_an_index_of_another_digest_is_another_file() -> None:
    other = index_of(ROWS, salt=1)
    ours, theirs = opened(), share(other)
    assert place_of(ours) != place_of(theirs)
    place_of(ours).write_bytes(place_of(theirs).read_bytes())
    del ours
    assert same(opened())


def test_wrong_lengths_are_not_answered_from_the_file() -> None:
    opened()
    lengths = {**SIZES, "key_bytes": SIZES["key_bytes"] + 1}
    with pytest.raises(ShardError, match="do not fill key_bytes"):
        from_blocks(
            INDEX.urls, None, INDEX.digest(), lengths,
            lambda name: [INDEX.arrays()[name], *([np.array([97], np.uint8)] if name == "key_bytes" else [])],
        )  # fmt: skip
    assert same(opened(unpacked_again))


@pytest.mark.parametrize("large", [1, 1 << 30])
def test_the_wrong_content_gets_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    monkeypatch.setattr(index_module, "LARGE", large)
    other = index_of(ROWS, salt=1)
    with pytest.raises(OtherContentError) as error:
        opened(lambda name: [other.arrays()[name]])
    assert error.value.found == other.digest()
    assert [path for path in folder.glob("*") if not path.suffix] == []


def test_unsound_arrays_get_no_file_even_with_their_own_digest(folder: Path) -> None:
    arrays = {**INDEX.arrays(), "offsets": INDEX.offsets[::-1].copy()}
    digest = content_digest(SIZES, lambda name: (arrays[name].data,))
    with pytest.raises(ShardError, match="payloads overlap"):
        from_blocks(INDEX.urls, None, digest, SIZES, lambda name: [arrays[name]])
    assert [path for path in folder.glob("*") if path.suffix in ("", ".part") and path.name != "room"] == []


# ---- where there is no place for it


def test_without_a_folder_it_stays_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DISTILL_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        index = opened()
    assert not index.mapped
    assert same(index)
    assert caplog.messages == [
        f"the index cannot be unpacked into {tmp_path}/file/cache (Not a directory): each process holds 0 MB of its "
        "own. Give a --cache-dir that can be written and has room."
    ]


def test_without_room_it_stays_in_memory(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("DISTILL_CACHE_SIZE", "1K")
    with caplog.at_level(logging.WARNING):
        assert not opened().mapped
    assert "may hold 1,000 bytes" in caplog.text


def test_it_makes_room_for_others_unless_it_is_in_use() -> None:
    index = opened()
    place, whole = place_of(index), cache().limit
    with pytest.raises(ShardError, match="are in use"):
        cache().make_room(whole)
    assert place.exists()
    del index
    cache().make_room(whole)
    assert not place.exists()
    assert same(opened())


# ---- several processes


def _look(queue: Any, index: SampleIndex) -> None:
    queue.put((index.mapped, index.digest(), index.key(3)))


def _open(queue: Any, path: Path, started: Any) -> None:
    started.wait(180)
    index = StoreReader.open(path).index
    queue.put((index.mapped, same(index), place_of(index).stat().st_ino))
    started.wait(180)  # nobody lets go before all have it


def _die_unpacking() -> None:
    def blocks(name: str) -> Iterator[Any]:
        if name == "classes":
            os.kill(os.getpid(), signal.SIGKILL)
        yield INDEX.arrays()[name]

    opened(blocks)


def test_a_spawned_process_maps_it() -> None:
    queue = SPAWN.Queue()
    process = SPAWN.Process(target=_look, args=(queue, opened()))
    process.start()
    assert queue.get(timeout=180) == (True, INDEX.digest(), INDEX.key(3))
    process.join()


def test_processes_that_open_a_store_at_once_share_one_file(tmp_path: Path) -> None:
    finished(tmp_path / "store.zarr", manifest_of(INDEX), INDEX)
    queue, started = FORK.Queue(), FORK.Barrier(3)
    crew = [FORK.Process(target=_open, args=(queue, tmp_path / "store.zarr", started), daemon=True) for _ in range(3)]
    for process in crew:
        process.start()
    found = {queue.get(timeout=180) for _ in crew}
    for process in crew:
        process.join()
    ((is_mapped, is_same, _),) = found
    assert is_mapped
    assert is_same


@pytest.mark.parametrize("step", ["it has its part", "it has written some"])
def test_whoever_makes_room_meanwhile_leaves_it_alone(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """At the first moment at which there is a part, too."""
    fdopen = os.fdopen

    def another() -> None:
        Cache(cache().folder, 1 << 30).make_room(10)

    def begun(descriptor: int, mode: str) -> Any:
        if step == "it has its part":
            another()
        return fdopen(descriptor, mode)

    def blocks(name: str) -> Iterator[Any]:
        if step == "it has written some":
            another()
        yield INDEX.arrays()[name]

    monkeypatch.setattr(mapped.os, "fdopen", begun)
    index = opened(blocks)
    assert index.mapped
    assert same(index)


def test_a_process_that_is_killed_while_unpacking_leaves_nothing_that_is_used(folder: Path) -> None:
    process = FORK.Process(target=_die_unpacking)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list(folder.glob("*.part"))) == 1
    assert same(opened())
    assert list(folder.glob("*.part")) == []


def test_a_file_that_was_removed_is_told_to_who_was_sent_its_name() -> None:
    index = opened()
    sent = pickle.dumps(index)
    place_of(index).unlink()
    assert same(index)  # mapped still
    with pytest.raises(UserError) as error:
        pickle.loads(sent)
    assert str(error.value) == (
        f"The unpacked index {place_of(index)} was removed or changed while it was in use. Start again."
    )


# ---- through a store


def test_a_store_is_read_through_it(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    store = finished(path, manifest_of(INDEX), INDEX)
    assert store.index.mapped
    assert same(store.index)
    again = stored_index(path)
    assert again is not None
    assert place_of(again) == place_of(store.index)


def test_from_s3_it_is_read_once_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as (port, client):
        point_at(port, monkeypatch)
        try:
            store = finished("s3://bucket/store.zarr", manifest_of(INDEX), INDEX)  # type: ignore[arg-type]
            assert store.index.mapped
            objects = open_objects(store.name)
            base, _ = find_complete(objects)
            for name in DTYPES:
                client.delete_object(Bucket="bucket", Key=f"store.zarr/index/{name}/c.0")
            again = StoreReader.open("s3://bucket/store.zarr", check_sizes=False)
            assert same(again.index)
            with pytest.raises(StoreError, match=r"index/shard_sizes/c\.0 is absent"):
                read_index(objects, again.layout, base, anew=True)
        finally:
            forget()


def test_a_store_with_another_index_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    manifest = dataclasses.replace(finished(path, manifest_of(INDEX), INDEX).manifest, index_digest="ab" * 32)
    objects = open_objects(path)
    base, table = find_complete(objects)
    store = StoreReader(objects, dataclasses.replace(find_layout(objects, base), manifest=manifest), base, table)
    with pytest.raises(
        StoreError, match=f"its index has digest {INDEX.digest()[:12]}, its manifest names abababababab"
    ):
        _ = store.index


def test_every_array_begins_on_a_page() -> None:
    starts = mapped._starts(SIZES)
    assert list(starts) == [*DTYPES, ""]
    assert all(start % 4096 == 0 for start in starts.values())
