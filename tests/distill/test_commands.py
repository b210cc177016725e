"""The table of sub-commands: each is there, is told in its own words, and none is loaded before it is asked for."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from distill import __version__
from distill.__main__ import main
from distill.commands import COMMANDS
from pipeline.processes import interrupts
from tests.terminal import AS_EVER

ROOT = Path(__file__).parents[2]


def complete(words: str, number: int) -> list[str]:
    asked = {"_DISTILL_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(number)}
    answer = CliRunner().invoke(main, env=asked, prog_name="distill").output
    return [line.partition(",")[2] for line in answer.splitlines()]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_tells_each_command_in_its_own_words(name: str) -> None:
    place, summary = COMMANDS[name]
    module, attribute = place.split(":")
    assert summary == getattr(import_module(module), attribute).get_short_help_str(limit=10**6)


def test_every_runnable_module_is_a_sub_command() -> None:
    runnable = {
        f"{package}.{path.stem}:main"
        for package in ("stages", "student")
        for path in (ROOT / package).glob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    assert {place for place, _summary in COMMANDS.values()} == runnable


def test_help_lists_them_in_order_and_loads_none() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from distill.__main__ import main\n"
        "said = CliRunner().invoke(main, ['--help']); assert not said.exit_code; print(said.output)\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'numpy', 'torch', 'stages', 'student'}, loaded\n"
        "core = {name for name in sys.modules if name.startswith('pipeline.')}\n"
        "assert core == {'pipeline.processes', 'pipeline.processes.interrupts'}, core"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    listed = told.stdout.partition("Commands:")[2].partition("Each explains")[0]
    assert re.findall(r"^  (\S+)", listed, re.MULTILINE) == [*COMMANDS]


def test_a_sub_command_is_the_command_itself(tmp_path: Path) -> None:
    own = CliRunner().invoke(import_module("stages.pack").main, ["--help"], prog_name="distill pack")
    assert CliRunner().invoke(main, ["pack", "--help"], prog_name="distill").output == own.output
    refused = CliRunner().invoke(main, ["pack", "--images", str(tmp_path / "no"), "--out", str(tmp_path / "out")])
    assert refused.exit_code == 1 and refused.output.startswith(f"error: {tmp_path}/no")
    misused = CliRunner().invoke(main, ["pack", "--nonsense"])
    assert misused.exit_code == 2 and "No such option" in misused.output


def test_the_version() -> None:
    assert CliRunner().invoke(main, ["--version"]).output == f"distill, version {__version__}\n"


def test_completion_knows_names_and_flags() -> None:
    assert complete("distill comp", 1) == ["compact"]
    assert complete("distill pack --ma", 2) == ["--max-side"]


@pytest.mark.parametrize("library", ["numpy", "click"])
def test_an_interrupt_while_libraries_are_loaded_is_one_line(library: str, tmp_path: Path) -> None:
    """One that takes an interrupt for a failed import, as extensions do, included."""
    waits = "import time\nprint('loading', flush=True)\ntry:\n    time.sleep(600)\nexcept BaseException:\n    pass\n"
    (tmp_path / f"{library}.py").write_text(waits)
    running = subprocess.Popen(
        [sys.executable, "-c", AS_EVER, sys.executable, "-m", "distill", "pack", "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None and running.stdout.readline() == "loading\n"
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=180)
    assert (running.returncode, told) == (130, interrupts.BEFORE)
