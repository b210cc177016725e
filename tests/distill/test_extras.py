"""Without the packages of any extra every command loads, pictures become a student, and what needs one says so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.pictures import encoded, scene

ROOT = Path(__file__).parents[2]
EXTRAS = (
    *("accelerate", "aiohttp", "dvc", "dvclive", "jinja2", "lightning", "matplotlib", "mlflow", "mlxtend", "onnx"),
    *("onnxruntime", "onnxscript", "s3fs", "tensorboard", "transformers", "wandb"),
)
HIDING = f"""
import sys
from importlib import import_module
sys.modules.update(dict.fromkeys({EXTRAS!r}))  # None: neither found nor imported
from distill.__main__ import main
"""
SMALL = "--image-size 32 --epochs 1 --workers 0"
STUDENT = "--epochs 1 --batch 4 --patch-size 16 --width 32 --depth 1 --heads 1 --workers 0"
RUN = f"""
pack --images photos --out data --workers 0
fit-teacher --shards data/*.tar --model test_efficientnet {SMALL} --out teacher
label --shards data/*.tar --model local-dir:teacher --image-size 32 --views 1 --workers 0
verify --logits store.zarr --workers 0
train --logits store.zarr {STUDENT} --out run
evaluate --checkpoint run --shards data/*.tar --workers 0
export --checkpoint run --out export
"""


def ended(commands: list[str], cwd: Path) -> list[tuple[int, str]]:
    """How each `distill COMMAND` ends, one after the other in one process that finds no package of an extra."""
    code = f"""
import json
sys.path.insert(0, {str(ROOT)!r})
{HIDING}
from click.testing import CliRunner
results = [CliRunner().invoke(main, line.split()) for line in {commands!r}]
print(json.dumps([(result.exit_code, result.stderr) for result in results]))
"""
    told = subprocess.run([sys.executable, "-c", f"import sys\n{code}"], cwd=cwd, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return [(status, said) for status, said in json.loads(told.stdout.splitlines()[-1])]


def test_all_that_any_extra_brings_is_hidden() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    brought = {
        re.split(r"[<>=\[]", package)[0] for group in project["optional-dependencies"].values() for package in group
    }
    assert brought - {project["name"]} == set(EXTRAS)


def test_every_command_loads(tmp_path: Path) -> None:
    loading = "from distill.commands import commands\nfor command in commands().values(): command.load()\n"
    told = subprocess.run([sys.executable, "-c", HIDING + loading], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr


def test_pictures_become_a_student(tmp_path: Path) -> None:
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(2):
            (tmp_path / "photos" / name / f"{i}.jpg").write_bytes(encoded(scene(10 * number + i, 48, 40)))
    lines = RUN.strip().splitlines()
    assert [(line, 0) for line in lines] == [
        (line, status) for line, (status, _said) in zip(lines, ended(lines, tmp_path), strict=True)
    ]
    assert (tmp_path / "export" / "model.safetensors").is_file() and not (tmp_path / "run" / "dvclive").exists()


NEEDS = [
    ("export --checkpoint run --format onnx", "--format onnx", "onnx", "export"),
    ("evaluate --checkpoint run --shards a.tar --plots plots", "--plots", "matplotlib", "report"),
    ("tokens --checkpoint run --shards a.tar --plot a.png", "--plot", "matplotlib", "report"),
    ("inspect --shards a.tar", "the contact sheet", "matplotlib", "report"),
    ("report --logits store.zarr", "the report", "matplotlib", "report"),
    ("demo --out pictures", "the embedded default", "mlxtend", "demo"),
    ("compact --logits s3://bucket/store.zarr --keep argmax --out small.zarr", "s3://", "s3fs", "s3"),
    (
        "fit-teacher --shards https://127.0.0.1:9/a.tar --model test_vit --out teacher",
        "https://127.0.0.1:9/classes.json: https://",
        "aiohttp",
        "http",
    ),
    ("train --logits store.zarr --dvclive", "--dvclive", "dvclive", "dvc"),
    ("train --logits store.zarr --tensorboard", "--tensorboard", "tensorboard", "tensorboard"),
    ("train --logits store.zarr --logger dvclive", "--logger dvclive", "dvclive", "dvc"),
    ("train --logits store.zarr --logger tensorboard", "--logger tensorboard", "tensorboard", "tensorboard"),
    ("train --logits store.zarr --logger wandb", "--logger wandb", "wandb", "wandb"),
    ("train --logits store.zarr --logger mlflow", "--logger mlflow", "mlflow", "mlflow"),
]


def test_what_needs_one_says_which_before_the_work(tmp_path: Path) -> None:
    expected = [
        (1, f"error: {purpose} needs {package}, which is not installed. "
        f"pip install 'offline-distiller[{extra}]' brings it.\n")
        for _command, purpose, package, extra in NEEDS
    ]  # fmt: skip
    assert ended([command for command, *_ in NEEDS], tmp_path) == expected
    assert list(tmp_path.iterdir()) == []
