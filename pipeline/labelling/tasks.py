"""Who does which unit next?

    with handout_of(place, timeout_s=600) as handout:
        tasks = handout.announce(tasks_of(missing, 8))     # as rank 0
        tasks = handout.listen()                           # as any other
        for task in tasks: ...                             # what is handed to this process, until nothing is left
        lost = handout.settle(print)                       # rank 0 waits until all others have left, or are lost

Ranks that meet share one list of tasks, which rank 0 publishes, and one counter: whoever is free takes the next number.
No rank waits for a slow one; one that dies loses what it had in hand, which rank 0 does at the end. Where a rank loses
touch with the others, it is handed nothing more, finishes what it has, and then fails (in `Handout.settle`).

Slices never meet: `slice_of` cuts all units of a store, missing or not, into fixed parts, so it does not matter when
each process looks.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.processes.rendezvous import LostError, Meeting, meet
from pipeline.processes.world import Place
from pipeline.store.layout import Unit

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Task:
    """Some views of one run of rows, which one process renders together, so that a picture is decoded once."""

    run: int
    views: tuple[int, ...]


def tasks_of(missing: Iterable[Unit], views_together: int) -> list[Task]:
    """The missing units, run by run, at most `views_together` views at once."""
    tasks = []
    ordered = sorted(missing, key=lambda unit: (unit.run, unit.view))
    for run, units in itertools.groupby(ordered, key=lambda unit: unit.run):
        views = [unit.view for unit in units]
        tasks += [Task(run, tuple(views[at : at + views_together])) for at in range(0, len(views), views_together)]
    return tasks


def slice_of(units: Iterable[Unit], views_together: int, place: Place) -> list[Unit]:
    """The units that are this slice's. Each unit is exactly one slice's, whenever and by whoever it is asked."""
    return [u for u in units if (u.run + u.view // views_together) % place.slices == place.slice]


class Handout:
    """The tasks of a process that is alone, or has a slice: all of them, in order."""

    def announce(self, tasks: Sequence[Task]) -> Iterator[Task]:
        """As rank 0, say which tasks there are, and give those that fall to this process, one after the other."""
        return iter(tasks)

    def listen(self) -> Iterator[Task]:
        """As another rank, give the tasks that fall to it once rank 0 has announced them."""
        raise AssertionError("a process alone listens to nobody")

    def count(self, views: int) -> int:
        """Count views that were answered here; how many more were answered anywhere since the last call."""
        return views

    def settle(self, counted: Callable[[int], None]) -> list[int]:
        """Once nothing is left to take: as rank 0 wait until all others have left; the ranks that were lost.

        Fails if this process has lost the others. `counted` is told of the views that they answer meanwhile.
        """
        return []


class MeetingHandout(Handout):
    """Hands out the tasks among ranks that meet at a rendezvous: whoever is free takes the next."""

    def __init__(self, meeting: Meeting) -> None:
        self.meeting = meeting
        self._lost: LostError | None = None
        self._counted = 0

    def announce(self, tasks: Sequence[Task]) -> Iterator[Task]:
        """Publish the tasks to all ranks, and give those that fall to this one."""
        self.meeting.put("tasks", _packed(tasks))
        return self._taken(tasks)

    def listen(self) -> Iterator[Task]:
        """Wait until the first rank has published the tasks, and give those that fall to this one."""
        return self._taken(_unpacked(self.meeting.wait_for("tasks")))

    def count(self, views: int) -> int:
        """Count views that this rank has answered; how many all ranks have since the last call, for rank 0."""
        if self._lost is not None:
            return views
        try:
            total = self.meeting.add("views", views)
        except LostError as error:
            self._lost = error
            return views
        more, self._counted = total - self._counted, total
        return more

    def settle(self, counted: Callable[[int], None]) -> list[int]:
        """Wait for the others, and give the ranks that were lost; raise what ended the handing out."""
        if self._lost is not None:
            raise self._lost
        if not self.meeting.place.leads:
            return []
        lost = self.meeting.wait_for_others(lambda: counted(self.count(0)))
        counted(self.count(0))
        return lost

    def _taken(self, tasks: Sequence[Task]) -> Iterator[Task]:
        while True:
            try:
                number = self.meeting.add("next", 1) - 1
            except LostError as error:
                self._lost = error
                return
            if number >= len(tasks):
                return
            yield tasks[number]


@contextlib.contextmanager
def handout_of(place: Place, *, timeout_s: float) -> Iterator[Handout]:
    """The way in which this process gets its tasks: alone, or from the meeting place of its ranks."""
    if place.world == 1:
        yield Handout()
        return
    with meet(place, timeout_s) as meeting:
        yield MeetingHandout(meeting)


def _packed(tasks: Sequence[Task]) -> str:
    text = json.dumps([[task.run, *task.views] for task in tasks], separators=(",", ":"))
    return base64.b85encode(zlib.compress(text.encode(), 6)).decode()


def _unpacked(text: str) -> list[Task]:
    return [Task(run, tuple(views)) for run, *views in json.loads(zlib.decompress(base64.b85decode(text)))]
