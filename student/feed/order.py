"""Which views does step `step` of epoch `epoch` learn from, and which of them belong to this rank?

A pure function of (seed, epoch, step). Ranks, workers and restarts have no part in it, and nothing but the pool of rows
that holds the batch is ever drawn, so step 0 of 14 million rows costs what step 0 of 14 thousand does.

    runs     consecutive rows that the store keeps together (a unit's rows). A Philox priority of (seed, round, run)
             orders them
    pools    `spread` runs at a time: reads stay local, and a pool's labels fit in memory
    pairs    within a pool, pairs of mixing partners are shuffled by a Philox priority of (seed, round, lower row).
             Partners stay neighbours, so each of the two pictures is drawn once for both
    batches  the sequence of pools, cut into `steps` nearly equal parts between pairs: no tiny last batch, nothing left
             out, the same number of steps on every rank
    shares   a batch, cut into `world` nearly equal parts between pairs: together they are exactly the batch

Without repeats a round is one epoch, which sees every row once, in view `epoch mod views`. With `repeats` = R (DeiT's
repeated augmentation, about as many views an epoch), a round is R epochs; each of them sees its Rth part of the mix
windows, every row of it in R views close together, so that one decoded picture serves them all. Over the round every
row is seen once in each of the R views.

A run that learns from true labels alone gives the `classes`: rows without one are left out of the sequence (as partner
of a row with one they are still drawn, and mixed in). They are counted run by run, once, and otherwise looked at where
they lie; nothing else here grows with the rows.

Shapes: B views of a batch, P of a pool, R runs, N any number.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StudentError
from pipeline.views.mixing import plan_mixing
from pipeline.views.philox import Purpose, philox
from pipeline.views.recipe import Recipe

PAIRS, RUNS, WINDOWS = (Purpose.ORDER.block(number) for number in range(3))
KEPT = 3  # pools (and rounds) that are kept: the one in use, and those that its batches and look-ahead touch

Ints = NDArray[np.int64]
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Views in the order in which they are trained on, with the mixing truth about each."""

    row_B: Ints
    view_B: Ints
    partner_B: Ints
    """The row mixed into it; itself where there is none."""
    lam_B: NDArray[np.float64]
    """Weight of its own row."""
    opens_B: NDArray[np.bool_]
    """Whether a pair (or an unmixed row) begins here, so that the batch may be cut before it."""

    def __len__(self) -> int:
        return len(self.row_B)

    def digest(self) -> str:
        """Eight hex digits that tell batches apart: a CRC of rows and views, in order."""
        return f"{zlib.crc32(self.view_B.tobytes(), zlib.crc32(self.row_B.tobytes())):08x}"

    def part(self, start: int, stop: int) -> Batch:
        """The views at the places `start` up to `stop` of the batch."""
        return Batch(**{field.name: getattr(self, field.name)[start:stop] for field in fields(self)})

    def share(self, rank: int, world: int) -> Batch:
        """What one of `world` ranks trains on; all shares in rank order are the batch."""
        start, stop = (_cut(self.opens_B, len(self) * number // world) for number in (rank, rank + 1))
        return self.part(start, stop)


@dataclass(frozen=True, slots=True)
class _Round:
    """One permutation of the runs, and where its pools begin."""

    run_R: Ints
    starts: Ints
    """First view of each pool, and the end."""
    windows: Ints
    """First window of each pool, and the end."""


@dataclass(frozen=True, slots=True)
class _Pool:
    views: Batch
    window_starts: Ints
    """With repeats: where each mix window begins, and the end."""


class Order:
    """Which views make up each step of a training: a function of seed, epoch and step alone."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        rows: int,
        views: tuple[int, ...],
        run_rows: int,
        batch: int,
        seed: int = 0,
        repeats: int = 1,
        spread: int = 8,
        classes: NDArray[np.int32] | None = None,
    ) -> None:
        assert rows > 0 and views and batch > 0 and repeats > 0 and spread > 0
        assert classes is None or len(classes) == rows
        self.recipe, self.rows, self.views = recipe, rows, views
        self.run_rows = -(-run_rows // recipe.mix_window) * recipe.mix_window  # a run never cuts a mix window
        self.seed, self.repeats, self.spread = seed, repeats, spread
        self._windows = -(-rows // recipe.mix_window)
        _require_enough(repeats, len(views), self._windows, recipe.mix_window)
        self.classes = classes
        self._rows_of_runs = self._count_rows()
        self.count = int(self._rows_of_runs.sum())
        """Rows of an epoch."""
        assert self.count > 0
        if classes is not None and repeats > 1:
            raise StudentError(
                f"{self.count:,} of {rows:,} rows have a label, and --distill none learns from those alone, which "
                f"--repeats {repeats} does not: it takes whole mix windows. Use --repeats 1, or labelled shards alone."
            )
        most = self.count if repeats == 1 else repeats * recipe.mix_window * -(-self._windows // repeats)
        self.steps = -(-most // batch)
        self.largest = -(-most // self.steps) + 1
        """No batch has more views than this: at most one more than was asked for."""
        self._rounds: dict[int, _Round] = {}
        self._pools: dict[tuple[int, int], _Pool] = {}

    def __str__(self) -> str:
        views = self.count / self.steps
        return f"{self.count:,} views an epoch in {self.steps:,} steps of {views:.0f}" + (
            f", {self.repeats} of a row together" if self.repeats > 1 else ""
        )

    @property
    def smallest(self) -> int:
        """No batch has fewer views than this; where an epoch is cut, each cut may move by one to keep a pair."""
        moved = int(self.recipe.mixes)
        return self._fewest if self.steps == 1 else max(self._fewest // self.steps - moved, 0)

    @property
    def _fewest(self) -> int:
        """No epoch has fewer views than this."""
        window = self.recipe.mix_window
        last = self.rows - window * (self._windows - 1)
        return self.count if self.repeats == 1 else self.repeats * (window * (self._windows // self.repeats - 1) + last)

    def require_shares(self, world: int) -> None:
        """Refuse a batch that cannot give every rank something to do."""
        need = 2 * world if world > 1 and self.recipe.mixes else world
        if self.smallest < need:
            why = ": mixing partners stay together" if self.recipe.mixes else ""
            remedies = ["a larger --batch"] * (self._fewest >= need) + ["fewer processes"] * (world > 1)
            raise StudentError(
                f"{self.count:,} rows in {self.steps:,} steps make batches as small as {self.smallest}, and {world} "
                f"process(es) need at least {need}{why}. Use {', or '.join(remedies)}."
            )

    def batch(self, epoch: int, step: int) -> Batch:
        """The views of a step over all ranks."""
        assert epoch >= 0 and 0 <= step < self.steps
        number, turn = divmod(epoch, self.repeats)
        first, last = (self._window_start(number, self._windows * t // self.repeats) for t in (turn, turn + 1))
        start, stop = (first + (last - first) * s // self.steps for s in (step, step + 1))
        return self._between(number, *(p if p in (first, last) else self._cut_at(number, p) for p in (start, stop)))

    def _window_start(self, number: int, window: int) -> int:
        """Where in round `number` the window begins that comes `window`-th."""
        round_ = self._round(number)
        if window in (0, self._windows):
            return int(round_.starts[0 if window == 0 else -1])
        pool = int(np.searchsorted(round_.windows, window, side="right")) - 1
        inside = self._pool(number, pool).window_starts[window - round_.windows[pool]]
        return int(round_.starts[pool] + inside)

    def _cut_at(self, number: int, position: int) -> int:
        """The beginning of the pair that `position` falls into."""
        starts = self._round(number).starts
        pool = int(np.searchsorted(starts, position, side="right")) - 1
        start = int(starts[pool])
        return start + _cut(self._pool(number, pool).views.opens_B, position - start)

    def _between(self, number: int, start: int, stop: int) -> Batch:
        """Views [start, stop) of a round."""
        starts = self._round(number).starts
        first = min(int(np.searchsorted(starts, start, "right")) - 1, len(starts) - 2)
        pools = range(first, max(int(np.searchsorted(starts, stop, "left")), first + 1))  # one even for no views
        parts = [
            self._pool(number, pool).views.part(max(start - int(starts[pool]), 0), stop - int(starts[pool]))
            for pool in pools
        ]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _round(self, number: int) -> _Round:
        return _kept(self._rounds, number, lambda: self._draw_round(number))

    def _pool(self, number: int, pool: int) -> _Pool:
        return _kept(self._pools, (number, pool), lambda: self._draw_pool(number, pool))

    def _draw_round(self, number: int) -> _Round:
        run_R = np.arange(-(-self.rows // self.run_rows))
        run_R = run_R[np.argsort(self._priority(RUNS, run_R, number), kind="stable")]
        row_R = self._rows_of_runs[run_R]
        first = np.arange(0, len(run_R), self.spread)
        starts = np.add.reduceat(row_R * self.repeats, first).cumsum()
        whole_R = np.minimum(self.run_rows, self.rows - run_R * self.run_rows)
        windows = np.add.reduceat(-(-whole_R // self.recipe.mix_window), first).cumsum()
        return _Round(run_R, np.append(0, starts), np.append(0, windows))

    def _count_rows(self) -> Ints:
        """How many rows of each run an epoch sees."""
        first_R = np.arange(0, self.rows, self.run_rows)
        if self.classes is None:
            return np.minimum(self.run_rows, self.rows - first_R)
        class_RN = (self.classes[first : first + self.run_rows] for first in first_R.tolist())
        return np.fromiter((np.count_nonzero(class_N >= 0) for class_N in class_RN), np.int64, len(first_R))

    def _draw_pool(self, number: int, pool: int) -> _Pool:
        runs = self._round(number).run_R[pool * self.spread : (pool + 1) * self.spread].tolist()
        row = np.concatenate([np.arange(r * self.run_rows, min((r + 1) * self.run_rows, self.rows)) for r in runs])
        row = row if self.classes is None else row[self.classes[row] >= 0]
        views = [self.views[(number * self.repeats + turn) % len(self.views)] for turn in range(self.repeats)]
        row_P, view_P = np.tile(row, self.repeats), np.repeat(np.array(views, np.int64), len(row))
        mixing = plan_mixing(self.recipe, self.rows, row_P, view_P)
        lead_P = np.minimum(row_P, mixing.partner_B)
        window_P = row_P // self.recipe.mix_window if self.repeats > 1 else np.zeros_like(row_P)
        priority = partial(self._priority, number=number)
        keys = (row_P, lead_P, priority(PAIRS, lead_P), view_P, window_P, priority(WINDOWS, window_P))
        order = np.lexsort(keys)  # the last key decides first
        lead_P, window_P = lead_P[order], window_P[order]
        batch = Batch(
            row_B=row_P[order],
            view_B=view_P[order],
            partner_B=mixing.partner_B[order],
            lam_B=mixing.lam_B[order],
            opens_B=changes(lead_P) | changes(view_P[order]),
        )
        return _Pool(batch, np.append(np.flatnonzero(changes(window_P)), len(batch)))

    def _priority(self, block: int, value_N: Ints, number: int) -> NDArray[np.uint64]:
        """A random 64-bit number for each value in this round."""
        value_U, inverse_N = np.unique(value_N, return_inverse=True)
        words = philox(value_U.astype(np.uint64), np.full(len(value_U), number, np.uint32), self.seed, block)
        drawn_U = words[:, 0].astype(np.uint64) << np.uint64(32) | words[:, 1]
        return np.asarray(drawn_U[inverse_N], np.uint64)


def _require_enough(repeats: int, views: int, windows: int, window: int) -> None:
    if repeats > views:
        raise StudentError(
            f"--repeats {repeats} asks for {repeats} different views of a row, and the store has {views}. "
            f"Label more views (stages.teacher_logits --views {repeats}), or use --repeats {views}."
        )
    if repeats > windows:
        raise StudentError(
            f"--repeats {repeats} spreads the mix windows over {repeats} epochs, and there are {windows} windows of "
            f"{window} rows. Use --repeats {windows} or less."
        )


def _cut(opens_N: NDArray[np.bool_], position: int) -> int:
    """The last beginning of a pair at or before `position`; the end is one."""
    while position < len(opens_N) and not opens_N[position]:
        position -= 1
    return position


def changes(value_N: Ints) -> NDArray[np.bool_]:
    """Where a value differs from the one before it; true at the first."""
    return np.append(True, value_N[1:] != value_N[:-1])[: len(value_N)]


def _joined(parts: list[Batch]) -> Batch:
    return Batch(**{field.name: np.concatenate([getattr(p, field.name) for p in parts]) for field in fields(Batch)})


def _kept(kept: dict[K, V], key: K, make: Callable[[], V]) -> V:
    """`kept[key]`, made when absent; only the latest few are kept."""
    if key not in kept:
        kept[key] = make()
        if len(kept) > KEPT:
            kept.pop(next(iter(kept)))
    return kept[key]
