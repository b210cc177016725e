"""What a run says before it begins."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from pipeline.durable.objects import open_objects
from pipeline.inspection.gauge import gauge
from pipeline.store.reader import StoreReader
from student.learning.settings import Settings
from student.run.launch import _tell_signal
from tests.small_students import CLASSES, make_store


def test_a_soft_run_says_what_its_store_has_lost_at_its_temperature(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = StoreReader.open(make_store(tmp_path, rows=60, keep="topk:1"))
    caplog.clear()
    caplog.set_level(logging.INFO)
    _tell_signal(store, Settings(distill="soft", tau=3.0))
    assert not caplog.records, "an older store says nothing"
    codes_NC = np.random.default_rng(0).integers(32768 - 500, 32768 + 500, (60, CLASSES)).astype(np.uint16)
    found = gauge(open_objects(store.name), store.manifest, lambda row_N: codes_NC[row_N])
    assert found is not None and found["temperatures"]["3"]["signal"] < 0.8
    _tell_signal(store, Settings(distill="hard"))
    assert not caplog.records
    _tell_signal(store, Settings(distill="soft", tau=3.0))
    told, warned = caplog.records
    assert told.levelno == logging.INFO and told.getMessage().startswith("topk:1 keeps of the teacher's signal: ")
    assert "T = 3" in told.getMessage() and "T = 1" not in told.getMessage()
    assert warned.levelno == logging.WARNING and warned.getMessage().startswith("topk:1 loses ")
    assert "--keep " in warned.getMessage()
