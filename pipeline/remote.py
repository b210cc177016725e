"""How is something at a URL asked for, so that no answer is waited for longer than was said?

Through fsspec, whose file systems do the protocols (s3fs for ``s3://``, aiohttp for ``https://``, huggingface_hub for
``hf://`` where it is installed). They are made here, so that three things hold for all of them: time-outs are set and
their own retries are off (`attempts` retries, and counts); every call is bounded as a whole; and none is used in a
forked child after its parent has used one, which would hang or mix up answers.

S3-compatible servers are named by the usual variables: AWS_ENDPOINT_URL, AWS_PROFILE, AWS_ACCESS_KEY_ID, ….
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from pipeline.errors import UserError

log = logging.getLogger(__name__)

SCHEMES = (
    *("s3", "s3a", "gs", "gcs", "http", "https", "hf", "az", "abfs", "abfss", "hdfs", "webhdfs"),
    *("ftp", "sftp", "ssh", "oss", "memory"),
)
"""What fsspec knows and only ever reads bytes; not those that follow references, run commands or open other files"""

CONNECT_S = 10.0
STALL_S = 30.0
"""A connection on which nothing comes for so long is given up"""
ATTEMPTS = 5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0

PERMANENT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EISDIR)

T = TypeVar("T")


def is_remote(place: object) -> bool:
    """Whether this is a URL, and no path."""
    return "://" in str(place)


def scheme_of(url: str) -> str:
    """What stands before ``://``."""
    return url.partition("://")[0]


class Remote:
    """The file system of a scheme, in this process."""

    def __init__(self, scheme: str, stall_s: float) -> None:
        self.scheme, self.stall_s = scheme, stall_s
        self.filesystem = _filesystem(scheme, stall_s)

    def call(self, name: str, *args: Any, within_s: float, **kwargs: Any) -> Any:
        """One call of the file system; TimeoutError after `within_s` seconds."""
        require_unforked()
        if not getattr(self.filesystem, "async_impl", False):
            return _in_thread(lambda: getattr(self.filesystem, name)(*args, **kwargs), within_s)
        coroutine = getattr(self.filesystem, f"_{name}")(*args, **kwargs)
        future = asyncio.run_coroutine_threadsafe(coroutine, self.filesystem.loop)
        try:
            return future.result(within_s)
        except TimeoutError:
            future.cancel()
            raise TimeoutError(f"no answer within {within_s:g} s") from None


_remotes: dict[tuple[str, float], Remote] = {}
_lock = threading.Lock()
_forked_after_use = False


def remote(url: str, *, stall_s: float | None = None) -> Remote:
    """The remote of a URL's scheme; made once a process."""
    require_unforked()
    key = scheme_of(url), STALL_S if stall_s is None else stall_s
    with _lock:
        if key not in _remotes:
            _remotes[key] = Remote(*key)
        return _remotes[key]


def in_use() -> bool:
    """Whether this process has used any remote."""
    return bool(_remotes)


def require_unforked() -> None:
    """Refuse in a child that was forked from a process with open connections."""
    if _forked_after_use:
        raise UserError(
            "URLs cannot be read in a process that was forked from one that had read URLs. "
            "Use --start-method forkserver or spawn."
        )


def _after_fork() -> None:
    global _forked_after_use, _lock
    _forked_after_use = bool(_remotes)
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def attempts(
    what: str, call: Callable[[], T], *, count: int = ATTEMPTS, permanent: Callable[[Exception], bool] = lambda _: False
) -> T:
    """The call's answer; tried `count` times with growing pauses unless the error is one that will stay."""
    for number in range(1, count + 1):
        try:
            return call()
        except UserError:
            raise
        except Exception as error:  # clients raise whatever their transport raises
            if is_permanent(error) or permanent(error):
                raise
            said = say(error)
            if number == count:
                raise UserError(
                    f"{what}: {said} ({count} attempts). Check the network and the server, then run this again."
                ) from error
            pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (number - 1)) * (1 + os.getpid() % 97 / 97)
            log.warning("%s: %s; attempt %d of %d in %.1f s", what, said, number + 1, count, pause)
            time.sleep(pause)
    raise AssertionError("unreachable")


def is_permanent(error: Exception) -> bool:
    """Whether trying again cannot help."""
    if type(error).__name__ in (
        "NoCredentialsError",
        "PartialCredentialsError",
        "NoSuchBucket",
        "ParamValidationError",
    ):
        return True
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError, TypeError, ImportError)):
        return True
    return isinstance(error, OSError) and not isinstance(error, TimeoutError) and error.errno in PERMANENT


def say(error: BaseException) -> str:
    """An error in one line."""
    text = str(error).splitlines()[0][:200] if str(error) else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _filesystem(scheme: str, stall_s: float) -> Any:
    import fsspec  # imported late: most runs never need it

    if scheme not in SCHEMES:
        raise UserError(f"unknown scheme {scheme}://; known are {', '.join(SCHEMES)}, and plain paths.")
    try:
        fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        raise UserError(f"{scheme}:// cannot be read here: {error}. Install what it names.") from None
    options: dict[str, Any] = {"skip_instance_cache": True}
    if scheme in ("s3", "s3a"):
        options["config_kwargs"] = {
            "connect_timeout": CONNECT_S,
            "read_timeout": stall_s,
            "retries": {"max_attempts": 0},
        }
    if scheme in ("http", "https"):
        aiohttp = importlib.import_module("aiohttp")
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=stall_s)
        options["client_kwargs"] = {"timeout": timeout}
    filesystem = fsspec.filesystem(scheme, **options)
    if scheme in ("s3", "s3a"):
        filesystem.retries = 1
    with contextlib.suppress(AttributeError):
        filesystem.use_listings_cache = False
        filesystem.dircache.use_listings_cache = False
    return filesystem


def _in_thread(call: Callable[[], T], within_s: float) -> T:
    """A call that cannot be cancelled, in a thread that may be left behind."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # the caller gets it
            future.set_exception(error)

    threading.Thread(target=work, daemon=True, name="remote").start()
    try:
        return future.result(within_s)
    except TimeoutError:
        if future.done():
            raise
        raise TimeoutError(f"no answer within {within_s:g} s") from None
