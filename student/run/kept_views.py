"""How is it avoided to draw the same validation views in every epoch?

The first pass writes the pixels to a file without a name in the run directory, later ones read them back while the
batch before is judged. The file is gone with the process, however that ends, so nobody ever finds an old one; and each
view that comes back is held to the checksum that it had when it was drawn. What differs, cannot be read, or could not
be written (a full disk) is drawn again. At most `MOST` bytes are kept, and never more than half of what is free.

Shapes: B views of a batch, H W C picture.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pipeline.rendering.loader import Request
from pipeline.rendering.ring import Slot

MOST = 64 << 30

log = logging.getLogger(__name__)

Rows = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Render = Callable[[Iterable[Request]], Iterator[Slot]]


@dataclass(frozen=True, slots=True)
class _Batch:
    row_B: Rows
    crc_B: NDArray[np.uint32]
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape))


class KeptViews:
    """Batches of views that are drawn once, and kept in a file without a name where there is room for them."""

    def __init__(self, requests: Sequence[Request], side: int, folder: Path) -> None:
        self.requests = requests
        self._folder, self._size = folder, sum(len(row_B) for row_B, _ in requests) * side * side * 3
        self._room = self._size <= MOST
        self._file: int | None = None
        self._batches: list[_Batch] = []

    def close(self) -> None:
        """Let go of the file that the pixels lie in; they are drawn again from here on."""
        if self._file is not None:
            os.close(self._file)
        self._file, self._batches, self._room = None, [], False

    def batches(self, render: Render) -> Generator[tuple[Rows, Pixels], None, None]:
        """All views in order; a batch is valid until the next one is taken."""
        given = 0
        if len(self._batches) == len(self.requests) and self._file is not None:
            for row_B, pixels_BHWC in self._read():
                yield row_B, pixels_BHWC
                given += 1
        elif self._room:
            yield from self._first(render)
            return
        for slot in render(self.requests[given:]):
            yield slot.row_B, slot.pixels_BHWC

    def _first(self, render: Render) -> Iterator[tuple[Rows, Pixels]]:
        """Draw and keep; a pass that is left early keeps nothing."""
        self._batches, start = [], 0
        self._room = self._size <= _free(self._folder) // 2
        for slot in render(self.requests):
            if self._room and self._write(start, slot.pixels_BHWC):
                self._batches.append(_Batch(slot.row_B.copy(), slot.crc_B.copy(), slot.pixels_BHWC.shape, start))
                start += slot.pixels_BHWC.nbytes
            yield slot.row_B, slot.pixels_BHWC

    def _write(self, start: int, pixels_BHWC: Pixels) -> bool:
        try:
            if self._file is None:
                with tempfile.TemporaryFile(dir=self._folder, buffering=0) as file:
                    self._file = os.dup(file.fileno())
            left = pixels_BHWC.data.cast("B")
            while left:
                done = os.pwrite(self._file, left, start)
                left, start = left[done:], start + done
        except OSError as error:
            log.info("validation views are drawn in every pass: they cannot be kept (%s)", error)
            self.close()
            return False
        return True

    def _read(self) -> Iterator[tuple[Rows, Pixels]]:
        """The kept batches, each read while the one before is used, until one is not what it was."""
        largest = max((batch.nbytes for batch in self._batches), default=0)
        buffers = [np.empty(largest, np.uint8) for _ in range(2)]
        with ThreadPoolExecutor(1, thread_name_prefix="validation") as thread:
            ahead = [thread.submit(self._fetch, self._batches[0], buffers[0])]
            for number, batch in enumerate(self._batches):
                pixels_BHWC = ahead.pop().result()
                if pixels_BHWC is None:
                    log.warning("kept validation views are damaged: they are drawn again")
                    self.close()
                    return
                if number + 1 < len(self._batches):
                    ahead.append(thread.submit(self._fetch, self._batches[number + 1], buffers[(number + 1) % 2]))
                yield batch.row_B, pixels_BHWC

    def _fetch(self, batch: _Batch, buffer: Pixels) -> Pixels | None:
        assert self._file is not None
        into = buffer.data[: batch.nbytes]
        try:
            at = 0
            while at < len(into):
                if not (count := os.preadv(self._file, [into[at:]], batch.start + at)):
                    return None
                at += count
        except OSError:
            return None
        pixels_BHWC = buffer[: batch.nbytes].reshape(batch.shape)
        crcs = [google_crc32c.value(view) for view in pixels_BHWC]
        return pixels_BHWC if crcs == batch.crc_B.tolist() else None


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0
