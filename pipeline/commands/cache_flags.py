"""Where does a node keep what it fetched, and what it decoded, and how much of it?

`--cache-dir` and `--cache-size` are about what came from URLs, `--picture-cache` and `--picture-cache-size` about
decoded pictures.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from pipeline.commands.places import InputPath
from pipeline.errors import ShardError
from pipeline.remote.cache_settings import DIR_VARIABLE, SIZE_VARIABLE, bytes_of

F = TypeVar("F", bound=Callable[..., Any])


def _into(variable: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    """A callback that puts a flag where worker processes find it: in the environment that they inherit."""

    def put(_ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
        if value is None:
            return
        if variable == SIZE_VARIABLE:
            try:
                bytes_of(value)
            except ShardError as error:
                raise click.BadParameter(str(error)) from None
        os.environ[variable] = value

    return put


def cache_options(command: F) -> F:
    """`--cache-dir` and `--cache-size`, which take effect for this process and its workers."""
    options = (
        click.option(
            "--cache-dir",
            envvar=DIR_VARIABLE,
            callback=_into(DIR_VARIABLE),
            expose_value=False,
            help="Where shards from URLs, and large indexes, lie on this node.  [default: ~/.cache/offline-distiller]",
        ),
        click.option(
            "--cache-size",
            envvar=SIZE_VARIABLE,
            callback=_into(SIZE_VARIABLE),
            expose_value=False,
            help="Bytes of shards from URLs that are kept on this node, 500G for example.  [default: 64GiB]",
        ),
    )
    for option in options:
        command = option(command)
    return command


def _size(_ctx: click.Context, _param: click.Parameter, value: str) -> int:
    try:
        return bytes_of(value, "--picture-cache-size")
    except ShardError as error:
        raise click.BadParameter(str(error)) from None


def picture_cache_options(command: F) -> F:
    """`--picture-cache` and `--picture-cache-size`, which change speed only."""
    options = (
        click.option(
            "--picture-cache-size",
            default="64GiB",
            envvar="DISTILL_PICTURE_CACHE_SIZE",
            show_default=True,
            callback=_size,
            help="Bytes of decoded pictures that are kept, 400G for example; beyond that nothing is added.",
        ),
        click.option(
            "--picture-cache",
            type=InputPath(file_okay=False),
            envvar="DISTILL_PICTURE_CACHE",
            help="A folder on a fast disk of this node, or in memory (/dev/shm/…), for decoded pictures: each is "
            "decoded once, for all processes and later runs. Changes speed only.  [default: none is kept]",
        ),
    )
    for option in options:
        command = option(command)
    return command
