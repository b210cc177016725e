"""Where does a node keep what it fetched, and what it decoded, and how much of it?

`--cache-dir` and `--cache-size` are about what came from URLs, `--picture-cache` and `--picture-cache-size` about
decoded pictures.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from pipeline.commands.places import InputPath
from pipeline.errors import ShardError
from pipeline.remote.cache_settings import DIR_VARIABLE, SIZE_VARIABLE, CacheSettings, bytes_of, using

F = TypeVar("F", bound=Callable[..., Any])


def _size(_ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """The bytes that a flag asks for."""
    try:
        return None if value is None else bytes_of(value, param.opts[0])
    except ShardError as error:
        raise click.BadParameter(str(error)) from None


def cache_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--cache-dir` and `--cache-size`, which hold while the command runs, for its workers too."""

    @functools.wraps(command)
    def with_cache(*args: Any, cache_dir: str | None, cache_size: int | None, **given: Any) -> Any:
        with using(CacheSettings.of(cache_dir, cache_size)):
            return command(*args, **given)

    folder = click.option(
        "--cache-dir",
        envvar=DIR_VARIABLE,
        help="Where shards from URLs, and large indexes, lie on this node.  [default: ~/.cache/offline-distiller]",
    )
    size = click.option(
        "--cache-size",
        envvar=SIZE_VARIABLE,
        callback=_size,
        help="Bytes of shards from URLs that are kept on this node, 500G for example.  [default: 64GiB]",
    )
    return size(folder(with_cache))


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
