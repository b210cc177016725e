"""Progress is one line an interval in a file, and its rate counts this run only."""

import io

import pytest

from pipeline.progress import LIVE_S, Progress, duration, fitted
from tests.terminal import screen, terminal


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (42, "42s"), (61, "1m01s"), (750, "12m"), (11100, "3h05m"), (190000, "2d04h")]
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_lines_in_a_file():
    out = io.StringIO()
    with Progress("teacher", 200, "views", done=100, interval=0, stream=out) as progress:
        progress.started -= 1000
        progress.advance(50, note="waited 1%")
        assert progress.rate == pytest.approx(50 / 1000, rel=0.2)
    first, last = out.getvalue().splitlines()
    assert first.startswith("teacher  150/200 views |  75.0% | ") and first.endswith("| waited 1%")
    assert "eta" in first and "took" in last and "\r" not in out.getvalue()


def test_what_is_not_shown_counts_all_the_same():
    out = io.StringIO()
    with Progress("teacher", 200, "views", interval=0, stream=out, shown=False) as progress:
        progress.advance(50)
        assert progress.count == 50 and progress.rate > 0
    assert out.getvalue() == ""


def test_what_has_no_room_is_left_out_and_at_last_cut():
    parts = ["teacher  0400/5000 views", "  8.0%", "  3,812.0 views/s", "eta 12m", "waited 1%"]
    assert fitted(parts, (4, 1, 2), 200) == " | ".join(parts)
    assert fitted(parts, (4, 1, 2), 71) == "teacher  0400/5000 views |   8.0% |   3,812.0 views/s | eta 12m"
    assert fitted(parts, (4, 1, 2), 60) == "teacher  0400/5000 views |   3,812.0 views/s | eta 12m"
    assert fitted(parts, (4, 1, 2), 50) == "teacher  0400/5000 views |   8.0% | eta 12m"
    assert fitted(parts, (4, 1, 2), 40) == "teacher  0400/5000 views | eta 12m"
    assert fitted(parts, (4, 1, 2), 9) == "teacher  "


SHOW = """
import logging, types
from pipeline import progress as shown
from pipeline.commands.command import configure_logging
configure_logging("info")
shown.time = clock = types.SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
with shown.Progress("teacher", 500_000, "views", interval=0) as progress:
    for step in range(4):
        clock.now += 0.02
        progress.advance(100_000, note="waited 12%")
        if step == 2:
            logging.getLogger("x").warning("this stays")
"""


@pytest.mark.parametrize("columns", [24, 60, 61, 80, 200])
def test_lines_on_a_terminal_never_wrap_and_records_stay(columns):
    with terminal(["-c", SHOW], columns=columns) as window:
        written = window.read()
    assert window.status == 0, written
    drawn = written.decode().split("\r\x1b[2K")[1:]
    assert len(drawn) == 6 and all(len(line.rstrip("\r\n")) < columns for line in drawn if "this stays" not in line)
    shown = [line.rstrip() for line in screen(written, columns)]
    assert shown[0] == "W x | this stays" and shown[1].startswith("teacher  400000/500000") and shown[2:] == [""]
    assert [part in shown[1] for part in ("took", "waited 12%")] == [columns > 24, columns == 200]


def test_a_terminal_that_tells_no_width_has_eighty_columns():
    with terminal(["-c", SHOW], columns=0) as window:
        written = window.read()
    lines = written.decode().split("\r\x1b[2K")[1:]
    assert 60 < max(len(line.rstrip("\r\n")) for line in lines) < 80 and LIVE_S < 1


def test_more_than_was_foretold_leaves_no_time():
    out = io.StringIO()
    with Progress("teacher", 10, "views", interval=0, stream=out) as progress:
        progress.started -= 100
        progress.advance(20)
    assert "| eta 0s" in out.getvalue() and "eta -" not in out.getvalue()
