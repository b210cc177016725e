"""Where the class of a sample stands, and what may stand there."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.shards.index import SampleIndex, scan, share
from pipeline.shards.rows import require_unchanged
from pipeline.shards.same_pictures import moved_to
from pipeline.shards.truth import LabelRule
from tests.pictures import jpeg, write_tar

NAMES = ("ant", "bee", "cat")


def tar_of(folder: Path, kind: str, contents: Sequence[bytes]) -> str:
    members = [m for row, text in enumerate(contents) for m in ((f"{row}.jpg", jpeg(row)), (f"{row}.{kind}", text))]
    return str(write_tar(folder / "0.tar", members))


def json_of(*values: object) -> list[bytes]:
    return [json.dumps(value).encode() for value in values]


@pytest.mark.parametrize(
    ("kind", "contents", "rule", "classes"),
    [
        ("json", json_of({"class": 2}, {"class": 0}, {"label": 1}), LabelRule(key="class"), [2, 0, -1]),
        ("json", json_of({"target": "cat"}, {"target": 1}), LabelRule(key="target", names=NAMES), [2, 1]),
        ("json", json_of({"label": "bee"}, {"label": None}), LabelRule(names=NAMES), [1, -1]),
        ("cls", [b"cat\n", b" ant", b"1"], LabelRule(names=NAMES), [2, 0, 1]),
        ("txt", [b"cat", b"ant"], LabelRule(key=".txt", names=NAMES), [2, 0]),
        ("txt", [b"2", b"0"], LabelRule(key=".txt"), [2, 0]),
        ("cls.txt", [b"2", b"0"], LabelRule(key=".cls.txt"), [2, 0]),
        ("cls", [b"1", b"0"], LabelRule(names=("1", "0")), [1, 0]),
    ],
)
def test_a_class_is_found(
    tmp_path: Path, kind: str, contents: list[bytes], rule: LabelRule, classes: list[int]
) -> None:
    index = scan([tar_of(tmp_path, kind, contents)], rule=rule)
    assert index.classes.tolist() == classes
    assert (index.label_key, index.class_names) == (rule.key, rule.names)
    require_unchanged(index)  # read again row by row, it is the same


@pytest.mark.parametrize(
    ("kind", "content", "rule", "message"),
    [
        ("cls", b"dog", LabelRule(names=NAMES), "sample '0': is of class 'dog', which is none of the 3 classes (ant,"),
        (
            "cls",
            b"cat",
            LabelRule(),
            "'0.cls' holds b'cat', which is no integer. If it is the name of a class, give all",
        ),
        (
            "json",
            b'{"label": "cat"}',
            LabelRule(),
            "the label 'cat', which is no integer. Give the names of the classes",
        ),
        ("json", b'{"label": 1, "label": 2}', LabelRule(), "'0.json' has the key 'label' 2 times: [1, 2]."),
        ("json", b'{"class": [1]}', LabelRule(key="class"), "has the class '[1]', which is no integer."),
        ("json", b'{"class": "dog"}', LabelRule(key="class", names=NAMES), "is of class 'dog', which is none of the 3"),
        ("cls", b"3", LabelRule(names=NAMES), "class 3 occurs in the shards, and only 3 classes (ant, bee, cat) have"),
    ],
)
def test_a_class_is_refused(tmp_path: Path, kind: str, content: bytes, rule: LabelRule, message: str) -> None:
    with pytest.raises(UserError) as refused:
        scan([tar_of(tmp_path, kind, [content])], rule=rule)
    assert message in str(refused.value)


@pytest.mark.parametrize("key", ["", " ", ".", "..", ".a/b"])
def test_a_key_that_is_no_place(key: str) -> None:
    with pytest.raises(UserError, match="names no place"):
        LabelRule(key=key)


def test_no_class_at_all_is_told_with_where_it_may_stand(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = [("0.jpg", jpeg(0)), ("0.json", b'{"class": 1, "id": 7}'), ("0.txt", b"cat"), ("1.jpg", jpeg(1))]
    urls = [str(write_tar(tmp_path / "0.tar", members))]
    assert scan(urls).unlabelled == 2
    assert caplog.messages[0] == (
        "NO ROW HAS A CLASS: 2 rows, and none has one in .cls, or under label in .json. A student would learn from the "
        "teacher alone, and no accuracy can be measured. The samples have json members with the keys class, id and "
        "members .txt: if the class stands there, name it by --label-key."
    )
    caplog.clear()
    assert scan(urls, rule=LabelRule(key="class")).classes.tolist() == [1, -1]
    assert not [message for message in caplog.messages if "NO ROW" in message]
    caplog.clear()
    scan(urls, rule=LabelRule(key="klass"))
    assert caplog.messages[0].startswith("NO ROW HAS A CLASS: 2 rows, and none has one under klass.")


def test_names_of_two_sources(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The user's word and classes.json must agree; names that are only assumed give way."""
    urls = [tar_of(tmp_path, "cls", [b"0", b"1"])]
    (tmp_path / "classes.json").write_text('{"classes": ["bee", "ant"]}')
    with pytest.raises(UserError, match=r"--classes names 2 classes \(ant, bee\), classes.json beside .* \(bee, ant\)"):
        scan(urls, rule=LabelRule(names=("ant", "bee")))
    assert scan(urls, rule=LabelRule(names=("ant", "bee"), assumed=True)).class_names == ("bee", "ant")
    (tmp_path / "classes.json").unlink()
    assert scan(urls, rule=LabelRule(names=("ant", "bee"), assumed=True)).class_names == ("ant", "bee")
    with caplog.at_level(logging.WARNING):
        scan(urls, rule=LabelRule(names=("1", "0")))
    assert "calls the classes by numbers that are not theirs (class 0 is 1, …)" in caplog.text


def test_names_that_are_used_and_too_few(tmp_path: Path) -> None:
    urls = [tar_of(tmp_path, "cls", [b"ant", b"2"])]
    (tmp_path / "classes.json").write_text('{"classes": ["ant", "bee"]}')
    with pytest.raises(UserError, match="class 2 occurs in the shards, and only 2 classes"):
        scan(urls)


def test_the_place_travels_with_the_index(tmp_path: Path) -> None:
    import pickle

    index = scan([tar_of(tmp_path, "json", json_of({"class": 1}, {"class": 0}))], rule=LabelRule(key="class"))
    moved = (tmp_path / "0.tar").rename(tmp_path / "1.tar")
    for other in (moved_to(pickle.loads(pickle.dumps(index)), [str(moved)]), share(moved_to(index, [str(moved)]))):
        assert isinstance(other, SampleIndex) and other.label_key == "class"
        require_unchanged(other)
