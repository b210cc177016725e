"""Kills, failing calls, flipped bits, foreign and hostile objects. The campaign runs the same with larger counts."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.durable import canonical
from pipeline.durable.local import LocalObjects
from pipeline.durable.objects import open_objects
from pipeline.errors import StoreError, UserError
from pipeline.inspection.audit import audit
from pipeline.store.layout import Unit
from pipeline.store.reader import StoreReader, stored_index
from pipeline.store.writer import StoreWriter
from tests.damaged_stores import (
    INDEX,
    MANIFEST,
    VIEWS,
    count_calls,
    damage,
    files,
    lose_the_rest,
    read_everything,
    replace_object,
    reseal,
    whole_run,
)
from tests.faults import Calls, in_child, memory_disk, small_disk, wait_for
from tests.stores import fill, finished, index_of, labels_of, manifest_of, open_writing, tree

KILLS, KILL_POINTS, FAILING_CALLS, FLIPS_A_FILE = 15, 12, 20, 2


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with memory_disk() as path:
        yield path


@pytest.fixture(scope="module")
def reference() -> Iterator[Path]:
    """A finished store, for reading only."""
    with memory_disk() as path:
        finished(path / "store.zarr", MANIFEST, INDEX, VIEWS)
        yield path / "store.zarr"


# ---- kills


def timed_run(path: Path) -> float:
    """A run in a process of its own; how long a processor was at work on it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert wait_for(in_child(lambda: whole_run(path))) == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_killed_at_random_times_it_ends_the_same(tmp_path: Path, reference: Path) -> None:
    """After a share of the time that a processor is at work on a run, however long others keep it from that."""
    generator = np.random.default_rng(0)
    path = tmp_path / "store.zarr"
    duration = min(timed_run(tmp_path / f"timed{number}.zarr") for number in range(3))
    killed = 0
    for _ in range(KILLS):
        after = max(duration * generator.uniform(0, 0.6), 1e-6)

        def doomed(after: float = after) -> None:
            signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends a process as a kill does
            signal.setitimer(signal.ITIMER_PROF, after)
            whole_run(path)

        killed += wait_for(in_child(doomed)) == -signal.SIGPROF
        lose_the_rest(path, generator)
        if (path / "COMPLETE").exists():
            assert tree(path) == tree(reference)
            shutil.rmtree(path)
    assert killed >= KILLS // 3, "too few runs were killed in their midst to show anything"
    whole_run(path)
    assert tree(path) == tree(reference)


def test_killed_at_any_call_it_ends_the_same(tmp_path: Path, reference: Path) -> None:
    generator = np.random.default_rng(1)
    total = count_calls(tmp_path / "counted.zarr")
    for at in np.linspace(0, total - 1, KILL_POINTS).astype(int).tolist():
        path = tmp_path / f"{at}.zarr"

        def killed(path: Path = path, at: int = at) -> None:
            with Calls(at, kill=True).active():
                whole_run(path)

        assert wait_for(in_child(killed)) == -signal.SIGKILL
        lose_the_rest(path, generator)
        whole_run(path)
        assert tree(path) == tree(reference), at


def test_killed_while_growing_it_ends_the_same(tmp_path: Path, reference: Path) -> None:
    with open_writing(tmp_path / "one.zarr", MANIFEST, INDEX, 1) as store:
        fill(store)
        store.finish()
    for at in range(0, 60, 6):
        path = tmp_path / f"{at}.zarr"
        shutil.copytree(tmp_path / "one.zarr", path)

        def killed(path: Path = path, at: int = at) -> None:
            with Calls(at, kill=True).active():
                whole_run(path)

        assert wait_for(in_child(killed)) == -signal.SIGKILL
        with pytest.raises(StoreError):
            StoreReader.open(path)
        whole_run(path)
        assert tree(path) == tree(reference), at


# ---- the system fails


def test_a_failure_of_any_call_is_a_clear_error_and_resumes_the_same(tmp_path: Path, reference: Path) -> None:
    total = count_calls(tmp_path / "counted.zarr")
    errors = [errno.EIO, errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EACCES]
    for number, at in enumerate(np.linspace(0, total - 1, FAILING_CALLS).astype(int).tolist()):
        path, error = tmp_path / f"{at}.zarr", errors[number % len(errors)]
        calls = Calls(at, error)
        with pytest.raises(StoreError) as raised, calls.active():
            whole_run(path)
        assert os.strerror(error) in str(raised.value) and str(path) in str(raised.value), calls.made[at]
        assert "then run this again: nothing that was finished is lost." in str(raised.value)
        if at < total - 1:  # only the flush after COMPLETE has its name can fail on a store that is whole
            with pytest.raises(StoreError):
                StoreReader.open(path)
        whole_run(path)
        assert tree(path) == tree(reference), calls.made[at]


def test_a_full_disk_stops_it_and_more_room_lets_it_go_on(tmp_path: Path) -> None:
    index = index_of(4000)
    manifest = manifest_of(index, "dense", num_classes=400, unit_rows=1024)
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "store.zarr"
        with pytest.raises(StoreError) as error, open_writing(path, manifest, index, 3) as store:
            fill(store)
        assert "No space left on device (" in str(error.value) and "Make room, or give another --out" in str(
            error.value
        )
        with pytest.raises(StoreError, match="is not finished"):
            StoreReader.open(path)
        assert not any(".tmp-" in key for key in files(path))
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        with open_writing(path, manifest, index, 3) as store:
            assert 0 < len(store.missing()) < 12
            fill(store)
            store.finish()
        finished(tmp_path / "store.zarr", manifest, index, 3)
        assert tree(path) == tree(tmp_path / "store.zarr")


# ---- what stands in the store is not what was written


def test_no_flipped_bit_is_read(tmp_path: Path, reference: Path) -> None:
    path = tmp_path / "store.zarr"
    shutil.copytree(reference, path)
    generator = np.random.default_rng(2)
    for key in files(path):
        data = (path / key).read_bytes()
        for bit in generator.integers(0, len(data) * 8, FLIPS_A_FILE).tolist():
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            (path / key).write_bytes(flipped)
            if key.startswith("receipts/"):
                read_everything(path)
            else:
                with pytest.raises(StoreError) as error:
                    read_everything(path)
                assert str(path) in str(error.value) and "Run teacher_logits" in str(error.value), (key, bit)
        where = [finding.where for finding in audit(path)]
        assert f"{path}/{key}" in where, key
        (path / key).write_bytes(data)
    assert audit(path) == []


@pytest.mark.parametrize("kind", ["delete", "empty", "longer"])
def test_no_object_may_be_absent_or_of_another_size(tmp_path: Path, reference: Path, kind: str) -> None:
    path = tmp_path / "store.zarr"
    shutil.copytree(reference, path)
    for key in files(path):
        data = (path / key).read_bytes()
        damage(path / key, kind)
        if not key.startswith("receipts/"):
            with pytest.raises(StoreError) as error:
                StoreReader.open(path)
            assert str(path) in str(error.value), key
        assert [f for f in audit(path) if f.where == f"{path}/{key}"], key
        (path / key).write_bytes(data)


def test_the_message_says_what_where_and_what_to_do(tmp_path: Path, reference: Path) -> None:
    path = tmp_path / "store.zarr"
    shutil.copytree(reference, path)
    remedy = "Run teacher_logits --recheck on this store: it computes what is damaged. Or restore it from a copy."
    key = path / "argmax/c.1.1"
    data = key.read_bytes()
    opened = StoreReader.open(path)
    key.write_bytes(bytes(len(data)))
    with pytest.raises(StoreError) as error:
        opened.read(1, 1)
    now, then = canonical.sha256(bytes(len(data)))[:12], canonical.sha256(data)[:12]
    assert str(error.value) == f"{key} (unit view 1, run 1) has SHA-256 {now}; {then} was written. {remedy}"
    key.write_bytes(data[:-1])
    with pytest.raises(StoreError) as error:
        StoreReader.open(path)
    assert str(error.value) == (
        f"{key} (unit view 1, run 1) has {len(data) - 1} bytes; {len(data)} were written. {remedy}"
    )
    key.unlink()
    with pytest.raises(StoreError) as error:
        StoreReader.open(path)
    assert str(error.value) == f"{key} (unit view 1, run 1) is absent; {len(data)} bytes were written. {remedy}"


def test_objects_in_another_place_or_from_another_store_are_refused(tmp_path: Path, reference: Path) -> None:
    path = tmp_path / "store.zarr"
    shutil.copytree(reference, path)
    stranger = tmp_path / "stranger.zarr"
    with open_writing(
        stranger, dataclasses.replace(MANIFEST, teacher=dataclasses.replace(MANIFEST.teacher, name="x")), INDEX, VIEWS
    ) as store:
        for unit in store.missing():
            store.write(unit, labels_of(MANIFEST, unit, salt=9))
        store.finish()
    before = tree(path)
    for one, other in [("argmax/c.0.0", "argmax/c.1.0"), ("lse/c.0.0.0", "lse/c.0.1.0"), ("crc/c.0.1", "crc/c.1.1")]:
        (path / one).write_bytes(before[other])
        (path / other).write_bytes(before[one])
        with pytest.raises(StoreError, match=r"w(as|ere) written"):
            read_everything(path)
        (path / one).write_bytes(before[one])
        (path / other).write_bytes(before[other])
    for key, theirs in tree(stranger).items():
        if not key.endswith("/") and theirs != before[key] and not key.startswith("receipts/"):
            (path / key).write_bytes(theirs)
            with pytest.raises(StoreError):
                read_everything(path)
            (path / key).write_bytes(before[key])
    read_everything(path)


UNIT_OBJECT = re.compile(r"(argmax|crc|luma|lse|topk_index|topk_logit)/c\.")

REPRESENTATIVES = (
    *("zarr.json", "argmax/zarr.json", "index/zarr.json", "index/key_bytes/c.0", "witness/pixels/c.0.0.0.0"),
    *("receipts/base.json", "receipts/1/1.json", "COMPLETE", "crc/c.0.1", "topk_logit/c.1.1.0"),
)


@pytest.mark.parametrize("recheck", [True, False])
def test_opening_for_writing_mends_whatever_it_sees_to_be_damaged(tmp_path: Path, reference: Path, recheck) -> None:
    """What only the bytes of a unit show is seen by a recheck, or else told when they are read."""
    kinds = ["flip", "delete", "cut", "empty", "zero", "longer"]
    for number, key in enumerate(REPRESENTATIVES):
        for kind in (kinds[number % 6], kinds[(number + 1) % 6]):
            path = tmp_path / f"{number}{kind}.zarr"
            shutil.copytree(reference, path)
            damage(path / key, kind)
            whole_run(path, recheck=recheck)
            if recheck or kind not in ("flip", "zero") or not UNIT_OBJECT.match(key):
                assert tree(path) == tree(reference), (key, kind)
                continue
            assert [finding.where for finding in audit(path)] == [f"{path}/{key}"]
            with pytest.raises(StoreError, match=r"Run teacher_logits --recheck on this store"):
                read_everything(path)
            whole_run(path, recheck=True)
            assert tree(path) == tree(reference), (key, kind)


def test_going_on_lists_what_is_finished_and_reads_none_of_its_labels(tmp_path: Path, monkeypatch) -> None:
    path, read = tmp_path / "store.zarr", []
    with open_writing(path, MANIFEST, INDEX, VIEWS) as store:
        fill(store, store.missing()[:-1])
    original = LocalObjects.get

    def get(self: LocalObjects, key: str, limit: int) -> bytes:
        read.append(key)
        return original(self, key, limit)

    monkeypatch.setattr(LocalObjects, "get", get)
    with open_writing(path, MANIFEST, INDEX, VIEWS) as store:
        assert len(store.missing()) == 1
        fill(store)
        store.finish()
    with open_writing(path, MANIFEST, INDEX, VIEWS + 1) as store:
        assert [unit.view for unit in store.missing()] == [VIEWS] * store.layout.runs
    assert read and not [key for key in read if UNIT_OBJECT.match(key)]
    with open_writing(path, MANIFEST, INDEX, VIEWS + 1, recheck=True) as store:
        fill(store)
    assert len({key for key in read if UNIT_OBJECT.match(key)}) == VIEWS * store.layout.runs * len(
        store.layout.unit_arrays()
    )


def test_a_damaged_unit_alone_is_computed_again(tmp_path: Path, reference: Path) -> None:
    path = tmp_path / "store.zarr"
    shutil.copytree(reference, path)
    damage(path / "argmax/c.1.0", "flip")
    damage(path / "receipts/0/1.json", "flip")
    with open_writing(path, MANIFEST, INDEX, VIEWS, recheck=True) as store:
        assert store.missing() == [Unit(0, 1), Unit(1, 0)]
        assert not (path / "COMPLETE").exists() and not (path / "argmax/c.1.0").exists()
        assert not (path / "crc/c.0.1").exists()


# ---- what stands in the store was written by an enemy


def test_a_bomb_with_the_right_digest_gets_no_memory(tmp_path: Path, reference: Path) -> None:
    path = tmp_path / "store.zarr"
    shutil.copytree(reference, path)
    store = StoreReader.open(path)
    huge = dataclasses.replace(
        store.layout.unit_arrays()["argmax"], shape=(1, 1 << 29), block=(1, 1 << 29), rows=1 << 29
    )
    packed = huge.encode(np.zeros((1, 1 << 29), np.uint8))[:-20]
    index = np.array([[0, len(packed)]], "<u8").tobytes()
    bomb = packed + index + google_crc32c.value(index).to_bytes(4, "little")
    replace_object(path, "argmax/c.0.0", bomb, array="argmax")
    before, unit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 1 if sys.platform == "darwin" else 1024
    with pytest.raises(StoreError, match=r"argmax/c\.0\.0: chunk 0 declares 536870912 bytes"):
        StoreReader.open(path).read(0, 0)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 100_000_000


def test_rewritten_metadata_is_refused_even_with_the_right_digest(tmp_path: Path, reference: Path) -> None:
    root = canonical.load((reference / "zarr.json").read_bytes())
    array = canonical.load((reference / "argmax/zarr.json").read_bytes())
    rewritten: list[tuple[str, dict[str, Any]]] = []
    for change in (
        {"codecs": [{"name": "numcodecs.pickle"}]},
        {"data_type": "object"},
        {"shape": [2, 2**40]},
        {"fill_value": 7},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 2**40]}}},
        {"storage_transformers": []},
        {"attributes": {"meaning": "something else"}},
    ):
        rewritten.append(("argmax/zarr.json", {**array, **change}))
        nodes = {**root["consolidated_metadata"]["metadata"], "argmax": {**array, **change}}
        rewritten.append(
            ("zarr.json", {**root, "consolidated_metadata": {**root["consolidated_metadata"], "metadata": nodes}})
        )
    for key, record in rewritten:
        path = tmp_path / "store.zarr"
        shutil.copytree(reference, path)
        replace_object(path, key, canonical.dump(record))
        with pytest.raises(StoreError):
            StoreReader.open(path)
        shutil.rmtree(path)


def test_an_object_outside_of_the_store_is_not_looked_at(tmp_path: Path, reference: Path) -> None:
    path = tmp_path / "store.zarr"
    shutil.copytree(reference, path)
    (tmp_path / "secret").write_bytes(b"secret")
    reseal(path, lambda record: record["base"]["objects"].update({"../secret": f"6 {canonical.sha256(b'secret')}"}))
    expected = f"{path}/COMPLETE is damaged: it has other fields or objects than a base receipt."
    with pytest.raises(StoreError) as error:
        StoreReader.open(path)
    assert str(error.value).startswith(expected)
    assert len(audit(path)) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2**65) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def mutate(data: st.DataObject, value: Any) -> Any:
    """The value with something else at some place in it."""
    if isinstance(value, dict) and value and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(sorted(value)))
        return {**value, key: mutate(data, value[key])}
    if isinstance(value, list) and value and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(value) - 1))
        return [*value[:at], mutate(data, value[at]), *value[at + 1 :]]
    return data.draw(JSON)


@settings(max_examples=30, deadline=None)
@given(st.data(), st.sampled_from(["COMPLETE", "zarr.json", "receipts/base.json", "receipts/0/0.json"]))
def test_records_of_an_enemy_are_refused_or_harmless(reference: Path, data: st.DataObject, key: str) -> None:
    original = (reference / key).read_bytes()
    record = canonical.load(original) if key == "zarr.json" else canonical.unseal(original)
    name = data.draw(st.sampled_from(sorted(record)))
    changed = {**record, name: mutate(data, record[name])}
    with memory_disk() as directory:
        path = directory / "store.zarr"
        shutil.copytree(reference, path)
        if key == "zarr.json":
            replace_object(path, key, canonical.dump(changed))
        else:
            (path / key).write_bytes(canonical.seal({k: v for k, v in changed.items() if k != canonical.SEAL}))
        for use in (StoreReader.open, attach, stored_index, audit):
            with suppress(UserError):
                use(path)
        try:
            whole_run(path)
        except UserError:
            return
        if key != "zarr.json":
            assert tree(path) == tree(reference)


def attach(path: Path) -> StoreWriter:
    """A further writer."""
    return StoreWriter.attach(open_objects(path))


# ---- two writers


def test_of_several_writers_one_proceeds_and_the_others_are_told(tmp_path: Path, reference: Path) -> None:
    path = tmp_path / "store.zarr"

    def writer() -> None:
        try:
            whole_run(path)
        except StoreError as error:
            assert "is being written by" in str(error)
            os._exit(7)

    for _ in range(3):
        ends = [wait_for(child) for child in [in_child(writer) for _ in range(4)]]
        assert set(ends) <= {0, 7} and 0 in ends
        assert tree(path) == tree(reference)
        shutil.rmtree(path)
