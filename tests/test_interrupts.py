"""Ctrl-C at any moment ends in one line and status 130: while torch is imported, while workers start, and after."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.processes import interrupts
from tests.pictures import tiny_shards
from tests.terminal import AS_EVER, CTRL_C, terminal

COMMANDS = {
    "student.train": ("--logits", "nowhere.zarr"),
    "student.evaluate": ("--checkpoint", "nowhere", "--shards", "nowhere.tar"),
    "stages.teacher_logits": ("--shards", "nowhere.tar"),
    "stages.fit_teacher": ("--shards", "nowhere.tar"),
    "stages.report": ("--logits", "nowhere.zarr"),
    "stages.pack": ("--images", "nowhere", "--out", "out"),
}
MOMENTS = 20
SAID = {interrupts.BEFORE, interrupts.AFTER, "error: interrupted; run the same command again to go on where it was\n"}


def begun(module: str, cwd: Path) -> subprocess.Popen[str]:
    """The command, once Python has come to our first line: the maps show libraries that only our imports load."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    line = [sys.executable, "-c", AS_EVER, sys.executable, "-m", module, *COMMANDS[module]]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=cwd, env=env)
    wait_until(process, 1)
    return process


def wait_until(process: subprocess.Popen[str], loaded: int) -> int:
    """Wait for a process to have loaded so many libraries of packages, or to end; how many it has."""
    maps = Path(f"/proc/{process.pid}/maps")
    most = 0
    while process.poll() is None and most < loaded:
        most = max(most, len(set(re.findall(r"/site-packages/\S+", maps.read_text()))))
        time.sleep(0.005)
    return most


def loaded_in_all(module: str, cwd: Path) -> int:
    """How many libraries the command loads until it ends."""
    with begun(module, cwd) as process:
        return wait_until(process, sys.maxsize)


def interrupted(module: str, loaded: int, cwd: Path) -> tuple[int, str]:
    """Status and standard error of the command, interrupted once it has loaded so many libraries."""
    process = begun(module, cwd)
    wait_until(process, loaded)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    return process.returncode, said


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="how far a process is, is read in /proc")
def test_an_interrupt_at_any_moment_of_the_imports_is_one_line(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        whole = list(pool.map(lambda module: loaded_in_all(module, tmp_path), COMMANDS))
        each = zip(itertools.cycle(COMMANDS), itertools.cycle(whole), range(MOMENTS))
        jobs = [(module, loaded * n // (MOMENTS - 1), tmp_path) for module, loaded, n in each]
        ended = list(pool.map(lambda job: interrupted(*job), jobs))
    for job, (status, said) in zip(jobs, ended, strict=True):
        late = status in (1, 130, -signal.SIGINT) and said.startswith("error: ") and said.count("\n") == 1
        assert (status == 130 and said in SAID) or late, (job, status, said)
    assert sum(status == 130 for status, _ in ended) > MOMENTS // 2, ended


def test_whoever_imports_us_keeps_python_s_own_handler() -> None:
    code = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import student, stages
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_an_interrupt_that_is_ignored_stays_ignored() -> None:
    code = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.argv = ["-m"]
import student
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_ctrl_c_in_a_terminal_while_workers_begin_and_draw(method: str, tmp_path: Path) -> None:
    tiny_shards(tmp_path / "data", 64, shards=2, classes=3)
    line = ["-m", "stages.fit_teacher", "--shards", f"{tmp_path}/data/*.tar", "--model", "test_resnet"]
    line += [
        "--epochs",
        "999",
        "--image-size",
        "32",
        "--workers",
        "2",
        "--start-method",
        method,
        "--device",
        "cpu",
        "--batch",
        "8",
    ]
    for number, wait in enumerate((0.0, 0.4, 2.0)):
        with terminal([*line, "--out", f"{tmp_path}/{number}"], columns=80) as window:
            window.read(lambda said: b"rows in 2 shards" in said)
            time.sleep(wait)
            window.press(CTRL_C)
            shown = window.read().decode().replace("\r\n", "\n")
            tail = shown.rpartition("^C")[2]
            assert window.status == 130 and "Traceback" not in shown, shown
            assert tail.count("error: ") == 1 and tail.endswith("go on where it was\n"), shown
