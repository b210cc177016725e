"""The index: one scan, flat arrays, and no trust in an index that came from elsewhere."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import MismatchError, ShardError
from pipeline.shards import index_checks as columns
from pipeline.shards.index import SampleIndex, scan
from pipeline.shards.index_checks import DTYPES, class_changes
from pipeline.shards.rows import payload_of
from pipeline.shards.same_pictures import moved_to
from pipeline.shards.samples import key_hashes
from tests.pictures import jpeg, sample, tiny_shards, write_tar

IMAGE = jpeg(0)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    return tiny_shards(tmp_path_factory.mktemp("shards"), 13, shards=3, class_names=["a", "b", "c"])


@pytest.fixture(scope="module")
def index(shards: tuple[str, ...]) -> SampleIndex:
    return scan(shards)


def test_rows_run_through_all_shards(index: SampleIndex, shards: tuple[str, ...]) -> None:
    assert len(index) == 13
    assert index.urls == shards
    assert [index.key(row) for row in range(13)] == [f"s0/{row:06d}" for row in range(13)]
    assert index.shard_starts.tolist() == [0, 4, 8, 13]
    assert index.shard_of([0, 3, 4, 7, 8, 12]).tolist() == [0, 0, 1, 1, 2, 2]
    assert index.classes.tolist() == [row % 3 for row in range(13)]
    assert index.class_names == ("a", "b", "c")
    assert index.num_classes == 3
    with index.files() as files:
        assert [payload_of(index, files, row) for row in (12, 0)] == [jpeg(12, 56, 56), jpeg(0)]


def test_workers_change_nothing(
    index: SampleIndex, shards: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    again = scan(shards, workers=2, progress=True)
    assert again.digest() == index.digest()
    assert again.urls == index.urls
    assert "scan  3/3 shards | 100.0% |" in capsys.readouterr().err


def test_the_digest_is_of_the_content_alone(index: SampleIndex, shards: tuple[str, ...], tmp_path: Path) -> None:
    moved = [shutil.copy(url, tmp_path / f"other{number}.tar") for number, url in enumerate(shards)]
    assert scan([str(path) for path in moved]).digest() == index.digest()
    assert index.digest() != scan(shards[::-1]).digest()
    assert index.digest() != scan(tiny_shards(tmp_path, 13, shards=3, seed=1)).digest()
    assert len(index.digest()) == 64


def test_the_digest_is_pinned() -> None:
    """Stores are held to this number: a change of the serialisation makes every old store a stranger."""
    arrays = {name: np.array(values, DTYPES[name]) for name, values in SMALL.items()}
    digest = SampleIndex.from_arrays(["x"], None, arrays).digest()
    assert digest == "73a59f9dd1300b1712fa9acfa1d04a47d6e420c29388bde58314fb234bef9ea4"


SMALL: dict[str, Any] = {
    "shard_sizes": [10240],
    "shard_starts": [0, 2],
    "key_bytes": list(b"aab"),
    "key_starts": [0, 1, 3],
    "key_hash": key_hashes([b"a", b"ab"]),
    "classes": [0, -1],
    "offsets": [512, 2048],
    "lengths": [700, 0],
    "payload_crc": [1, 2],
    "widths": [4, 0],
    "heights": [3, 0],
}


def test_round_trip_through_arrays_and_pickle(index: SampleIndex) -> None:
    again = SampleIndex.from_arrays(index.urls, index.class_names, index.arrays())
    assert again.digest() == index.digest()
    assert again.class_names == index.class_names
    assert tuple(index.arrays()) == SampleIndex.ARRAYS
    assert pickle.loads(pickle.dumps(index)).digest() == index.digest()
    with pytest.raises(ValueError, match="read-only"):
        index.classes[0] = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard_sizes": [0]}, "a shard has an impossible size"),
        ({"shard_sizes": [2**61]}, "a shard has an impossible size"),
        ({"shard_sizes": [5000, 5000]}, "it has 1 shards and 2 sizes"),
        ({"shard_starts": [0, 1, 2]}, "it has 1 shards and 3 first rows"),
        ({"shard_starts": [1, 2]}, "its shards do not hold rows 0 to 2"),
        ({"shard_starts": [0, 2**62]}, "its shards do not hold rows 0 to 2"),
        ({"key_starts": [0, 3]}, "key_starts has 2 entries for 2 rows"),
        ({"key_starts": [0, 1, 2**62]}, "its keys do not fill key_bytes"),
        ({"key_starts": [0, 0, 3]}, "a key is empty, or keys are out of order"),
        ({"key_starts": [0, 4, 3]}, "a key is empty, or keys are out of order"),
        ({"key_bytes": [97, 10, 98]}, "a key has a control character"),
        ({"key_bytes": [97, 127, 98]}, "a key has a control character"),
        ({"key_bytes": [97, 255, 98]}, "a key is not UTF-8"),
        ({"key_bytes": [0xC3, 0xBC, 98]}, "a key begins inside a character"),
        ({"key_hash": [1, 2]}, "key_hash of row 0 is not that of its key"),
        ({"key_hash": [1]}, "key_hash has 1 entries for 2 rows"),
        ({"classes": [0, -2]}, "classes must lie in -1 to 1,048,575"),
        ({"classes": [0, 2**20]}, "classes must lie in -1 to 1,048,575"),
        ({"offsets": [-1, 2048]}, "a payload lies before its shard"),
        ({"offsets": [512, 2**62]}, "a payload lies outside its shard"),
        ({"offsets": [512, 1000]}, "payloads overlap, or are out of order"),
        ({"lengths": [700, -1]}, "a payload lies before its shard"),
        ({"lengths": [2**40, 0]}, "a payload has over 268,435,456 bytes"),
        ({"lengths": [700, 9000]}, "a payload lies outside its shard"),
        ({"widths": [4, -1]}, "a picture has a negative size"),
        ({"widths": [4, 1]}, "a picture has a width without a height"),
        ({"widths": [2**30, 0], "heights": [2**30, 0]}, "a picture has over 64,000,000 pixels"),
    ],
)
@pytest.mark.parametrize("block", [1, columns.BLOCK])
def test_a_hostile_index_is_refused(
    change: dict[str, Any], message: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "BLOCK", block)
    arrays = {name: np.array(values, DTYPES[name]) for name, values in {**SMALL, **change}.items()}
    with pytest.raises(ShardError) as error:
        SampleIndex.from_arrays(["x"], None, arrays)
    assert str(error.value) == f"the index of the shards is damaged: {message}. Scan the shards again."


@pytest.mark.parametrize("block", [1, 2, 3, 5, 100])
def test_a_sound_index_is_sound_in_blocks(index: SampleIndex, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BLOCK", block)
    assert columns.prove(index.arrays()) == columns.Facts(highest_class=2, unlabelled=0)


def test_types_names_and_urls_are_checked() -> None:
    good = {name: np.array(values, DTYPES[name]) for name, values in SMALL.items()}
    for arrays, message in (
        ({**good, "classes": good["classes"].astype(np.int64)}, "classes is of type int64, not int32"),
        ({**good, "offsets": good["offsets"].astype(">i8")}, "offsets is of type >i8, not int64"),
        ({**good, "widths": good["widths"].reshape(2, 1)}, "widths is not one row of numbers"),
        ({name: good[name] for name in list(good)[1:]}, "it has classes, heights, key_bytes"),
        ({**good, "more": good["widths"]}, "it has classes, heights, key_bytes"),
    ):
        with pytest.raises(ShardError, match=message):
            SampleIndex.from_arrays(["x"], None, arrays)
    for urls, names, message in (
        ((), None, "it names no shards"),
        (("",), None, "it names no shards"),
        (("x", "x"), None, "it names a shard twice"),
        (("x",), (), "its class names are no names"),
        (("x",), ("a", "a"), "the class 'a' is named twice"),
        (("x",), ("a\nb",), "is empty or cannot be printed"),
    ):
        with pytest.raises(ShardError, match=message):
            SampleIndex.from_arrays(urls, names, good)
    named = {**good, "classes": np.array([0, 1], np.int32)}
    with pytest.raises(ShardError, match="it has class 1 and names for 1 classes"):
        SampleIndex.from_arrays(["x"], ["a"], named)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(DTYPES)), st.integers(0, 100), st.integers(0, 63), st.booleans())
def test_any_flipped_bit_is_refused_or_another_digest(name: str, place: int, bit: int, grow: bool) -> None:
    arrays = {key: np.array(values, DTYPES[key]) for key, values in SMALL.items()}
    known = SampleIndex.from_arrays(["x"], None, arrays).digest()
    array = arrays[name]
    array.view(np.uint8)[place % array.nbytes] ^= 1 << bit % 8
    if grow:
        arrays[name] = np.append(array, array[-1:])
    try:
        index = SampleIndex.from_arrays(["x"], None, arrays)
    except ShardError as error:
        assert str(error).startswith("the index of the shards is damaged: ")
        return
    assert index.digest() != known


def test_a_changed_payload_is_refused(index: SampleIndex, shards: tuple[str, ...], tmp_path: Path) -> None:
    moved = moved_to(index, [str(shutil.copy(url, tmp_path)) for url in shards])
    assert moved.digest() == index.digest()
    place = int(moved.offsets[5] + moved.lengths[5] // 2)
    data = bytearray(Path(moved.urls[1]).read_bytes())
    data[place] ^= 4
    Path(moved.urls[1]).write_bytes(data)
    with moved.files() as files:
        assert payload_of(moved, files, 4) == jpeg(4, 33, 71)
        with pytest.raises(ShardError) as error:
            payload_of(moved, files, 5)
    assert str(error.value).startswith(f"{moved.urls[1]}: the image of row 5 ('s0/000005') has crc32c ")
    assert str(error.value).endswith(
        f", and had {index.payload_crc[5]:08x} when it was indexed: the shard was changed or damaged. Restore it."
    )


def test_moving_asks_for_the_same_shards(index: SampleIndex, shards: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(MismatchError) as error:
        moved_to(index, shards[:2])
    assert str(error.value) == (
        f"2 shards are named, 3 were indexed ({shards[0]} …). Name the same shards, in the same order."
    )
    other = tmp_path / "other.tar"
    other.write_bytes(b"x")
    with pytest.raises(MismatchError) as error:
        moved_to(index, [shards[0], shards[1], str(other)])
    assert str(error.value) == (
        f"{other} has 1 bytes, the shard that was indexed ({shards[2]}) had {index.shard_sizes[2]:,}. Name the same "
        "shards, in the same order."
    )
    with pytest.raises(ShardError, match=r"gone\.tar cannot be read: No such file or directory\. Name the shards"):
        moved_to(index, [shards[0], shards[1], str(tmp_path / "gone.tar")])


def test_mutated_shards_are_never_silent(tmp_path: Path) -> None:
    """Each change of a shard is refused, or gives the same rows, or (in a payload or label) another digest."""
    (url,) = tiny_shards(tmp_path, 4, shards=1)
    known, data = scan([url]), Path(url).read_bytes()
    rng = np.random.default_rng(0)
    refused = other = 0
    for _ in range(150):
        changed = bytearray(data)
        changed[int(rng.integers(0, len(data) - 5120))] ^= 1 << int(rng.integers(0, 8))
        Path(url).write_bytes(changed)
        try:
            found = scan([url]).digest()
        except ShardError:
            refused += 1
            continue
        if found != known.digest():
            other += 1
        else:
            assert [payload_of(known, known.files(), row) for row in range(4)]
    assert refused > 5
    assert other > 20


def test_errors_cross_processes(tmp_path: Path) -> None:
    good, bad, gone = tiny_shards(tmp_path, 6, shards=3)
    os.truncate(bad, 1024)
    Path(gone).unlink()
    with pytest.raises(ShardError, match=f"{bad}: at byte"):
        scan([good, bad], workers=2)
    with pytest.raises(ShardError, match=f"{gone} cannot be read: No such file or directory"):
        scan([good, gone], workers=2)


def warnings_of(urls: tuple[str, ...] | list[str], caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "pipeline.shards.index"):
        scan(urls)
    return [record.getMessage() for record in caplog.records]


def test_warns_of_shards_sorted_by_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def shard(name: str, classes: list[int]) -> str:
        rows = [member for number, label in enumerate(classes) for member in sample(f"{name}{number}", IMAGE, label)]
        return str(write_tar(tmp_path / f"{name}.tar", rows))

    (message,) = warnings_of([shard("a", [0] * 50), shard("b", [1] * 50)], caplog)
    assert message == (
        "the shards look sorted by class: it changes 1 times from row to row, a shuffle gives about 50. Mixing "
        "partners are near rows, so shuffle before packing"
    )
    assert warnings_of([shard("c", np.random.default_rng(0).integers(0, 2, 100).tolist())], caplog) == []
    assert warnings_of([shard("d", [0] * 30 + [1] * 30)], caplog) == []  # too few to tell
    assert warnings_of([shard("e", [0] * 100)], caplog) == []


def test_class_changes_of_a_shuffle_are_as_expected() -> None:
    classes = np.random.default_rng(0).integers(-1, 10, 20_000).astype(np.int32)
    changes, expected = class_changes(classes)
    assert abs(changes - expected) < 0.01 * expected
    assert class_changes(np.sort(classes))[0] == 9


def test_warns_of_bad_images_shared_keys_and_missing_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    urls = tiny_shards(tmp_path, 6, shards=2, class_names=["a", "b"], replace={3: b"", 4: b"GIF89a"})
    twin = shutil.copy(urls[0], tmp_path / "twin.tar")
    messages = warnings_of([*urls, str(twin)], caplog)
    assert messages == [
        f"2 images have no readable header, and will be refused when they are drawn: {urls[1]}, 's0/000003': is empty "
        f"(0 bytes); {urls[1]}, 's0/000004': looks like GIF; only JPEG, PNG and WebP are read",
        "class 2 occurs, and classes.json names 2: the names are not used",
        "3 rows have the key of another row, and so its crops: give the rows of all shards their own keys",
    ]
    index = scan(urls)
    assert (index.class_names, index.num_classes) == (None, 3)
    assert index.widths[3:5].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "must hold a JSON object, not '[1]'. Mend it, or delete it."),
        ("null", "must hold a JSON object, not 'None'. Mend it, or delete it."),
        ("{", "is no JSON: "),
        ("[" * 100_000, "is no JSON: "),
        ('{"classes": []}', 'must hold {"classes": [name, …]} and nothing else. Mend it, or delete it.'),
        ('{"classes": ["a", 1]}', 'must hold {"classes": [name, …]} and nothing else.'),
        ('{"classes": ["a"], "x": 1}', 'must hold {"classes": [name, …]} and nothing else.'),
        ('{"classes": ["a", "a"]}', ": the class 'a' is named twice. Name each class once."),
        ('{"classes": [" "]}', ": the class name ' ' is empty or cannot be printed. Rename the class."),
        ('{"classes": ["\\ud800"]}', "is empty or cannot be printed. Rename the class."),
    ],
)
def test_class_names_are_read_strictly(tmp_path: Path, content: str, message: str) -> None:
    urls = tiny_shards(tmp_path, 2, shards=1)
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(ShardError) as error:
        scan(urls)
    assert str(error.value).startswith(str(tmp_path / "classes.json"))
    assert message in str(error.value)


def test_folders_must_not_disagree_about_class_names(tmp_path: Path) -> None:
    one = tiny_shards(tmp_path / "a", 2, shards=1, class_names=["x", "y", "z"])
    two = tiny_shards(tmp_path / "b", 2, shards=1, seed=1, class_names=["x", "z", "y", "w"])
    three = tiny_shards(tmp_path / "c", 2, shards=1, seed=2)
    assert scan([*three, *one]).class_names == ("x", "y", "z")
    with pytest.raises(ShardError) as error:
        scan([*one, *two])
    assert str(error.value) == (
        f"{tmp_path}/a/classes.json names 3 classes (x, y, z), {tmp_path}/b/classes.json names 4 classes (x, z, y, …): "
        "class numbers would mean two things. Pack both with the same --classes."
    )


def test_shards_are_held_to_pack_json(tmp_path: Path) -> None:
    urls = tiny_shards(tmp_path, 4, shards=2)
    (tmp_path / "pack.json").write_text(json.dumps({"shards": {"000000.tar": {"sha256": "0" * 64}}}))
    with pytest.raises(ShardError) as error:
        scan(urls)
    assert str(error.value).startswith(f"{urls[0]} is not as it was packed: its sha256 is ")
    assert str(error.value).endswith(
        "…, pack.json says 000000000000…. Restore the shard or pack again; delete pack.json to accept the shard as it "
        "is."
    )
    for content in ("{}", '{"shards": {"000000.tar": {}}}', '{"shards": {"000000.tar": {"sha256": "x"}}}'):
        (tmp_path / "pack.json").write_text(content)
        with pytest.raises(ShardError, match=r"pack\.json does not say the sha256 of each shard\. Pack again"):
            scan(urls)


def test_a_million_rows_are_checked_and_digested_in_a_second() -> None:
    rows, shards = 1_300_000, 1300
    per_shard = rows // shards
    keys = np.char.zfill(np.arange(rows).astype("S7"), 7)
    sampled = {row: key_hashes([bytes(keys[row])])[0] for row in range(0, rows, rows // 1000)}
    hashes = np.zeros(rows, np.uint64)
    hashes[list(sampled)] = list(sampled.values())
    arrays = {
        "shard_sizes": np.full(shards, per_shard * 102_400 + 10_240),
        "shard_starts": np.arange(shards + 1) * per_shard,
        "key_bytes": np.frombuffer(keys.tobytes(), np.uint8),
        "key_starts": np.arange(rows + 1) * 7,
        "key_hash": hashes,
        "classes": np.arange(rows, dtype=np.int32) % 1000,
        "offsets": (np.arange(rows) % per_shard) * 102_400 + 512,
        "lengths": np.full(rows, 100_000),
        "payload_crc": np.zeros(rows, np.uint32),
        "widths": np.full(rows, 500, np.int32),
        "heights": np.full(rows, 375, np.int32),
    }
    start = time.process_time()
    SampleIndex.from_arrays([f"{number}.tar" for number in range(shards)], None, arrays).digest()
    assert time.process_time() - start < 2  # 0.25 s where nothing else runs
