"""How does a run come to be from its flags: what is opened, compared and refused before the first step?

    store (complete?) → index (shards moved?) → loss, sizes, classes fit? → earlier state (same run? finished?)
    → order (enough for every rank?) → workers → witness views (drawn alike here?) → student (initial or restored)

The order of these matters: what is cheap and can be refused comes first, processes start before threads, and nothing of
a finished run is loaded again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import MismatchError, StudentError, ViewError
from pipeline.index import SampleIndex
from pipeline.loader import Loader
from pipeline.shards import expand
from pipeline.store import LabelStore
from pipeline.witness import drift_of, requests_for
from student import checkpoint
from student.answers import StoredAnswers, needed
from student.data import Feed, piece_capacity, pieces_together
from student.engine import Engine
from student.indexing import indexed
from student.initial import init_from, read_initial
from student.loop import Run, restore
from student.model import Student, build
from student.order import Order
from student.ranks import Ranks, Stop
from student.runlog import RunLog
from student.settings import Settings
from student.validation import Validation, require_classes

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where things are, and how the machine is used: nothing here changes what is learned."""

    logits: str
    out: Path
    shards: tuple[str, ...] = ()
    """Where the labelled shards lie now; empty for where they lay."""
    val_shards: tuple[str, ...] = ()
    resume: str = "auto"
    if_changed: str = "refuse"
    """What becomes of a run that was begun otherwise: refuse keeps it, restart removes it and begins again."""
    workers: int = 0
    start_method: str | None = None
    dvclive: bool = True
    tensorboard: bool = False


@contextlib.contextmanager
def launched(places: Places, settings: Settings, ranks: Ranks, stop: Stop) -> Iterator[Run | None]:
    """The run, ready to `fit`; None where it is finished already."""
    with contextlib.ExitStack() as stack:
        if ranks.main:
            stack.enter_context(checkpoint.only_writer(places.out))
        store = LabelStore.open_finished(places.logits, look=ranks.main)
        index = store.index.moved_to(expand(places.shards)) if places.shards else store.index
        require_fit(store, index, settings)
        state = earlier_state(places, ranks)
        try:
            settings = same_run(settings, store, state, places.out)
        except (MismatchError, StudentError) as changed:
            if places.if_changed == "refuse" or state is None:
                raise
            log.warning("%s It is begun again, as --if-changed restart says.", changed)
            places, state = dataclasses.replace(places, resume="none"), None
            settings = same_run(settings, store, None, places.out)
        if state is not None and state["epoch"] >= settings.epochs:
            yield None
            return
        order = order_of(store, index, settings)
        order.require_shares(ranks.world)
        loader = stack.enter_context(_loader(order, index, places))
        validate = _validation(store, places, ranks, stack)
        _require_same_views(store, loader, settings)
        engine = _engine(store, settings, order, ranks, fresh=state is None)
        run = Run(
            directory=places.out,
            settings=settings,
            engine=engine,
            feed=_feed(store, index, settings, order, loader, ranks, stack),
            stop=stop,
            validate=validate,
            meta=meta_of(store, settings, engine.statistics),
        )
        if state is not None:
            restore(run, state)
        if ranks.main:
            run.log = _log(places, run)
            stack.callback(run.log.close)
        yield run


def require_fit(store: LabelStore, index: SampleIndex, settings: Settings) -> None:
    """Refuse what this store cannot serve."""
    manifest = store.manifest
    settings.loss().check_store(manifest.keep, manifest.temperatures)
    if settings.image_size not in (None, manifest.recipe.image_size):
        raise MismatchError(
            f"--image-size is {settings.image_size}, the views of this store have {manifest.recipe.image_size} pixels. "
            f"Label views of {settings.image_size} (stages.teacher_logits --image-size {settings.image_size}), "
            "or leave --image-size out."
        )
    if index.num_classes > manifest.num_classes:
        raise MismatchError(
            f"The shards have {index.num_classes} classes, the stored answers {manifest.num_classes}. "
            "Label again with a teacher of all classes, or with a class map."
        )
    if settings.accept_drift and not manifest.luma:
        raise MismatchError(
            "--accept-drift holds every view to its thumbnail, and this store has none. "
            "Label again with thumbnails, or on this machine."
        )


def earlier_state(places: Places, ranks: Ranks) -> checkpoint.State | None:
    """The checkpoint to go on from, the same one on every rank."""
    run = places.out
    if places.resume == "none":
        return None
    if ranks.main:
        checkpoint.put_aside_damaged(run)
    ranks.require_same(0, "the start")  # the others look only now
    state = checkpoint.newest(run) if places.resume == "auto" else checkpoint.load(places.resume)
    position = -1 if state is None else state["epoch"] << 32 | state["step"]
    ranks.require_same(position, f"the newest checkpoint in {run}")
    if state is not None and "optimizer" not in state:
        raise StudentError(
            f"--resume {places.resume} is a checkpoint of weights alone, which cannot go on. "
            f"Give a last.pt, or --init {places.resume} to start another run from these weights."
        )
    return state


def same_run(settings: Settings, store: LabelStore, state: checkpoint.State | None, run: Path) -> Settings:
    """The settings with the views that the run uses; refused where an earlier state belongs to another run."""
    have = store.views
    if state is None:
        views = settings.views or have
    else:
        earlier, manifest = state["meta"]["settings"], store.manifest
        views = settings.views or earlier["views"]
        settings.with_views(views).require_same(earlier, str(run))
        then, now = state["meta"]["store"]["fingerprint"], manifest.fingerprint()
        if then != now:
            raise MismatchError(
                f"{run} was trained on the labels of manifest {then[:12]}, this store has {now[:12]} "
                f"({manifest.teacher.name}, keep {manifest.keep}). Give the store that the run began with, "
                "or another --out."
            )
    if views > have:
        raise MismatchError(f"The run uses {views} views, the store has {have}. Label more, or give --views {have}.")
    return settings.with_views(views)


def order_of(store: LabelStore, index: SampleIndex, settings: Settings) -> Order:
    """The run's sequence of batches: of all rows, or, without a teacher, of those that have a true label."""
    manifest = store.manifest
    assert settings.views is not None
    if settings.distill == "none" and index.unlabelled == len(index):
        raise StudentError(
            f"None of the {len(index):,} rows has a true label, and --distill none learns from those alone. "
            "Use --distill hard or soft."
        )
    alone = settings.distill == "none" and index.unlabelled > 0
    return Order(
        manifest.recipe,
        rows=manifest.rows,
        views=tuple(range(settings.views)),
        run_rows=manifest.unit_rows,
        batch=settings.batch,
        seed=settings.seed,
        repeats=settings.repeats,
        classes=index.classes if alone else None,
    )


def meta_of(store: LabelStore, settings: Settings, statistics: dict[str, tuple[float, ...]]) -> dict[str, Any]:
    """What a checkpoint says about itself, in plain values."""
    manifest = store.manifest
    names = manifest.class_names
    return {
        "class_names": None if names is None else list(names),
        **{name: list(values) for name, values in statistics.items()},
        "recipe": manifest.recipe.to_json(),
        "distill": dataclasses.asdict(settings.loss()),
        "teacher": manifest.teacher.name,
        "store": {
            "fingerprint": manifest.fingerprint(),
            "recipe": manifest.recipe.fingerprint(),
            "index": manifest.index_digest,
            "teacher_weights": manifest.teacher.weights_sha256,
            "keep": str(manifest.keep),
        },
        "settings": settings.to_json(),
    }


def _loader(order: Order, index: SampleIndex, places: Places) -> Loader:
    return Loader(
        order.recipe,
        index,
        batch=piece_capacity(order),
        workers=places.workers,
        together=pieces_together(order),
        start_method=places.start_method,
    )


def _validation(store: LabelStore, places: Places, ranks: Ranks, stack: contextlib.ExitStack) -> Validation | None:
    if not places.val_shards:
        return None
    manifest = store.manifest
    index = indexed(places.val_shards, ranks, workers=places.workers)
    require_classes(index, manifest.num_classes, manifest.class_names)
    validation = Validation(
        index,
        image_size=manifest.recipe.image_size,
        num_classes=manifest.num_classes,
        ranks=ranks,
        workers=places.workers,
        start_method=places.start_method,
    )
    stack.enter_context(validation.loader)
    return validation


def _require_same_views(store: LabelStore, loader: Loader, settings: Settings) -> None:
    """The store's witness views, drawn here by those who will draw all others."""
    witness = store.witness()
    drawn = loader.render(requests_for(witness, loader.batch))
    drift = drift_of(witness, (slot.pixels_BHWC for slot in drawn))
    log.info("%s", drift)
    if drift.kind == "identical" or (drift.kind == "drifted" and settings.accept_drift):
        return
    remedy = "--accept-drift trains with every view held within 2 levels of its thumbnail"
    if drift.kind == "different":
        remedy = "These are other pictures or another program"
    raise ViewError(
        f"This machine does not draw the views that the teacher saw: {drift}. {remedy}; "
        "the same library versions as the store's (stages.verify_logits shows them), or labelling here, end the drift."
    )


def _feed(
    store: LabelStore, index: SampleIndex, settings: Settings, order: Order, loader: Loader, ranks: Ranks,
    stack: contextlib.ExitStack,
) -> Feed:  # fmt: skip
    names = needed(settings.distill, store.manifest.keep.kind, luma=settings.accept_drift)
    answers = StoredAnswers(store, names, keep_units=2 * order.spread * order.repeats)
    stack.callback(answers.close)
    temperatures = store.manifest.temperatures
    return Feed(order, answers, index, loader, ranks, temperatures=temperatures, accept_drift=settings.accept_drift)


def _engine(store: LabelStore, settings: Settings, order: Order, ranks: Ranks, *, fresh: bool) -> Engine:
    student = _student(store, settings, fresh=fresh)
    seen: Any = student.net.pretrained_cfg
    mean, std = (tuple(map(float, seen[name])) for name in ("mean", "std"))
    return Engine(student, settings, settings.schedule_of(order.steps), ranks, mean=mean, std=std)


def _student(store: LabelStore, settings: Settings, *, fresh: bool) -> Student:
    manifest = store.manifest
    student = build(settings.spec(manifest.num_classes, manifest.recipe.image_size), seed=settings.seed)
    if settings.init is not None and fresh:
        path = Path(settings.init)
        which = checkpoint.BEST if checkpoint.path_of(path, checkpoint.BEST).exists() else checkpoint.LAST
        begun = init_from(
            student, read_initial(path, which=which, ema=settings.init_ema), new_heads=settings.new_heads,
            where=f"--init {path}",
        )  # fmt: skip
        log.info("--init %s: %s", path, begun)
    return student


def _log(places: Places, run: Run) -> RunLog:
    if places.resume == "none":
        checkpoint.remove(places.out)  # only now: nothing can be refused any more
    return RunLog(
        places.out,
        epoch=run.epoch,
        update=run.update,
        total=run.total,
        dvclive=places.dvclive,
        tensorboard=places.tensorboard,
    )
