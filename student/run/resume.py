"""Where does a run start: at its first step, or where it stood; and what if that was another run?

`--resume` names an earlier state: the run directory's checkpoint, none, or one at a path. If settings and labels are
those that it was trained with, the run goes on from it; if not, it is refused, or begun again (`--if-changed restart`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.durable import aside
from pipeline.errors import MismatchError, StudentError
from pipeline.rendering.node_caches import NodeCaches
from pipeline.store.reader import StoreReader
from student.checkpoints import checkpoint
from student.checkpoints.contents import require_training
from student.checkpoints.run_folder import LAST, PREVIOUS, path_of
from student.learning.settings import Settings
from student.ranks.ranks import Ranks

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where things are, and how the machine is used: nothing here changes what is learned."""

    logits: str
    out: Path
    shards: tuple[str, ...] = ()
    """Where the labelled shards lie now; empty for where they lay."""
    val_shards: tuple[str, ...] = ()
    label_key: str | None = None
    """Where the classes stand in `val_shards`; None for where they stand in the store's"""
    resume: str = "auto"
    if_changed: str = "refuse"
    """What becomes of a run that was begun otherwise: refuse keeps it, restart sets it aside and begins again."""
    workers: int = 0
    start_method: str | None = None
    caches: NodeCaches = field(default_factory=NodeCaches)
    """What is kept on this node of decoded pictures and drawn views"""
    loggers: tuple[str, ...] = ()
    """Who is told how it goes, besides those of the next two."""
    dvclive: bool | None = None
    """None for where it is installed."""
    tensorboard: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """Where a run starts: with which settings, and from which checkpoint, if from any."""

    settings: Settings
    state: checkpoint.State | None
    """What it goes on from; None for a run from its first step."""
    makes_room: str | None
    """Why what lies in the run directory is set aside first; None where it is gone on with, or nothing is there."""

    @property
    def is_the_end(self) -> bool:
        """Whether the checkpoint to go on from is that of a finished run."""
        return self.state is not None and bool(self.state["epoch"] >= self.settings.epochs)


def beginning_of(places: Places, settings: Settings, store: StoreReader, ranks: Ranks) -> Beginning:
    """Where this run begins: from its earlier state; or from nothing, if there is none or it may be replaced."""
    state = earlier_state(places, ranks)
    changed = None if state is None else _changed(settings, store, state, _whose(places))
    if changed and places.if_changed == "restart":
        why = f"{changed} It is begun again, as --if-changed restart says."
        return Beginning(settings=same_run(settings, store, None, places.out), state=None, makes_room=why)
    settings = same_run(settings, store, state, _whose(places))
    return Beginning(settings=settings, state=state, makes_room=_replaces(places))


def _whose(places: Places) -> Path:
    """The run that an earlier state is of, as it was named."""
    return places.out if places.resume == "auto" else Path(places.resume)


def _replaces(places: Places) -> str | None:
    """Why a run that lies in the directory is not the one that goes on."""
    if places.resume == "auto" and checkpoint.is_without_state(places.out):
        return f"{places.out} has a best.pt and no last.pt to go on from, so it begins again."
    if places.resume == "auto" or goes_on_from(places) == _newest_file(places.out):
        return None
    begins = "begins again" if places.resume == "none" else f"goes on from another state than {places.out} has last"
    return f"--resume {places.resume} {begins}."


def goes_on_from(places: Places) -> Path | None:
    """The checkpoint file that a `--resume PATH` names; None for `auto` and `none`."""
    path = Path(places.resume)
    return None if places.resume in ("auto", "none") else (path_of(path) if path.is_dir() else path).resolve()


def _newest_file(run: Path) -> Path | None:
    files = (path_of(run, which) for which in (LAST, PREVIOUS))
    return next((path.resolve() for path in files if path.exists()), None)


def _changed(settings: Settings, store: StoreReader, state: checkpoint.State, run: Path) -> str | None:
    """How the run of an earlier state is not this one."""
    try:
        same_run(settings, store, state, run)
    except (MismatchError, StudentError) as difference:
        return str(difference)
    return None


def earlier_state(places: Places, ranks: Ranks) -> checkpoint.State | None:
    """The checkpoint to go on from, the same one on every rank."""
    run = places.out
    if places.resume == "none":
        return None
    if ranks.main:
        checkpoint.put_aside_damaged(run)
    ranks.require_same(0, "the start")  # the others look only now
    _require_not_set_aside(places)
    state = checkpoint.newest(run) if places.resume == "auto" else checkpoint.load(places.resume)
    position = -1 if state is None else _position(state)
    ranks.require_same(position, f"the newest checkpoint in {run}")
    if state is not None and "optimizer" not in state:
        raise StudentError(
            f"--resume {places.resume} is a checkpoint of weights alone, which cannot go on. "
            f"Give a last.pt, or --init {places.resume} to start another run from these weights."
        )
    if state is not None:
        require_training(state, _whose(places))
    return state


def _require_not_set_aside(places: Places) -> None:
    """Say how a run goes on that was begun from a state in its own folder, where that is set aside by now."""
    source = goes_on_from(places)
    if source is None or source.exists() or source.parent != places.out.resolve():
        return
    moved = next((file for run in aside.asides(places.out) if (file := run / source.name).exists()), None)
    if moved is None:
        return
    remedy = "Leave --resume out: the run goes on" if _newest_file(places.out) else f"Give --resume {moved}"
    raise StudentError(f"{source} is not there; of what was set aside {moved} is the newest. {remedy}.")


def _position(state: checkpoint.State) -> int:
    """One number for where a state stands; what is no such number is refused later, and by name."""
    epoch, step = (value if isinstance(value := state.get(name), int) else -1 for name in ("epoch", "step"))
    return epoch << 32 | step


def same_run(settings: Settings, store: StoreReader, state: checkpoint.State | None, run: Path) -> Settings:
    """The settings with the views that the run uses; refused where an earlier state belongs to another run."""
    have = store.layout.views
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
