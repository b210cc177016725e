"""A class map picks and reorders the teacher's classes, or says what is wrong with it."""

import json

import pytest

from pipeline.errors import MismatchError
from pipeline.teacher.class_map import read_class_map, require_map

NAMES = ("fish", "dog")


@pytest.mark.parametrize("text", ["[0, 217]", '{"dog": 217, "fish": 0, "other": 3}', "0\n217\n"])
def test_all_three_spellings_mean_the_same(tmp_path, text):
    path = tmp_path / "map"
    path.write_text(text)
    assert read_class_map(path, NAMES) == (0, 217)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[0]", "has 1 entries; the shards have 2 classes"),
        ('{"dog": 1}', "no entry for class 'fish'"),
        ("[0, 1.5]", "whole number"),
        ("[0, true]", "whole number"),
        ("zero one", "neither a JSON list"),
        ("[0, ", "neither a JSON list"),
        ("3", "has 1 entries"),
    ],
)
def test_a_bad_map_is_refused(tmp_path, text, message):
    path = tmp_path / "map"
    path.write_text(text)
    with pytest.raises(MismatchError, match=message):
        read_class_map(path, NAMES)


def test_names_without_class_names_are_refused(tmp_path):
    path = tmp_path / "map"
    path.write_text(json.dumps({"dog": 1}))
    with pytest.raises(MismatchError, match=r"classes\.json"):
        read_class_map(path, None)


def test_a_map_must_stay_inside_and_be_one_to_one():
    with pytest.raises(MismatchError, match="teacher class 1000; net has classes 0 to 999"):
        require_map((0, 1000), 1000, "net")
    with pytest.raises(MismatchError, match="two classes to one"):
        require_map((5, 5), 1000, "net")
    require_map((5, 4), 1000, "net")
    require_map(None, 1000, "net")
