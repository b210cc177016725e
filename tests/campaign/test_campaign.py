"""The campaign at reduced counts, and its self-checks: each row finds nothing, and each sabotage is noticed."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.campaign.__main__ import PAGE, ROWS, is_sound, one_thread, rows_of, run_row, table
from tests.campaign.tally import Scale, Tally


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Processes are forked from here."""
    before = torch.get_num_threads()
    one_thread()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("row", ROWS)
def test_nothing_is_silent_and_sabotage_is_noticed(row: str) -> None:
    record = run_row(row, Scale(share=0.0))
    assert record["noticed"], "the campaign does not notice that its mechanism was taken away"
    assert record["silent"] == [] and record["failures"] == []
    assert is_sound(record)


def test_the_table_says_what_was_wrong() -> None:
    tally = Tally()
    tally.case(silent="an object was exchanged")
    tally.require(False, "the error has no name")
    record = {
        "title": "flips",
        "shows": "0 silent",
        "noticed": False,
        "seconds": 1.2,
        "date": "2026-01-02",
        "share": 0.1,
        **tally.to_json(),
    }
    assert not is_sound(record)
    said = table([record])
    assert "| flips | 2 (10% scale) | 1 | 1 | **unnoticed** | 0 silent | 1 | 2026-01-02 |" in said
    assert "- SILENT: an object was exchanged" in said and "- failed: the error has no name" in said


def test_a_row_stays_published_until_it_is_run_again() -> None:
    page = PAGE.read_text(encoding="utf-8")
    earlier = page[page.index("<!-- campaign: begin -->\n") : page.index("<!-- campaign: end -->")]
    titles = [importlib.import_module(f"tests.campaign.{row}").TITLE for row in ROWS]
    assert set(rows_of(earlier)) == set(titles)
    assert sorted(filter(None, earlier.splitlines()[1:])) == sorted(filter(None, table([], earlier).splitlines()))
    tally = Tally()
    tally.case()
    tally.note("told anew.")
    flips, first = importlib.import_module("tests.campaign.flips").TITLE, table([], earlier).splitlines()
    record = {
        "title": flips,
        "shows": "0 silent",
        "noticed": True,
        "seconds": 1.2,
        "date": "2026-01-02",
        "share": 1,
        **tally.to_json(),
    }
    again = table([record], earlier).splitlines()
    assert sorted(set(again) - set(first)) == [
        "- told anew.",
        f"| {flips} | 1 | 0 | 0 | noticed | 0 silent | 1 | 2026-01-02 |",
    ]
    assert [line.split(" | ")[0][2:] for line in again if line.startswith("| ")][1:] == titles
    kept = [line for line in first if line.startswith("- ") and "bits" not in line and "lowrank" not in line]
    assert set(kept) <= set(again)


@pytest.mark.parametrize(
    ("text", "full", "reduced", "count"),
    [("full", 200, 8, 200), ("10%", 200, 8, 20), ("reduced", 200, 8, 8), ("1%", 200, 8, 8), ("full", 5, 8, 5)],
)
def test_scales(text: str, full: int, reduced: int, count: int) -> None:
    scale = Scale.parse(text, 0)
    assert scale.count(full, reduced) == count
    assert len(scale.some(range(full), reduced)) == count


def test_the_published_page_has_every_row() -> None:
    page = (Path(__file__).parents[2] / "docs" / "trust.md").read_text(encoding="utf-8")
    for row in ROWS:
        assert importlib.import_module(f"tests.campaign.{row}").TITLE in page, row
