"""What every test finds, whatever was run before it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

FIRST = logging.root.level, logging.root.manager.disable
logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line that a server's thread writes while a test forks
# leaves its lock taken in the child, which then waits for ever


os.environ.setdefault("DISTILL_DEVICE", "cpu")  # what tests expect of numbers; `test_accelerator` is for the others


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """Commands set how much is said for the whole process: those of fixtures and of the tests before."""
    _restore()
    yield
    _restore()


def _restore() -> None:
    logging.root.setLevel(FIRST[0])
    logging.disable(FIRST[1])
    for name, logger in logging.root.manager.loggerDict.items():  # which a library's own set-up may have silenced
        if isinstance(logger, logging.Logger) and name.split(".")[0] in ("pipeline", "stages", "student"):
            logger.disabled = False
            logger.setLevel(logging.NOTSET)
