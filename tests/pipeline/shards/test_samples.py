"""Which rows one shard holds: grouping, classes, and every refusal."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import google_crc32c
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ShardError
from pipeline.shards.samples import ShardRows, key_hash, read_shard, samples
from tests.pictures import jpeg, sample, write_tar

IMAGE = jpeg(1)


JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["label", "a"]), inner, max_size=2),
    max_leaves=5,
)
JSON_TEXTS = JSON_VALUES.map(lambda value: json.dumps(value).encode())


def rows_of(folder: Path, members: list[tuple[str, bytes]]) -> ShardRows:
    return read_shard(str(write_tar(folder / "x.tar", members)))


def keys_of(rows: ShardRows) -> list[str]:
    data, start, keys = rows.key_bytes.tobytes(), 0, []
    for length in rows.key_lengths.tolist():
        keys.append(data[start : start + length].decode())
        start += length
    return keys


def test_a_row_says_where_and_what_its_payload_is(tmp_path: Path) -> None:
    images = [jpeg(1, 64, 48), jpeg(2, 30, 50)]
    rows = rows_of(tmp_path, [*sample("a/0", images[0], 7), *sample("a/1", images[1], 0)])
    data = (tmp_path / "x.tar").read_bytes()
    assert rows.size == len(data)
    assert keys_of(rows) == ["a/0", "a/1"]
    assert rows.key_hash.tolist() == [key_hash("a/0"), key_hash("a/1")]
    assert rows.classes.tolist() == [7, 0]
    assert [data[o : o + n] for o, n in zip(rows.offsets, rows.lengths, strict=True)] == images
    assert rows.payload_crc.tolist() == [google_crc32c.value(image) for image in images]
    assert (rows.widths.tolist(), rows.heights.tolist()) == ([64, 30], [48, 50])
    assert rows.bad_images == 0


def test_names_split_at_the_first_dot(tmp_path: Path) -> None:
    members = [("a.b/c.d.jpg", IMAGE), ("a.b/c.cls", b"1"), ("./e.PNG", IMAGE), ("./e.Cls", b" 2\n")]
    rows = rows_of(tmp_path, members)
    assert keys_of(rows) == ["a.b/c", "./e"]
    assert rows.classes.tolist() == [1, 2]


def test_what_is_no_sample_is_passed_over(tmp_path: Path) -> None:
    others = [("__meta__/0.json", b"x"), ("README", b"x"), ("a/.hidden.jpg", b"x"), ("a/._0.jpg", b"x")]
    rows = rows_of(tmp_path, [others[0], ("a/0.jpg", IMAGE), *others[1:], ("a/0.cls", b"3")])
    assert keys_of(rows) == ["a/0"]
    assert rows.classes.tolist() == [3]


def test_other_fields_are_never_read(tmp_path: Path) -> None:
    evil = b"cos\nsystem\n(S'exit 1'\ntR."
    fields = [("0.pyd", evil), ("0.pickle", evil), ("0.pth", evil), ("0.txt", b"\xff"), ("0.seg.png", b"no image")]
    rows = rows_of(tmp_path, [("0.jpg", IMAGE), *fields, ("0.cls", b"1")])
    assert rows.payload_crc.tolist() == [google_crc32c.value(IMAGE)]


@pytest.mark.parametrize(
    ("content", "number"),
    [({"label": 5}, 5), ({"label": -1}, -1), ({"label": None}, -1), ({"other": 1}, -1), ([1, 2], -1)],
)
def test_the_label_of_json(tmp_path: Path, content: object, number: int) -> None:
    rows = rows_of(tmp_path, [("0.jpg", IMAGE), ("0.json", json.dumps(content).encode())])
    assert rows.classes.tolist() == [number]


def test_cls_goes_before_json_and_neither_is_unlabelled(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, [*sample("0", IMAGE, 4), ("0.json", b"broken"), ("1.jpg", IMAGE)])
    assert rows.classes.tolist() == [4, -1]


def test_an_image_without_a_header_is_counted_and_shown(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, [*sample("0", b"", 1), *sample("1", b"GIF89a", 1), *sample("2", IMAGE, 1)])
    assert (rows.widths.tolist(), rows.heights.tolist(), rows.bad_images) == ([0, 0, 64], [0, 0, 48], 2)
    url = tmp_path / "x.tar"
    assert rows.bad_examples == (
        f"{url}, '0': is empty (0 bytes)",
        f"{url}, '1': looks like GIF; only JPEG, PNG and WebP are read",
    )


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("0.cls", b"1")], "sample '0': has no image (only: cls); one of jpg, jpeg, png, webp is needed."),
        ([("0.jpg", IMAGE), ("0.png", IMAGE)], "sample '0': has 2 fields where one is needed: jpg, png."),
        ([("0.a.jpg", IMAGE), ("0.b.jpg", IMAGE)], "sample '0': has 2 fields where one is needed: a.jpg, b.jpg."),
        ([("0.jpg", IMAGE), ("0.JPG", IMAGE)], "sample '0' has two members 'jpg'. Pack it again with one of each."),
        ([*sample("0", IMAGE, 1), *sample("1", IMAGE, 1), *sample("0", IMAGE, 1)],
         "the key '0' comes twice (samples 0 and 2): the shard was joined wrongly, or its members are not next to each "
         "other. Pack it again."),
        ([("0.jpg", IMAGE), ("0.cls", b"cat")], "sample '0': '0.cls' holds b'cat', which is no integer."),
        ([("0.jpg", IMAGE), ("0.cls", b"")], "sample '0': '0.cls' holds b'', which is no integer."),
        ([("0.jpg", IMAGE), ("0.cls", b"1.5")], "sample '0': '0.cls' holds b'1.5', which is no integer."),
        ([("0.jpg", IMAGE), ("0.cls", b"1" * 65)], "sample '0': '0.cls' has 65 bytes; 64 are allowed."),
        ([("0.jpg", IMAGE), ("0.cls", b"-2")],
         "sample '0': has class -2; -1 (unlabelled) to 1,048,575 are allowed."),
        ([("0.jpg", IMAGE), ("0.cls", b"9999999999")], "sample '0': has class 9999999999; -1 (unlabelled) to"),
        ([("0.jpg", IMAGE), ("0.json", b'{"label": 1, "size": {"w": 2}, "label": 1}')],
         "sample '0': '0.json' has the key 'label' 2 times: [1, 1]."),
        ([("0.jpg", IMAGE), ("0.json", b'{"label": true}')],
         "sample '0': '0.json' has the label 'True', which is no integer."),
        ([("0.jpg", IMAGE), ("0.json", b'{"label": "cat"}')],
         "sample '0': '0.json' has the label 'cat', which is no integer."),
        ([("0.jpg", IMAGE), ("0.json", b'{"label": 3.0}')], "has the label '3.0', which is no integer."),
        ([("0.jpg", IMAGE), ("0.json", b"{")], "sample '0': '0.json' is no JSON: "),
        ([("0.jpg", IMAGE), ("0.json", b"[" * 100_000)], "sample '0': '0.json' is no JSON: "),
        ([("0.jpg", IMAGE), ("0.json", b'{"label": ' + b"9" * 5000 + b"}")], "sample '0': '0.json' is no JSON: "),
        ([("README", b"x")], "x.tar holds no samples. A sample is an image such as 000.jpg with 000.cls beside it."),
        ([], "x.tar holds no samples. A sample is an image such as 000.jpg with 000.cls beside it."),
    ],
)  # fmt: skip
def test_refuses(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    with pytest.raises(ShardError) as error:
        rows_of(tmp_path, members)
    assert str(error.value).startswith(str(tmp_path / "x.tar"))
    assert message in str(error.value)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["cls", "json", "JSON", "x.cls"]), st.one_of(st.binary(max_size=30), JSON_TEXTS))
def test_any_label_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, field: str, data: bytes) -> None:
    try:
        rows = rows_of(tmp_path_factory.getbasetemp(), [("0.jpg", IMAGE), (f"0.{field}", data)])
    except ShardError:
        return
    assert -1 <= rows.classes[0] < 1 << 20


def test_a_shard_that_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"gone.tar cannot be read: No such file or directory\."):
        read_shard(str(tmp_path / "gone.tar"))


KEYS = st.sampled_from(["a", "b/a", "b.c/a", "__x__", ".h", "./d"])
FIELDS = st.sampled_from(["", ".jpg", ".cls", ".X.y", "."])
NAMES = st.lists(st.tuples(KEYS, FIELDS), min_size=1, max_size=8, unique=True)


@settings(max_examples=150, deadline=None)
@given(NAMES)
def test_groups_as_webdataset_does(names: list[tuple[str, str]]) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for key, field in names:
            tar.addfile(tarfile.TarInfo(key + field))
    data = stream.getvalue()
    found = [(sample.key, sorted(sample.fields)) for sample in samples(io.BytesIO(data), "x.tar", len(data))]
    files = webdataset.tariterators.tar_file_iterator(io.BytesIO(data))
    known = [
        (group["__key__"], sorted(field for field in group if not field.startswith("__")))
        for group in webdataset.tariterators.group_by_keys({**file, "__url__": ""} for file in files)
    ]
    assert found == known
