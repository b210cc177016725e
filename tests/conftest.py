"""What every test finds, whatever was run before it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

FIRST = logging.root.level, logging.root.manager.disable
logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line that a server's thread writes while a test forks
# leaves its lock taken in the child, which then waits for ever


os.environ.setdefault("DISTILL_DEVICE", "cpu")  # what tests expect of numbers; `test_accelerator` is for the others


SLOW = (
    *("test_repro", "test_interrupts", "campaign/test_campaign", "distill/test_extras", "distill/test_wheel"),
    *("stages/test_teacher_logits", "stages/test_many_ranks", "stages/test_hub", "stages/test_urls"),
    *("stages/test_demo_images", "pipeline/remote/test_hub", "student/test_dataset", "student/test_train"),
    *("student/test_webdataset", "student/learning/test_compiling", "student/run/test_threads"),
    *("student/feed/test_remote", "student/ranks/test_cut_off", "student/ranks/test_shared_index"),
    "student/ranks/test_torchrun",
)
"""Files whose tests start many processes; `make quick` leaves them out"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow."""
    for item in items:
        if item.path.relative_to(Path(__file__).parent).with_suffix("").as_posix() in SLOW:
            item.add_marker(pytest.mark.slow)


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
