"""How does anybody's trainer get the views of a store, with the teacher's answers, in five lines?

    with StoredViews("stores/train.zarr", batch=256, answer="soft", tau=3.0, workers=8) as views:
        for epoch in range(300):
            views.set_epoch(epoch)
            for batch in views:                       # a `ViewBatch`: batch.pixels, batch.truth(C), batch.soft, …
                ...

It is a data set of torch, so a `DataLoader` takes it as well, with ``batch_size=None``; then the loader's workers draw
the views (and ``workers`` stays 0). Worker w of N draws the steps w, w + N, …, which a `DataLoader` hands on in turn:
the order is the same as without.

Every view is drawn here and held to the checksum stored beside the teacher's answer, and the first one that differs is
an error. The order is a pure function of (seed, epoch, step): `student.feed.order` tells which. Each rank gets its
share of every step. ``state_dict`` and ``load_state_dict`` go on at the very next step, on any number of ranks and
workers.

`student.train` gets its steps through this door too.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from torch.utils.data import IterableDataset, get_worker_info

from pipeline.errors import MismatchError, StudentError, ViewError
from pipeline.models.stream import registered
from pipeline.picture_cache.kept import PictureCache
from pipeline.picture_cache.of_index import pictures_in
from pipeline.processes.world import Place
from pipeline.rendering.drift import drift_of, requests_for
from pipeline.rendering.loader import Loader
from pipeline.rendering.view_cache import ViewCache, views_in
from pipeline.shards.index import SampleIndex
from pipeline.store.reader import StoreReader
from pipeline.views.imagenet import MEAN, STD
from student.feed.feed import Feed, Step, piece_capacity, pieces_together
from student.feed.position import Position
from student.feed.stored_answers import StoredAnswers, needed
from student.feed.usable import index_of, order_of, require_usable, require_whole
from student.feed.view_batch import Channels, NarrowedAnswers, Pixels, Shape, ViewBatch, numbers
from student.ranks.ranks import Ranks

log = logging.getLogger(__name__)

CACHE_BYTES = 64 << 30
"""What a cache of pictures or views may take, as by the flags of `student.train`"""


@dataclass(frozen=True, slots=True)
class _Opened:
    """What one process draws with."""

    process: int
    loader: Loader
    answers: StoredAnswers
    feed: Feed
    registered: ExitStack

    def close(self) -> None:
        self.answers.close()
        self.registered.close()
        self.loader.close()


class StoredViews(IterableDataset[ViewBatch]):
    """The views of a finished store and the teacher's answers about them, step by step, each proven.

    Args:
        store: path or URL of the store.
        shards: where the labelled shards lie now, if not where they lay (patterns).
        index: what was found there already, where somebody has looked; by default the store's own.
        batch: views of one step, over all ranks, or a few less or one more: partners of a mix stay together.
        seed: of the order. What is in a view was decided when it was labelled.
        views: use the first so many views of the store; all by default.
        repeats: repeated augmentation, as ``student.train --repeats``.
        answer: "argmax", "soft" (probabilities of all classes at `tau`), "topk:K" or "dense" (logits).
        tau: the temperature of "soft".
        pixels: "float32", normalised by `mean` and `std`, or "uint8".
        channels: "first" [B, 3, S, S] or "last" [B, S, S, 3].
        rank, world: this process among those that share each step; by default what torch.distributed says, or RANK
            and WORLD_SIZE, as torchrun sets them.
        device: where the tensors come to be.
        workers: processes that draw; 0 draws here. Stays 0 with the workers of a `DataLoader`.
        pictures: folder of decoded pictures that this node keeps, as ``student.train --picture-cache`` does.
        view_cache: folder of views that this node keeps, as ``student.train --view-cache`` does.
        accept_drift: hold views to how they looked to the teacher instead, within two levels.
        labelled_only: leave rows without a true label out.
    """

    def __init__(
        self,
        store: str | Path | StoreReader,
        *,
        shards: str | Path | Sequence[str | Path] = (),
        index: SampleIndex | None = None,
        batch: int = 256,
        seed: int = 0,
        views: int | None = None,
        repeats: int = 1,
        answer: str = "argmax",
        tau: float = 3.0,
        pixels: Pixels = "float32",
        channels: Channels = "first",
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        rank: int | None = None,
        world: int | None = None,
        device: str | torch.device = "cpu",
        workers: int = 0,
        start_method: str | None = None,
        pictures: str | Path | PictureCache | None = None,
        view_cache: str | Path | ViewCache | None = None,
        accept_drift: bool = False,
        labelled_only: bool = False,
    ) -> None:
        for name, value, least in (("batch", batch, 1), ("repeats", repeats, 1), ("workers", workers, 0)):
            require_whole(name, value, least=least)
        require_whole("seed", seed, below=2**64)
        self.store = store if isinstance(store, StoreReader) else StoreReader.open(store)
        self.index = index_of(self.store, shards, index)
        require_usable(self.store, self.index, accept_drift=accept_drift)
        self.shape = Shape(
            manifest=self.store.manifest, answer=answer, tau=tau, pixels=pixels, channels=channels, mean=numbers(mean),
            std=numbers(std),
        )  # fmt: skip
        self._told = _both_or_neither(rank, world)
        self._ranks = Ranks(device=_device(device))
        self.workers, self.start_method, self.accept_drift = workers, start_method, accept_drift
        self.order = order_of(
            self.store, self.index, batch=batch, seed=seed, views=views, repeats=repeats, labelled_only=labelled_only
        )
        self.pictures = self._pictures(pictures)
        self.view_cache = self._view_cache(view_cache, labelled_only)
        self._asked = {"batch": batch, "seed": seed, "repeats": repeats, "views": len(self.order.views)}
        self._position = Position()
        self._opened: _Opened | None = None
        self._given: Iterator[Step] | None = None
        self.order.require_shares(self.ranks.world)

    # ---- beginning and end

    def __enter__(self) -> StoredViews:
        self._ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Feed:
        """Start the workers, if they are not there yet: what draws and proves the steps."""
        ranks = self.ranks
        if self._opened is None or self._opened.process != os.getpid():  # a fork has its parent's in vain
            self._opened = self._open(ranks)
        return self._opened.feed

    def close(self) -> None:
        """End the workers; whoever asks for views again starts others."""
        if self._opened is not None and self._opened.process == os.getpid():
            self._opened.close()
            with suppress(StudentError):  # another thread's loop finds its views closed
                self._end_loop()
        self._opened = self._given = None

    def require_same_views(self) -> None:
        """Refuse a machine that draws the store's witness views otherwise, by those who will draw all others."""
        witness, loader = self.store.witness(), self.start().loader
        drawn = loader.render(requests_for(witness, loader.batch))
        drift = drift_of(witness, (slot.pixels_BHWC for slot in drawn))
        log.info("%s", drift)
        if drift.kind == "identical" or (drift.kind == "drifted" and self.accept_drift):
            return
        remedy = "--accept-drift trains with every view held within 2 levels of how it looked to the teacher"
        if drift.kind == "different":
            remedy = "These are other pictures or another program"
        raise ViewError(
            f"This machine does not draw the views that the teacher saw: {drift}. {remedy}; "
            "the same library versions as the store's (stages.verify_logits shows them), or labelling here, end the "
            f"drift.{loader.doubt}"
        )

    # ---- the views

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self.order.steps

    def __iter__(self) -> Iterator[ViewBatch]:
        """The views of one epoch, from where they stand; then they stand at the beginning of the next."""
        info = get_worker_info()
        worker, every = (0, 1) if info is None else (info.id, info.num_workers)
        epoch, step = self._position.get() if info is None else self._position.claim()
        sets = self._position.sets
        if step + worker >= self.order.steps:
            return
        steps, last = self._steps(epoch, step + worker, every), step + worker
        for given in steps:
            last = given.step
            if info is None:
                self._position.advance(*self._after(epoch, last), since=sets)
            yield self.shape.of(given)
        if self._given is not steps and last + every < self.order.steps:
            what, remedy = "These views were closed", "Close them behind the loop"
            if self._given is not None:
                what, remedy = "Another loop over these views was begun", "Open a second StoredViews for the other loop"
            raise StudentError(f"{what} while this loop was in epoch {epoch}, and ended it. {remedy}.")

    def set_epoch(self, epoch: int) -> None:
        """Have the pass that begins next give this epoch: all of it, or what is left behind `load_state_dict`."""
        self._position.begin(epoch)

    @property
    def epoch(self) -> int:
        """The epoch of the next step, or of the next pass where the workers of a `DataLoader` draw."""
        return self._position.get()[0]

    def state_dict(self, after: ViewBatch | Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Where to go on: behind the views given last, or behind `after`.

        With the workers of a `DataLoader` only `after` tells: they draw ahead.
        """
        if after is None and not self._position.known:
            raise StudentError(
                "These views are drawn ahead by the workers of a DataLoader, so they cannot say which were used. "
                "Give the last batch that was: state_dict(after=batch)."
            )
        epoch, step = self._position.get() if after is None else self._behind(after)
        return {"epoch": epoch, "step": step, **self._same()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the pass that begins next go on at a state of this store, batch, seed, repeats and views."""
        if not isinstance(state, Mapping):
            raise StudentError(f"A state is what state_dict() gave, not {state!r:.80}.")
        for name, now in self._same().items():
            if state.get(name) != now:
                raise MismatchError(
                    f"The state is of {name} {state.get(name)}, these views are of {name} {now}. Open them as they "
                    "were, or begin anew."
                )
        require_whole("epoch", state.get("epoch"), below=2**32)
        require_whole("step", state.get("step"), below=self.order.steps)
        self._position.set(state["epoch"], state["step"])

    # ---- the parts

    def _pictures(self, given: str | Path | PictureCache | None) -> PictureCache | None:
        """The cache that was given, or the one in a folder."""
        return pictures_in(Path(given), CACHE_BYTES, self.index) if isinstance(given, (str, Path)) else given

    def _view_cache(self, given: str | Path | ViewCache | None, labelled_only: bool) -> ViewCache | None:
        if not isinstance(given, (str, Path)):
            return given
        recipe, views = self.store.manifest.recipe, len(self.order.views)
        return views_in(Path(given), CACHE_BYTES, recipe, self.index, views, labelled_only=labelled_only)

    def _steps(self, epoch: int, step: int, every: int) -> Iterator[Step]:
        feed = self._ready(proven=get_worker_info() is not None)
        self._end_loop()
        assert self._opened is not None
        self._opened.answers.forget()
        self._given = feed.steps(epoch, step, epoch + 1, every=every)
        return self._given

    def _end_loop(self) -> None:
        """End the loop that is on its way: one that was left early has asked ahead."""
        if self._given is not None:
            try:
                self._given.close()  # type: ignore[attr-defined]
            except ValueError:
                raise StudentError(
                    "Another thread is within a loop over these views. Open a second StoredViews for the other loop."
                ) from None

    def _ready(self, *, proven: bool = False) -> Feed:
        """The parts of this process; when they are new, the witness views come first, but for those of a worker."""
        new = self._opened is None or self._opened.process != os.getpid()
        feed = self.start()
        if new and not proven:
            self.require_same_views()
        return feed

    def _open(self, ranks: Ranks) -> _Opened:
        here = get_worker_info() is not None
        if here:
            cv2.setNumThreads(0)
            if self.workers:
                raise StudentError(
                    f"workers={self.workers} cannot draw within a worker of a DataLoader. Leave workers at 0 there; "
                    "its num_workers do the work."
                )
        order, manifest = self.order, self.store.manifest
        loader = Loader(
            order.recipe, self.index, batch=piece_capacity(order), workers=self.workers,
            together=pieces_together(order), start_method=self.start_method, pictures=self.pictures,
            view_cache=self.view_cache,
        )  # fmt: skip
        names = needed(manifest, soft=self.shape.logits, luma=self.accept_drift)
        answers = StoredAnswers(self.store, names, keep_units=2 * order.spread * order.repeats)
        narrowed = self.shape.logits and self.shape.keep != manifest.keep
        feed = Feed(
            order,
            NarrowedAnswers(answers, self.shape) if narrowed else answers,
            self.index,
            loader,
            ranks,
            keep=self.shape.keep,
            temperatures=self.shape.temperatures,
            temperature=self.shape.tau,
            accept_drift=self.accept_drift,
        )
        stack = ExitStack()
        stack.enter_context(registered(loader.ring.memory, ranks.device))
        return _Opened(os.getpid(), loader, answers, feed, stack)

    def _behind(self, batch: ViewBatch | Mapping[str, Any]) -> tuple[int, int]:
        """Where the views go on behind a batch that they gave, or behind its fields by name."""
        fields = batch._asdict() if isinstance(batch, ViewBatch) else batch
        if not isinstance(fields, Mapping) or not {"epoch", "step"} <= fields.keys():
            raise StudentError(f"after is {batch!r:.80}. Give a batch of these views.")
        require_whole("epoch", fields["epoch"], below=2**32)
        require_whole("step", fields["step"], below=self.order.steps)
        return self._after(int(fields["epoch"]), int(fields["step"]))

    def _after(self, epoch: int, step: int) -> tuple[int, int]:
        return (epoch, step + 1) if step + 1 < self.order.steps else (epoch + 1, 0)

    def _same(self) -> dict[str, Any]:
        """What a state must have in common with these views."""
        store = self.store.manifest.fingerprint()
        return {"store": store, **self._asked, "labelled_only": self.order.classes is not None}

    @property
    def ranks(self) -> Ranks:
        """Which share of each step is this process's; a process group may be begun after the views were opened."""
        rank, world = self._told or _rank_and_world() or (self._ranks.rank, self._ranks.world)
        require_whole("world", world, least=1)
        require_whole("rank", rank, below=world)
        if (rank, world) != (self._ranks.rank, self._ranks.world):
            self.close()
            self._ranks = Ranks(rank=rank, world=world, device=self._ranks.device)
            self.order.require_shares(world)
        return self._ranks

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ranks": self.ranks, "_opened": None, "_given": None}


def _both_or_neither(rank: int | None, world: int | None) -> tuple[int, int] | None:
    if (rank is None) != (world is None):
        raise StudentError(f"rank is {rank} and world is {world}. Give both, or neither.")
    return None if rank is None or world is None else (rank, world)


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.device(device)
    except (RuntimeError, TypeError):
        raise StudentError(f"device is {device!r}. Give cpu, cuda, cuda:1 or mps.") from None


def _rank_and_world() -> tuple[int, int] | None:
    """What torch.distributed says, or else the launcher; of a worker that was started by itself nothing."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    if get_worker_info() is not None:
        return None
    place = Place.among_ranks()
    return place.rank, place.world
