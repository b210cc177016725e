"""A worker knows its parent's settings however it is started, and ends with its parent."""

from __future__ import annotations

from multiprocessing.connection import Connection

import pytest

from pipeline.processes.worker import start_worker
from pipeline.remote import cache_settings
from pipeline.remote.cache_settings import CacheSettings


def tell(connection: Connection, *asked: int) -> None:
    """Say which cache this process uses, and what it was asked."""
    found = cache_settings.cache()
    connection.send((str(found.folder), found.limit, sum(asked)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_uses_the_cache_of_its_parents_command(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_CACHE_DIR", "/of/the/environment")
    with cache_settings.using(CacheSettings("/of/the/flags", 12)):
        process, connection = start_worker(tell, 1, 2, method=method)
    assert connection.recv() == ("/of/the/flags", 12, 3)
    process.join()
    assert process.exitcode == 0 and process.daemon


def test_flags_hold_while_the_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_CACHE_DIR", "/of/the/environment")
    monkeypatch.setenv("DISTILL_CACHE_SIZE", "2K")
    outside = CacheSettings("/of/the/environment", 2000)
    assert cache_settings.current() == outside
    with cache_settings.using(CacheSettings.of("/of/the/flags", None)):
        assert cache_settings.current() == CacheSettings("/of/the/flags", 64 << 30)
    assert cache_settings.current() == outside
