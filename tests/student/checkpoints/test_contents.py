"""What stands in a checkpoint is of the right type and size, or is refused by name before anything is made of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from student.checkpoints import checkpoint
from tests.small_students import arguments, make_store, train

State = dict[str, Any]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, and a run that has stopped in the middle."""
    place = tmp_path_factory.mktemp("contents")
    code, said = train(arguments(make_store(place), place / "run", "--max-steps", "2"), place / "said.txt")
    assert code == 0, said
    return place


def _first_moment(state: State) -> None:
    values = state["optimizer"]["state"]
    values[next(iter(values))]["exp_avg"] = torch.ones(3, 3, 3, 3, 3)


CHANGES: dict[str, tuple[Callable[[State], object], str]] = {
    "another shape": (lambda s: s["model"].update({"net.norm.bias": torch.ones(3)}), "net.norm.bias has shape (3,)"),
    "a missing weight": (lambda s: s["model"].pop("net.norm.bias"), "misses net.norm.bias"),
    "an average of nothing": (lambda s: s.update(model={}), "misses net."),
    "no optimizer's groups": (lambda s: s["optimizer"].pop("param_groups"), "its optimiser cannot be read"),
    "a foreign moment": (_first_moment, "a moment has shape (3, 3, 3, 3, 3)"),
    "optimizer a list": (lambda s: s.update(optimizer=[1]), "'optimizer' is [1]"),
    "no sums": (lambda s: s["means"].pop("epoch"), "'means' is"),
    "sums of texts": (lambda s: s["means"].update(epoch=["a", "b", "c"]), "'means' is"),
    "foreign sums": (lambda s: s["means"].update(take_epoch=3), "'means' is"),
    "a scale": (lambda s: s.update(scaler={"scale": 2.0}), "no state of the gradient's scale"),
    "best a text": (lambda s: s.update(best="9"), "'best' is '9'"),
    "a step beyond its epoch": (lambda s: s.update(step=9), "step 9 of an epoch of 3 steps"),
    "an epoch that is a text": (lambda s: s.update(epoch="x"), "'epoch' is 'x'"),
    "settings a number": (lambda s: s["meta"].update(settings=3), "'settings' is 3"),
    "no settings": (lambda s: s["meta"].pop("settings"), "'settings' is not there"),
    "no views": (lambda s: s["meta"]["settings"].update(views=None), "'settings' is"),
    "no store": (lambda s: s["meta"].pop("store"), "'store' is not there"),
    "no meta": (lambda s: s.pop("meta"), "'meta' is not there"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_does_not_go_on_from_what_training_did_not_write(begun: Path, tmp_path: Path, name: str) -> None:
    change, words = CHANGES[name]
    state = checkpoint.load(begun / "run")
    change(state)
    checkpoint.save(tmp_path, {key: value for key, value in state.items() if key != "format"})
    line = arguments(begun / "store.zarr", tmp_path / "run", "--resume", str(tmp_path / "last.pt"))
    code, said = train(line, tmp_path / "said.txt")
    assert code == 1 and words in said and "Traceback" not in said, said
