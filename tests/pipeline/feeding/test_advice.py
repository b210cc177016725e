"""The arithmetic on numbers that can be checked by hand, and silence where there is nothing to say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.feeding.advice import FIND_S, OPEN_S, TILED_S, Measurement, advice, tiled
from pipeline.rendering.effort import Effort

DRAWN = Effort(
    views=10_000, seconds=35.0, reading=1.0, decoding=24.0, decoded=10_000, pixels=10_000 * 200_000,
    box_pixels=10_000 * 100_000, row_pixels=10_000 * 140_000,
)  # fmt: skip
"""3.5 ms a view: 2.5 for its picture, 1.0 for the rest"""
FOUND = Measurement(
    seconds=20.0, working=10.0, views=92_000, effort=DRAWN, workers=16, cores=16, repeats=1, cached=False, max_side=400,
    smaller=0.6, byte_s=5e-10, drawn_once=False, fills=False, uses=1.0, view_bytes=150_528,
)  # fmt: skip


def test_numbers() -> None:
    assert FOUND.waiting == 0.5 and FOUND.takes == 9200
    assert FOUND.draws == pytest.approx(16 / 3.5e-3)
    remedies = FOUND.remedies()
    assert list(remedies) == [
        *("--repeats 3", "pack --tiled", "pack --max-side 400 (and labels anew)", "--picture-cache")
    ]
    assert remedies["--repeats 3"] == pytest.approx(16 / (2.5e-3 / 3 + 1e-3))
    assert remedies["pack --tiled"] == pytest.approx(16 / (0.1e-3 + TILED_S + tiled(0.5) * 2.4e-3 + 1e-3))
    assert remedies["pack --max-side 400 (and labels anew)"] == pytest.approx(16 / (0.1e-3 + 0.6 * 2.4e-3 + 1e-3))
    assert remedies["--picture-cache"] == pytest.approx(16 / (OPEN_S + 3 * 140_000 * 5e-10 + 1e-3))


def test_the_sentence() -> None:
    assert advice(FOUND) == (
        "waiting 50 %: 16 workers draw 4,571 views/s, the device takes 9,200; --repeats 3 would draw about 8,727, "
        "pack --tiled 5,908, pack --max-side 400 (and labels anew) 6,299, --picture-cache 12,903."
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"working": 18.5},
        {"working": 20.0},
        {"working": 30.0},
        {"effort": Effort()},
        {"seconds": 0.0, "working": 0.0, "views": 0},
    ],
)
def test_nothing_is_said_where_it_is_fed_or_nothing_is_known(changes: dict[str, object]) -> None:
    assert advice(replace(FOUND, **changes)) is None  # type: ignore[arg-type]


def test_only_what_is_not_done_yet_and_helps() -> None:
    parts = replace(FOUND, effort=replace(DRAWN, parts=9_000), smaller=1.0)
    assert list(parts.remedies()) == ["--repeats 3", "--picture-cache"]
    whole = (2.4e-3 - TILED_S) / tiled(0.5)
    assert parts.remedies()["--repeats 3"] == pytest.approx(16 / ((0.1e-3 + whole) / 3 + 1e-3))
    repeated = replace(FOUND, repeats=3, smaller=1.0, effort=replace(DRAWN, views=30_000, seconds=55.0))
    assert list(repeated.remedies()) == ["--picture-cache"]
    teacher = replace(FOUND, repeats=None, effort=replace(DRAWN, views=80_000, seconds=105.0), smaller=0.95)
    assert list(teacher.remedies()) == ["--picture-cache"]


def test_idle_cores_and_no_workers_at_all() -> None:
    assert replace(FOUND, cores=32).remedies()["--workers 32"] == pytest.approx(2 * FOUND.draws)
    alone = replace(FOUND, workers=0, cores=4)
    assert alone.remedies()["--workers 4"] == pytest.approx(4 * alone.draws)
    assert (advice(alone) or "").startswith("waiting 50 %: this process draws 286 views/s, the device takes 9,200; ")


def test_a_cache_that_is_being_filled_and_one_that_is_full() -> None:
    spent = replace(DRAWN, keeping=2.0, seconds=37.0)
    filling = replace(FOUND, cached=True, effort=spent)
    assert advice(filling) == (
        "waiting 50 %: 16 workers draw 4,324 views/s, the device takes 9,200; the picture cache, once all pictures are "
        "in it, would draw about 12,903."
    )
    full = replace(
        spent, decoded=0, looked_up=10_000, decoding=0.0, reading=0.0, looking=3.0, keeping=0.0, seconds=13.0
    )
    assert advice(replace(FOUND, cached=True, effort=full)) == (
        "waiting 50 %: 16 workers draw 12,308 views/s, the device takes 9,200; only more cores would help."
    )


def test_views_that_are_used_again_may_be_kept() -> None:
    """Whatever is done already: nothing of a view that is there has to be decoded or drawn."""
    kept = pytest.approx(16 / (FIND_S + 2 * 150_528 * 5e-10))
    assert replace(FOUND, uses=2.0).remedies() == FOUND.remedies() | {"--view-cache": kept}
    cached = replace(FOUND, cached=True, effort=replace(DRAWN, decoded=0, looked_up=10_000))
    assert replace(cached, uses=10.0).remedies() == {"--view-cache": kept} and cached.remedies() == {}
    assert "--view-cache" not in replace(FOUND, uses=1.9).remedies()


def test_what_is_said_of_a_view_cache_follows_from_what_is_in_it() -> None:
    kept = pytest.approx(16 / (FIND_S + 2 * 150_528 * 5e-10))
    filling = replace(FOUND, drawn_once=True, fills=True, uses=10.0, effort=replace(DRAWN, found=3_000))
    assert filling.remedies() == {"the view cache, once all views are in it,": kept}
    assert replace(filling, fills=False).remedies() == FOUND.remedies() | {"a larger --view-cache-size": kept}
    assert replace(filling, uses=1.0).remedies() == FOUND.remedies(), "a teacher asks for each view once"
    for fills in (False, True):
        assert replace(filling, fills=fills, effort=replace(DRAWN, found=9_600)).remedies() == {}


def test_slow_shards_are_named() -> None:
    slow = replace(FOUND, effort=replace(DRAWN, reading=15.0, seconds=49.0))
    assert (advice(slow) or "").endswith(" Reading the shards takes 31 % of it: a faster disk would help.")
