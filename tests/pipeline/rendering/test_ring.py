"""Slots are disjoint, shared between processes, and reach a spawned one, too."""

import multiprocessing

import numpy as np
import pytest

from pipeline.rendering.ring import FIELDS, Ring


def fill(ring: Ring, number: int) -> None:
    slot = ring.slot(number)
    slot.pixels_BHWC[:] = number + 1
    slot.crc_B[:] = number + 1000


def parts(slot):
    return [getattr(slot, name) for name in FIELDS]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_another_process_writes_is_seen_here(method):
    ring = Ring(2, 3, 8)
    process = multiprocessing.get_context(method).Process(target=fill, args=(ring, 1))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert (ring.slot(1).pixels_BHWC == 2).all() and (ring.slot(1).crc_B == 1001).all()
    assert (ring.slot(0).pixels_BHWC == 0).all()


def test_slots_and_their_parts_do_not_overlap():
    ring = Ring(3, 5, 7)
    for number in range(3):
        slot = ring.slot(number)
        for value, part in enumerate(parts(slot)):
            part[:] = 10 * number + value
    for number in range(3):
        slot = ring.slot(number)
        for value, part in enumerate(parts(slot)):
            assert (part == 10 * number + value).all()


def test_a_slot_can_be_cut_and_copied_without_its_pixels():
    slot = Ring(1, 4, 8).slot(0)
    slot.row_B[:] = np.arange(4)
    assert slot.first(3).row_B.tolist() == [0, 1, 2]
    answers = slot.answers()
    slot.row_B[:] = 9
    assert answers.row_B.tolist() == [0, 1, 2, 3]
