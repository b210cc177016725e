"""How does a run go from where it stands to its end, and what can happen on the way?

    for step in feed:      learn → read the losses → epoch over? validate, log → checkpoint when due → stop when asked

The position (epoch, step) is the *next* step to train. At (epoch, steps) all of an epoch is trained and its end
(validation, log line, checkpoint) is still to come, so a stop in the middle of a validation repeats it. Each step's
losses are summed over the ranks together with their wishes to stop: all ranks decide the same after the same step. On
CUDA that sum is read one step late, so that reading never makes the device wait; before a log line, a checkpoint or the
end of an epoch everything is read.

Checkpoints are copied between two steps and written by a thread while training goes on; what it cannot do ends the run.
A loss or a weight that is not a number ends the run, naming the batch; the last checkpoint is from before.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.durable.file import write_text
from pipeline.errors import StudentError, UserError
from pipeline.feeding.watch import Watch
from pipeline.models.stream import sleeping_event
from student.checkpoints import checkpoint
from student.checkpoints.background import Writing
from student.feed.feed import Feed, Step
from student.feed.order import Batch
from student.learning.engine import Engine
from student.learning.settings import Settings
from student.ranks.ranks import Stop
from student.run.meter import Means, Pace
from student.run.run_log import RunLog

log = logging.getLogger(__name__)

Validate = Callable[[Engine, Stop], dict[str, float] | None]
"""Scores of the student (and of its moving average) by name; None when a stop came in between."""

FUSED = ("top1", "ema_top1")
"""The scores that decide which checkpoint is the best."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The summed losses of one step, which are being copied from the device."""

    epoch: int
    step: int
    whole: Batch
    sums: Tensor
    """On the host: the loss, its two terms, how many ranks were asked to stop."""
    arrived: torch.cuda.Event | None


@dataclass(slots=True, kw_only=True)
class Run:
    """A training run between its first step and its last: its parts, and where it stands."""

    directory: Path
    settings: Settings
    engine: Engine
    feed: Feed
    stop: Stop
    validate: Validate | None
    meta: dict[str, Any]
    log: RunLog | None = None
    """On rank 0 alone."""
    watch: Watch | None = None
    """Likewise."""
    epoch: int = 0
    step: int = 0
    best: float | None = None
    means: Means = field(default_factory=Means)
    stopped: bool = False
    writing: Writing = field(init=False)
    _readings: deque[Reading] = field(default_factory=deque)
    _pace: Pace = field(default_factory=Pace)
    _saved: float = field(default_factory=time.monotonic)
    _saved_at: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self.writing = Writing(self.directory)

    @property
    def steps(self) -> int:
        """How many steps an epoch has."""
        return self.feed.order.steps

    @property
    def update(self) -> int:
        """Steps done so far, which is the number of the next one."""
        return self.epoch * self.steps + self.step

    @property
    def total(self) -> int:
        """Steps of the whole run, or those that were asked for."""
        whole = self.settings.epochs * self.steps
        return whole if self.settings.max_steps is None else min(whole, self.settings.max_steps)


def fit(run: Run) -> None:
    """Train to the end, or to an agreed stop; either way `last` is where the run stands."""
    run._pace = Pace()
    try:
        _to_the_end(run)
    except UserError as error:
        if run.log:
            run.log.does("failed", _where(run) | {"why": str(error)})
        raise
    finished = run.epoch >= run.settings.epochs
    if run.log:
        run.log.does("finished" if finished else "stopped", _where(run))
    if run.log and finished:
        checkpoint.keep_one(run.directory)


def _to_the_end(run: Run) -> None:
    with run.writing:
        if run.step == run.steps:
            end_epoch(run)
        if not run.stopped and run.update < run.total:
            _steps(run)
        save(run)


def _steps(run: Run) -> None:
    for step in run.feed.steps(run.epoch, run.step, run.settings.epochs):
        learn(run, step)
        run.writing.check()
        if not run.stopped and run.step == run.steps:
            end_epoch(run)
        if run.stopped or run.update >= run.total:
            return
        if _is_due(run):
            save(run)


def learn(run: Run, step: Step) -> None:
    """Train on one step: update the weights, move on, and note the losses."""
    if log.isEnabledFor(logging.DEBUG):
        log.debug("epoch %d step %d: %d views, digest %s", step.epoch, step.step, step.count, step.whole.digest())
    with run.watch.working() if run.watch else contextlib.nullcontext():
        losses = run.engine.learn(step, run.update)
    run.step += 1
    run._pace.add(step.count)
    run._readings.append(_send(run, step, losses))
    cuda = run.engine.ranks.device.type == "cuda"
    recorded = run.update % run.settings.log_every == 0 or run.update == run.settings.epochs * run.steps
    shown = recorded or run.update == run.total  # the end of --max-steps is shown, but is no interval of the run
    read_losses(run, 0 if shown or run.step == run.steps or not cuda else 1)
    if shown:
        log_interval(run, recorded)
    elif run.log and run.log.due and run.means.interval_steps:
        rate, wait = run._pace.look(run.feed.waited)
        run.log.live(_where(run) | run.means.take_interval(keep=True), rate=rate, wait=wait, left=_left(run, rate))
    if run.watch:
        run.watch.took(len(step.batch))


def _where(run: Run) -> dict[str, Any]:
    return {"epoch": run.epoch, "step": run.step, "update": run.update}


def read_losses(run: Run, left: int) -> None:
    """Take in the sums that have arrived, but for the `left` newest; refuse what is not a number."""
    while len(run._readings) > left:
        reading = run._readings.popleft()
        if reading.arrived is not None:
            reading.arrived.synchronize()
        *losses, wishes = reading.sums.tolist()
        if not math.isfinite(losses[0]):
            raise StudentError(_not_finite(run, reading, losses))
        run.means.add(losses)
        run.stopped = run.stopped or wishes > 0


def log_interval(run: Run, recorded: bool) -> None:
    """Log the mean losses and the pace since the last such line, on rank 0; `recorded` ones stand in the record."""
    means, (rate, wait) = run.means.take_interval(keep=not recorded), run._pace.take(run.feed.waited)
    if run.log:
        lr = run.engine.schedule.lr_at(run.update - 1)
        line = {**_where(run), "lr": lr, **means}
        run.log.steps(line, rate=rate, wait=wait, left=_left(run, rate), recorded=recorded)


def _left(run: Run, rate: float) -> float:
    """Seconds to the end of the run, at so many images a second and with validations like the last."""
    validations = -(-(run.settings.epochs - run.epoch) // run.settings.val_every)
    training = (run.total - run.update) * run.feed.order.count / run.steps / max(rate, 1e-9)
    return training + validations * run._pace.stood


def end_epoch(run: Run) -> None:
    """Validate, log, keep the best, and move to the next epoch; or leave all that for later when asked to stop."""
    scores: dict[str, float] = {}
    last = run.epoch + 1 == run.settings.epochs
    if run.validate is not None and (last or (run.epoch + 1) % run.settings.val_every == 0):
        if run.log:
            run.log.does("validates", _where(run))
        with run._pace.standing():
            found = run.validate(run.engine, run.stop)
        if found is None:
            run.stopped = True
            return
        scores = found
    line = {"epoch": run.epoch, "update": run.update, "lr": run.engine.schedule.lr_at(run.update - 1)}
    means = run.means.take_epoch()
    if run.log:
        run.log.epoch({**line, **means, **scores})
    run.epoch, run.step = run.epoch + 1, 0
    _keep_best(run, scores)
    save(run)


def save(run: Run) -> None:
    """Have `last` written as all is now, on rank 0; never with a weight that is not a number."""
    read_losses(run, 0)
    if run._saved_at == (run.epoch, run.step):
        return
    run._saved, run._saved_at = time.monotonic(), (run.epoch, run.step)
    if run.log:
        _require_finite(run)
        run.log.flush()
        run.writing.save(state_of(run))


def state_of(run: Run) -> checkpoint.State:
    """Everything that a process needs to go on from here, as it stands in a checkpoint."""
    position = {"epoch": run.epoch, "step": run.step, "best": run.best, "means": run.means.state()}
    return {"spec": run.engine.student.spec.to_json(), "meta": run.meta, **position, **run.engine.state()}


def restore(run: Run, state: checkpoint.State) -> None:
    """Take up model, optimiser and position of a checkpoint, and go on from there."""
    if state["step"] > run.steps:
        raise StudentError(
            f"The checkpoint stands at step {state['step']:,} of an epoch of {run.steps:,} steps: it is of another run."
        )
    run.engine.restore(state)
    run.means.restore(state["means"])
    run.epoch, run.step, run.best = state["epoch"], state["step"], state["best"]


def _send(run: Run, step: Step, losses: Tensor) -> Reading:
    """Add up over the ranks and bring to the host, without waiting for it."""
    wish = losses.new_full((1,), float(run.stop.signal != 0))  # filled there: a number that is sent over is waited for
    sums = run.engine.ranks.sum(torch.cat([losses, wish]))
    arrived = None
    if sums.device.type == "cuda":
        sums = sums.to("cpu", non_blocking=True)
        arrived = sleeping_event()
        arrived.record(torch.cuda.current_stream(losses.device))
    return Reading(step.epoch, step.step, step.whole, sums, arrived)


def _is_due(run: Run) -> bool:
    """Whether it is time for a checkpoint; rank 0 alone writes, so the ranks need not agree."""
    every, minutes = run.settings.checkpoint_every, run.settings.checkpoint_minutes
    return bool(every and run.update % every == 0) or time.monotonic() - run._saved >= 60 * minutes


def _keep_best(run: Run, scores: dict[str, float]) -> None:
    found = {name: scores[name] for name in FUSED if name in scores}
    if found and (run.best is None or max(found.values()) > run.best):
        run.best = max(found.values())
        if run.log:
            _require_finite(run)
            run.writing.save_best({**state_of(run), "validation": scores})


def _require_finite(run: Run) -> None:
    if not run.engine.finite():
        raise StudentError(
            f"After step {run.step} of epoch {run.epoch} a weight is not a finite number: a gradient overflowed. "
            f"{_remedy(run)}"
        )


def _not_finite(run: Run, reading: Reading, losses: list[float]) -> str:
    whole, index = reading.whole, run.feed.index
    path = run.directory / "not_finite.txt"
    if run.log:
        listed = zip(whole.row_B.tolist(), whole.view_B.tolist(), strict=True)
        write_text(path, "".join(f"{row}\t{view}\t{index.key(row)}\n" for row, view in listed))
    named = ", ".join(f"{row} '{index.key(row)}'" for row in whole.row_B[:3].tolist())
    return (
        f"The loss of epoch {reading.epoch}, step {reading.step} is {losses[0]} (class head {losses[1]}, distillation "
        f"{losses[2]}). Its {len(whole)} views (rows {named}, …) are listed in {path}. {_remedy(run)}"
    )


def _remedy(run: Run) -> str:
    wider = "" if run.settings.precision == "fp32" else f", or a wider --precision than {run.settings.precision}"
    return f"The checkpoint in {run.directory} is from before. Lower --lr, or give --clip-grad 1{wider}, in a new run."


def exit_code(run: Run) -> int:
    """0, or 128 + the signal that stopped the run, as shells and schedulers count."""
    return 128 + (run.stop.signal or signal.SIGTERM) if run.stopped else 0
