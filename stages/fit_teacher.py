"""Fit a model of timm's, or one of your own, to your shards, so that it can be their teacher.

    python -m stages.fit_teacher --shards 'data/train/*.tar' --val-shards 'data/val/*.tar' --pretrained
    python -m stages.teacher_logits --shards 'data/train/*.tar' --model local-dir:runs/teacher

Rows without a label are passed over. With --epochs 0 nothing is learned: published weights that know these very classes
become a folder that needs no network any more. The folder holds what timm itself can load (``model.safetensors`` and
``config.json``) and ``fit.json``, which says what the weights came from. Started again, an unfinished fit goes on after
its last whole epoch, and a finished one ends at once.

A model of your own is a function that returns it, for the fit and for the labels:

    python -m stages.fit_teacher --shards 'data/train/*.tar' --model module:function
    python -m stages.teacher_logits --shards … --model module:function --weights runs/teacher/model.safetensors
"""

from __future__ import annotations

import ast
import logging
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from pipeline.commands.class_flags import label_options
from pipeline.commands.command import command
from pipeline.commands.gather import gather
from pipeline.commands.places import SHARDS, InputPath, OutputFolder, ResultFile
from pipeline.commands.recipe_flags import recipe_options
from pipeline.commands.speed_flags import Speed, shards_option, speed_options
from pipeline.errors import TeacherError
from pipeline.models.device import choose_device, make_repeatable, settle_precision
from pipeline.models.out_of_memory import within_memory
from pipeline.models.weights import read_weights, weights_digest
from pipeline.processes.machine import granted_cores
from pipeline.processes.world import threads_are_set
from pipeline.progress import Progress
from pipeline.rendering.loader import Loader
from pipeline.shards.index import SampleIndex, scan
from pipeline.shards.patterns import expand
from pipeline.shards.truth import LabelRule
from pipeline.teacher.class_names import names_of, require_same_names
from pipeline.teacher.fit import Eye, Fit, FitSettings, require_labels, run_epoch, score
from pipeline.teacher.fit_folder import FitContract, FittedFolder
from pipeline.teacher.fit_start import begin_from, build_model, require_model, require_own_head
from pipeline.teacher.loading import HUBS, LARGEST_SIDE, is_own
from pipeline.views.recipe import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitPlan:
    """What is fitted to what, and how; each field is called as its flag."""

    shards: tuple[str, ...]
    val_shards: tuple[str, ...]
    rule: LabelRule
    recipe: Recipe
    out: Path
    model: str
    model_args: tuple[str, ...]
    pretrained: bool
    weights: Path | None
    input_size: int | None
    settings: FitSettings
    precision: str
    val_every: int
    metrics: Path | None
    history: Path | None
    if_changed: str
    speed: Speed

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of timm's model: NAME=VALUE pairs, where a value is a Python literal, or else a text."""
        found: dict[str, Any] = {}
        for pair in self.model_args:
            name, equals, value = pair.partition("=")
            if not name or not equals:
                raise click.BadParameter(f"--model-arg takes NAME=VALUE, not {pair!r}")
            try:
                found[name] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                found[name] = value
        return found

    def index(self, shards: tuple[str, ...]) -> SampleIndex:
        """Scan these shards, with the classes found as the flags say."""
        return scan(expand(shards), workers=self.speed.workers, rule=self.rule)


PRECISIONS = ("fp32", "bf16")
"""No fp16: its small gradients would need a scaled loss"""
DEFAULTS = FitSettings()
LEARNING = ("epochs", "batch", "lr", "warmup_epochs", "weight_decay", "smoothing", "clip_grad")
"""Flags of `FitSettings`; its seed is the recipe's"""
COUNT = click.IntRange(min=1)


@command()
@shards_option
@label_options
@click.option("--val-shards", type=SHARDS, multiple=True, help="Shards to score the teacher on.")
@click.option("--out", type=OutputFolder(file_okay=False), default=Path("runs/teacher"), help="Its folder.")
@click.option("--model", default="regnety_032", help="Any timm classifier; or module:function, which returns a model.")
@click.option("--model-arg", "model_args", multiple=True, metavar="NAME=VALUE", help="An argument of timm's model.")
@click.option("--pretrained/--no-pretrained", default=False, help="Begin from timm's own weights (with a new head).")
@click.option("--weights", type=InputPath(), help="Begin from this file (a head of other classes is new).")
@click.option(
    "--input-size",
    type=click.IntRange(1, LARGEST_SIDE),
    help="Side at which the model looks at a view, in pixels.  [default: the view's]",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=0),
    default=DEFAULTS.epochs,
    help="Epochs; each sees every labelled row once. 0 takes --pretrained or --weights as they are, head and all.",
)
@click.option("--batch", type=COUNT, default=DEFAULTS.batch, help="Views of one update.")
@click.option("--lr", type=float, default=DEFAULTS.lr, help="Peak learning rate of AdamW.")
@click.option("--warmup-epochs", type=float, default=DEFAULTS.warmup_epochs, help="Epochs of linear warm-up.")
@click.option("--weight-decay", type=float, default=DEFAULTS.weight_decay, help="Of kernels and matrices alone.")
@click.option("--smoothing", type=float, default=DEFAULTS.smoothing, help="Label smoothing.")
@click.option("--clip-grad", type=float, help="Largest norm of the gradient.  [default: none]")
@click.option(
    "--precision", type=click.Choice(["auto", *PRECISIONS]), default="auto", help="auto: bf16 on cuda, else fp32."
)
@click.option("--val-every", type=COUNT, default=1, help="Epochs from one validation to the next.")
@click.option("--metrics", type=ResultFile(), help="JSON file for the final figures.")
@click.option("--history", type=ResultFile(), help="CSV file for the curves, a line an epoch.")
@click.option(
    "--if-changed",
    type=click.Choice(["refuse", "restart"]),
    default="refuse",
    help="What a folder does that was fitted with other flags or rows: stop; or be set aside, and begun anew.",
)
@recipe_options
@speed_options
@gather("settings", FitSettings, *LEARNING)
@gather("plan", FitPlan)
def main(plan: FitPlan) -> None:
    """Fit a model to your shards, so that it can be their teacher (`--model local-dir:runs/teacher`).

    \b
    Example:
      python -m stages.fit_teacher --shards 'data/train/*.tar' --model regnety_032 --pretrained
    """
    _require_start(plan)
    index = plan.index(plan.shards)
    val = plan.index(plan.val_shards) if plan.val_shards else None
    require_labels(index)
    if val is not None:
        _require_same_classes(index, val)
    device = choose_device(plan.speed.device)
    contract = _contract(plan, index, settle_precision(plan.precision, device, PRECISIONS))
    with FittedFolder(plan.out).claimed() as folder:
        found = folder.open(contract, restart=plan.if_changed == "restart")
        if found != "finished":
            fit = _fit(plan, contract, index, device)
            if found == "begun":
                fit.restore(folder.load())
            with within_memory(device, "Give a smaller --batch (another fit), or --precision bf16."):
                _run(fit, folder, val, plan)
            folder.finish(fit)
        figures = folder.report(plan.metrics, plan.history)
    shown = ", ".join(f"{name} {value:g}" for name, value in sorted(figures.items()))
    click.echo(f"teacher: {plan.out}{' (finished before)' if found == 'finished' else ''}: {shown}")


def _contract(plan: FitPlan, index: SampleIndex, precision: str) -> FitContract:
    return FitContract(
        model=plan.model,
        model_args=plan.arguments,
        start=_start(plan.weights, plan.pretrained),
        input_size=plan.input_size or plan.recipe.image_size,
        precision=precision,
        settings=replace(plan.settings, seed=plan.recipe.seed),
        recipe=plan.recipe,
        index_digest=index.digest(),
        class_names=index.class_names,
    )


def _require_start(plan: FitPlan) -> None:
    """What the fit begins from, before the shards are read: a model that can be built, and its weights."""
    require_model(plan.model, pretrained=plan.pretrained and plan.weights is None, arguments=plan.arguments)
    if plan.weights is not None and not plan.weights.is_file():
        read_weights(plan.weights)  # which says what is wrong


def _start(weights: Path | None, pretrained: bool) -> str:
    if weights is not None:
        return f"weights {weights_digest(read_weights(weights))}"
    return "pretrained" if pretrained else "random"


def _fit(plan: FitPlan, contract: FitContract, index: SampleIndex, device: torch.device) -> Fit:
    make_repeatable(device)
    if device.type == "cpu" and not threads_are_set():  # the rest of the cores draw views
        torch.set_num_threads(max(1, min(torch.get_num_threads(), granted_cores() - plan.speed.workers)))
    model, config = build_model(
        contract.model,
        index.num_classes,
        seed=contract.settings.seed,
        pretrained=contract.start == "pretrained",
        own_head=contract.settings.epochs == 0,
        arguments=contract.model_args,
    )
    fresh: list[str] = [] if contract.start != "random" else ["all"]
    if plan.weights:
        fresh = begin_from(model, read_weights(plan.weights), f"--weights {plan.weights}")
        log.info("%s: all tensors taken%s", plan.weights, f" but {', '.join(fresh)}" if fresh else "")
    if contract.settings.epochs == 0:
        require_own_head(model, index, fresh)
        told = {**config, "num_classes": index.num_classes}
        of_timm = not is_own(contract.model) and not contract.model.startswith(HUBS)
        names = names_of(None, contract.model, plan.weights, told, of_timm=of_timm)
        require_same_names(index.class_names, names, None, contract.model)
    return Fit(
        model=model,
        settings=contract.settings,
        recipe=plan.recipe,
        index=index,
        device=device,
        precision=contract.precision,
        eye=Eye(contract.input_size, tuple(config["mean"]), tuple(config["std"])),
    )


def _run(fit: Fit, folder: FittedFolder, val: SampleIndex | None, plan: FitPlan) -> None:
    """All epochs that are left, each with its checkpoint."""
    total, done = (len(fit.row_R) * epochs for epochs in (fit.settings.epochs, fit.epoch))
    speed: Any = {"workers": plan.speed.workers, "start_method": plan.speed.start_method}
    with ExitStack() as stack:
        loader = stack.enter_context(Loader(fit.recipe, fit.index, batch=fit.settings.batch, **speed))
        judge = None
        if val is not None:
            plain = Recipe.preset("none", image_size=fit.recipe.image_size)
            judge = stack.enter_context(Loader(plain, val, batch=fit.settings.batch, **speed))
        progress = stack.enter_context(Progress("fit", total, "images", done=done))
        if fit.settings.epochs == 0 and not fit.history:
            fit.history.append({"epoch": 0.0, **(score(fit, judge) if judge is not None else {})})
            folder.save(fit)  # a folder of weights alone, which a kill of what follows may leave, could be anybody's
        while not fit.finished:
            run_epoch(fit, loader, progress)
            if judge is not None and (fit.finished or fit.epoch % plan.val_every == 0):
                fit.history[-1] |= score(fit, judge)
            folder.save(fit)


def _require_same_classes(index: SampleIndex, val: SampleIndex) -> None:
    if index.class_names != val.class_names and index.class_names is not None and val.class_names is not None:
        raise TeacherError(
            f"--val-shards name {len(val.class_names)} classes ({', '.join(val.class_names[:3])} …), the shards "
            f"{len(index.class_names)} ({', '.join(index.class_names[:3])} …). Pack both with the same --classes."
        )
    if val.num_classes > index.num_classes:
        raise TeacherError(
            f"--val-shards have classes up to {val.num_classes - 1}, the shards up to {index.num_classes - 1}. "
            "Pack both with the same --classes."
        )
    if not (val.classes >= 0).any():
        raise TeacherError("--val-shards have no labelled row to score the teacher on. Leave them out, or label some.")


if __name__ == "__main__":
    main()
