"""What a store keeps of a view's pixels is as described; a drift fits, and hardly any other view does."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.proofs.checksums import checksum, luma
from pipeline.proofs.proof import apart, how_far, kept, kept_of, most_apart, sketches
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


@pytest.mark.parametrize("form", [SKETCH, True])
def test_two_levels_are_a_drift_wherever_they_fall(form):
    stored_B, stored_B16 = kept(form, CHECKSUMS, THUMBNAILS)
    for _ in range(20):
        moved = (THUMBNAILS + GENERATOR.integers(-2, 3, THUMBNAILS.shape)).astype(np.uint8)
        assert (apart(form, stored_B, stored_B16, moved) <= most_apart(form)).all()


def test_a_part_fits_up_to_two_levels_beyond_its_step_and_no_further():
    stored_B, _ = kept(SKETCH, CHECKSUMS[:1], np.full((1, 16), 16, np.uint8))  # sums of 32: the first of a step
    for cell, fits in ((13, False), (14, True), (16, True), (31, True), (33, True), (34, False), (80, True)):
        off = apart(SKETCH, stored_B, None, np.full((1, 16), cell, np.uint8))
        assert off.tolist() == ([0] if fits else [8]), cell


@pytest.mark.parametrize(("form", "most"), [(SKETCH, 4e-4), (True, 0.0)])
def test_other_views_hardly_fit(form, most):
    stored_B, stored_B16 = kept(form, CHECKSUMS, THUMBNAILS)
    passed = [
        (apart(form, stored_B, stored_B16, np.roll(THUMBNAILS, by, axis=0)) <= most_apart(form)).mean()
        for by in range(1, 40)
    ]
    assert np.mean(passed) <= most


def test_nothing_is_known_of_looks_where_none_are_kept_and_words_say_how_far_else():
    assert apart(False, CHECKSUMS, None, THUMBNAILS) is None
    assert how_far(SKETCH, 3) == "3 of 8 parts of its sketch differ"
    assert how_far(True, 7) == "its thumbnail is 7 levels off"
