"""`dvc repro` for real, made small: without git, with it, twice, interrupted, with another value, other pictures."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import yaml

from tests.pictures import encoded, scene

ROOT = Path(__file__).parents[1]
COPIED = ("dvc.yaml", "params.yaml", ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore")
BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
STUDENTS = {
    f"{kind}-0": {"distill": kind, "logits": f"stores/{store}.zarr", "epochs": epochs, "warmup-epochs": 1, "seed": 0}
    for kind, store, epochs in (("none", "labelled", 4), ("soft", "train", 2))
}
SMALL: dict[str, dict[str, Any]] = {
    "fit_teacher": {"epochs": 2, "warmup-epochs": 1, "val-every": 1},
    "verify_logits": {"sample": 16},
    "train": {"width": 32, "depth": 1, "heads": 1, "batch": 16},
}


def small() -> dict[str, Any]:
    """The values of the embedded default, with less of everything."""
    values: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for group, changed in SMALL.items():
        values[group] |= changed
    values["demo_images"]["digits"] |= {"labelled": 32, "unlabelled": 32, "val": 24}
    for name in ("train", "labelled"):
        values["teacher_logits"][name]["views"] = 2
    return values | {"students": STUDENTS, "tokens": ["soft-0"], "kinds": ["none", "soft"]}


def write(folder: Path, values: Mapping[str, Any]) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(dict(values), sort_keys=False), encoding="utf-8")


def dvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["dvc", *arguments], cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def stages_of(said: str) -> list[str]:
    return re.findall(r"^Running stage '([\w@-]+)'", said, re.MULTILINE)


def unpacked(folder: Path) -> Path:
    """The project as it is unpacked from an archive: without git."""
    for name in COPIED:
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for name in ("pipeline", "stages", "student"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    dvc(folder, "config", "-q", "--local", "core.no_scm", "true")
    return folder


def in_git(folder: Path) -> None:
    """What experiments need; the files that docs/graph.md names are committed."""
    (folder / ".dvc/config.local").unlink()
    for line in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "begin"],
    ):
        subprocess.run(["git", *line], cwd=folder, check=True)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the embedded default."""
    folder = unpacked(tmp_path_factory.mktemp("checkout"))
    write(folder, small())
    return folder


def _listen() -> None:
    """Whoever runs the tests in the background ignores interrupts, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupted_and_outside_git(checkout: Path) -> None:
    """Ctrl-C in the middle, as a terminal sends it to all; the same command goes on and ends with the page."""
    process = subprocess.Popen(
        ["dvc", "repro"], cwd=checkout, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, preexec_fn=_listen,
    )  # fmt: skip
    deadline = time.monotonic() + 600
    while not (checkout / "runs/teacher").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(300) != 0
    ran = stages_of(dvc(checkout, "repro"))
    assert "demo_images@digits" not in ran and {"fit_teacher", "train@none-0", "train@soft-0", "report"} <= set(ran)
    page = (checkout / "reports/page/index.html").read_text(encoding="utf-8")
    assert page.lstrip().startswith("<!") and "http" + "s://" not in page


def test_a_second_time_nothing_runs(checkout: Path) -> None:
    said = dvc(checkout, "repro")
    assert stages_of(said) == [] and "Data and pipelines are up to date" in said


def test_another_learning_rate_runs_the_students_again(checkout: Path) -> None:
    """In git, where experiments need it: labels and teacher stay, and the metrics can be compared."""
    in_git(checkout)
    ran = {stage.split("@")[0] for stage in stages_of(dvc(checkout, "exp", "run", "-S", "train.lr=0.008"))}
    assert ran == {"train", "evaluate", "tokens", "report"}
    assert "reports/summary.json" in dvc(checkout, "metrics", "diff")
    assert "train.lr" in dvc(checkout, "params", "diff")
    assert dvc(checkout, "exp", "show", "--csv").count("\n") >= 3
    assert "index.html" in dvc(checkout, "plots", "show")


def photographs(folder: Path) -> None:
    """40 of them, of two classes, and eight without one."""
    (folder / "unlabelled").mkdir(parents=True)
    for i in range(8):
        (folder / "unlabelled" / f"{i}.jpg").write_bytes(encoded(scene(200 + i, 64, 48)))
    for part, number in (("train", 14), ("val", 6)):
        for name in ("cat", "dog"):
            place = folder / part / name
            place.mkdir(parents=True)
            for i in range(number):
                (place / f"{i}.jpg").write_bytes(encoded(scene(i if name == "cat" else 100 + i, 64, 48)))


def scaled(preset: str) -> dict[str, Any]:
    """A preset with every group of it at work; only its sizes are smaller, and nothing is fetched."""
    values: dict[str, Any] = yaml.safe_load((ROOT / preset).read_text(encoding="utf-8"))
    values |= {"images": "photos", "launch": "python", "report": {"measure": False}}
    values["fit_teacher"] |= {"model": "test_efficientnet", "pretrained": False, "epochs": 1, "image-size": 32}
    for labels in values["teacher_logits"].values():
        labels |= {"image-size": 32, "views": min(labels["views"], 2)}
    values["teacher_logits"]["train"] |= {"views": 2, "keep": "topk:1" if preset == "params.imagenet.yaml" else "dense"}
    values["train"] |= {"epochs": 2, "batch": 8, "warmup-epochs": 0.4, "patch-size": 16, "width": 32, "depth": 1}
    values["train"]["heads"] = 1
    kept = {name: flags for name, flags in values["students"].items() if name in ("none-0", values["tokens"][-1])}
    for flags in kept.values():
        flags |= {
            name: values["train"].get(name, 1) for name in flags if name in ("epochs", "warmup-epochs", "val-every")
        }
    kept["none-0"] |= {"epochs": 1, "warmup-epochs": 0.2}  # what it says of itself counts, and not what all share
    kinds = sorted(flags["distill"] for flags in kept.values())
    return values | {"students": kept, "tokens": [values["tokens"][-1]], "kinds": kinds}


@pytest.mark.parametrize(
    ("preset", "student"),
    [("params.folder.yaml", "soft-0"), ("params.few.yaml", "soft-0"), ("params.imagenet.yaml", "hard-0")],
)
def test_a_preset_runs_what_it_asks_for_and_nothing_else(tmp_path: Path, preset: str, student: str) -> None:
    """By `dvc repro` alone on 40 photographs; one of them then, in git, with another value."""
    folder = unpacked(tmp_path)
    photographs(folder / "photos")
    write(folder, scaled(preset))
    students = {f"{stage}@{name}" for stage in ("train", "evaluate") for name in ("none-0", student)}
    whole = {"pack@train", "hold_out@val", "fit_teacher", "teacher_logits@train", "teacher_logits@val"}
    whole |= {"verify_logits", f"tokens@{student}", "report"} | students
    whole |= {"pack@labelled", "teacher_logits@labelled"} if preset == "params.few.yaml" else set()
    assert {line.split()[0] for line in dvc(folder, "stage", "list").splitlines()} == whole
    ran = stages_of(dvc(folder, "repro"))
    assert set(ran) == whole and len(ran) == len(whole)
    assert (folder / "reports/page/index.html").exists()
    states = [torch.load(folder / f"runs/{name}/last.pt", weights_only=True) for name in ("none-0", student)]
    assert [state["meta"]["settings"]["epochs"] for state in states] == [1, 2]
    if preset == "params.imagenet.yaml":
        runs_again(folder, student, {"teacher_logits@train", f"tokens@{student}", "report"} | students)


def test_the_page_on_published_weights_runs(tmp_path: Path) -> None:
    """What docs/own-data.md puts in the place of a preset's students, none of whose tokens are looked at."""
    page = (ROOT / "docs/own-data.md").read_text(encoding="utf-8").partition("## From published weights")[2]
    told: dict[str, Any] = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    folder, values = unpacked(tmp_path), scaled("params.folder.yaml")
    photographs(folder / "photos")
    torch.manual_seed(0)
    safetensors.torch.save_file(timm.create_model(told["train"]["model"]).state_dict(), folder / told["train"]["init"])
    students = {name: {k: v for k, v in given.items() if k in ("distill", "seed", "logits")} for name, given in
                values["students"].items()}  # fmt: skip
    write(folder, values | told | {"train": told["train"] | {"epochs": 2, "batch": 8}, "students": students})
    ran = stages_of(dvc(folder, "repro"))
    assert not any("tokens" in stage for stage in ran) and ran[-1] == "report"
    assert (folder / "reports/page/index.html").exists()
    assert stages_of(dvc(folder, "repro")) == []


def runs_again(folder: Path, student: str, stages: set[str]) -> None:
    """With another learning rate and fewer views: the students anew, and what they learned before is set aside."""
    store = tree(folder / "stores/train.zarr")
    in_git(folder)
    ran = stages_of(dvc(folder, "exp", "run", "-S", "train.lr=2e-3", "-S", "teacher_logits.train.views=1"))
    assert set(ran) == stages
    assert tree(folder / "stores/train.zarr") == store, "fewer views than stored use the store as it is"
    previous = [torch.load(folder / f"runs/{name}.previous/last.pt", weights_only=True) for name in ("none-0", student)]
    assert [state["meta"]["settings"]["lr"] == 2e-3 for state in previous] == [False, False], "they are set aside"


def test_make_clean_leaves_what_took_long(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("data", "cache", "stores", "runs", "reports", "export", ".mypy_cache"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "work").write_text(name)
    done = subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "Makefile",
        "cache",
        "data",
        "export",
        "reports",
        "runs",
        "stores",
    ]
    assert "stores stays (" in done.stdout and "remove it yourself: rm -r stores" in done.stdout
