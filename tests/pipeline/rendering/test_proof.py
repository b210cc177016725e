"""What a store keeps of a view's pixels is as described; a drift fits, and hardly any other view does."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.rendering.checksums import checksum, luma
from pipeline.rendering.proof import kept, kept_of, parts_apart, sketches
from pipeline.rendering.same_views import TOLERANCE, Seen, compare_views
from pipeline.store.manifest import SKETCH
from tests.pictures import scene

GENERATOR = np.random.default_rng(5)
THUMBNAILS = GENERATOR.integers(3, 253, (4000, 16)).astype(np.uint8)
CHECKSUMS = GENERATOR.integers(0, 2**32, 4000, dtype=np.uint32)


def described(luma_16):
    """The sketch by its description, one part at a time."""
    total = 0
    for part in range(8):
        x = int(luma_16[2 * part]) + int(luma_16[2 * part + 1])
        total += (x // 32 % 4) << (2 * part)
    return total


def test_a_sketch_is_as_described():
    assert sketches(THUMBNAILS[:200]).tolist() == [described(t) for t in THUMBNAILS[:200]]


def test_what_is_kept():
    assert kept(False, CHECKSUMS, THUMBNAILS) == (CHECKSUMS, None)
    assert kept(True, CHECKSUMS, THUMBNAILS) == (CHECKSUMS, THUMBNAILS)
    sealed_B, none = kept(SKETCH, CHECKSUMS, THUMBNAILS)
    assert none is None
    assert (sealed_B >> 16 == CHECKSUMS >> 16).all() and (sealed_B & 0xFFFF == sketches(THUMBNAILS)).all()


def test_the_four_bytes_of_a_picture():
    image = np.ascontiguousarray(scene(3)[:32, :32])
    assert kept_of(True, image) == kept_of(False, image) == checksum(image)
    assert kept_of(SKETCH, image) == (checksum(image) & 0xFFFF0000) + described(luma(image))


def compared(form, drawn, *, accept_drift=True):
    """Views with these thumbnails against those above."""
    stored_B, stored_B16 = kept(form, CHECKSUMS, THUMBNAILS)
    labelled = Seen(stored_B, stored_B16, sketched=form == SKETCH)
    return compare_views(Seen(CHECKSUMS, drawn), labelled, accept_drift=accept_drift)


@pytest.mark.parametrize("form", [SKETCH, True, False])
def test_any_other_bit_is_a_change(form):
    stored_B, _ = kept(form, CHECKSUMS, THUMBNAILS)
    labelled = Seen(stored_B, sketched=form == SKETCH)
    assert compare_views(Seen(CHECKSUMS, THUMBNAILS), labelled).first is None
    other = compare_views(Seen(CHECKSUMS ^ np.uint32(1 << 16), THUMBNAILS), labelled)
    assert other.changed_B.all() and other.first == 0
    assert compare_views(Seen(np.roll(CHECKSUMS, 1), np.roll(THUMBNAILS, 1, axis=0)), labelled).changed_B.all()


def test_a_look_that_differs_by_a_step_is_a_change_of_pixels_too():
    assert (compared(SKETCH, THUMBNAILS ^ np.uint8(128), accept_drift=False).changed_B).mean() > 0.9


@pytest.mark.parametrize("form", [SKETCH, True])
def test_two_levels_are_a_drift_wherever_they_fall(form):
    for _ in range(20):
        moved = (THUMBNAILS + GENERATOR.integers(-2, 3, THUMBNAILS.shape)).astype(np.uint8)
        assert compared(form, moved).first is None


def test_a_part_fits_up_to_two_levels_beyond_its_step_and_no_further():
    stored_B, _ = kept(SKETCH, CHECKSUMS[:1], np.full((1, 16), 16, np.uint8))  # sums of 32: the first of a step
    for cell, fits in ((13, False), (14, True), (16, True), (31, True), (33, True), (34, False), (80, True)):
        off = parts_apart(stored_B, np.full((1, 16), cell, np.uint8), TOLERANCE)
        assert off.tolist() == ([0] if fits else [8]), cell


@pytest.mark.parametrize(("form", "most"), [(SKETCH, 4e-4), (True, 0.0)])
def test_other_views_hardly_fit(form, most):
    passed = [1 - compared(form, np.roll(THUMBNAILS, by, axis=0)).other_B.mean() for by in range(1, 40)]
    assert np.mean(passed) <= most


def test_where_no_looks_are_kept_the_checksum_decides():
    found = compared(False, THUMBNAILS)
    assert found.looks_other is None and found.first is None
