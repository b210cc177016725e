"""A view is the labelled one by its pixels; under an accepted drift by its looks, if the store says how it looked."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.proofs.proof import TOLERANCE, kept
from pipeline.proofs.same_views import Labelled, Seen, compare_views
from pipeline.store.manifest import SKETCH, Luma

CRC_B = np.array([7 << 16, 8 << 16, 9 << 16], np.uint32)
LUMA_B16 = np.full((3, 16), 113, np.uint8)  # sums of 226: a step of a sketch begins two below


def drawn(*steps: int) -> Seen:
    """Views that differ from the labelled ones by so many levels in one part; 0 is not changed."""
    luma_B16 = LUMA_B16.copy()
    luma_B16[:, 5] += np.array(steps, np.int16).astype(np.uint8)
    return Seen(CRC_B + np.array([(step != 0) << 16 for step in steps], np.uint32), luma_B16)


def labelled(luma: Luma) -> Labelled:
    return Labelled(luma, *kept(luma, CRC_B, LUMA_B16))


@pytest.mark.parametrize("luma", [SKETCH, True, False])
def test_the_same_pixels_are_the_same_views(luma: Luma) -> None:
    found = compare_views(drawn(0, 0, 0), labelled(luma))
    assert found.first is None and not found.changed_B.any() and not found.unlike.any()
    assert (found.off_B is None) == (luma is False) and (found.how_far(0) == "") == (luma is False)
    assert (found.crc_B == labelled(luma).crc_B).all()


@pytest.mark.parametrize("luma", [SKETCH, True, False])
def test_any_other_bit_is_a_change(luma: Luma) -> None:
    found = compare_views(Seen(CRC_B ^ np.uint32(1 << 16), LUMA_B16), labelled(luma))
    assert found.changed_B.all() and found.first == 0 and not found.unlike.any()
    found = compare_views(Seen(np.roll(CRC_B, 1), LUMA_B16), labelled(luma))
    assert found.changed_B.all()


@pytest.mark.parametrize(
    ("accept_drift", "luma", "first"),
    [(False, True, 1), (True, True, 2), (True, SKETCH, 2), (True, False, 1)],  # without looks the checksum decides
)
def test_a_drift_is_accepted_within_the_tolerance(accept_drift: bool, luma: Luma, first: int) -> None:
    steps = (0, TOLERANCE, -TOLERANCE - 1 if luma is True else -40)
    found = compare_views(drawn(*steps), labelled(luma), accept_drift=accept_drift)
    assert found.first == first and found.changed_B.tolist() == [False, True, True]
    assert found.unlike.tolist() == [False, False, luma is not False]


def test_words_say_how_far_a_view_is_from_how_it_looked() -> None:
    assert compare_views(drawn(0, 0, -7), labelled(True)).how_far(2) == "its thumbnail is 7 levels off"
    assert compare_views(drawn(0, 0, -40), labelled(SKETCH)).how_far(2) == "1 of 8 parts of its sketch differ"
