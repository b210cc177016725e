"""What did the teacher say about exactly these views?

`StoredAnswers` reads whole units (one view of one run of rows) from the store, in the background and ahead of use,
keeps a few pools of them, and answers for a batch by indexing in memory: never a read a row. Which units will be needed
is known as soon as a batch is asked of the loader (`expect`), long before its pixels are there (`gather`).

Only what the loss reads is kept: a store of dense logits costs a hard distillation no more memory than its argmax.

Shapes: B views, U units.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.soft_labels import SoftLabels
from pipeline.proofs.same_views import Labelled
from pipeline.store.manifest import Manifest
from pipeline.store.reader import StoreReader
from student.feed.order import Batch

READERS = 2

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The teacher's answers about the views of a batch, and what identifies the pixels that it saw."""

    labels: SoftLabels
    labelled: Labelled


class AnswerSource(Protocol):
    """Where answers come from: a store, or (in a test) a live teacher."""

    def expect(self, batch: Batch) -> None:
        """Announce a batch, so that its answers are read in time; batches are gathered in the same order."""

    def gather(self, batch: Batch) -> Answers:
        """The answers about the views of a batch, in its order; waits until they have been read."""


def needed(manifest: Manifest, *, soft: bool, luma: bool) -> frozenset[str]:
    """Arrays of a store that the loss and the check of views read."""
    answers = manifest.keep.forms(manifest.num_classes, manifest.temperatures).keys() if soft else set()
    return frozenset({"argmax", "crc", *answers} | ({"luma"} if luma else set()))


class StoredAnswers:
    """Reads the answers about batches from a finished store, some batches ahead."""

    def __init__(self, store: StoreReader, names: Iterable[str], *, keep_units: int) -> None:
        self._store, self._names, self._keep_units = store, frozenset(names), keep_units
        self._unit_rows, rows = store.manifest.unit_rows, store.manifest.rows
        self._runs = -(-rows // self._unit_rows)
        self._expected: Counter[int] = Counter()
        self._units: OrderedDict[int, Future[Arrays]] = OrderedDict()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="labels")

    def close(self) -> None:
        """End the threads that read ahead."""
        self._readers.shutdown(cancel_futures=True)

    def forget(self) -> None:
        """Drop all batches that were announced and not gathered."""
        self._expected.clear()

    def expect(self, batch: Batch) -> None:
        """Announce a batch: the units that its answers lie in begin to be read."""
        for unit in np.unique(self._units_of(batch)).tolist():
            self._expected[unit] += 1
            self._future(unit)

    def gather(self, batch: Batch) -> Answers:
        """The answers about the batch's views; waits for units that are still being read."""
        unit_U, inverse_B = np.unique(self._units_of(batch), return_inverse=True)
        offset_B = batch.row_B % self._unit_rows
        gathered: Arrays = {}
        for number, unit in enumerate(unit_U.tolist()):
            where = np.flatnonzero(inverse_B == number)
            for name, array in self._future(unit).result().items():
                out = gathered.setdefault(name, np.empty((len(batch), *array.shape[1:]), array.dtype))
                out[where] = array[offset_B[where]]
        self._release(unit_U.tolist())
        crc_B, luma_B16 = gathered.pop("crc"), gathered.pop("luma", None)
        labelled = Labelled(self._store.manifest.luma, crc_B, luma_B16)
        return Answers(labels=SoftLabels.from_arrays(gathered), labelled=labelled)

    def _units_of(self, batch: Batch) -> NDArray[np.int64]:
        """One number a (view, run)."""
        unit_B: NDArray[np.int64] = batch.view_B * self._runs + batch.row_B // self._unit_rows
        return unit_B

    def _future(self, unit: int) -> Future[Arrays]:
        if unit not in self._units:
            self._units[unit] = self._readers.submit(self._read, *divmod(unit, self._runs))
        self._units.move_to_end(unit)
        return self._units[unit]

    def _read(self, view: int, run: int) -> Arrays:
        arrays = self._store.read(view, run, luma="luma" in self._names).arrays()
        return {name: array for name, array in arrays.items() if name in self._names}

    def _release(self, units: list[int]) -> None:
        """Forget the units that were used longest ago and are not expected."""
        self._expected.subtract(units)
        self._expected += Counter()  # drops what has come to zero
        idle = [unit for unit in self._units if unit not in self._expected]
        for unit in idle[: max(len(self._units) - self._keep_units, 0)]:
            del self._units[unit]
