"""What do all commands have in common: how they fail, how they log, and the options they share.

    @command()
    @recipe_options                                     # arrives as `recipe`
    @speed_options                                      # arrives as `speed`
    def main(recipe: Recipe, speed: Speed): ...

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
from typing import Any, ParamSpec, TextIO, TypeVar

import click

from pipeline.commands.places import require_places, settle_for_urls
from pipeline.errors import UserError
from pipeline.processes import interrupts
from pipeline.progress import make_room

P = ParamSpec("P")


R = TypeVar("R")


log = logging.getLogger(__name__)


class Finite(click.FloatRange):
    """A number of this range; nan, which no comparison refuses, and infinities are in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number that click makes of a value; one that is infinite, or none, is refused."""
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
            context = click.get_current_context()
            require_places(context)
            settle_for_urls(context)
            return function(*args, **kwargs)

        settings = {"max_content_width": 110, "show_default": True}
        return click.command(cls=Command, context_settings=settings, **attributes)(with_logging)

    return wrap


class Lines(logging.StreamHandler[TextIO]):
    """A handler whose records stay on the terminal: the live line of progress makes room for them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record as any handler does, with the live line of progress out of its way."""
        make_room(self.stream)
        super().emit(record)


def configure_logging(level: str) -> None:
    """Log to standard error from `level` on, a line a record; a second call changes only the level."""
    handler = Lines(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname).1s %(name)s | %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("matplotlib", "PIL", "fsspec", "asyncio", "botocore", "aiobotocore", "s3fs", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _fail(message: str, status: int) -> None:
    click.echo(f"error: {message}", err=True)
    raise SystemExit(status)


def _describe(error: OSError) -> str:
    if error.filename is None:
        return f"{error.strerror or error}"
    return f"{error.filename}: {error.strerror}"


def options(*decorators: Callable[[Callable[P, R]], Callable[P, R]]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Several click options as one decorator, in the order they are given."""

    def apply(function: Callable[P, R]) -> Callable[P, R]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply
