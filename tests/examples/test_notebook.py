"""The notebook runs from top to bottom, on a store of each keep; it draws, and stores no result."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.small_students import make_store

NOTEBOOK = Path(__file__).parents[2] / "examples/store.ipynb"
CELLS = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("keep", ["dense", "topk:3", "lowrank:2+3", "argmax"])
def test_the_notebook_runs(keep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("needs matplotlib, which the run-time does not: pip install matplotlib")
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figures: list[Any] = []

    def show() -> None:
        figures.append(plt.gcf())
        plt.gcf().canvas.draw()
        plt.close()

    monkeypatch.setattr(plt, "show", show)
    luma = keep == "dense" or "sketch"  # as stores are by default
    monkeypatch.setenv("STORE", str(make_store(tmp_path, rows=40, keep=keep, luma=luma)))
    names: dict[str, Any] = {}
    for number, cell in enumerate(CELLS):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert len(figures) == 4 and len(names["numbers"]) == 2


def test_no_results_are_stored() -> None:
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in CELLS)
