"""Every input that ever crashed a parser, and a fixed draw of mutations: nothing but the named errors comes out."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

import tests.fuzz.__main__ as command
from tests.fuzz import targets

MUTATIONS = {"tar": 2000, "index": 1500, "layout": 150, "records": 400, "chunks": 800, "images": 1000}


@pytest.mark.parametrize("target", list(targets.TARGETS))
def test_sound_inputs_and_what_was_found_before(target: str) -> None:
    known = targets.seeds(target)
    assert known
    for data in known:
        targets.attempt(target, data)


@pytest.mark.parametrize("target", list(targets.TARGETS))
def test_mutations_raise_nothing_but_named_errors(target: str) -> None:
    generator, known = np.random.default_rng(11), targets.seeds(target)
    for _ in range(MUTATIONS[target]):
        data = known[int(generator.integers(len(known)))]
        for _ in range(int(generator.integers(1, 4))):
            data = targets.mutated(target, data, generator)
        targets.attempt(target, data)


def test_sound_inputs_get_to_the_end() -> None:
    """Otherwise every mutation would be refused for a reason that has nothing to do with it."""
    for target in ("tar", "layout", "images"):
        for data in targets._sound(target):
            targets.TARGETS[target](data)


def test_an_error_without_a_name_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(targets.TARGETS, "tar", lambda data: data[10**6])  # type: ignore[misc]
    with pytest.raises(IndexError):
        targets.attempt("tar", b"")


def test_the_command_says_how_to_get_atheris(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "atheris", None)
    done = CliRunner().invoke(command.main, ["tar"])
    assert done.exit_code == 1
    assert "python -m uv pip install --target DIR atheris" in done.output and "--blind" in done.output
