"""Every command of the README is run as it stands there, in order, on a folder of photographs.

Flags that only make a run small come last on the line and win. `make` and `dvc` are run by tests/test_repro.py and CI.
"""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch

from tests.pictures import encoded, scene

ROOT = Path(__file__).parents[1]
SMALLER = {
    "stages.inspect_views": "--image-size 32",
    "stages.fit_teacher": "--model test_efficientnet --image-size 32 --epochs 1 --workers 0",
    "stages.teacher_logits": "--image-size 32 --workers 0 --views 2",
    "stages.compact_logits": "--keep topk:2",
    "student.train": "--epochs 1 --batch 4 --patch-size 16 --width 32 --depth 1 --heads 1 --workers 0",
    "student.evaluate": "--workers 0",
    "student.tokens": "--workers 0",
}
ELSEWHERE = {"make repro", "make test", "dvc repro", "cp params.folder.yaml params.yaml", "dvc repro report"}


def blocks() -> list[list[str]]:
    """The commands of the README, block by block, without their comments."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    fenced = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^ {4}\S.*\n)+", text, re.MULTILINE)
    return [
        [" ".join(line.split("#")[0].split()) for line in block.strip().splitlines()] for block in [*indented, *fenced]
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    for part in ("train", "val"):
        for number, name in enumerate(("cat", "dog", "fox")):
            place = folder / "photos" / part / name
            place.mkdir(parents=True)
            for i in range(4):
                (place / f"{i}.jpg").write_bytes(encoded(scene(10 * number + i, 48, 40)))
    return folder


def run(line: str) -> None:
    """``python -m module …`` in this process, as if typed."""
    python, dash_m, module, *arguments = shlex.split(line)
    assert (python, dash_m) == ("python", "-m")
    given, said = sys.argv, io.StringIO()
    sys.argv = [module, *arguments, *shlex.split(SMALLER.get(module, ""))]
    imported = sys.modules.pop(module, None)  # or runpy warns that it is there already
    try:
        with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        assert not ended.value.code, f"{line}: {said.getvalue()}"
    finally:
        sys.argv = given
        if imported is not None:  # other tests have its functions, which must stay those of the module
            sys.modules[module] = imported


def test_every_command_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    torch.set_num_threads(1)
    commands = [line for block in blocks() for line in block]
    ours = [line for line in commands if line.startswith("python -m ")]
    assert set(commands) - set(ours) == ELSEWHERE
    own = [line for line in ours if "runs/soft-0" in line]
    for line in [line for line in ours if line not in own]:
        run(line)
    (folder / "runs/student").rename(folder / "runs/soft-0")
    for line in own:
        run(line)
    left = ("views.png", "store.zarr/COMPLETE", "small.zarr/COMPLETE", "metrics.json", "tokens.json", "export")
    assert [name for name in left if not (folder / name).exists()] == []


def test_every_page_that_is_named_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = [name.split("#")[0] for name in re.findall(r"\]\(([^)]+)\)", text) if "://" not in name]
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_headline_s_figures_are_those_of_the_results_file() -> None:
    """Each with its spread and its machine; a figure that no table has is nowhere in the paragraph."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    paragraph = next(part for part in text.split("\n\n") if part.startswith("On the embedded default"))
    told = " ".join(paragraph.partition(" Where every picture")[0].split())
    results = (ROOT / "benchmarks/results/embedded-default.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in results.splitlines() if line[:1] == "|"]
    kinds = ("true labels alone", "and the teacher's choices (hard)", "and its probabilities (soft, τ 1)")
    here, there = ([row for row in rows if row[0] in kinds and len(row) == cells] for cells in (5, 2))
    assert [row[0] for row in here] == [row[0] for row in there] == list(kinds)
    assert re.findall(r"(\d+\.\d ± \d+\.\d) %", told) == [row[3] for row in here]
    assert re.findall(r"\d+\.\d", told.partition("Another processor")[2]) == [row[1] for row in there]
    assert len(re.findall(r"\d+\.\d", told)) == 2 * len(here) + len(there)
    for fact in ("2,048", "256", "AMD EPYC", "AVX512"):
        assert fact in told and fact in results
    assert "seeds 0, 1, 2" in results and "three seeds" in told
