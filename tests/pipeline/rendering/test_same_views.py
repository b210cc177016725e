"""A view is the labelled one by its checksum; under an accepted drift by its thumbnail, if both have one."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.rendering.same_views import TOLERANCE, Seen, compare_views

CRC_B = np.array([7, 8, 9], np.uint32)
LUMA_B16 = np.full((3, 16), 100, np.uint8)


def drawn(*steps: int, luma: bool = True) -> Seen:
    """Views that differ from the labelled ones by so many levels in one part; 0 is not changed."""
    luma_B16 = LUMA_B16.copy()
    luma_B16[:, 5] += np.array(steps, np.int16).astype(np.uint8)
    return Seen(CRC_B + np.array([step != 0 for step in steps], np.uint32), luma_B16 if luma else None)


def test_the_same_pixels_are_the_same_views() -> None:
    found = compare_views(drawn(0, 0, 0), Seen(CRC_B, LUMA_B16))
    assert found.first is None and not found.changed_B.any() and found.levels_B is not None
    assert found.levels_B.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("accept_drift", "stored", "first"),
    [(False, True, 1), (True, True, 2), (True, False, 1)],  # without a stored thumbnail the checksum decides
)
def test_a_drift_is_accepted_within_the_tolerance(accept_drift: bool, stored: bool, first: int) -> None:
    labelled = Seen(CRC_B, LUMA_B16 if stored else None)
    found = compare_views(drawn(0, TOLERANCE, -TOLERANCE - 1), labelled, accept_drift=accept_drift)
    assert found.first == first and found.changed_B.tolist() == [False, True, True]
    assert (found.levels_B is None) == (not stored)


def test_a_thumbnail_that_nobody_drew_is_not_compared() -> None:
    assert compare_views(drawn(0, 1, 1, luma=False), Seen(CRC_B, LUMA_B16), accept_drift=True).first == 1
