"""The class of a row is read again in its place, whatever stands around it, and held to the index."""

from __future__ import annotations

import json
import tarfile
import time
from pathlib import Path

import pytest

from pipeline.errors import ShardError
from pipeline.shards.index import SampleIndex, scan
from pipeline.shards.rows import ChangedRowError, changed_rows, payload_of, require_class, require_unchanged
from pipeline.shards.truth import LabelRule
from tests.pictures import in_place, jpeg, tiny_shards, write_tar

LONG = "a/" + "very-long-name" * 12
FORMATS = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT, "ustar": tarfile.USTAR_FORMAT}


def every_row(index: SampleIndex) -> None:
    with index.files() as files:
        for row in range(len(index)):
            require_class(index, files, row)


@pytest.mark.parametrize("layout", ["after", "before", "around"])
@pytest.mark.parametrize("kind", FORMATS)
def test_the_class_is_found_wherever_it_stands(tmp_path: Path, layout: str, kind: str) -> None:
    members: list[tuple[str, bytes]] = []
    for row, key in enumerate(("a/0", LONG if kind != "ustar" else "a/long", "b.d/2", "c/3")):
        image, label = (f"{key}.jpg", jpeg(row)), (f"{key}.cls", b"%d" % (row % 2))
        big = (f"{key}.npy", bytes(20_000))
        members += {"after": [image, label], "before": [label, image], "around": [label, big, image, big]}[layout][:4]
        if layout == "around":
            members[-1] = (f"{key}.txt", b"a caption")
    path = write_tar(tmp_path / "0.tar", members, FORMATS[kind])
    index = scan([str(path)])
    every_row(index)
    in_place(path, members[0][0] if layout != "after" else members[1][0], b"1")
    with pytest.raises(ChangedRowError) as refused, index.files() as files:
        payload_of(index, files, 0)
    assert str(refused.value) == (
        f"{path}: row 0 ('a/0') has class 1, and had class 0 when it was indexed: the shard was changed. Restore it, "
        "or label these shards anew under another --out."
    )
    assert len(list(changed_rows(index))) == 1
    assert scan([str(path)]).digest() != index.digest()


def test_names_in_the_json_and_what_cannot_be_read(tmp_path: Path) -> None:
    members = [
        member
        for row, name in enumerate(("ant", "bee", "cat", "bee"))
        for member in ((f"{row}.jpg", jpeg(row)), (f"{row}.json", json.dumps({"class": name, "n": row}).encode()))
    ]
    path = write_tar(tmp_path / "0.tar", members)
    index = scan([str(path)], rule=LabelRule(key="class", names=("ant", "bee", "cat")))
    assert index.classes.tolist() == [0, 1, 2, 1] and index.label_key == "class"
    require_unchanged(index)
    in_place(path, "1.json", json.dumps({"class": "cat", "n": 1}).encode())
    in_place(path, "2.json", json.dumps({"class": "dog", "n": 2}).encode())
    in_place(path, "3.json", json.dumps({"class": "bee", "n": 3}).encode()[:-1] + b" ")
    said = [str(error).removeprefix(f"{path}: ") for error in changed_rows(index)]
    assert said[0].startswith("row 1 ('1') has class 2 (cat), and had class 1 (bee) when it was indexed")
    assert said[1].startswith(
        "sample '2': is of class 'dog', which is none of the 3 classes (ant, bee, cat): the shard"
    )
    assert said[2].startswith("sample '3': '3.json' is no JSON")
    with pytest.raises(ChangedRowError, match="class 2"):
        require_unchanged(index)


def test_a_label_that_went_or_came(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [("0.jpg", jpeg(0)), ("0.cls", b"1"), ("1.jpg", jpeg(1)), ("1.txt", b"1")])
    index = scan([str(path)])
    assert index.classes.tolist() == [1, -1]
    other = write_tar(tmp_path / "1.tar", [("0.jpg", jpeg(0)), ("0.txt", b"1"), ("1.jpg", jpeg(1)), ("1.cls", b"1")])
    path.write_bytes(other.read_bytes())
    said = [str(error) for error in changed_rows(index)]
    assert "has no class, and had class 1" in said[0] and "has class 1, and had no class" in said[1]


def test_other_names_beside_the_shards(tmp_path: Path) -> None:
    index = scan(tiny_shards(tmp_path, 12, classes=3, class_names=["ant", "bee", "cat"]))
    require_unchanged(index)
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["bee", "ant", "cat"]}))
    with pytest.raises(Exception, match=r"names 3 classes \(bee, ant, cat\), the store was made when it named 3"):
        require_unchanged(index)


def test_a_row_is_held_to_its_class_once(tmp_path: Path) -> None:
    index = scan(tiny_shards(tmp_path, 40, shards=1))
    with index.files() as files:
        assert [files.first_time(row) for row in (3, 39, 3, 4, 39)] == [True, True, False, True, False]
        payload_of(index, files, 4)
        in_place(Path(index.urls[0]), "s0/000004.cls", b"2")
        payload_of(index, files, 4)
    with pytest.raises(ShardError, match=r"row 4 \('s0/000004'\) has class 2, and had class 1"), index.files() as files:
        payload_of(index, files, 4)


def test_the_look_costs_little(tmp_path: Path) -> None:
    """Beside reading and decoding a picture; measured in processor time, with room for a busy machine."""
    from pipeline.pictures.images import decode

    index = scan(tiny_shards(tmp_path, 60, shards=1, size=(500, 375)))
    spent = {"look": 0.0, "decode": 0.0}
    with index.files() as files:
        for row in range(60):
            begun = time.process_time()
            require_class(index, files, row)
            spent["look"] += time.process_time() - begun
            begun = time.process_time()
            decode(payload_of(index, files, row))
            spent["decode"] += time.process_time() - begun
    assert spent["look"] < 0.2 * spent["decode"], spent
