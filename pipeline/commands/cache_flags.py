"""Where does a node keep what it fetched, decoded and drew, and how much of it?

`--cache-dir` and `--cache-size` are about what came from URLs, `--picture-cache` and `--picture-cache-size` about
decoded pictures, `--view-cache` and `--view-cache-size` about drawn views.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from pipeline.commands.places import CacheFolder
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


def kept_options(command: F) -> F:
    """What a node keeps decoded and drawn; which changes speed only."""
    pictures = "decoded pictures: each is decoded once, for all processes and later runs"
    views = "drawn views (150 kB each at 224 pixels): each is drawn once, for all processes, epochs and later runs"
    return _kept("picture", pictures, _kept("view", views, command))


def _kept(what: str, why: str, command: F) -> F:
    """Two options: a folder, and the most bytes in it."""
    flag, variable = f"--{what}-cache", f"DISTILL_{what.upper()}_CACHE"
    size = click.option(
        f"{flag}-size",
        default="64GiB",
        envvar=f"{variable}_SIZE",
        show_default=True,
        callback=_size,
        help=f"Bytes of {what}s that are kept, 400G for example; beyond that nothing is added.",
    )
    folder = click.option(
        flag,
        type=CacheFolder(file_okay=False),
        envvar=variable,
        help=f"A folder on a fast disk of this node, or in memory (/dev/shm/…), for {why}. Changes speed only.  "
        "[default: none is kept]",
    )
    return folder(size(command))
