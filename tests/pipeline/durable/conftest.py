"""An S3 server for the tests of this room, which starts with the first test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers.s3 import forget, point_at, renew_often, s3_server


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[int, Any]]:
    with s3_server() as found:
        yield found


@pytest.fixture
def s3(server: tuple[int, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client that is not ours."""
    point_at(server[0], monkeypatch)
    yield server[1]
    forget()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases that are often renewed: what becomes of them, and what they say, is soon seen."""
    renew_often(monkeypatch)


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return f"s3://bucket/{request.node.name.replace('[', '-').replace(']', '')}/store.zarr"
