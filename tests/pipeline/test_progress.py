"""Progress is one line an interval in a file, and its rate counts this run only."""

import io
import time

import pytest

from pipeline.progress import Progress, duration


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (42, "42s"), (61, "1m01s"), (750, "12m"), (11100, "3h05m"), (190000, "2d04h")]
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_lines_in_a_file():
    out = io.StringIO()
    with Progress("teacher", 200, "views", done=100, interval=0, stream=out) as progress:
        progress.advance(50, note="waited 1%")
        time.sleep(0.05)
        assert progress.rate == pytest.approx(50 / progress.elapsed, rel=0.2)
    first, last = out.getvalue().splitlines()
    assert first.startswith("teacher  150/200 views |  75.0% | ") and first.endswith("| waited 1%")
    assert "eta" in first and "took" in last and "\r" not in out.getvalue()


def test_more_than_was_foretold_leaves_no_time():
    out = io.StringIO()
    with Progress("teacher", 10, "views", interval=0, stream=out) as progress:
        progress.started -= 100
        progress.advance(20)
    assert "| eta 0s" in out.getvalue() and "eta -" not in out.getvalue()
