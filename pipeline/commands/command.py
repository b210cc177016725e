"""What do all commands have in common: how they fail, how they log, and the options they share.

    @command()
    @recipe_options
    @speed_options
    def main(**flags): ...

A `UserError` (and a missing file, a full disk, an interrupt) ends in one line on standard error and exit status 1 (130
for an interrupt); a wrong flag ends in click's usage line and status 2. Options that change only speed have environment
defaults (``DISTILL_DEVICE``, ``DISTILL_WORKERS``, …), so that they can stay out of ``dvc.yaml``.
"""

from __future__ import annotations

import functools
import logging
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TextIO, TypeVar

import click

from pipeline.errors import UserError
from pipeline.processes import interrupts
from pipeline.progress import make_room
from pipeline.remote.client import SCHEMES

P = ParamSpec("P")


R = TypeVar("R")


PLACES = ("shards", "val_shards", "logits", "val_logits", "out")
"""Flags that may name a URL."""


RESULTS = ("out", "summary", "report", "plot", "plot_dir", "per_class", "answers", "metrics", "history")
"""Parameters that may name what is written."""


REPLACED = (".json", ".csv", ".npz", ".png")
"""Suffixes of results; a file that is there may make room for another of them …"""


RECORDS = ("fit.json", "pack.json", "classes.json", "demo.json", "config.json", "preprocessing.json", "zarr.json")
"""… unless it is of these, which belong to what took long."""


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
            with interrupts.raised():
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


class Lines(logging.StreamHandler[TextIO]):
    """Records where they stay: a live line makes room for them."""

    def emit(self, record: logging.LogRecord) -> None:
        """As ever, in the place of the live line."""
        make_room(self.stream)
        super().emit(record)


def configure_logging(level: str) -> None:
    """Log to standard error, once, one line a record."""
    handler = Lines(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname).1s %(name)s | %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("matplotlib", "PIL", "fsspec", "asyncio", "botocore", "aiobotocore", "s3fs", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _settle_start_method(flags: dict[str, Any]) -> None:
    """Where a flag names a URL, no process may be forked any more: clients of object stores do not survive it."""
    values = [value for name in PLACES if (value := flags.get(name)) is not None]
    places = [str(place) for value in values for place in (value if isinstance(value, tuple) else (value,))]
    if any("://" in place for place in places):
        from pipeline.processes.start import settle_start_method  # only now: it brings torch

        settle_start_method(tuple(places), flags.get("start_method"))


def _require_paths(flags: dict[str, Any]) -> None:
    """A URL where only a path will do would become a folder named ``s3:``."""
    for name, value in flags.items():
        if isinstance(value, Path) and str(value).startswith(tuple(f"{scheme}:/" for scheme in SCHEMES)):
            flag = "--" + name.replace("_", "-")
            raise click.UsageError(f"{flag} takes a path on this machine, and {value} looks like a URL")
    for name in RESULTS:
        if flags.get(name) is not None and "://" not in str(flags[name]):
            flag = next(max(p.opts, key=len) for p in click.get_current_context().command.params if p.name == name)
            _require_own_place(str(flags[name]), flag, flags)
            if name != "out":  # which is a folder for most
                require_no_other_file(Path(str(flags[name])), flag)


def _require_own_place(place: str, flag: str, flags: dict[str, Any]) -> None:
    """Refuse results without a name, and such as would lie among the objects of a label store."""
    where = Path(place).resolve()
    if not place or not where.name:
        raise click.UsageError(f"{flag} {place!r} names no file or folder of its own")
    store = Path(str(flags["out"])).resolve() if str(flags.get("out", "")).rstrip("/").endswith(".zarr") else None
    for folder in where.parents:
        if folder == store or (folder / "zarr.json").exists():
            raise UserError(f"{flag} {place} lies in {folder}, which is a Zarr store. Choose a place outside of it.")


def require_no_other_file(place: Path | None, flag: str) -> None:
    """Refuse results in the place of shards, checkpoints, records, or anything that is not a result."""
    if place is None or not place.is_file() or (place.suffix.lower() in REPLACED and place.name not in RECORDS):
        return
    with place.open("rb") as file:
        if not place.suffix and file.read(1) in (b"", b"{"):  # our own JSON under a name without a suffix
            return
    raise UserError(f"{flag} {place} is there, and is no result that may be replaced. Name another file.")


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
