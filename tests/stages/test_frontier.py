"""Accuracy against images a second: a student, its export and another model, measured alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import timm
from click.testing import CliRunner, Result
from timm.models._hub import save_config_for_hf

from stages.comparing.place import Place, frontier, table
from stages.frontier import main
from tests.pictures import encoded, sample, scene, write_tar
from tests.saved_runs import NAMES, save_run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a convnet as a folder of timm's, and shards."""
    folder = tmp_path_factory.mktemp("frontier")
    save_run(folder / "run")
    model = timm.create_model("test_efficientnet", num_classes=4)
    (folder / "convnet").mkdir()
    safetensors.torch.save_file(model.state_dict(), folder / "convnet/model.safetensors")
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 64, 64)}
    save_config_for_hf(model, str(folder / "convnet/config.json"), model_config={"label_names": list(NAMES)})
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("shards"), labelled=True)


def written(folder: Path, *, labelled: bool) -> Path:
    (folder / "classes.json").write_text(json.dumps({"classes": list(NAMES)}))
    rows = [sample(f"{i}", encoded(scene(i, 40, 40), "PNG"), i % 4 if labelled else None, "png") for i in range(8)]
    write_tar(folder / "0.tar", [member for row in rows for member in row])
    return folder


def asked(*line: object) -> Result:
    few = ("--batch", 4, "--turns", 2, "--seconds", 0.01, "--workers", 0, "--device", "cpu", "--log-level", "error")
    return CliRunner().invoke(main, [str(part) for part in (*line, *few)])


def test_a_run_is_exported_from_any_folder(
    place: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this project is found by a path of this process alone, its own command is found, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    result = asked(place / "run", "--shards", shards, "--out", "found.json")
    assert result.exit_code == 0, result.output


def test_students_and_teachers_are_measured_alike(place: Path, shards: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "frontier.json", tmp_path / "frontier.png"
    result = asked(place / "run", "--teacher", place / "convnet", "--shards", shards, "--out", out, "--plot", plot)
    assert result.exit_code == 0, result.output
    student, teacher = sorted(json.loads(out.read_text()), key=lambda found: found["kind"])
    assert (student["kind"], student["side"], teacher["kind"], teacher["side"]) == ("student", 32, "teacher", 64)
    assert all(0 < one["slowest"] <= one["images_per_second"] <= one["fastest"] for one in (student, teacher))
    assert all(one["top1"] * 8 == round(one["top1"] * 8) for one in (student, teacher))
    convnet = timm.create_model("test_efficientnet", num_classes=4)
    assert teacher["parameters"] == sum(weights.numel() for weights in convnet.parameters())
    assert plot.read_bytes().startswith(b"\x89PNG") and str(place / "run") in result.output


def test_what_cannot_be_measured_is_refused_in_a_sentence(place: Path, shards: Path, tmp_path: Path) -> None:
    result = asked("--shards", shards)
    assert result.exit_code == 1 and "There is nothing to measure" in result.stderr
    (tmp_path / "empty").mkdir()
    result = asked(tmp_path / "empty", "--shards", shards)
    assert result.exit_code == 1 and f"{tmp_path / 'empty'} cannot be exported: " in result.stderr
    (tmp_path / "unlabelled").mkdir()
    result = asked(place / "run", "--shards", written(tmp_path / "unlabelled", labelled=False))
    assert result.exit_code == 1 and "No row of --shards has a label" in result.stderr


def lies(name: str, top1: float, rate: float) -> Place:
    return Place(
        name=name,
        kind="student",
        side=32,
        parameters=1000,
        top1=top1,
        images_per_second=rate,
        slowest=rate,
        fastest=rate,
    )


def test_the_frontier_is_what_no_faster_model_reaches() -> None:
    found = frontier([lies("slow", 0.8, 10), lies("worse", 0.5, 20), lies("fast", 0.6, 100), lies("same", 0.6, 50)])
    assert [(place.name, place.on_frontier) for place in found] == [
        ("fast", True),
        ("same", False),
        ("worse", False),
        ("slow", True),
    ]
    assert table(found).splitlines()[2] == "| fast | student | 32 | 1,000 | 60.0 | 100 (100 to 100) | yes |"
