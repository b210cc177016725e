"""Which flags does ``student.train`` have? One for each field of `Settings`, with its default, and of `Places`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline.commands.command import Finite, options
from pipeline.commands.places import SHARDS, STORE, OutputFolder
from pipeline.models.device import PRECISIONS
from student.learning.loss import KINDS, REDUCTIONS
from student.learning.optimizer import SCHEDULES
from student.learning.settings import ATTENTIONS, Settings
from student.run.loggers import EXTRAS

DEFAULTS = Settings()


def _flag(name: str, help_text: str, kind: Any = None, **more: Any) -> Callable[..., Any]:
    """One option with the default that `Settings` has."""
    default = getattr(DEFAULTS, name.replace("-", "_"))
    switch = f"--{name}/--no-{name}" if isinstance(default, bool) else f"--{name}"
    shown = {} if kind is None else {"type": kind}
    return click.option(switch, default=default, show_default=default is not None, help=help_text, **shown, **more)


COUNT = click.IntRange(min=1)

places_options = options(
    click.option("--logits", type=STORE, required=True, help="The finished label store to learn from."),
    click.option(
        "--shards",
        type=SHARDS,
        multiple=True,
        help="Where the labelled shards lie now, if not where they lay. May be given several times.",
    ),
    click.option(
        "--val-shards",
        type=SHARDS,
        multiple=True,
        help="Shards to score the student on; without them no checkpoint is called the best.",
    ),
    click.option(
        "--label-key",
        metavar="KEY",
        help="Where the classes of --val-shards stand: a key of the json, or .FIELD.  [default: where they stand in "
        "the store's shards]",
    ),
    click.option(
        "--out",
        type=OutputFolder(file_okay=False),
        default=Path("runs/student"),
        show_default=True,
        help="The run directory: checkpoints, metrics.jsonl, dvclive/.",
    ),
    click.option(
        "--resume",
        default="auto",
        show_default=True,
        metavar="auto|none|PATH",
        help="Go on from the run directory's last checkpoint if there is one, set it aside and begin again, or go on "
        "from this checkpoint.",
    ),
    click.option(
        "--if-changed",
        type=click.Choice(["refuse", "restart"]),
        default="refuse",
        show_default=True,
        help="A run that was begun with other settings or labels is refused with what differs; or set aside, and begun "
        "again.",
    ),
)

model_options = options(
    _flag("model", "Any timm classifier; those with a distillation token learn the teacher's label there.", str),
    _flag("image-size", "Side of a view in pixels. The store decides it; another value is refused.", COUNT),
    _flag("patch-size", "Side of a patch in pixels, where the model's own is not wanted.", COUNT),
    _flag("width", "Width of the tokens, where the model's own is not wanted.", COUNT),
    _flag("depth", "Number of blocks, where the model's own is not wanted.", COUNT),
    _flag("heads", "Attention heads, where the model's own are not wanted.", COUNT),
    _flag("drop-path", "Stochastic depth: the last block's rate, from 0 at the first.", float),
    _flag("drop", "Dropout before the heads.", float),
    _flag("init", "Start from these weights: a run directory, an exported folder, or a file.", str, metavar="PATH"),
    _flag("init-which", "Which checkpoint of a run directory given to --init.", click.Choice(["last", "best"])),
    _flag("init-ema", "Of a run given to --init, take the moving average of the weights."),
    _flag("new-heads", "Do not take the heads of --init, even where they would fit."),
)

loss_options = options(
    _flag("distill", "What the teacher's label does: its argmax, its soft targets, or nothing.", click.Choice(KINDS)),
    _flag("alpha", "Weight of the teacher's term; the true label has the rest.", float),
    _flag("tau", "Temperature of --distill soft.", float),
    _flag("soft-reduction", "Mean of --distill soft: over views, or over views and classes.", click.Choice(REDUCTIONS)),
    _flag("smoothing", "Label smoothing of the true label.", float),
)

recipe_options = options(
    _flag("epochs", "Epochs; each sees every row once, in the next of the store's views (see --repeats).", COUNT),
    _flag(
        "batch",
        "Most views of one step, over all processes; steps of an epoch are nearly equal, and none is dropped.",
        COUNT,
    ),
    _flag("repeats", "Repeated augmentation: an epoch sees one row in R, in R views that come together.", COUNT),
    _flag("views", "Use the first so many views of the store.  [default: all]", COUNT),
    _flag("opt", "One of timm's optimisers.", str),
    _flag("lr", "Peak learning rate for a batch of 512; it grows with --batch.", float),
    _flag("lr-absolute", "Take --lr as it is, whatever the batch."),
    _flag("schedule", "How the learning rate falls.", click.Choice(SCHEDULES)),
    _flag("min-lr", "Learning rate at the end.", float),
    _flag("warmup-lr", "Learning rate at the beginning.", float),
    _flag("warmup-epochs", "Epochs of linear warm-up; at most a fifth of the run.", float),
    _flag("weight-decay", "Of weight matrices; biases, norms, tokens and position embeddings have none.", float),
    _flag("dist-token-decay", "Let the distillation token decay, too, as DeiT's own code does."),
    _flag("layer-decay", "Factor of the learning rate from each block to the one before.", float),
    _flag("layer-decay-tokens", "Tokens and position embedding learn at the first layer's rate; else at the full one."),
    _flag("clip-grad", "Largest norm of the gradient.", float),
    _flag("ema", "Keep a moving average of the weights, and score it too."),
    _flag("ema-decay", "Its decay in one step.", float),
    _flag("ema-warmup", "Let the decay grow with the steps, for runs too short for it."),
    _flag("precision", "Number format of the forward and backward pass.", click.Choice(list(PRECISIONS))),
    _flag("seed", "Seed of weights, order, drop path and dropout.", click.IntRange(0, 2**64 - 1)),
)

running_options = options(
    _flag(
        "accumulate",
        "Micro-batches of one step on each process: less memory, the same gradient (but for batch norm).",
        COUNT,
    ),
    _flag("attention", "Attention kernel; auto takes the plain one on CPU in bf16.", click.Choice(ATTENTIONS)),
    _flag("compile", "Compile the student's blocks (torch.compile), once."),
    _flag("deterministic", "Only kernels that give the same bits every time. On CPU they do so anyway."),
    _flag("accept-drift", "Train although this machine draws the views slightly differently."),
    _flag("val-every", "Epochs from one validation to the next.", COUNT),
    _flag("log-every", "Steps from one log line to the next.", COUNT),
    _flag(
        "checkpoint-every", "Steps from one checkpoint to the next; 0 leaves it to the minutes.", click.IntRange(min=0)
    ),
    _flag("checkpoint-minutes", "Minutes from one checkpoint to the next. Each epoch ends in one, too.", float),
    _flag("max-steps", "Stop after so many steps of the run, with a checkpoint; the schedule stays.", COUNT),
    click.option(
        "--logger",
        "loggers",
        type=click.Choice(sorted(EXTRAS)),
        multiple=True,
        help="Tell a tracker, too, through its own client and as its own variables say. May be given several times.",
    ),
    click.option(
        "--dvclive/--no-dvclive", default=None, show_default="where it is installed", help="Write OUT/dvclive."
    ),
    click.option("--tensorboard/--no-tensorboard", default=False, show_default=True, help="Write OUT/tensorboard."),
    click.option(
        "--timeout",
        type=Finite(min=1),
        default=600.0,
        show_default=True,
        envvar="DISTILL_TIMEOUT",
        help="Seconds that a process waits for the others before it gives up.",
    ),
)
