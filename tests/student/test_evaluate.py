"""The command that judges: the numbers by another way, every picture once on any number of ranks, and refusals."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch.nn import functional

from pipeline.processes.machine import machine
from pipeline.rendering.renderer import Renderer
from pipeline.shards.files import ShardFiles
from pipeline.shards.index import scan
from pipeline.views.recipe import Recipe
from student import evaluate
from student.judging.results import speed_path
from student.judging.scoring import Judge
from student.network.model import Student
from tests import small_students as small
from tests.pictures import tiny_shards
from tests.saved_runs import NAMES, run_on_ranks, save_run

ROWS = 30
PLAIN = Recipe.preset("none", image_size=32)


def _evaluate(folder: Path, *flags: str, shards: Sequence[str] = ("data/*.tar",)) -> Result:
    where = [word for pattern in shards for word in ("--shards", str(folder / pattern))]
    line = ["--checkpoint", str(folder / "run"), "--device", "cpu", "--workers", "0", *where, *flags]
    return CliRunner().invoke(evaluate.main, line, catch_exceptions=False)


def _error(result: Result) -> str:
    assert result.exit_code == 1 and "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1]


def _metrics(folder: Path, *flags: str) -> dict[str, Any]:
    result = _evaluate(folder, "--out", str(folder / "metrics.json"), *flags)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def _all_logits(student: Student, folder: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Both heads over all pictures at once, and the truth."""
    index = scan([str(path) for path in sorted((folder / "data").glob("*.tar"))])
    pixels = np.empty((len(index), 32, 32, 3), np.uint8)
    Renderer(PLAIN, index, ShardFiles(index.urls)).render(np.arange(len(index)), np.zeros(len(index), np.int64), pixels)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    with torch.inference_mode():
        heads = student(x)
    return heads.cls, heads.dist, torch.from_numpy(index.classes.astype(np.int64))


def test_predictions_name_the_class_of_each_head_for_each_picture(tmp_path: Path) -> None:
    student, _ = save_run(tmp_path / "run")
    tiny_shards(tmp_path / "data", ROWS, classes=4, class_names=NAMES)
    table = tmp_path / "predictions.npz"
    for _ in range(2):
        assert _evaluate(tmp_path, "--predictions", str(table), "--batch", "7").exit_code == 0
    found = np.load(table, allow_pickle=False)
    cls, dist, truth = _all_logits(student, tmp_path)
    assert found["row"].tolist() == list(range(ROWS)) and found["truth"].tolist() == truth.tolist()
    assert found["class"].tolist() == cls.argmax(-1).tolist()
    assert found["distillation"].tolist() == dist.argmax(-1).tolist()
    assert found["fused_logits"].tolist() == ((cls + dist) / 2).argmax(-1).tolist()


@pytest.mark.parametrize("flag", ["--out", "--predictions", "--per-class"])
def test_results_do_not_take_the_place_of_work(tmp_path: Path, flag: str) -> None:
    tiny_shards(tmp_path / "data", 6, classes=4)
    save_run(tmp_path / "run")
    (tmp_path / "pack.json").write_text("{}")
    before = (tmp_path / "run/last.pt").read_bytes()
    for place in (tmp_path / "run/last.pt", tmp_path / "data/000000.tar", tmp_path / "pack.json"):
        result = _evaluate(tmp_path, flag, str(place))
        said = f"error: {flag} {place} is there, and is no result that may be replaced. Name another file."
        assert result.exit_code == 1 and result.stderr.splitlines()[-1] == said
    assert (tmp_path / "run/last.pt").read_bytes() == before and (tmp_path / "pack.json").read_text() == "{}"


def test_the_figures_are_those_of_all_pictures_at_once(tmp_path: Path) -> None:
    students = save_run(tmp_path / "run")
    tiny_shards(tmp_path / "data", ROWS, classes=4, class_names=NAMES)
    found = _metrics(tmp_path, "--batch", "7")
    described = {"model", "image_size", "crop_pct", "epoch", "step", "parameters", "settings"}
    assert found.keys() == described | {"student", "ema"}
    assert found["parameters"] == sum(weight.numel() for weight in students[0].parameters())
    assert found["crop_pct"] == 0.875 and found["epoch"] == 3
    for name, student in zip(("student", "ema"), students, strict=True):
        cls, dist, truth = _all_logits(student, tmp_path)
        probabilities = (cls.softmax(-1) + dist.softmax(-1)) / 2
        answers = {
            "class": cls,
            "distillation": dist,
            "fused_logits": (cls + dist) / 2,
            "fused_probabilities": probabilities.log(),
        }
        for answer, logits in answers.items():
            top1 = (logits.argmax(-1) == truth).double().mean().item()
            assert found[name][answer]["top1"] == pytest.approx(top1, abs=1e-6)
            assert found[name][answer]["loss"] == pytest.approx(
                functional.cross_entropy(logits, truth).item(), abs=1e-5
            )
            assert found[name]["agreement"][f"{answer}/truth"] == found[name][answer]["top1"]
            counts, right, _ = zip(*found[name]["reliability"][answer], strict=True)
            assert (sum(counts), sum(right) / ROWS) == (ROWS, pytest.approx(found[name][answer]["top1"], abs=1e-6))
        same = (cls.argmax(-1) == dist.argmax(-1)).double().mean().item()
        assert found[name]["agreement"]["class/distillation"] == pytest.approx(same, abs=1e-6)
        assert found[name]["images"] == found[name]["labelled"] == ROWS


def test_the_same_student_leaves_the_same_bytes_whatever_the_batch(tmp_path: Path) -> None:
    save_run(tmp_path / "run")
    tiny_shards(tmp_path / "data", ROWS, classes=4)
    _metrics(tmp_path, "--batch", "7")
    first = (tmp_path / "metrics.json").read_bytes()
    _metrics(tmp_path, "--batch", "30", "--workers", "2")
    assert (tmp_path / "metrics.json").read_bytes() == first
    speed = json.loads((tmp_path / "metrics.speed.json").read_text())
    assert speed["images_per_second"] > 0 and speed["workers"] == 2
    assert speed["machine"] == machine()


def test_two_ranks_judge_every_picture_once(tmp_path: Path) -> None:
    save_run(tmp_path / "run")
    tiny_shards(tmp_path / "data", ROWS + 1, classes=4)
    whole = _metrics(tmp_path)
    line = ["--checkpoint", str(tmp_path / "run"), "--shards", str(tmp_path / "data/*.tar"), "--workers", "0"]
    line += ["--device", "cpu", "--out", str(tmp_path / "ranks.json")]
    status, output = run_on_ranks(evaluate.main, line, tmp_path / "output", ranks=2)
    assert status == 0, output
    assert json.loads((tmp_path / "ranks.json").read_text()) == whole
    assert f"{ROWS + 1}/{ROWS + 1}" not in output and whole["student"]["images"] == ROWS + 1


def test_agreement_with_the_teacher_of_the_same_views(tmp_path: Path) -> None:
    save_run(tmp_path / "run", num_classes=small.CLASSES, names=None)
    store = small.make_store(
        tmp_path, rows=ROWS, views=1, keep="argmax", recipe=Recipe.preset("none", image_size=32, seed=5)
    )
    found = _metrics(tmp_path, "--logits", str(store))
    student, _ = save_run(tmp_path / "again", num_classes=small.CLASSES, names=None)
    cls, _, truth = _all_logits(student, tmp_path)
    logits = np.concatenate([small.random_logits(np.arange(at, min(at + 16, ROWS)), 0, None) for at in (0, 16)])  # type: ignore[arg-type]
    teacher = torch.from_numpy(logits.argmax(-1))
    agreement = found["student"]["agreement"]
    assert agreement["class/teacher"] == pytest.approx((cls.argmax(-1) == teacher).double().mean().item(), abs=1e-6)
    assert agreement["truth/teacher"] == pytest.approx((truth == teacher).double().mean().item(), abs=1e-6)


def test_a_store_of_other_views_is_refused(tmp_path: Path) -> None:
    save_run(tmp_path / "run", num_classes=small.CLASSES, names=None)
    store = small.make_store(tmp_path, rows=ROWS, views=1, recipe=Recipe.preset("none", image_size=32, flip=0.5))
    result = _evaluate(tmp_path, "--logits", str(store))
    assert _error(result) == (
        f"error: {store} holds answers about other views than those judged here: flip: 0.0 against 0.5. "
        "Label these shards with 'stages.teacher_logits --recipe none --image-size 32 --crop-pct 0.875 --views 1', "
        "or leave --logits out."
    )


def test_other_classes_are_refused(tmp_path: Path) -> None:
    save_run(tmp_path / "run")
    tiny_shards(tmp_path / "data", ROWS, classes=4, class_names=["ant", "bee", "cow", "dog"])
    result = _evaluate(tmp_path)
    assert _error(result) == (
        "error: The shards: class 2 is 'cow', the student learned 'cat'. Pack the pictures with the same class folders."
    )
    tiny_shards(tmp_path / "more", ROWS, classes=5)
    result = _evaluate(tmp_path, shards=["more/*.tar"])
    assert _error(result) == (
        "error: The shards: 5 classes, the student has 4. Judge it on pictures of the classes that it learned."
    )


def test_tables_and_figures(tmp_path: Path) -> None:
    save_run(tmp_path / "run", ema=False)
    tiny_shards(tmp_path / "data", ROWS, classes=4, class_names=NAMES)
    result = _evaluate(tmp_path, "--per-class", str(tmp_path / "classes.csv"), "--plots", str(tmp_path / "plots"))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["top-1", "top-5", "loss", "ece"]
    assert lines[3].startswith("student fused by logits") and lines[-1].startswith(f"wrote {tmp_path / 'classes.csv'}")
    with (tmp_path / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows[:4]] == list(NAMES) and len(rows) == 4 * 4
    assert sum(int(row["images"]) for row in rows[:4]) == ROWS
    for kind in ("reliability", "classes", "confusion"):
        with Image.open(tmp_path / "plots" / f"student_{kind}.png") as picture:
            assert picture.mode == "RGBA" and min(picture.size) > 200
    assert _evaluate(tmp_path, "--per-class", str(tmp_path / "classes.json")).exit_code == 0
    assert len(json.loads((tmp_path / "classes.json").read_text())) == 4 * 4


def test_unlabelled_pictures_and_a_single_head(tmp_path: Path) -> None:
    save_run(tmp_path / "run", model="resnet10t", patch_size=None, width=None, depth=None, ema=False)
    tiny_shards(tmp_path / "data", 6, classes=4)
    found = _metrics(tmp_path, "--plots", str(tmp_path / "plots"), "--precision", "bf16")
    assert found["student"].keys() == {"images", "labelled", "agreement", "class", "reliability"}
    assert "ema" not in found


def test_a_moving_average_that_is_not_there_is_refused(tmp_path: Path) -> None:
    save_run(tmp_path / "run", ema=False)
    tiny_shards(tmp_path / "data", 6, classes=4)
    result = _evaluate(tmp_path, "--ema")
    assert "This checkpoint holds no moving average of the weights." in _error(result)


def test_two_ranks_name_the_same_classes_as_one_even_where_one_has_nothing_to_do(tmp_path: Path) -> None:
    save_run(tmp_path / "run")
    for rows in (1, 9):
        folder = tmp_path / str(rows)
        tiny_shards(folder, rows, shards=1, classes=4)
        line = ["--checkpoint", str(tmp_path / "run"), "--shards", str(folder / "*.tar"), "--workers", "0"]
        line += ["--device", "cpu", "--batch", "2", "--predictions"]
        alone = CliRunner().invoke(evaluate.main, [*line, str(folder / "one.npz")], catch_exceptions=False)
        assert alone.exit_code == 0
        status, output = run_on_ranks(evaluate.main, [*line, str(folder / "two.npz")], tmp_path / "output", ranks=2)
        assert status == 0, output
        assert (folder / "one.npz").read_bytes() == (folder / "two.npz").read_bytes()


def test_nothing_is_pickled_between_ranks() -> None:
    for path in Path(evaluate.__file__).parent.rglob("*.py"):
        assert not re.search("all_gather_object|broadcast_object|gather_object|pickle.load", path.read_text()), path


@pytest.mark.parametrize(
    ("metrics", "speed"),
    [("m.json", "m.speed.json"), ("v1.2", "v1.2.speed.json"), ("v1.3.json", "v1.3.speed.json"), ("m", "m.speed.json")],
)
def test_the_speed_lies_beside_the_metrics_of_any_name(metrics: str, speed: str) -> None:
    assert speed_path(Path("there") / metrics) == Path("there") / speed


def test_a_full_device_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore")

    save_run(tmp_path / "run")
    tiny_shards(tmp_path / "data", 6, classes=4)
    monkeypatch.setattr(Judge, "prepare", full)
    assert _error(_evaluate(tmp_path)) == (
        "error: The memory of cpu is too small: CUDA out of memory. Tried to allocate 20.00 MiB. "
        "Give a smaller --batch: it changes speed only."
    )
