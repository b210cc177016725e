"""Validation views are drawn once, and never believed when they are not what was drawn."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.proofs.checksums import checksum
from pipeline.rendering.loader import Request, requests_of
from pipeline.rendering.ring import Ring, Slot
from student.run import kept_views
from student.run.kept_views import KeptViews

SIDE, ROWS, BATCH = 8, 23, 5


class Drawing:
    """Draws into one slot, as a loader does, and counts."""

    def __init__(self) -> None:
        self.slot, self.drawn = Ring(1, BATCH, SIDE).slot(0), 0

    def __call__(self, requests: Iterable[Request]) -> Iterator[Slot]:
        for row_B, view_B in requests:
            slot = self.slot.first(len(row_B))
            slot.row_B[:], slot.view_B[:] = row_B, view_B
            slot.pixels_BHWC[:] = np.random.default_rng(row_B.tolist()).integers(0, 256, slot.pixels_BHWC.shape)
            slot.crc_B[:] = [checksum(view) for view in slot.pixels_BHWC]
            self.drawn += len(row_B)
            yield slot


def taken(kept: KeptViews, drawing: Drawing) -> list[tuple[list[int], bytes]]:
    return [(row_B.tolist(), pixels_BHWC.tobytes()) for row_B, pixels_BHWC in kept.batches(drawing)]


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[KeptViews]:
    views = KeptViews(list(requests_of(np.arange(ROWS), 0, BATCH)), SIDE, tmp_path)
    yield views
    views.close()


def test_later_passes_draw_nothing_and_leave_nothing(kept: KeptViews, tmp_path: Path) -> None:
    drawing = Drawing()
    first = taken(kept, drawing)
    assert taken(kept, drawing) == taken(kept, drawing) == first
    assert drawing.drawn == ROWS and not list(tmp_path.iterdir())


def test_a_pass_that_was_left_early_keeps_nothing(kept: KeptViews) -> None:
    drawing = Drawing()
    batches = kept.batches(drawing)
    next(batches)
    batches.close()
    first = taken(kept, drawing)
    assert drawing.drawn == BATCH + ROWS and taken(kept, drawing) == first


def flip(descriptor: int) -> None:
    at = 2 * BATCH * SIDE * SIDE * 3 + 77
    os.pwrite(descriptor, bytes([os.pread(descriptor, 1, at)[0] ^ 4]), at)


def cut(descriptor: int) -> None:
    os.ftruncate(descriptor, 2 * BATCH * SIDE * SIDE * 3 + 77)


@pytest.mark.parametrize("damage", [flip, cut])
def test_damaged_views_are_drawn_again(
    kept: KeptViews, damage: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    drawing = Drawing()
    first = taken(kept, drawing)
    assert kept._file is not None
    damage(kept._file)
    assert taken(kept, drawing) == first and drawing.drawn == ROWS + ROWS - 2 * BATCH
    assert caplog.messages == ["kept validation views are damaged: they are drawn again"]
    assert taken(kept, drawing) == first and drawing.drawn == 3 * ROWS - 2 * BATCH


def test_without_room_all_is_drawn_again(kept: KeptViews, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = Drawing()
    monkeypatch.setattr(kept_views, "_free", lambda _folder: 2 * ROWS * SIDE * SIDE * 3 - 2)
    assert taken(kept, drawing) == taken(kept, drawing)
    assert drawing.drawn == 2 * ROWS and kept._file is None


def test_a_disk_that_becomes_full_ends_the_keeping_alone(kept: KeptViews, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = os.pwrite, []

    def full(descriptor: int, data: memoryview, at: int) -> int:
        calls.append(at)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:100] if len(calls) == 1 else data, at)

    monkeypatch.setattr(os, "pwrite", full)
    drawing = Drawing()
    assert taken(kept, drawing) == taken(kept, drawing)
    assert drawing.drawn == 2 * ROWS and len(calls) == 3
