"""Order, errors and the end of worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import ShardError, UserError
from pipeline.processes.ordered_map import IN_FLIGHT, ordered_map
from pipeline.processes.start import starting


def slow_if_even(number: int) -> int:
    time.sleep(0.02 if number % 2 == 0 else 0)
    return number * number


def fail_at_three(number: int) -> int:
    if number == 3:
        raise ShardError("three")
    return number


def die_at_three(number: int) -> int:
    if number == 3:
        os._exit(1)
    return number


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order(workers: int) -> None:
    assert list(ordered_map(slow_if_even, range(12), workers=workers)) == [number**2 for number in range(12)]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_ends_it(workers: int) -> None:
    with pytest.raises(ShardError, match="three"):
        list(ordered_map(fail_at_three, range(100), workers=workers))


def test_an_interrupt_waits_until_processes_are_started() -> None:
    done, before = [], signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), starting():
            signal.raise_signal(signal.SIGINT)
            done.append("started")
        assert done == ["started"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with starting():
            pass
    finally:
        signal.signal(signal.SIGINT, before)


def test_few_items_are_in_flight() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = ordered_map(slow_if_even, items(), workers=2)
    assert next(results) == 0
    assert len(taken) == 2 * IN_FLIGHT
    results.close()


def test_a_worker_that_dies_is_told() -> None:
    with pytest.raises(UserError) as error:
        list(ordered_map(die_at_three, range(10), workers=2))
    assert str(error.value) == ("a worker process died, perhaps for lack of memory. Run again with fewer --workers.")


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from pipeline.processes.ordered_map import ordered_map\n"
        "def work(n):\n    Path(sys.argv[1], str(os.getpid())).touch(); time.sleep(60)\n"
        "list(ordered_map(work, range(4), workers=2))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.05)
        assert parent.poll() is None
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    workers = [int(path.name) for path in tmp_path.iterdir()]
    while any(alive(worker) for worker in workers):
        time.sleep(0.05)
        assert time.monotonic() < deadline


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat")
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
