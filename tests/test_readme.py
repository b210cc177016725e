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
    "stages.fit_teacher": "--no-pretrained --model test_efficientnet --image-size 32 --epochs 1 --workers 0",
    "stages.teacher_logits": "--image-size 32 --workers 0 --views 2",
    "stages.compact_logits": "--keep topk:2",
    "student.train": "--epochs 1 --batch 4 --patch-size 16 --width 32 --depth 1 --heads 1 --workers 0",
    "student.evaluate": "--workers 0",
    "student.tokens": "--workers 0",
}
ELSEWHERE = {"make repro", "make test", "dvc repro", "cp params.folder.yaml params.yaml"}


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def blocks() -> list[list[str]]:
    """The commands of the README, block by block, without their comments."""
    text = re.sub(r"^```python\n.*?^```", "", readme(), flags=re.MULTILINE | re.DOTALL)
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


def quickstart() -> None:
    """The lines for somebody's own loop, on the store that the commands made; only the batch is smaller."""
    (code,) = re.findall(r"^```python\n(.*?)^```", readme(), re.MULTILINE | re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) == 5
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(3))
    found = {"net": net}
    exec(code.replace("batch=256", "batch=4, workers=0"), found)
    loss = found["loss"]
    assert isinstance(loss, torch.Tensor) and loss.requires_grad and bool(loss > 0)


def test_every_command_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    torch.set_num_threads(1)
    commands = [line for block in blocks() for line in block]
    ours = [line for line in commands if line.startswith("python -m ")]
    assert set(commands) - set(ours) == ELSEWHERE
    own = [line for line in ours if "runs/soft-0" in line]
    for line in [line for line in ours if line not in own]:
        run(line)
    quickstart()
    (folder / "runs/student").rename(folder / "runs/soft-0")
    for line in own:
        run(line)
    left = ("views.png", "store.zarr/COMPLETE", "small.zarr/COMPLETE", "metrics.json", "tokens.json", "export")
    assert [name for name in left if not (folder / name).exists()] == []


def test_every_page_that_is_named_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = [name.split("#")[0] for name in re.findall(r"\]\(([^)]+)\)", text) if "://" not in name]
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_no_page_waits_for_its_figures() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    assert [page.name for page in pages if re.search(r"^[A-Z]{6,}$", page.read_text("utf-8"), re.MULTILINE)] == []


RESULTS = ROOT / "benchmarks/results"
PUBLISHED = (
    "16 GB for ImageNet-1k top-10 × 300 views", "50 stored views as good as 400", "10 or 30 augmented views",
    "Python 3.11 to 3.13", "ResNet-50d", "λ has 257 values", "a window of 64 rows", "ImageNet-1k × 300 views",
)  # fmt: skip
"""What others have published, and values that are part of the program: no figures of ours"""
VIEWS = 1_281_167 * 300


def cells(name: str, *, width: int) -> list[list[str]]:
    """The rows of that width of a file of results, without heads."""
    lines = (RESULTS / name).read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    return [row for row in rows if len(row) == width and not row[0].startswith("---")]


def cell(name: str, row: str, column: str) -> str:
    """One figure of a table that is not alone in its file."""
    lines = (RESULTS / name).read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    heads = [found for found in rows if column in found]
    (found,) = {found[heads[0].index(column)] for found in rows if found[0] == row and len(found) == len(heads[0])}
    return found


def ratio(row: str) -> list[str]:
    """A ratio, the least and the most of it, as the table has them."""
    return re.findall(r"\d+\.\d\d", cell("render.md", row, "× timm uint8"))


def bytes_a_view() -> dict[str, list[float]]:
    """Labels alone, with the default proof, and with thumbnails, by keep: the table of store-format.md."""
    page = (ROOT / "docs/store-format.md").read_text(encoding="utf-8").partition("| keep | labels |")[2]
    rows = re.findall(r"^\| ([\w:+]+)[^|]*? \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", page, re.MULTILINE)
    return {keep: [float(size) for size in sizes] for keep, *sizes in rows}


def gigabytes(keep: str) -> str:
    """Of ImageNet × 300 views with all that is on by default."""
    size = bytes_a_view()[keep][1]
    return f"{size * VIEWS / 1e9:.1f}" if size < 1000 else f"{size * VIEWS / 1e9:.0f}"


def traced() -> dict[str, list[str]]:
    """Where README quotes a figure, and which figures the files of results have for it."""
    kinds = ("true labels alone", "and the teacher's choices (hard)", "and its probabilities (soft, τ 1)")
    tables = [row for row in cells("embedded-default.md", width=5) if row[0] in kinds]
    assert [row[0] for row in tables] == [*kinds, *kinds]
    here, there = ([row[3] for row in tables[at : at + 3]] for at in (0, 3))
    gains = [f.lstrip("+") for row in tables[1:3] for f in re.findall(r"\+\d+\.\d", row[4])]
    text = (RESULTS / "embedded-default.md").read_text(encoding="utf-8")
    (disk,) = re.findall(r"(\d\.\d) GB of packages", text)
    five, base = (cell("online.md", row, "whole cost R=5") for row in ("tiny", "base"))
    labelling = [
        cell("gpu.md", f"teacher_logits, compiled, batch {batch}, {views} a decode", "of the bare one")
        for batch in (128, 256)
        for views in ("1 view", "8 views")
    ]
    length, column = "evidence/epochs-fitted/length.md", "against the base, 95 % interval"
    hard = [cell(length, f"{epochs} epochs, hard", column).split()[0].lstrip("+") for epochs in (100, 600)]
    trained = "student.train, three repeats"
    base_gpu = cell("gpu.md", f"base: {trained}, compiled", "of the bare one")
    tiny_gpu = cell("gpu.md", f"tiny: {trained} and picture cache, compiled", "of the bare one")
    one, eight = ratio("ours, 1 view a decode"), ratio("ours, 8 views a decode")
    return {
        r"same student recognises (\S+ ± \S+) % of .* (\S+ ± \S+) % with its stored choices and (\S+ ± \S+) %": here,
        r"Seed by seed the gains are \+(\S+) to \+(\S+) and \+(\S+) to \+(\S+) points": gains,
        r"Another processor, .*? gave (\S+ ± \S+), (\S+ ± \S+) and (\S+ ± \S+) %": there,
        r"is done (\S+) times as fast as online; with five DeiT-B students (\S+) times": [five, base],
        r"gain (\S+) points in 100 epochs and (\S+) in 600": hard,
        r"\((\d\.\d) GB on disk": [disk],
        r"labels at (\S+) to (\S+) of the bare compiled forward": [
            f"{float(share):.2f}" for share in (min(labelling), max(labelling))
        ],
        r"runs at (\S+) of the compiled step of DeiT-B alone": [f"{float(base_gpu):.2f}"],
        r"is at (\d\.\d\d)\. ": [f"{float(tiny_gpu):.2f}"],
        r"drawn (\S+) times as fast as by timm's transform \((\S+) to (\S+) in 59 rounds\)": one,
        r"and (\S+) times \((\S+) to (\S+)\) where eight": eight,
        r"`argmax` (\S+) GB, `lowrank:5\+35` .*? (\S+) GB, `topk:10` .*? (\S+) GB, `dense` (\S+) GB": [
            gigabytes(keep) for keep in ("argmax", "lowrank:5+35", "topk:10", "dense")
        ],
        r"soft targets at any temperature in (\d+) bytes": [f"{bytes_a_view()['lowrank:5+35'][0]:.0f}"],
        r"and some (\S+) GB for index, witnesses and receipts": re.findall(
            r"add some (\S+) GB", (ROOT / "docs/imagenet.md").read_text(encoding="utf-8")
        ),
    }


def test_every_figure_is_one_of_a_file_of_results() -> None:
    text = " ".join(re.sub(r"^```.*?^```|\]\([^)]*\)|^> ?", " ", readme(), flags=re.MULTILINE | re.DOTALL).split())
    for phrase in PUBLISHED:
        assert phrase in text, phrase
        text = text.replace(phrase, "")
    for pattern, figures in traced().items():
        found = re.search(pattern, text)
        assert found and list(found.groups()) == figures, (pattern, found and found.groups(), figures)
        text = text.replace(found[0], "")
    assert re.findall(r"\S*\d\.\d\S*|[\d,.]+ (?:%|GB|times|hours|minutes|images/s)", text) == []


def test_the_headline_names_its_machines_seeds_and_pictures() -> None:
    results = (RESULTS / "embedded-default.md").read_text(encoding="utf-8")
    told = " ".join(next(part for part in readme().split("\n\n") if part.startswith("On the embedded default")).split())
    for fact in ("2,048", "256", "AMD EPYC", "Intel Xeon", "recipe version 2"):
        assert fact in told and fact in results, fact
    assert "seeds 0, 1, 2" in results and "three seeds" in told


def test_the_sample_page_opens_without_a_network() -> None:
    page = (ROOT / "docs/sample-report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and len(page.encode()) < 2_000_000
    assert "http" not in page and "/tmp" not in page and "<script" not in page
    words = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert all(figure in words for figure in next(iter(traced().values())))  # it is the page of that run
