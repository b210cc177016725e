"""Is this run fed? Its first minute is measured, and what would help is said once, if anything would.

    watch = Watch(loader, device)
    with watch.working():         # around what is handed to the device
        …
    watch.took(len(views))

On a GPU the work is timed by the device itself, between two events, because the host only hands it over; on a processor
by the clock. The first steps, in which kernels are chosen and caches are cold, are not counted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy

import google_crc32c
import numpy as np
import torch

from pipeline.feeding.advice import Measurement, advice
from pipeline.processes.machine import granted_cores
from pipeline.processes.world import Place
from pipeline.rendering.effort import Effort
from pipeline.rendering.loader import Loader
from pipeline.shards.index import SampleIndex

FIRST_STEPS, SECONDS = 3, 40.0
PROBE_BYTES = 32 << 20
SIDE_OF_VIEWS = 400 / 224
"""The longest side that a photograph should have, of the side of a view: docs/speed.md, photographs packed smaller"""

log = logging.getLogger(__name__)


class Watch:
    """Measures a run in its first minute, and logs once what would help where the device waits."""

    def __init__(
        self,
        loader: Loader,
        device: torch.device,
        *,
        repeats: int | None = None,
        uses: float = 1.0,
        seconds: float = SECONDS,
        told: bool = True,
    ) -> None:
        self.loader, self.device, self.limit = loader, device, seconds
        self.repeats, self.uses = repeats, uses
        self._over = not told
        self._steps = self._views = 0
        self._host = self._waited = 0.0
        self._begun = self._begun_waiting = 0.0
        self._begun_effort = Effort()
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def working(self) -> Iterator[None]:
        """Time what is done inside as the work of one step on the device."""
        if self._over or self._steps < FIRST_STEPS:
            yield
            return
        begun = time.perf_counter()
        first = self._event()
        yield
        last = self._event()
        if first is not None and last is not None:
            self._events.append((first, last))
        self._host += time.perf_counter() - begun

    def _event(self) -> torch.cuda.Event | None:
        if self.device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def took(self, views: int) -> None:
        """Count the step that ends here, of so many views; after a minute the advice is logged, if there is some."""
        if self._over:
            return
        self._steps += 1
        if self._steps <= FIRST_STEPS:
            self._begun, self._begun_waiting = time.perf_counter(), self.loader.waited
            self._begun_effort = copy(self.loader.effort)
            return
        self._views += views
        self._waited = self.loader.waited - self._begun_waiting
        if time.perf_counter() - self._begun >= self.limit:
            self._over = True
            if (told := advice(self.measurement())) is not None:
                log.warning("%s", told)

    def measurement(self) -> Measurement:
        """What was measured since the first steps, with what is known of pictures and machine."""
        return measured(
            self.loader,
            self.loader.effort.since(self._begun_effort),
            views=self._views,
            seconds=self._waited + self._host,
            working=self._worked(),
            repeats=self.repeats,
            uses=self.uses,
        )

    def _worked(self) -> float:
        """Seconds in which the device worked."""
        if not self._events:
            return self._host
        self._events[-1][1].synchronize()
        return float(sum(first.elapsed_time(last) for first, last in self._events)) / 1000


def measured(
    loader: Loader, effort: Effort, *, views: int, seconds: float, working: float, repeats: int | None = None,
    uses: float = 1.0,
) -> Measurement:  # fmt: skip
    """What was seen of a loader and a device in some time, with what is known of pictures and machine."""
    max_side = int(round(SIDE_OF_VIEWS * loader.recipe.image_size, -1))
    return Measurement(
        seconds=seconds,
        working=working,
        views=views,
        effort=effort,
        workers=loader.workers,
        cores=cores(),
        repeats=repeats,
        cached=loader.pictures is not None,
        drawn_once=loader.view_cache is not None,
        fills=loader.view_cache is not None and loader.view_cache.fills,
        uses=uses,
        view_bytes=3 * loader.recipe.image_size**2,
        max_side=max_side,
        smaller=pixels_left(loader.index, max_side),
        byte_s=seconds_of_a_byte(),
    )


def cores() -> int:
    """How many cores this process and its workers may use: its share of those that the node's processes may use."""
    return max(1, granted_cores() // Place.from_environment().local_world)


def pixels_left(index: SampleIndex, max_side: int) -> float:
    """The share of all pixels of an index, 0 to 1, that would be left if `pack --max-side` had shrunk its pictures."""
    pixels_R = index.widths.astype(np.float64) * index.heights
    longest_R = np.maximum(np.maximum(index.widths, index.heights), 1)
    left = (pixels_R * np.minimum(1.0, max_side / longest_R) ** 2).sum()
    return float(left / max(pixels_R.sum(), 1.0))


def seconds_of_a_byte() -> float:
    """How long it takes here to copy a byte that is in memory, not in a cache, and to take it into a checksum."""
    source, target = (np.ones(PROBE_BYTES, np.uint8) for _ in range(2))
    begun = time.perf_counter()
    np.copyto(target, source)
    google_crc32c.value(target)
    return (time.perf_counter() - begun) / PROBE_BYTES
