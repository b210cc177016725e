"""A dry run says how fast all workers draw, and of decoded pictures that only what is decoded again can be saved."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.labelling import cost
from pipeline.labelling.cost import Cost
from pipeline.rendering import loader
from pipeline.rendering.effort import Effort
from tests.stores import card, index_of, manifest_of

WORKERS, VIEW_S = 4, 0.001
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


class Drawer:
    """Draws nothing, in a known time."""

    def render(self, row_B, view_B, out_BHWC):
        time.sleep(VIEW_S * len(row_B))
        self.drawn = len(row_B)
        luma_B16 = np.zeros((len(row_B), 16), np.uint8)
        return SimpleNamespace(crc_B=np.zeros(len(row_B), np.uint32), luma_B16=luma_B16, bad_rows=())

    def take_effort(self):
        return Effort(views=self.drawn, seconds=VIEW_S * self.drawn, decoded=1, decoding=VIEW_S * self.drawn / 2)


class Sayer:
    """Has an answer at once."""

    stream = SimpleNamespace(apart=False)

    def __call__(self, pixels_BHWC):
        return np.zeros((len(pixels_BHWC), 12), np.float32)

    launch = __call__

    def collect(self, launched):
        return launched, None


def test_the_rate_of_drawing_is_that_of_all_workers(monkeypatch):
    """Consecutive batches lie with one worker: when the time is over, the others' have not been looked at."""
    monkeypatch.setattr(cost, "SECONDS", 0.3)
    monkeypatch.setattr(loader, "_renderer", lambda *_: Drawer())
    index = index_of(400)
    manifest = manifest_of(index, "argmax", teacher=card(batch_size=100))
    found = cost.estimate(manifest, index, Sayer(), views=8, workers=WORKERS, start_method="fork")
    assert found.render_rate == pytest.approx(WORKERS / VIEW_S)
