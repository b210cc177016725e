"""What does one training step see: pixels proven to be those that the teacher saw, its answers, and the true labels?

For every step, this rank's share of the global batch is asked of the `Loader` in pieces (so that shared memory holds
pieces, not batches), the pieces are assembled on the device, and each view's checksum is compared with the one stored
beside the teacher's answer. The first view that differs ends the run. Under accepted drift each view is held to its
thumbnail instead.

Shapes: B views of this rank, H W C picture.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import ViewError
from pipeline.labels.keep import Keep
from pipeline.proofs.proof import TOLERANCE
from pipeline.proofs.same_views import Seen, compare_views
from pipeline.rendering.loader import Loader, Request
from pipeline.rendering.ring import LUMA, Slot
from pipeline.shards.index import SampleIndex
from student.feed.order import Batch, Order, changes
from student.feed.stored_answers import Answers, AnswerSource
from student.feed.targets import TeacherLabels, Truth
from student.feed.tensors import Assembler, teacher_labels, truth_of
from student.ranks.ranks import Ranks

PIECE = 64
"""Views of one request to the loader, without repeats."""
LARGEST_PIECE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The views and labels that this rank trains on in one step."""

    epoch: int
    step: int
    whole: Batch
    """The global batch."""
    batch: Batch
    """This rank's share of it."""
    pixels_BHWC: Tensor
    truth: Truth
    teacher: TeacherLabels

    @property
    def count(self) -> int:
        """How many views the step has over all ranks."""
        return len(self.whole)

    def parts(self, number: int) -> list[slice]:
        """The share cut into at most `number` nearly equal micro-batches, none of them empty."""
        edges = np.linspace(0, len(self.batch), number + 1).astype(int).tolist()
        return [slice(a, b) for a, b in pairwise(edges) if a < b]


class Feed:
    """Gives the steps of a run one after the other, from any position on: views drawn and proven, labels gathered."""

    def __init__(
        self, order: Order, answers: AnswerSource, index: SampleIndex, loader: Loader, ranks: Ranks,
        *, keep: Keep, temperatures: tuple[float, ...] = (), temperature: float = 1.0, accept_drift: bool = False,
    ) -> None:  # fmt: skip
        self.order, self.answers, self.index, self.loader, self.ranks = order, answers, index, loader, ranks
        self.keep, self.temperatures, self.accept_drift = keep, temperatures, accept_drift
        self.temperature = temperature
        """At which answers become soft targets."""
        self.waited = 0.0
        """Seconds that training stood still for data."""
        self._asked: deque[tuple[int, int, Batch, Batch, list[int]]] = deque()
        self._assemble = Assembler(ranks.device, largest_share(order, ranks.world), order.recipe.image_size)

    def steps(self, epoch: int, step: int, epochs: int, *, every: int = 1) -> Iterator[Step]:
        """Every step from (epoch, step) to the end of the last epoch, or one in `every`."""
        numbers = range(epoch * self.order.steps + step, epochs * self.order.steps, every)
        self._asked.clear()  # of steps that were left early
        rendered = iter(self.loader.render(self._requests(numbers)))
        for _ in numbers:
            begun = time.perf_counter()
            ready = self._next(rendered)
            self.waited += time.perf_counter() - begun
            yield ready

    def _requests(self, numbers: Iterable[int]) -> Iterator[Request]:
        """The pieces of all shares, in order; drawn ahead of use by the loader."""
        for number in numbers:
            at = divmod(number, self.order.steps)
            whole = self.order.batch(*at)
            batch = whole.share(self.ranks.rank, self.ranks.world)
            cuts = cut_pieces(batch, self.order)
            self.answers.expect(batch)
            self._asked.append((*at, whole, batch, cuts))
            for start, stop in pairwise(cuts):
                yield batch.row_B[start:stop], batch.view_B[start:stop]

    def _next(self, rendered: Iterator[Slot]) -> Step:
        first = next(rendered)
        epoch, step, whole, batch, cuts = self._asked.popleft()
        crc_B, luma_B16 = np.empty(len(batch), np.uint32), np.empty((len(batch), LUMA), np.uint8)
        for number, (start, stop) in enumerate(pairwise(cuts)):
            slot = first if number == 0 else next(rendered)
            self._assemble.put(start, slot.pixels_BHWC)
            crc_B[start:stop], luma_B16[start:stop] = slot.crc_B, slot.luma_B16
        answers = self.answers.gather(batch)
        seen, doubt = Seen(crc_B, luma_B16), self.loader.doubt
        require_labelled_views(self.index, batch, answers, seen, accept_drift=self.accept_drift, doubt=doubt)
        device = self.ranks.device
        return Step(
            epoch=epoch,
            step=step,
            whole=whole,
            batch=batch,
            pixels_BHWC=self._assemble.take(len(batch)),
            truth=truth_of(self.index, batch, device),
            teacher=teacher_labels(self.keep, answers.labels, self.temperatures, device, self.temperature),
        )


def require_labelled_views(
    index: SampleIndex, batch: Batch, answers: Answers, drawn: Seen, *, accept_drift: bool, doubt: str = ""
) -> None:
    """Refuse the first view that is not the one the teacher saw; `doubt` is said at the end."""
    assert answers.labelled.luma or not accept_drift, "drift is accepted only where it is stored how views look"
    found = compare_views(drawn, answers.labelled, accept_drift=accept_drift)
    if found.first is not None:
        at = found.first
        what = found.how_far(at) if accept_drift else (
            f"its pixels have checksum {found.crc_B[at]:08x} here and had {answers.labelled.crc_B[at]:08x} "
            "before the teacher"
        )  # fmt: skip
        raise ViewError(_other_view(index, batch, at, what, int(found.other_B.sum())) + doubt)


def cut_pieces(batch: Batch, order: Order) -> list[int]:
    """Where to cut a share into requests: between pairs; with repeats between mix windows, where that is possible."""
    window_B = batch.row_B // order.recipe.mix_window
    windows = np.append(np.flatnonzero(changes(window_B)), len(batch))
    return cut_between(batch, piece_capacity(order), windows if order.repeats > 1 else None)


def cut_between(batch: Batch, most: int, rather: NDArray[np.int64] | None = None) -> list[int]:
    """Cut into parts of at most `most` views between pairs; at these other places where they allow it."""
    pairs = np.append(np.flatnonzero(batch.opens_B), len(batch))
    cuts = [0]
    while cuts[-1] < len(batch):
        edges = rather if rather is not None and _last(rather, cuts[-1] + most) > cuts[-1] else pairs
        cuts.append(_last(edges, cuts[-1] + most))
    return cuts


def piece_capacity(order: Order) -> int:
    """The most views that are asked of the loader at once, on any rank in any step."""
    return PIECE if order.repeats == 1 else min(order.recipe.mix_window * order.repeats, LARGEST_PIECE)


def pieces_together(order: Order) -> int:
    """How many pieces one worker should get in a row: with repeats, those of one mix window."""
    return 1 if order.repeats == 1 else -(-order.recipe.mix_window * order.repeats // LARGEST_PIECE)


def _last(edges: NDArray[np.int64], limit: int) -> int:
    """The last edge that is at most `limit`."""
    return int(edges[np.searchsorted(edges, limit, side="right") - 1])


def largest_share(order: Order, world: int) -> int:
    """The most views that any process gets in one step of this order."""
    return -(-order.largest // world) + 1


def _other_view(index: SampleIndex, batch: Batch, at: int, found: str, others: int) -> str:
    row, view = int(batch.row_B[at]), int(batch.view_B[at])
    shard = index.urls[int(index.shard_of(batch.row_B[at : at + 1])[0])]
    return (
        f"View {view} of row {row} (key '{index.key(row)}', {shard}) is not the one that was labelled: {found} "
        f"({others} of {len(batch)} views in this batch differ). Another image library, decoder or processor than the "
        "teacher's draws other pixels, and so does a shard that was changed. "
        "'python -m stages.verify_logits' tells which; --accept-drift trains within "
        f"{TOLERANCE} levels of the teacher's views."
    )
