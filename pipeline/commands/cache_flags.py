"""Where does a node keep what it fetched, and how much of it? `--cache-dir` and `--cache-size`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

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
