"""A machine says what it is, on every system, in plain texts."""

import os

import torch

from pipeline.processes import machine as place
from pipeline.processes.machine import granted_cores, machine, version


def test_it_is_this_machine():
    found = machine()
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    assert int(found["cores"]) == granted_cores() and found["processor"].strip()
    assert version("no-such-package") == "absent"


def test_cores_are_those_that_are_granted_or_all_where_nobody_grants_any(monkeypatch):
    """As on macOS, which knows no affinity."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 2, 5}, raising=False)
    assert granted_cores() == 3 and machine()["cores"] == "3"
    monkeypatch.delattr(os, "sched_getaffinity")
    assert granted_cores() == os.cpu_count()


def test_where_nobody_tells_the_processor_s_name_it_is_its_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(place, "PROCESSORS", tmp_path / "none")
    assert machine()["processor"]
    (tmp_path / "some").write_text("processor : 0\nmodel name\t: \nmodel name\t: Some Processor 7\n")
    monkeypatch.setattr(place, "PROCESSORS", tmp_path / "some")
    assert machine()["processor"] == "Some Processor 7"
