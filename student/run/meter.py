"""What was the loss lately, and how fast did it go?

`Means` are part of a run's state: a run that goes on in the middle of an interval writes the line that an uninterrupted
one would have written. `Pace` is about this process and this moment only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from student.checkpoints.contents import NAMES


class Means:
    """Means over the steps since the last log line, and since the epoch began."""

    def __init__(self) -> None:
        self.interval, self.epoch = ([0.0] * len(NAMES) for _ in range(2))
        self.interval_steps = self.epoch_steps = 0

    def add(self, losses: Sequence[float]) -> None:
        """Add the sums of one step to those of the interval and of the epoch."""
        for sums in (self.interval, self.epoch):
            for number, value in enumerate(losses):
                sums[number] += value
        self.interval_steps += 1
        self.epoch_steps += 1

    def take_interval(self, *, keep: bool = False) -> dict[str, float]:
        """The means since they were last taken; with `keep` they go on."""
        means = _means(self.interval, self.interval_steps)
        if not keep:
            self.interval, self.interval_steps = [0.0] * len(NAMES), 0
        return means

    def take_epoch(self) -> dict[str, float]:
        """The means over the epoch so far; those of the next one begin from nothing."""
        means = _means(self.epoch, self.epoch_steps)
        self.epoch, self.epoch_steps = [0.0] * len(NAMES), 0
        return means

    def state(self) -> dict[str, list[float] | int]:
        """What has been counted, as plain values that a checkpoint can hold."""
        return dict(vars(self))

    def restore(self, state: dict[str, list[float] | int]) -> None:
        """Take up what an earlier process had counted, as `state` gave it."""
        for name, value in state.items():
            setattr(self, name, list(value) if isinstance(value, list) else value)


class Pace:
    """Images a second and the share of time spent waiting for data, since the last log line, while it trains."""

    def __init__(self) -> None:
        self._images, self._begun, self._waited = 0, time.perf_counter(), 0.0
        self.stood = 0.0
        """How long that took when it was done last"""

    def add(self, images: int) -> None:
        """Count the pictures of one more step."""
        self._images += images

    @contextmanager
    def standing(self) -> Iterator[None]:
        """What is done in here, such as validation, is no time of training."""
        begun = time.perf_counter()
        yield
        self.stood = time.perf_counter() - begun
        self._begun += self.stood

    def look(self, waited: float) -> tuple[float, float]:
        """Images a second and waiting share since they were last taken; `waited` is the run's total so far."""
        seconds = max(time.perf_counter() - self._begun, 1e-9)
        return self._images / seconds, min((waited - self._waited) / seconds, 1.0)

    def take(self, waited: float) -> tuple[float, float]:
        """Images a second, and the share of time spent waiting, since the last call; then counting begins anew."""
        rate, wait = self.look(waited)
        self._images, self._begun, self._waited = 0, time.perf_counter(), waited
        return rate, wait


def _means(sums: Sequence[float], steps: int) -> dict[str, float]:
    return {name: value / max(steps, 1) for name, value in zip(NAMES, sums, strict=True)}
