"""A real S3 protocol server on loopback, and the environment that leads to it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from moto.moto_api._internal.models import moto_api_backend
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer

import pipeline.remote.cache_settings
import pipeline.remote.client
from pipeline.durable import s3_lease

KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}


@contextlib.contextmanager
def s3_server(host: str = "127.0.0.1") -> Iterator[tuple[int, Any]]:
    """Its port, and a client of it that is not ours; it has one bucket, `bucket`, and nothing of servers before it."""
    moto_api_backend.reset()
    server = ThreadedMotoServer(ip_address=host, port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        _one_put_after_another(patch)
        server.start()
        port = server.get_host_and_port()[1]
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **KEYS)
        client.create_bucket(Bucket="bucket")
        try:
            yield port, client
        finally:
            server.stop()


def _one_put_after_another(patch: pytest.MonkeyPatch) -> None:
    """S3 looks whether a condition holds and puts in one step; moto in two, between which another thread may put."""
    put, turn = S3Response.put_object, threading.Lock()

    def put_object(self: S3Response) -> Any:
        conditional = "If-None-Match" in self.headers or "If-Match" in self.headers
        with turn if conditional else contextlib.nullcontext():
            return put(self)

    patch.setattr(S3Response, "put_object", put_object)


def point_at(port: int, patch: pytest.MonkeyPatch) -> None:
    """Have ours go to that port, with no connections from before."""
    for name, value in KEYS.items():
        patch.setenv({"region_name": "AWS_DEFAULT_REGION"}.get(name, name.upper()), value)
    patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    patch.setattr(pipeline.remote.client, "FIRST_PAUSE_S", 0.01)
    forget()


class _OftenLookedAt(threading.Event):
    """Whoever waits for it looks up twice a second."""

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(0.5 if timeout is None else min(timeout, 0.5))


def renew_often(patch: pytest.MonkeyPatch) -> None:
    """Leases are renewed twice a second and expire no sooner than ever, so that a busy machine keeps them."""
    patch.setattr(s3_lease, "threading", SimpleNamespace(Event=_OftenLookedAt, Thread=threading.Thread))


def forget() -> None:
    """As in a process that has read no URL yet."""
    pipeline.remote.client._remotes.clear()
    pipeline.remote.cache_settings._caches.clear()
