"""How is something at a URL asked for, so that no answer is waited for longer than was said?

Through fsspec, whose file systems do the protocols (s3fs for ``s3://``, aiohttp for ``https://``, huggingface_hub for
``hf://`` where it is installed). They are made here, so that three things hold for all of them: time-outs are set and
their own retries are off (`attempts` retries, and counts), where the client lets one; every call is bounded as a whole;
and none is used in a forked child after its parent has used one, which would hang or mix up answers.

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

from pipeline.errors import UserError, first_line, require_packages

log = logging.getLogger(__name__)

SCHEMES = (
    *("s3", "s3a", "gs", "gcs", "http", "https", "hf", "az", "abfs", "abfss", "hdfs", "webhdfs"),
    *("ftp", "sftp", "ssh", "oss", "memory"),
)
"""What fsspec knows and only ever reads bytes; not those that follow references, run commands or open other files"""

EXTRAS = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3"), "http": ("aiohttp", "http"), "https": ("aiohttp", "http")}
"""The package that does a protocol, and the extra of ours that brings it; of the others fsspec says what they need"""

BY_HOST = ("ftp", "sftp", "ssh", "hdfs", "webhdfs")
"""Those whose file system is one connection to the host in the URL, which one thread at a time may use"""

CONNECT_S = 10.0
STALL_S = 30.0
"""A connection on which nothing comes for so long is given up"""
ATTEMPTS = 5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0

PERMANENT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EISDIR)

PASSING = (408, 425, 429)
"""Refusals of web servers that another attempt may get over"""

T = TypeVar("T")


def is_remote(place: object) -> bool:
    """Whether a place is a URL, and not a path on this machine."""
    return "://" in str(place)


def scheme_of(url: str) -> str:
    """The scheme of a URL: what stands before ``://``."""
    return url.partition("://")[0]


def place_of(url: str) -> str:
    """The beginning that URLs of one connection share: the scheme, and the host where that is no part of the path."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if scheme in BY_HOST else f"{scheme}://"


class Remote:
    """The connection of this process to one place, as a file system whose calls are bounded in time."""

    def __init__(self, place: str, stall_s: float) -> None:
        self.place, self.stall_s = place, stall_s
        self.away = False
        """Whether the last call with all its attempts was in vain"""
        self.by_host = scheme_of(place) in BY_HOST
        self.filesystem = None if self.by_host else _filesystem(place, stall_s)

    def call(self, name: str, *args: Any, within_s: float, **kwargs: Any) -> Any:
        """Call a method of the file system by its name; TimeoutError after `within_s` seconds."""
        require_unforked()
        if self.by_host:
            return _in_thread(lambda: self._connected(name, *args, **kwargs), within_s)
        if not getattr(self.filesystem, "async_impl", False):
            return _in_thread(lambda: getattr(self.filesystem, name)(*args, **kwargs), within_s)
        assert self.filesystem is not None
        coroutine = getattr(self.filesystem, f"_{name}")(*args, **kwargs)
        future = asyncio.run_coroutine_threadsafe(coroutine, self.filesystem.loop)
        try:
            return future.result(within_s)
        except TimeoutError:
            future.cancel()
            raise TimeoutError(f"no answer within {within_s:g} s") from None
        except FileNotFoundError as error:
            reason = _why_absent(self.place, error)
            if reason is error:
                raise
            raise reason from None

    def _connected(self, name: str, url: str, *args: Any, **kwargs: Any) -> Any:
        """A call over a connection of its own: few are made, and none is left in an unknown state."""
        filesystem = _filesystem(self.place, self.stall_s)
        return getattr(filesystem, name)(filesystem._strip_protocol(url), *args, **kwargs)


_remotes: dict[tuple[str, float], Remote] = {}
_lock = threading.Lock()
_forked_after_use = False


def remote(url: str, *, stall_s: float | None = None) -> Remote:
    """The connection to a URL's place; each process makes one, when it is first asked for."""
    require_unforked()
    key = place_of(url), STALL_S if stall_s is None else stall_s
    with _lock:
        if key not in _remotes:
            _remotes[key] = Remote(*key)
        return _remotes[key]


def in_use() -> bool:
    """Whether this process has read from a URL, and so may hold open connections."""
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
    """Whether an error would come again however often the call were tried."""
    if type(error).__name__ in (
        "NoCredentialsError",
        "PartialCredentialsError",
        "NoSuchBucket",
        "ParamValidationError",
        "ClientConnectorCertificateError",
        "error_perm",
    ):
        return True
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError, TypeError, ImportError)):
        return True
    status = _status(error)
    if status is not None and 400 <= status < 500 and status not in PASSING:
        return True
    return isinstance(error, OSError) and not isinstance(error, TimeoutError) and error.errno in PERMANENT


def _why_absent(place: str, error: FileNotFoundError) -> Exception:
    """fsspec says of a web server that a file is not there whenever it could not be asked; here the reason counts."""
    cause = error.__cause__
    if not place.startswith("http") or not isinstance(cause, Exception) or _status(cause) == 404:
        return error
    return cause


def is_forbidden(error: Exception) -> bool:
    """Whether the server refused the call for lack of rights."""
    return isinstance(error, PermissionError) or _status(error) in (401, 403)


def is_empty_range(error: BaseException) -> bool:
    """Whether the first byte was asked for of an object that has none."""
    return _status(error) == 416 or code_of(error) in ("InvalidRange", "416")


def code_of(error: BaseException) -> str:
    """The code that S3 gave the error, such as NoSuchKey; empty where it is no error of S3's."""
    response = getattr(error.__cause__, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _status(error: BaseException) -> int | None:
    """The answer of a web server."""
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def say(error: BaseException) -> str:
    """An error as one line for a message: its kind, and the beginning of what it says."""
    name = type(error).__name__
    return f"{name}: {first_line(error)}" if str(error).strip() else name


def _filesystem(place: str, stall_s: float) -> Any:
    import fsspec  # imported late: most runs never need it

    scheme = scheme_of(place)
    if scheme not in SCHEMES:
        raise UserError(f"unknown scheme {scheme}://; known are {', '.join(SCHEMES)}, and plain paths.")
    if scheme in EXTRAS:
        package, extra = EXTRAS[scheme]
        require_packages(f"{scheme}://", package, extra=extra)
    try:
        made_by = fsspec.get_filesystem_class(scheme)
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
    if scheme in BY_HOST:
        options |= made_by._get_kwargs_from_urls(f"{place}/")
    if scheme == "ftp":
        options["timeout"] = stall_s
    if scheme == "hf":
        importlib.import_module("huggingface_hub.utils").disable_progress_bars()
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
