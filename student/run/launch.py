"""How does a run come to be from its flags: what is opened, compared and refused before the first step?

    store (complete?) → index (shards moved?) → loss, sizes, classes fit? can there be such a student?
    → earlier state (same run? finished?) → weights to start from (do they fit?) → order (enough for every rank?)
    → workers → validation shards (scanned) → witness views (drawn alike here?) → student (initial or restored)

The order of these matters: what is cheap and can be refused comes first, processes start before threads, and nothing of
a finished run is loaded again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.durable.objects import open_objects
from pipeline.durable.writer_lock import myself
from pipeline.errors import MismatchError
from pipeline.feeding.watch import Watch
from pipeline.inspection.gauge import gauge_text, stored_gauge
from pipeline.processes.world import Place
from pipeline.rendering.node_caches import NodeCaches
from pipeline.shards.index import SampleIndex
from pipeline.shards.patterns import expand
from pipeline.shards.rows import require_unchanged
from pipeline.shards.same_pictures import moved_to
from pipeline.shards.truth import LabelRule
from pipeline.store.reader import StoreReader
from student.checkpoints import checkpoint
from student.checkpoints.starting_weights import Initial, init_from, read_initial, require_alike
from student.dataset import StoredViews
from student.feed.feed import largest_share
from student.feed.order import Order
from student.feed.usable import require_usable
from student.judging.classes import require_classes
from student.learning.engine import Engine
from student.learning.settings import Settings
from student.network.model import Student, StudentSpec, build, sketch
from student.ranks.ranks import Ranks, Stop
from student.ranks.shared_index import indexed
from student.run import threads
from student.run.loggers import chosen
from student.run.loop import Run, restore
from student.run.resume import Beginning, Places, beginning_of, goes_on_from
from student.run.run_log import RunLog
from student.run.validation import Validation

log = logging.getLogger(__name__)


@contextlib.contextmanager
def launched(places: Places, settings: Settings, ranks: Ranks, stop: Stop) -> Iterator[Run | None]:
    """The run, ready to `fit`; None where it is finished already."""
    loggers = chosen(places.loggers, dvclive=places.dvclive, tensorboard=places.tensorboard)
    with contextlib.ExitStack() as stack:
        if ranks.main:
            stack.enter_context(checkpoint.only_writer(places.out))
        store = StoreReader.open(places.logits, check_sizes=ranks.main)
        index = moved_to(store.index, expand(places.shards)) if places.shards else store.index
        require_fit(store, index, settings)
        drawn = _sketch(store, settings)
        if ranks.main:
            require_unchanged(index)
            if index.unlabelled == len(index):
                log.warning(
                    "NO ROW HAS A CLASS: of %s rows none. The student learns from the teacher alone", len(index)
                )
        beginning = beginning_of(places, settings, store, ranks)
        if beginning.is_the_end:
            yield None
            return
        initial = _initial(beginning, drawn)
        run = _run(beginning, initial, places, store, index, ranks, stop, stack)
        everybody = ranks.gather(myself())  # all have read --init by now, which may lie in what is set aside
        if ranks.main:
            _tell_signal(store, beginning.settings)
            run.watch = _watch(run, ranks)
            run.log = _log(beginning, places, run, loggers, everybody)
            stack.callback(run.log.close)
        yield run


def _run(
    beginning: Beginning, initial: Initial | None, places: Places, store: StoreReader, index: SampleIndex, ranks: Ranks,
    stop: Stop, stack: contextlib.ExitStack,
) -> Run:  # fmt: skip
    """All parts of the run, where it stands; `stack` ends what must be ended."""
    settings = beginning.settings
    computed = threads.settle(None if beginning.state is None else beginning.state["meta"], ranks)
    views = views_of(store, settings, index=index, ranks=ranks, places=places)
    log.info("%s; %s", views.order, settings.schedule_of(views.order.steps))
    log.info("%s", settings.lr_text())
    feed = views.start()
    stack.callback(views.close)
    validate = _validation(store, places, ranks, stack)
    views.require_same_views()
    engine = _engine(store, settings, views.order, ranks, initial)
    run = Run(
        directory=places.out,
        settings=settings,
        engine=engine,
        feed=feed,
        stop=stop,
        validate=validate,
        meta=meta_of(store, settings, engine.statistics) | computed,
    )
    if beginning.state is not None:
        restore(run, beginning.state)
    return run


def require_fit(store: StoreReader, index: SampleIndex, settings: Settings) -> None:
    """Refuse settings that this store cannot serve, with both values and the remedy."""
    manifest = store.manifest
    settings.loss().check_store(manifest.keep, manifest.temperatures)
    if settings.image_size not in (None, manifest.recipe.image_size):
        raise MismatchError(
            f"--image-size is {settings.image_size}, the views of this store have {manifest.recipe.image_size} pixels. "
            f"Label views of {settings.image_size} (stages.teacher_logits --image-size {settings.image_size}), "
            "or leave --image-size out."
        )
    require_usable(store, index, accept_drift=settings.accept_drift)


def views_of(
    store: StoreReader, settings: Settings, *, index: SampleIndex | None = None, ranks: Ranks | None = None,
    places: Places | None = None,
) -> StoredViews:  # fmt: skip
    """What the run learns from: all rows, or, without a teacher, those that have a true label."""
    ranks, where = ranks or Ranks(), index or store.index
    caches, labelled_only = places.caches if places else NodeCaches(), settings.distill == "none"
    views = min(settings.views or store.layout.views, settings.epochs)
    return StoredViews(
        store,
        index=index,
        batch=settings.batch,
        seed=settings.seed,
        views=settings.views,
        repeats=settings.repeats,
        answer=str(store.manifest.keep) if settings.distill == "soft" else "argmax",
        tau=settings.tau,
        rank=ranks.rank,
        world=ranks.world,
        device=ranks.device,
        workers=places.workers if places else 0,
        start_method=places.start_method if places else None,
        pictures=caches.pictures(where),
        view_cache=caches.drawn(store.manifest.recipe, where, views, labelled_only=labelled_only),
        accept_drift=settings.accept_drift,
        labelled_only=labelled_only,
    )


def meta_of(store: StoreReader, settings: Settings, statistics: dict[str, tuple[float, ...]]) -> dict[str, Any]:
    """What a checkpoint says about its run, as values that JSON can hold."""
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


def _validation(store: StoreReader, places: Places, ranks: Ranks, stack: contextlib.ExitStack) -> Validation | None:
    if not places.val_shards:
        return None
    manifest = store.manifest
    key = places.label_key or store.index.label_key
    rule = LabelRule(key=key, names=manifest.class_names, assumed=True)
    index = indexed(places.val_shards, ranks, workers=places.workers, rule=rule)
    require_classes(
        index.num_classes, index.class_names, known=manifest.num_classes, known_names=manifest.class_names,
        what="--val-shards",
    )  # fmt: skip
    validation = Validation(
        index,
        image_size=manifest.recipe.image_size,
        num_classes=manifest.num_classes,
        ranks=ranks,
        workers=places.workers,
        folder=places.out,
        start_method=places.start_method,
    )
    return stack.enter_context(validation)


def _engine(store: StoreReader, settings: Settings, order: Order, ranks: Ranks, initial: Initial | None) -> Engine:
    student = _student(store, settings, initial)
    seen: Any = student.net.pretrained_cfg
    mean, std = (tuple(map(float, seen[name])) for name in ("mean", "std"))
    largest = largest_share(order, ranks.world)
    return Engine(student, settings, settings.schedule_of(order.steps), ranks, mean=mean, std=std, largest=largest)


def _spec(store: StoreReader, settings: Settings) -> StudentSpec:
    return settings.spec(store.manifest.num_classes, store.manifest.recipe.image_size)


def _sketch(store: StoreReader, settings: Settings) -> Student | None:
    """The student's shapes; sizes that no student has, and an optimiser that cannot move this one, are refused."""
    student, optimizer = sketch(_spec(store, settings)), settings.optimizer()
    if student is not None:
        optimizer.groups(student)
    return student


def _initial(beginning: Beginning, student: Student | None) -> Initial | None:
    """What a run that begins anew starts from, if not from random weights."""
    settings = beginning.settings
    if settings.init is None or beginning.state is not None:
        return None
    initial = read_initial(Path(settings.init), which=settings.init_which, ema=settings.init_ema)
    if student is not None:
        require_alike(student, initial.state, new_heads=settings.new_heads, where=f"--init {Path(str(settings.init))}")
    return initial


def _student(store: StoreReader, settings: Settings, initial: Initial | None) -> Student:
    student = build(_spec(store, settings), seed=settings.seed)
    if initial is not None:
        begun = init_from(
            student, initial.state, new_heads=settings.new_heads, where=f"--init {Path(str(settings.init))}"
        )
        log.info("--init %s: %s", initial.file, begun)
        if not begun.fresh:
            _compare_classes(initial, store.manifest.class_names)
    return student


def _compare_classes(initial: Initial, names: tuple[str, ...] | None) -> None:
    """Say that the heads that were taken over tell other classes apart."""
    for number, (theirs, ours) in enumerate(zip(initial.class_names or (), names or (), strict=False)):
        if theirs != ours:
            log.warning(
                "--init %s: the heads that are taken over know class %d as %r, the data has %r there. "
                "Give --new-heads if these are other classes.", initial.file, number, theirs, ours,
            )  # fmt: skip
            return


def _tell_signal(store: StoreReader, settings: Settings) -> None:
    """What the store has kept of what the teacher said, at the temperature that is trained at."""
    if settings.distill == "soft":
        found = stored_gauge(open_objects(store.name), store.manifest)
        for line in gauge_text(found, store.bytes_per_view(), only=settings.tau):
            log.log(logging.WARNING if line.startswith("WARNING") else logging.INFO, line.removeprefix("WARNING: "))


def _watch(run: Run, ranks: Ranks) -> Watch:
    """How the run is fed; how often this node will use each view says whether keeping them would help."""
    nodes = max(1, ranks.world // Place.from_environment().local_world)
    uses = (run.settings.epochs - run.epoch) / len(run.feed.order.views) / nodes
    return Watch(run.feed.loader, ranks.device, repeats=run.settings.repeats, uses=uses)


def _log(
    beginning: Beginning, places: Places, run: Run, loggers: tuple[str, ...], everybody: Sequence[Mapping[str, Any]]
) -> RunLog:
    if beginning.makes_room:  # only now: nothing can be refused any more
        source = goes_on_from(places)
        rewinds = source is not None and source.parent == places.out.resolve()
        checkpoint.set_aside(places.out, beginning.makes_room, keep_record=rewinds)
    return RunLog(
        places.out,
        epoch=run.epoch,
        update=run.update,
        total=run.total,
        loggers=loggers,
        config=run.settings.to_json(),
        ranks=everybody,
    )
