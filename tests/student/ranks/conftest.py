"""Ranks of a test, which do not outlive it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.many_ranks import Rank


@pytest.fixture
def ranks() -> Iterator[list[Rank]]:
    """Processes that are ended however the test does."""
    started: list[Rank] = []
    yield started
    for rank in started:
        if rank.process.is_alive():
            rank.kill()
