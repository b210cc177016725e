"""Who else is told how a run goes? DVCLive, TensorBoard, Weights & Biases and MLflow, each through its own client.

``metrics.jsonl`` is the record (`run_log`), and all of them are derived from it. TensorBoard's folder is purged
from the checkpoint on. The others are told the record so far and then what comes, so that nothing is there twice:
DVCLive's folder is written anew, and the two trackers get a run for each start of the command, in one group.

Where the trackers keep it is theirs to know, from their usual variables (``WANDB_MODE``, ``WANDB_PROJECT``,
``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME``, …); without any, MLflow's lies in the run directory. One that fails
while a student trains is told nothing more: the record has everything.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import click

from pipeline.errors import StudentError, first_line, require_packages

Line = dict[str, Any]

EXTRAS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "dvclive": "dvc"}
"""Each logger, which is called as its package is, and the extra that brings it."""
PROJECT = "offline-distiller"
"""What runs are put under where the tracker's own variable names nothing."""

log = logging.getLogger(__name__)


class Logger(Protocol):
    """A tracker that people watch, which is handed each line of the run's record."""

    def tell(self, line: Line) -> None:
        """Pass on a line of the run's record: of an interval, or of an epoch."""

    def close(self) -> None:
        """Send what has not been sent yet, and end."""


def chosen(named: Sequence[str], *, dvclive: bool | None, tensorboard: bool) -> tuple[str, ...]:
    """The loggers that the flags ask for, once each; refused where the package of one is not installed.

    `dvclive` is None where no flag speaks of it: then it is told, if it is here.
    """
    if dvclive is False and "dvclive" in named:
        raise click.UsageError("--logger dvclive and --no-dvclive contradict each other; leave one out")
    asked = {name: f"--logger {name}" for name in named}
    for name, wanted in (("dvclive", dvclive), ("tensorboard", tensorboard)):
        if wanted:
            asked.setdefault(name, f"--{name}")
    for name, flag in asked.items():
        require_packages(flag, name, extra=EXTRAS[name])
    if dvclive is None and find_spec("dvclive") is not None:
        asked.setdefault("dvclive", "")
    return tuple(asked)


class Loggers:
    """All trackers of a run; one that fails is told nothing more, and the run goes on."""

    def __init__(
        self, names: Sequence[str], run: Path, *, kept: Sequence[Line], update: int, config: Mapping[str, Any]
    ) -> None:
        """`kept` is the record so far, up to `update`; `config` what the run was started with."""
        self._open: dict[str, Logger] = {}
        for name in names:
            try:
                self._open[name] = CLIENTS[name](run, kept, update, config)
            except Exception as error:
                self.close()
                raise StudentError(
                    f"{name} cannot be started: {_say(error)}. Leave it out, or give its client what it asks for."
                ) from error

    def tell(self, line: Line) -> None:
        """Pass a line of the run's record on to every tracker."""
        self._each(lambda logger: logger.tell(line))

    def close(self) -> None:
        """End every tracker."""
        self._each(lambda logger: logger.close())
        self._open.clear()

    def _each(self, call: Callable[[Logger], None]) -> None:
        for name, logger in list(self._open.items()):
            try:
                call(logger)
            except Exception as error:  # whatever another's program or server has: hours of training do not hang on it
                log.warning("%s fails and is told nothing more; metrics.jsonl has everything: %s", name, _say(error))
                del self._open[name]


def numbers(line: Line) -> dict[str, float]:
    """The values of a line that can be plotted; its position is left out, which is the axis."""
    position = ("epoch", "step", "update")
    return {name: value for name, value in line.items() if isinstance(value, int | float) and name not in position}


class DVCLive:
    """Writes the epochs of a run into ``OUT/dvclive``, for DVC to show."""

    def __init__(self, run: Path, kept: Sequence[Line], _update: int, _config: Mapping[str, Any]) -> None:
        from dvclive.live import Live

        self._live: Any = Live(dir=str(run / "dvclive"), dvcyaml=None, save_dvc_exp=False, report=None)
        for line in kept:
            self.tell(line)

    def tell(self, line: Line) -> None:
        """Pass on a line of an epoch as one of DVCLive's steps; those of intervals are left out."""
        if line["kind"] != "epoch":
            return
        self._live.step = line["epoch"]
        for name, value in numbers(line).items():
            self._live.log_metric(name, value)
        self._live.make_summary()

    def close(self) -> None:
        """Write what has not been written yet, and end."""
        self._live.end()


class TensorBoard:
    """Writes every number of a run into ``OUT/tensorboard``."""

    def __init__(self, run: Path, _kept: Sequence[Line], update: int, _config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board: Any = SummaryWriter(str(run / "tensorboard"), purge_step=update + 1)

    def tell(self, line: Line) -> None:
        """Write the numbers of a line, over the number of the update."""
        for name, value in _named(line).items():
            self._board.add_scalar(name, value, line["update"])

    def close(self) -> None:
        """Write what has not been written yet, and end."""
        self._board.close()


class WandB:
    """A run of Weights & Biases, in the group that is called as the run directory is."""

    def __init__(self, run: Path, kept: Sequence[Line], _update: int, config: Mapping[str, Any]) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=os.environ.get("WANDB_RUN_GROUP", run.resolve().name),
            dir=os.environ.get("WANDB_DIR", str(run)),
            config=dict(config),
            reinit="create_new",
            settings=wandb.Settings(console="off"),
        )
        for line in kept:
            self.tell(line)

    def tell(self, line: Line) -> None:
        """Pass on the numbers of a line, over the number of the update."""
        self._run.log(_named(line), step=line["update"])

    def close(self) -> None:
        """End the tracker's run, and wait until everything has been handed over."""
        self._run.finish()


class MLflow:
    """A run of MLflow, called as the run directory is."""

    def __init__(self, run: Path, kept: Sequence[Line], _update: int, config: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.resolve()}/mlflow.db")
        found = self._client.create_run(_experiment(self._client, run), run_name=run.resolve().name)
        self._id = found.info.run_id
        self._client.log_batch(self._id, params=[Param(name, str(value)) for name, value in config.items()])
        for line in kept:
            self.tell(line)

    def tell(self, line: Line) -> None:
        """Pass on the numbers of a line, over the number of the update."""
        now = int(1000 * time.time())
        metrics = [self._metric(name, value, now, line["update"]) for name, value in _named(line).items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        """Tell the tracker that the run has ended."""
        self._client.set_terminated(self._id)


CLIENTS: dict[str, Callable[[Path, Sequence[Line], int, Mapping[str, Any]], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
    "dvclive": DVCLive,
}


def _experiment(client: Any, run: Path) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    known = client.get_experiment_by_name(name)
    if known is not None:
        return str(known.experiment_id)
    own = None if os.environ.get("MLFLOW_TRACKING_URI") else (run.resolve() / "mlflow").as_uri()
    return str(client.create_experiment(name, artifact_location=own))


def _named(line: Line) -> dict[str, float]:
    """``steps/loss``, ``epoch/top1``, …"""
    return {f"{line['kind']}/{name}": value for name, value in numbers(line).items()}


def _say(error: Exception) -> str:
    """An error in one line."""
    name = type(error).__name__
    return f"{name}: {first_line(error)}" if str(error).strip() else name
