"""What every test finds, whatever was run before it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

FIRST = logging.root.level, logging.root.manager.disable
logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line that a server's thread writes while a test forks
# leaves its lock taken in the child, which then waits for ever


os.environ.setdefault("DISTILL_DEVICE", "cpu")  # what tests expect of numbers; `test_accelerator` is for the others


def pytest_configure(config: pytest.Config) -> None:
    """Let forked processes train: torch refuses that after a backward in a process that has, or simulates, a GPU.

    An ONNX export simulates one. A backward before it settles that this process has none.
    """
    if not any("test_accelerator" in chosen for chosen in config.args):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.ones(1, requires_grad=True).sum().backward()


TESTS = Path(__file__).parent
SLOW = [line for line in (TESTS / "slow.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


@pytest.hookimpl(optionalhook=True)  # a GPU machine may have pytest alone
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: tests wait for others nearly as often as they compute."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, and begin with it: a long file that is handed out last leaves the other processes idle."""
    place = {item.path: _place(item.path) for item in items}
    for item in items:
        if place[item.path] < len(SLOW):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: place[item.path])


def _place(path: Path) -> int:
    name = path.relative_to(TESTS).as_posix()
    return SLOW.index(name) if name in SLOW else len(SLOW)


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """Commands set how much is said for the whole process: those of fixtures and of the tests before."""
    _restore()
    yield
    _restore()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Many small passes over a network: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _restore() -> None:
    logging.root.setLevel(FIRST[0])
    logging.disable(FIRST[1])
    for name, logger in logging.root.manager.loggerDict.items():  # which a library's own set-up may have silenced
        if isinstance(logger, logging.Logger) and name.split(".")[0] in ("pipeline", "stages", "student"):
            logger.disabled = False
            logger.setLevel(logging.NOTSET)
