"""The teacher's classes are those of the data, wherever both have names."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from timm.data import ImageNetInfo

from pipeline.errors import MismatchError, TeacherError
from pipeline.teacher.class_names import TeacherNames, map_by_name, names_of, require_same_names

C = ("c0", "c1", "c2", "c3")
FITTED = TeacherNames(C, "local-dir:runs/teacher")
INFO = ImageNetInfo()
SYNSETS = [INFO.index_to_label_name(number) for number in range(1000)]
CALLED = [INFO.index_to_description(number) for number in range(1000)]


def imagenet() -> TeacherNames:
    names = names_of(None, "regnety_160", None, {"num_classes": 1000}, of_timm=True)
    assert names is not None
    return names


def test_the_same_names_pass() -> None:
    require_same_names(C, FITTED, None, "t")


def test_another_order_is_refused_and_put_in_order_when_asked() -> None:
    with pytest.raises(MismatchError) as refused:
        require_same_names(C[::-1], FITTED, None, "t")
    assert str(refused.value) == (
        "The shards' classes are c3, c2, c1, c0; those of local-dir:runs/teacher are c0, c1, c2, c3: class 0 is 'c3' "
        "here and 'c0' there. They are the same classes in another order. --class-map by-name puts the teacher's in "
        "the order of the shards'; or pack the pictures with --classes in the teacher's order."
    )
    found = map_by_name(C[::-1], FITTED, "t")
    assert found == (3, 2, 1, 0)
    require_same_names(C[::-1], FITTED, found, "t")
    assert map_by_name(C, FITTED, "t") is None  # the contract is that of a run without the flag


def test_other_names_are_refused() -> None:
    with pytest.raises(MismatchError) as refused:
        require_same_names(("ant", "c2", "c3", "zebra"), FITTED, None, "t")
    text = str(refused.value)
    assert text.startswith("The shards' classes are ant, c2, c3, zebra; those of local-dir:runs/teacher are c0, c1, c2")
    assert "class 0 is 'ant' here and 'c0' there. These are other classes. Fit a teacher to these classes" in text
    assert "--class-map FILE" in text and "--teacher-classes FILE" in text
    with pytest.raises(MismatchError, match="by-name: local-dir:runs/teacher has no class ant, zebra; it has c0, c1,"):
        map_by_name(("ant", "c2", "c3", "zebra"), FITTED, "t")


def test_some_of_the_classes_by_name() -> None:
    assert map_by_name(("c2", "c0"), FITTED, "t") == (2, 0)


@pytest.mark.parametrize("names", [SYNSETS, CALLED, [text.split(", ")[0] for text in CALLED]])
def test_imagenet_by_synset_or_by_what_it_is_called(names: list[str]) -> None:
    require_same_names(tuple(names), imagenet(), None, "regnety_160")


def test_imagenet_in_another_order() -> None:
    with pytest.raises(MismatchError, match=r"n01440764, .*\(1000\).* same classes in another order"):
        require_same_names((*SYNSETS[1:], SYNSETS[0]), imagenet(), None, "regnety_160")
    by_folder = tuple(sorted(map(str, range(1000))))  # 0, 1, 10, 100, …: what pack makes of folders 0 to 999
    with pytest.raises(MismatchError, match=r"class 2 is '10' here and 'n01484850' there.* in another order"):
        require_same_names(by_folder, imagenet(), None, "regnety_160")
    found = map_by_name(by_folder, imagenet(), "regnety_160")
    assert found is not None and found[2] == 10 and sorted(found) == list(range(1000))


def test_ten_classes_of_imagenet() -> None:
    assert map_by_name(("n02102040", "Tench", "French_horn"), imagenet(), "r") == (217, 0, 566)
    with pytest.raises(MismatchError, match=r"several classes 'crane': 134 \(n02012849\), 517 \(n03126707\)"):
        map_by_name(("tench", "crane"), imagenet(), "r")


def test_a_map_from_a_file_may_rename_and_is_told_of_a_mistake(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        require_same_names(("dog", "fish"), FITTED, (1, 0), "t")
        assert not caplog.messages
        require_same_names(("c1", "fish"), FITTED, (3, 0), "t")
    assert caplog.messages == [
        "--class-map sends class 'c1' to the teacher's 'c3', although 'c1' is a class of local-dir:runs/teacher, too "
        "(1 such classes). --class-map by-name goes by the names"
    ]


def test_what_has_no_names_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        require_same_names(C, None, None, "mine")
        require_same_names(None, FITTED, None, "t")
        require_same_names(("0", "1", "2", "3"), FITTED, None, "t")
    assert [message.split(":")[0] for message in caplog.messages] == [
        "the teacher mine has no names for its classes (--teacher-classes FILE gives them); class numbers are taken to "
        "mean the same",
        "the shards name no classes",
        "the shards call their classes by their numbers",
    ]
    for data, teacher, said in ((None, FITTED, "The shards name no classes"), (C, None, "the teacher t has no names")):
        with pytest.raises(MismatchError, match=f"by-name: names are needed on both sides. {said}"):
            map_by_name(data, teacher, "t")


def test_who_names_a_teachers_classes(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    config = {"num_classes": 4}

    def found(given: object = None, of_timm: bool = True, **more: object) -> object:
        names = names_of(given, "net", weights, {**config, **more}, of_timm=of_timm)  # type: ignore[arg-type]
        return names and (names.names, names.origin)

    assert found() is None
    assert found(label_names=list(C)) == (C, "net")
    (tmp_path / "config.json").write_text(json.dumps({"label_names": list(C[::-1])}))
    assert found(label_names=list(C)) == (C[::-1], f"the config.json beside {weights}")
    assert found(C) == (C, "--teacher-classes")
    with pytest.raises(TeacherError, match=r"--teacher-classes names 2 classes \(c0, c1\), the teacher's head has 4"):
        found(C[:2])
    for text in ("[1]", "{", '{"label_names": null}', "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        assert found() is None
    (tmp_path / "config.json").write_text('{"label_names": [1, 2, 3, 4]}')
    with pytest.raises(TeacherError, match="and no list of texts"):
        found()
    (tmp_path / "config.json").unlink()
    assert found(of_timm=False, num_classes=1000) is None and found(num_classes=1000) is not None
