"""A real loader and a device that takes a known time: what is measured is what was made so."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.feeding.watch import FIRST_STEPS, Watch, pixels_left, seconds_of_a_byte
from pipeline.picture_cache.kept import PictureCache
from pipeline.rendering.loader import Loader, requests_of
from pipeline.shards.index import SampleIndex, scan
from pipeline.views.recipe import Recipe
from tests.pictures import tiny_shards

ROWS, BATCH = 96, 8
RECIPE = Recipe(image_size=32, mix_window=8)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SampleIndex:
    return scan(tiny_shards(tmp_path_factory.mktemp("shards"), rows=ROWS))


def drawn(
    loader: Loader, rows: int, seconds: float, limit: float = 1e9, wait: Callable[[float], None] = time.sleep
) -> Watch:
    """So many rows once, with a device that takes so many seconds a step."""
    watch = Watch(loader, CPU, repeats=1, seconds=limit)
    for slot in loader.render(requests_of(np.arange(rows), 0, BATCH)):
        with watch.working():
            wait(seconds)
        watch.took(len(slot.row_B))
    return watch


class Clock:
    """Goes on by itself, and at once by what is waited for."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def perf_counter(self) -> float:
        return time.perf_counter() + self.ahead

    def wait(self, seconds: float) -> None:
        self.ahead += seconds


def test_what_is_measured(index: SampleIndex) -> None:
    with Loader(RECIPE, index, batch=BATCH, workers=0) as loader:
        found = drawn(loader, ROWS, 0.01).measurement()
    steps = ROWS // BATCH - FIRST_STEPS
    assert found.views == found.effort.views == steps * BATCH
    assert steps * 0.01 <= found.working <= found.seconds and found.seconds - found.working >= found.effort.seconds > 0
    assert 0 < found.effort.reading + found.effort.decoding < found.effort.seconds
    assert found.effort.decoded == found.views and found.effort.looked_up == 0 and found.cores >= 1
    assert 0 < found.effort.box_pixels < found.effort.row_pixels < found.effort.pixels


@pytest.mark.parametrize("workers", [0, 2])
def test_the_efforts_of_all_workers_come_back(index: SampleIndex, tmp_path: Path, workers: int) -> None:
    """Views, pictures that were decoded, and pictures that were not, from as many processes as there are."""
    cache = PictureCache(tmp_path / "cache", 1 << 30).prepared()
    for known in (False, True):
        with Loader(RECIPE, index, batch=BATCH, workers=workers, pictures=cache) as loader:
            drawn(loader, ROWS, 0.0)
        spent = loader.effort
        assert spent.views == spent.opened == ROWS and spent.seconds > spent.decoding + spent.looking > 0
        assert (spent.looked_up, spent.decoded) == ((ROWS, 0) if known else (0, ROWS))


def test_it_is_said_once_and_only_to_who_waits(
    index: SampleIndex, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("pipeline.feeding.watch.time", clock)
    with Loader(RECIPE, index, batch=BATCH, workers=0) as loader, caplog.at_level(logging.WARNING):
        drawn(loader, 40, 1000.0, limit=0.001, wait=clock.wait)  # far more than what its views take
        assert not caplog.messages
        drawn(loader, 40, 0.0, limit=0.001)
    (told,) = caplog.messages
    assert told.startswith("waiting ") and ": this process draws " in told and " views/s, the device takes " in told


def test_pixels_left(index: SampleIndex) -> None:
    assert pixels_left(index, 10_000) == 1.0
    side = int(max(index.widths.max(), index.heights.max()))
    assert 0.2 < pixels_left(index, side // 2) < 1.0
    assert 1e-11 < seconds_of_a_byte() < 1e-7
