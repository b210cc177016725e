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


def answer(number: int) -> int:
    time.sleep(0.001)
    return number


class TwoWordError(Exception):
    """What cannot be made from its message alone, and so cannot be sent."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def fail_oddly(_: int) -> int:
    raise TwoWordError("not", "sent")


def test_what_a_worker_raises_says_where() -> None:
    with pytest.raises(ShardError) as error:
        list(ordered_map(fail_at_three, range(9), workers=2))
    assert "in fail_at_three" in "".join(error.value.__notes__)
    with pytest.raises(RuntimeError, match="TwoWordError: not sent"):
        list(ordered_map(fail_oddly, range(9), workers=2))
    with pytest.raises(TypeError, match="pickle"):
        list(ordered_map(open, [os.devnull], workers=1))


def test_large_items_and_answers_pass_each_other() -> None:
    items = [bytes([number]) * (1 << 20) for number in range(12)]
    assert list(ordered_map(bytes, items, workers=2)) == items


def test_a_worker_killed_in_the_last_moments_is_never_waited_for() -> None:
    """Where workers shared a queue, one that died with its lock was waited for: 10 of 80 of these hung.

    Every other one is killed when much is still to be done, so that some are told of on every machine.
    """
    code = (
        "import os, random, signal, threading; from multiprocessing import active_children, get_start_method\n"
        "from pipeline.errors import UserError; from pipeline.processes.ordered_map import ordered_map\n"
        "from tests.pipeline.processes.test_ordered_map import answer\n"
        "told = 0\n"
        "for turn in range(60 if get_start_method() == 'fork' else 10):\n"  # each start takes a second elsewhere
        "    try:\n"
        "        for number in ordered_map(answer, range(24), workers=3):\n"
        "            if number == (20 if turn % 2 else 4):\n"
        "                worker = random.Random(turn).choice(active_children()).pid\n"
        "                end = threading.Timer(turn / 10_000, os.kill, (worker, signal.SIGKILL)); end.start()\n"
        "        end.cancel()\n"
        "    except UserError: told += 1\n"
        "    end.join()\n"
        "print(told)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) > 0, "none of them hit a worker"


def sign_and_wait(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    code = (
        "import sys; from pipeline.processes.ordered_map import ordered_map\n"
        "from tests.pipeline.processes.test_ordered_map import sign_and_wait\n"
        "list(ordered_map(sign_and_wait, 4 * sys.argv[1:], workers=2))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.05)
        assert parent.poll() is None
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 120
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
