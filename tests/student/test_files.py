"""A result file is the old one or the new one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from student.files import write_json, write_with


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = write_json(tmp_path / "deep" / "metrics.json", {"b": 1, "a": None})
    assert path.read_text() == '{\n  "a": null,\n  "b": 1\n}\n'

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_with(path, fail)
    assert json.loads(path.read_text()) == {"a": None, "b": 1}
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


def test_a_number_that_json_does_not_have_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "metrics.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())
