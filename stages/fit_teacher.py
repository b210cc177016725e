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
from pathlib import Path
from typing import Any

import click
import torch

from pipeline.commands.class_flags import label_options, take_rule
from pipeline.commands.command import command
from pipeline.commands.recipe_flags import recipe_options, take_recipe
from pipeline.commands.speed_flags import default_workers, shards_option, speed_options
from pipeline.errors import TeacherError
from pipeline.models.device import choose_device, make_repeatable, settle_precision
from pipeline.models.out_of_memory import within_memory
from pipeline.models.weights import read_weights, weights_digest
from pipeline.processes.world import threads_are_set
from pipeline.progress import Progress
from pipeline.rendering.loader import Loader
from pipeline.shards.index import SampleIndex, scan
from pipeline.shards.patterns import expand
from pipeline.teacher.class_names import names_of, require_same_names
from pipeline.teacher.fit import (
    Eye,
    Fit,
    FitSettings,
    begin_from,
    build_model,
    require_labels,
    require_model,
    require_own_head,
    run_epoch,
    score,
)
from pipeline.teacher.fit_folder import Contract, FittedFolder
from pipeline.teacher.loading import HUBS, LARGEST_SIDE, is_own
from pipeline.views.recipe import Recipe

log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "bf16")
"""No fp16: its small gradients would need a scaled loss"""
DEFAULTS = FitSettings()
COUNT = click.IntRange(min=1)


@command()
@shards_option
@label_options
@click.option("--val-shards", multiple=True, metavar="PATTERN", help="Shards to score the teacher on.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/teacher"), help="Its folder."
)
@click.option("--model", default="regnety_032", help="Any timm classifier; or module:function, which returns a model.")
@click.option("--model-arg", "model_args", multiple=True, metavar="NAME=VALUE", help="An argument of timm's model.")
@click.option("--pretrained/--no-pretrained", default=False, help="Begin from timm's own weights (with a new head).")
@click.option(
    "--weights", type=click.Path(path_type=Path), help="Begin from this file (a head of other classes is new)."
)
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
@click.option("--metrics", type=click.Path(path_type=Path), help="JSON file for the final figures.")
@click.option("--history", type=click.Path(path_type=Path), help="CSV file for the curves, a line an epoch.")
@click.option(
    "--if-changed",
    type=click.Choice(["refuse", "restart"]),
    default="refuse",
    help="What a folder does that was fitted with other flags or rows: stop; or be set aside, and begun anew.",
)
@recipe_options
@speed_options
def main(**flags: Any) -> None:
    """Fit a model to your shards, so that it can be their teacher (`--model local-dir:runs/teacher`).

    \b
    Example:
      python -m stages.fit_teacher --shards 'data/train/*.tar' --model regnety_032 --pretrained --recipe light
    """
    recipe, rule = take_recipe(flags), take_rule(flags)
    _require_start(flags)
    index = scan(expand(flags["shards"]), workers=flags["workers"], rule=rule)
    val = scan(expand(flags["val_shards"]), workers=flags["workers"], rule=rule) if flags["val_shards"] else None
    require_labels(index)
    if val is not None:
        _require_same_classes(index, val)
    device = choose_device(flags["device"])
    contract = _contract(flags, recipe, index, settle_precision(flags["precision"], device, PRECISIONS))
    with FittedFolder(flags["out"]).claimed() as folder:
        found = folder.open(contract, restart=flags["if_changed"] == "restart")
        if found != "finished":
            fit = _fit(flags, contract, recipe, index, device)
            if found == "begun":
                fit.restore(folder.load())
            with within_memory(device, "Give a smaller --batch (another fit), or --precision bf16."):
                _run(fit, folder, val, flags)
            folder.finish(fit)
        figures = folder.report(flags["metrics"], flags["history"])
    shown = ", ".join(f"{name} {value:g}" for name, value in sorted(figures.items()))
    click.echo(f"teacher: {flags['out']}{' (finished before)' if found == 'finished' else ''}: {shown}")


def _contract(flags: dict[str, Any], recipe: Recipe, index: SampleIndex, precision: str) -> Contract:
    return Contract(
        model=flags["model"],
        model_args=_model_args(flags["model_args"]),
        start=_start(flags["weights"], flags["pretrained"]),
        input_size=flags["input_size"] or recipe.image_size,
        precision=precision,
        settings=FitSettings(**{name: flags[name] for name in DEFAULTS.to_json() if name != "seed"}, seed=recipe.seed),
        recipe=recipe,
        index_digest=index.digest(),
        class_names=index.class_names,
    )


def _require_start(flags: dict[str, Any]) -> None:
    """What the fit begins from, before the shards are read: a model that can be built, and its weights."""
    pretrained = flags["pretrained"] and flags["weights"] is None
    require_model(flags["model"], pretrained=pretrained, arguments=_model_args(flags["model_args"]))
    if flags["weights"] is not None and not flags["weights"].is_file():
        read_weights(flags["weights"])  # which says what is wrong


def _start(weights: Path | None, pretrained: bool) -> str:
    if weights is not None:
        return f"weights {weights_digest(read_weights(weights))}"
    return "pretrained" if pretrained else "random"


def _model_args(given: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE pairs; a value is a Python literal, or else a text."""
    found: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"--model-arg takes NAME=VALUE, not {pair!r}")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def _fit(flags: dict[str, Any], contract: Contract, recipe: Recipe, index: SampleIndex, device: torch.device) -> Fit:
    make_repeatable(device)
    if device.type == "cpu" and not threads_are_set():  # the rest of the cores draw views
        torch.set_num_threads(max(1, min(torch.get_num_threads(), default_workers() - flags["workers"])))
    model, config = build_model(
        contract.model,
        index.num_classes,
        seed=contract.settings.seed,
        pretrained=contract.start == "pretrained",
        own_head=contract.settings.epochs == 0,
        arguments=contract.model_args,
    )
    fresh: list[str] = [] if contract.start != "random" else ["all"]
    if flags["weights"]:
        fresh = begin_from(model, read_weights(flags["weights"]), f"--weights {flags['weights']}")
        log.info("%s: all tensors taken%s", flags["weights"], f" but {', '.join(fresh)}" if fresh else "")
    if contract.settings.epochs == 0:
        require_own_head(model, index, fresh)
        told = {**config, "num_classes": index.num_classes}
        of_timm = not is_own(contract.model) and not contract.model.startswith(HUBS)
        names = names_of(None, contract.model, flags["weights"], told, of_timm=of_timm)
        require_same_names(index.class_names, names, None, contract.model)
    return Fit(
        model=model,
        settings=contract.settings,
        recipe=recipe,
        index=index,
        device=device,
        precision=contract.precision,
        eye=Eye(contract.input_size, tuple(config["mean"]), tuple(config["std"])),
    )


def _run(fit: Fit, folder: FittedFolder, val: SampleIndex | None, flags: dict[str, Any]) -> None:
    """All epochs that are left, each with its checkpoint."""
    total, done = (len(fit.row_R) * epochs for epochs in (fit.settings.epochs, fit.epoch))
    speed = {"workers": flags["workers"], "start_method": flags["start_method"]}
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
            if judge is not None and (fit.finished or fit.epoch % flags["val_every"] == 0):
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
