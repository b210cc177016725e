"""How are views rendered as fast as the cores allow, in a fixed order?

The caller says which views it wants, batch after batch; worker processes render them into the slots of a `Ring`; the
batches come back in the order in which they were asked for. What a batch holds depends on the recipe, the index and the
request alone: not on the workers, their number, or how they were started.

    with Loader(recipe, index, batch=256, workers=8) as loader:
        for batch in loader.render(requests):      # each request: (rows, views)
            ...                                    # batch.pixels_BHWC is valid until the next turn

`together` consecutive batches go to one worker, whose decode cache then serves several views of the same rows; they go
to whoever has the least to do, because pictures differ in size by far. Requests are drawn ahead only as far as slots
are free. A worker that fails hands its error over; one that dies is noticed; all of them end when the parent does,
however it ends.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError, WorkerError
from pipeline.picture_cache.kept import PictureCache
from pipeline.processes.start import checked_start_method
from pipeline.processes.worker import start_worker
from pipeline.rendering.effort import Effort
from pipeline.rendering.renderer import Renderer
from pipeline.rendering.ring import Ring, Slot
from pipeline.rendering.view_cache import CachedRenderer, ViewCache
from pipeline.shards.index import SampleIndex
from pipeline.views.recipe import Recipe

Request = tuple[NDArray[np.int64], NDArray[np.int64]]

RING_BYTES = 2 << 30
CACHE_BYTES = 192 << 20
GRACE_S = 5.0

log = logging.getLogger(__name__)


class Loader:
    """Renders requested views in worker processes, in order. A context manager; `render` may be called many times."""

    def __init__(
        self,
        recipe: Recipe,
        index: SampleIndex,
        *,
        batch: int,
        workers: int,
        together: int = 1,
        start_method: str | None = None,
        pictures: PictureCache | None = None,
        view_cache: ViewCache | None = None,
    ) -> None:
        self.recipe, self.index, self.batch = recipe, index, batch
        self.pictures, self.view_cache = pictures, view_cache
        self.workers = workers
        self.waited = 0.0
        self.effort = Effort()
        """What drawing has cost all workers together."""
        slot_bytes = batch * recipe.image_size**2 * 3
        self.together = max(1, min(together, RING_BYTES // (slot_bytes * 2 * max(workers, 1))))
        self.ring = Ring(workers * max(2, self.together + 1) + 1, batch, recipe.image_size)
        self._slots = [self.ring.slot(number) for number in range(self.ring.slots)]
        self._workers: list[tuple[BaseProcess, Connection]] = []
        self._unanswered = [0] * workers
        self._answers: list[deque[Exception | Effort]] = [deque() for _ in range(workers)]
        self._renderer = _renderer(recipe, index, pictures, view_cache) if workers == 0 else None
        method = checked_start_method(index.urls, start_method)
        try:
            for number in range(workers):
                made = recipe, index, self.ring, pictures, view_cache
                self._workers.append(start_worker(_work, *made, method=method, name=f"render-{number}"))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def doubt(self) -> str:
        """What to do, besides, about a view that is not the right one: a sentence, or nothing."""
        if self.view_cache is None:
            return ""
        return f" It may also come from --view-cache {self.view_cache.kept.folder}: remove that, and it is drawn anew."

    def close(self) -> None:
        """End the worker processes; no more views can be drawn."""
        workers, self._workers = self._workers, []
        for process, _ in workers:
            process.kill()
        for process, connection in workers:
            process.join()
            connection.close()

    def render(self, requests: Iterable[Request]) -> Iterator[Slot]:
        """Render the requests; each batch's arrays are valid until the next one is taken."""
        return self._render_here(requests) if self._renderer else self._render_in_workers(requests)

    def _render_here(self, requests: Iterable[Request]) -> Iterator[Slot]:
        assert self._renderer
        for row_B, view_B in requests:
            begun = time.perf_counter()
            slot = _ask(self._slots[0], row_B, view_B)
            _answer(self._renderer, slot)
            self.effort.add(self._renderer.take_effort())
            self.waited += time.perf_counter() - begun
            yield slot

    def _render_in_workers(self, requests: Iterable[Request]) -> Iterator[Slot]:
        free = deque(range(self.ring.slots))
        pending: deque[tuple[int, int, int]] = deque()
        asked, worker = 0, -1
        source = iter(requests)
        exhausted = False
        try:
            while True:
                while free and not exhausted:
                    request = next(source, None)
                    if request is None:
                        exhausted = True
                        break
                    if asked % self.together == 0:
                        worker = self._least_busy(worker)
                    number = free.popleft()
                    _ask(self._slots[number], *request)
                    self._send(worker, (number, len(request[0])))
                    pending.append((number, worker, len(request[0])))
                    asked += 1
                if not pending:
                    return
                number, whose, count = pending.popleft()
                self._receive(whose)
                yield self._slots[number].first(count)
                free.append(number)
        finally:
            for _, whose, _ in pending:  # an abandoned run must not leave answers for the next one
                if self._workers:
                    self._receive(whose)

    def _least_busy(self, last: int) -> int:
        """The worker with the fewest batches to do; of several the next one after `last`."""
        busy = {self._workers[worker][1]: worker for worker, count in enumerate(self._unanswered) if count}
        for connection in wait(list(busy), timeout=0):
            assert isinstance(connection, Connection)
            self._take_answer(busy[connection])
        count = len(self._workers)
        return min(range(count), key=lambda worker: (self._unanswered[worker], (worker - last - 1) % count))

    def _send(self, worker: int, task: tuple[int, int]) -> None:
        try:
            self._workers[worker][1].send(task)
        except (BrokenPipeError, ConnectionResetError):
            self._raise_dead(worker)
        self._unanswered[worker] += 1

    def _receive(self, worker: int) -> None:
        """Wait until the worker has finished its oldest batch that was not yet received."""
        process, connection = self._workers[worker]
        if not self._answers[worker]:
            begun = time.perf_counter()
            ready = wait([connection, process.sentinel])
            self.waited += time.perf_counter() - begun
            if connection not in ready:
                self._raise_dead(worker)
            self._take_answer(worker)
        answer = self._answers[worker].popleft()
        if isinstance(answer, Exception):
            self.close()
            raise answer
        self.effort.add(answer)

    def _take_answer(self, worker: int) -> None:
        try:
            self._answers[worker].append(self._workers[worker][1].recv())
        except (EOFError, OSError):  # the end, or the end in the middle of an answer
            self._raise_dead(worker)
        self._unanswered[worker] -= 1

    def _raise_dead(self, worker: int) -> NoReturn:
        process = self._workers[worker][0]
        process.join(GRACE_S)  # it has let go of its pipe; if it does not end, it is ended
        self.close()
        if process.exitcode == 1 and not self.effort.views:
            raise WorkerError(
                "A rendering process could not begin: its error is above. Where processes are not forked, each imports "
                'the script that began them: put what opens views below `if __name__ == "__main__":`.'
            )
        raise WorkerError(
            f"A rendering process ended with exit code {process.exitcode} (worker {worker}). "
            "Killed by the system for memory? Try fewer --workers or a smaller --batch-size; nothing finished is lost."
        )


def _renderer(
    recipe: Recipe, index: SampleIndex, pictures: PictureCache | None, view_cache: ViewCache | None
) -> Renderer | CachedRenderer:
    renderer = Renderer(recipe, index, index.files(), cache_bytes=CACHE_BYTES, pictures=pictures)
    return renderer if view_cache is None else CachedRenderer(renderer, view_cache)


def _ask(slot: Slot, row_B: NDArray[np.int64], view_B: NDArray[np.int64]) -> Slot:
    """Write a request into its slot."""
    slot = slot.first(len(row_B))
    assert len(slot.row_B) == len(row_B), "a request is larger than the loader's batch"
    slot.row_B[:] = row_B
    slot.view_B[:] = view_B
    return slot


def _answer(renderer: Renderer | CachedRenderer, slot: Slot) -> None:
    """Render what the slot asks for into the slot."""
    rendered = renderer.render(slot.row_B, slot.view_B, slot.pixels_BHWC)
    slot.crc_B[:] = rendered.crc_B
    slot.luma_B16[:] = rendered.luma_B16
    slot.bad_B[:] = np.isin(slot.row_B, rendered.bad_rows) if rendered.bad_rows else 0


def _work(
    connection: Connection, recipe: Recipe, index: SampleIndex, ring: Ring, pictures: PictureCache | None,
    view_cache: ViewCache | None,
) -> None:  # fmt: skip
    """A worker's life: take a slot number, render, say done; end with the parent."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    renderer = _renderer(recipe, index, pictures, view_cache)
    slots = [ring.slot(number) for number in range(ring.slots)]
    while True:
        try:
            number, count = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            _answer(renderer, slots[number].first(count))
        except Exception as error:
            connection.send(_portable(error))
        else:
            connection.send(renderer.take_effort())


def _portable(error: Exception) -> Exception:
    """An error that can be sent: a user's error as it is, any other with the traceback that it had in the worker."""
    if isinstance(error, UserError):
        return error
    return RuntimeError("in a rendering worker:\n" + "".join(traceback.format_exception(error)))


def requests_of(row_R: NDArray[np.int64], view: int, batch: int) -> Iterator[Request]:
    """One view of many rows as requests of at most `batch` views."""
    for start in range(0, len(row_R), batch):
        part_B = row_R[start : start + batch]
        yield part_B, np.full(len(part_B), view, np.int64)
