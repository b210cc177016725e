"""What a dry run says about decoded pictures: only what is decoded again can be saved."""

from __future__ import annotations

import pytest

from pipeline.labelling.cost import Cost

NOTHING = "nothing of this run, but of its students'"


@pytest.mark.parametrize(
    ("views", "rate", "saved", "told"),
    [
        (8, 2500.0, 0.0, NOTHING),
        (16, 2500.0, 48.0, "48s of this run"),
        (16, 9000.0, 60.0, "1m00s of this run"),
        (16, 900.0, 0.0, NOTHING),
    ],
)
def test_what_a_picture_cache_saves(views: int, rate: float, saved: float, told: str) -> None:
    """With one pass over the pictures nothing; with two, half of what drawing is slower than from the cache."""
    cost = Cost(
        views=views,
        rows=10_000,
        render_rate=1000.0,
        teacher_rate=4000.0,
        bytes_per_view={"argmax": 1.0},
        picture_bytes=5_632_000_000,
        cached_rate=rate,
        drawn_bytes=155_648,
    )
    assert cost.saved == pytest.approx(saved)
    assert (
        f"pictures     5,632.0 MB decoded, 563 kB each; from a --picture-cache {rate:,.0f} views/s would be rendered, "
        f"which saves {told}\n"
    ) in cost.text()
    assert (
        f"drawn        {views * 10_000 * 155_648 / 1e6:,.1f} MB, 156 kB each: what a --view-cache takes" in cost.text()
    )
