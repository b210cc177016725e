"""What every test leaves as it found it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """Commands set how much is said for the whole process, which here is that of the tests after them."""
    level, disabled = logging.root.level, logging.root.manager.disable
    yield
    logging.root.setLevel(level)
    logging.disable(disabled)
