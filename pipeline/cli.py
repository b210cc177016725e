"""What do all commands have in common: how they fail, how they log, and the options they share.

    from pipeline import cli

    @cli.command()
    @cli.recipe_options
    @cli.speed_options
    def main(**flags): ...

A `UserError` (and a missing file, a full disk, an interrupt) ends in one line on standard error and exit status 1 (130
for an interrupt); a wrong flag ends in click's usage line and status 2. Options that change only speed have environment
defaults (``DISTILL_DEVICE``, ``DISTILL_WORKERS``, …), so that they can stay out of ``dvc.yaml``.
"""

from __future__ import annotations

import errno
import functools
import json
import logging
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
from click.core import ParameterSource

from pipeline.errors import RecipeError, UserError
from pipeline.node_cache import cache_options
from pipeline.objects import LocalObjects
from pipeline.recipe import Recipe
from pipeline.remote import SCHEMES

P = ParamSpec("P")
R = TypeVar("R")

PLACES = ("shards", "val_shards", "logits", "val_logits", "out")
"""Flags that may name a URL."""
RESULTS = ("out", "summary", "report", "plot", "plots", "per_class", "predictions", "metrics", "history")
"""Flags that may name what is written."""

log = logging.getLogger(__name__)


class Finite(click.FloatRange):
    """A number of this range; nan, which no comparison refuses, and infinities are in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click converts it."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Command(click.Command):
    """A click command whose user errors are one line and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn what a user can mend into one line."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            _fail(str(error), 1)
        except KeyboardInterrupt:
            _fail("interrupted; run the same command again to go on where it was", 130)
        except OSError as error:
            _fail(_describe(error), 1)


def command(**attributes: Any) -> Callable[[Callable[..., Any]], Command]:
    """Make a function a command: errors to exit codes, help width, `--log-level`."""

    def wrap(function: Callable[..., Any]) -> Command:
        @click.option(
            "--log-level",
            type=click.Choice(["debug", "info", "warning", "error"]),
            default="info",
            envvar="DISTILL_LOG_LEVEL",
            show_default=True,
            help="How much to say on standard error.",
        )
        @functools.wraps(function)
        def with_logging(*args: Any, log_level: str, **kwargs: Any) -> Any:
            configure_logging(log_level)
            _require_paths(kwargs)
            _settle_start_method(kwargs)
            return function(*args, **kwargs)

        settings = {"max_content_width": 110, "show_default": True}
        return click.command(cls=Command, context_settings=settings, **attributes)(with_logging)

    return wrap


def configure_logging(level: str) -> None:
    """Log to standard error, once, one line a record."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname).1s %(name)s | %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("matplotlib", "PIL", "fsspec", "asyncio", "botocore", "aiobotocore", "s3fs", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _settle_start_method(flags: dict[str, Any]) -> None:
    """Where a flag names a URL, no process may be forked any more: clients of object stores do not survive it."""
    values = [value for name in PLACES if (value := flags.get(name)) is not None]
    places = [str(place) for value in values for place in (value if isinstance(value, tuple) else (value,))]
    if any("://" in place for place in places):
        from pipeline.loader import settle_start_method  # only now: it brings torch

        settle_start_method(tuple(places), flags.get("start_method"))


def _require_paths(flags: dict[str, Any]) -> None:
    """A URL where only a path will do would become a folder named ``s3:``."""
    for name, value in flags.items():
        if isinstance(value, Path) and str(value).startswith(tuple(f"{scheme}:/" for scheme in SCHEMES)):
            flag = "--" + name.replace("_", "-")
            raise click.UsageError(f"{flag} takes a path on this machine, and {value} looks like a URL")
    for name in RESULTS:
        if flags.get(name) is not None and "://" not in str(flags[name]):
            _require_own_place(str(flags[name]), "--" + name.replace("_", "-"), flags)


def _require_own_place(place: str, flag: str, flags: dict[str, Any]) -> None:
    """Refuse results without a name, and such as would lie among the objects of a label store."""
    where = Path(place).resolve()
    if not place or not where.name:
        raise click.UsageError(f"{flag} {place!r} names no file or folder of its own")
    store = Path(str(flags["out"])).resolve() if str(flags.get("out", "")).rstrip("/").endswith(".zarr") else None
    for folder in where.parents:
        if folder == store or (folder / "zarr.json").exists():
            raise UserError(f"{flag} {place} lies in {folder}, which is a Zarr store. Choose a place outside of it.")


def require_new_folder(out: str | Path) -> None:
    """Refuse, for what makes a folder of its own, files and the folder that one stands in, with those around it."""
    if "://" in str(out):
        return
    where = Path(out).resolve()
    if where in (Path.cwd(), *Path.cwd().parents):
        raise UserError(f"--out {out} is the folder that this is run in, or one around it. Name a new one.")
    for place in (where, *where.parents):
        if place.is_file():
            raise UserError(f"--out {out}: {place} is a file, and a folder is needed there. Name a new one.")


def require_suffix(path: Path | None, flag: str, *known: str) -> None:
    """Refuse, before the work, a file whose name promises another format."""
    if path is not None and path.suffix.lower() not in known:
        raise UserError(f"{flag} {path} ends in {path.suffix!r}; it can be written as {' or '.join(known)}.")


def beside(out: str, suffix: str) -> Path:
    """Where a command writes a small result of its store: beside it, or here if the store is at a URL."""
    path = Path(out.rstrip("/").rpartition("/")[2] if "://" in out else out)
    stem = path.stem if path.suffix in (".zarr", ".json") else path.name  # v1.2 and v1.3 are two stores
    return path.with_name(stem + suffix)


def require_writable(path: Path, flag: str) -> None:
    """Refuse now, and not when hours of work are done, a result's place that cannot be written; makes its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}. Give another {flag}.") from error


def write_json(path: Path, values: object) -> None:
    """A result, whole or not at all."""
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    LocalObjects(path.parent).put(path.name, text.encode())


def default_workers() -> int:
    """Processes that may run at once on this machine, as the scheduler grants them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_workers(workers: int, local_world: int) -> int:
    """The workers of one of so many ranks on this node: they share the cores where --workers was not given."""
    given = click.get_current_context().get_parameter_source("workers") is not ParameterSource.DEFAULT
    return workers if given else max(1, workers // local_world)


def _fail(message: str, status: int) -> None:
    click.echo(f"error: {message}", err=True)
    raise SystemExit(status)


def _describe(error: OSError) -> str:
    if error.filename is None:
        return f"{error.strerror or error}"
    return f"{error.filename}: {error.strerror}"


def _pair(name: str) -> Callable[[click.Context, click.Parameter, str | None], tuple[float, float] | None]:
    """A callback that reads 'LOW,HIGH'."""

    def read(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[float, float] | None:
        if value is None:
            return None
        try:
            low, high = (float(part) for part in value.split(","))
        except ValueError:
            raise click.BadParameter(f"{name} takes two numbers with a comma between them, not {value!r}") from None
        return low, high

    return read


def options(*decorators: Callable[[Callable[P, R]], Callable[P, R]]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Several click options as one decorator, in the order they are given."""

    def apply(function: Callable[P, R]) -> Callable[P, R]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


shards_option = click.option(
    "--shards",
    "shards",
    multiple=True,
    required=True,
    metavar="PATTERN",
    help="WebDataset tars: paths, globs, {000..003} braces or URLs; may be given several times.",
)

device_option = click.option(
    "--device",
    default="auto",
    envvar="DISTILL_DEVICE",
    show_default=True,
    help="cuda, cuda:N, mps, cpu, or auto for the best one here. Changes speed, and the last bits of logits.",
)

workers_option = click.option(
    "--workers",
    type=click.IntRange(0, 1024),
    default=default_workers,
    envvar="DISTILL_WORKERS",
    show_default="one a core",
    help="Processes that render views; 0 renders in this one. Changes speed only.",
)

start_method_option = click.option(
    "--start-method",
    type=click.Choice(["fork", "forkserver", "spawn"]),
    default=None,
    envvar="DISTILL_START_METHOD",
    help="How workers are started. Default: fork for local shards on Linux, else forkserver or spawn.",
)

speed_options = options(device_option, workers_option, start_method_option, cache_options)

_RECIPE_OPTIONS: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
    click.option(
        "--recipe",
        "preset",
        type=click.Choice(["deit", "light", "three", "none"]),
        default="deit",
        show_default=True,
        help="The values that the recipe flags below start from: DeiT's, light crops and flips, DeiT III's 3-Augment, "
        "or the plain centre crop.",
    ),
    click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True, help="Seed of every draw."),
    click.option(
        "--image-size", type=click.IntRange(min=8), help="Side of a view in pixels.  [default: 224]", default=None
    ),
    click.option("--crop", type=click.Choice(["random", "center", "simple"]), help="How a view is cut out."),
    click.option(
        "--crop-scale", callback=_pair("--crop-scale"), help="Share of the area that a crop may take, as 'LOW,HIGH'."
    ),
    click.option("--crop-ratio", callback=_pair("--crop-ratio"), help="Aspect ratios of a crop, as 'LOW,HIGH'."),
    click.option("--crop-pct", type=float, help="Share of the short side that a centre crop keeps."),
    click.option("--flip", type=float, help="Probability of a horizontal flip."),
    click.option(
        "--randaugment", help="RandAugment in timm's words, 'rand-m9-mstd0.5-inc1' for example; '' turns it off."
    ),
    click.option(
        "--three-augment/--no-three-augment", default=None, help="One of greyscale, solarise and blur (DeiT III)."
    ),
    click.option("--color-jitter", type=float, help="Colour jitter, where RandAugment is off; 0 turns it off."),
    click.option("--erase", type=float, help="Probability of random erasing (pixel noise)."),
    click.option("--mixup", type=float, help="Mixup alpha; 0 turns it off."),
    click.option("--cutmix", type=float, help="CutMix alpha; 0 turns it off."),
    click.option("--mix-prob", type=float, help="Probability that a pair of rows is mixed at all."),
    click.option("--mix-switch", type=float, help="Probability of CutMix where both are on."),
    click.option("--mix-window", type=click.IntRange(min=2), help="Consecutive rows among which partners are drawn."),
    click.option("--interpolation", type=click.Choice(["bicubic", "bilinear", "random"]), help="Filter of the resize."),
    click.option(
        "--on-bad-image",
        type=click.Choice(["refuse", "grey"]),
        help="What an image that cannot be decoded does: stop with its key, or count as a plain grey picture.",
    ),
)

recipe_options = options(*_RECIPE_OPTIONS)
_RECIPE_FIELDS = (
    *(
        "image_size",
        "crop",
        "crop_scale",
        "crop_ratio",
        "crop_pct",
        "interpolation",
        "flip",
        "randaugment",
        "color_jitter",
    ),
    *("three_augment", "erase", "mixup", "cutmix", "mix_prob", "mix_switch", "mix_window", "on_bad_image"),
)


def take_recipe(flags: dict[str, Any]) -> Recipe:
    """Remove the recipe flags from `flags` and make the recipe that they ask for."""
    given = {name: flags.pop(name) for name in _RECIPE_FIELDS}
    given = {name: value for name, value in given.items() if value is not None}
    preset, seed = flags.pop("preset"), flags.pop("seed")
    try:
        return Recipe.preset(preset, seed=seed, **given)
    except RecipeError as error:
        raise RecipeError(f"--recipe {preset} with these flags: {error}") from error
