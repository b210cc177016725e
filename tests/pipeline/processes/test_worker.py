"""A worker knows its parent's settings however it is started, and ends with its parent."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

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


LEFT_BEHIND = """
import time
from pipeline.processes.worker import start_worker
def stay(connection):
    connection.send(None)
    time.sleep(600)
process, connection = start_worker(stay)
connection.recv()
print(process.pid)
"""


def test_a_command_ends_though_a_worker_was_left_behind() -> None:
    """As where a second interrupt came while the first one was ending them."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", LEFT_BEHIND], capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_flags_hold_while_the_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_CACHE_DIR", "/of/the/environment")
    monkeypatch.setenv("DISTILL_CACHE_SIZE", "2K")
    outside = CacheSettings("/of/the/environment", 2000)
    assert cache_settings.current() == outside
    with cache_settings.using(CacheSettings.of("/of/the/flags", None)):
        assert cache_settings.current() == CacheSettings("/of/the/flags", 64 << 30)
    assert cache_settings.current() == outside
