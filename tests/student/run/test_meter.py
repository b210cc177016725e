"""How fast it went: while it trained, and no other time."""

from __future__ import annotations

import pytest

from student.run import meter
from student.run.meter import Pace


def test_validation_is_no_time_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(meter.time, "perf_counter", lambda: now[0])
    pace = Pace()
    now[0] += 2
    pace.add(128)
    with pace.standing():
        now[0] += 60
    now[0] += 2
    pace.add(128)
    assert pace.take(waited=1.0) == (64.0, 0.25)
    now[0] += 1
    pace.add(64)
    assert pace.take(waited=1.0) == (64.0, 0.0), "and begins anew"
