"""What nobody means ends in one line that names the flag and the value, and leaves nothing behind."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import safetensors.torch
import timm
from click.testing import CliRunner

from tests.pictures import tiny_shards

NET = "test_resnet"
OWN = "import sys\ndef breaks(): raise KeyError('weights')\ndef leaves(): sys.exit(0)\ndef wants(classes): ...\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    tiny_shards(folder / "data", rows=12, shards=1, classes=3)
    safetensors.torch.save_file(timm.create_model(NET, num_classes=3).state_dict(), folder / "teacher.safetensors")
    (folder / "some.zarr" / "argmax").mkdir(parents=True)
    (folder / "some.zarr" / "zarr.json").write_text("{}")
    (folder / "own_nets.py").write_text(OWN)
    (folder / "pictures").mkdir()
    return folder


LABEL = ("teacher_logits", "--shards", "data/*.tar", "--device", "cpu", "--workers", "0", "--image-size", "32")
NAMED = (*LABEL, "--model", NET, "--weights", "teacher.safetensors")
KNOWN = (*NAMED, "--out", "new.zarr")
OTHER = (*LABEL, "--out", "new.zarr", "--model")
FIT = ("fit_teacher", "--shards", "data/*.tar", "--image-size", "32", "--workers", "0", "--device", "cpu")
FITTED = (*FIT, "--out", "new", "--model")
SHEET = ("inspect_views", "--shards", "data/*.tar", "--out", "x.png")
PACK = ("pack", "--out", "new")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*KNOWN, "--teacher-size", "0"), "--teacher-size 0 is not auto, view, or 1 to 8192 pixels"),
        ((*KNOWN, "--teacher-size", "-5"), "--teacher-size -5 is not auto"),
        ((*KNOWN, "--teacher-size", "nan"), "--teacher-size nan is not auto"),
        ((*KNOWN, "--teacher-size", "99999999"), "--teacher-size 99999999 is not auto"),
        ((*KNOWN, "--views", "10000000000"), "10000000000 is not in the range 1<=x<=1000000"),
        ((*KNOWN, "--keep", "topk:2", "--temperatures", "1e-300"), "distinct numbers from 0.001 to 1000"),
        ((*KNOWN, "--temperatures", "nan"), "distinct numbers from 0.001 to 1000"),
        ((*KNOWN, "--timeout", "nan"), "nan is not a finite number"),
        ((*KNOWN, "--workers", "1000000"), "1000000 is not in the range 0<=x<=1024"),
        ((*KNOWN, "--seed", str(2**64)), "is not in the range"),
        ((*KNOWN, "--device", "meta"), "--device meta cannot be used here"),
        ((*NAMED, "--out", ""), "--out '' names no file or folder"),
        ((*NAMED, "--out", "/"), "--out '/' names no file or folder"),
        ((*NAMED, "--out", "some.zarr/x.zarr"), "some.zarr, which is a Zarr store"),
        ((*OTHER, ":"), "--model : cannot be imported"),
        ((*OTHER, "json:dumps"), "--model json:dumps gave no model: TypeError"),
        ((*OTHER, "own_nets:breaks"), "--model own_nets:breaks gave no model: KeyError: 'weights'"),
        ((*OTHER, "own_nets:leaves"), "--model own_nets:leaves gave no model: SystemExit"),
        ((*OTHER, "own_nets:wants"), "It is called without arguments"),
        ((*FITTED, "resnet9999"), "timm has no model 'resnet9999'; near it: "),
        ((*FITTED, NET, "--warmup-epochs", "nan"), "--warmup-epochs is nan; a finite number is needed"),
        ((*FITTED, NET, "--lr", "1e300"), "--lr is 1e+300; a learning rate is above 0 and at most 1e+30"),
        ((*FITTED, NET, "--input-size", "99999999"), "99999999 is not in the range 1<=x<=8192"),
        ((*FITTED, NET, "--model-arg", "num_classes=7"), "the shards have 3 classes"),
        ((*FIT, "--model", NET, "--out", "some.zarr/teacher"), "some.zarr, which is a Zarr store"),
        ((*SHEET, "--rows", "0:99999999999999"), "there are rows 0 to 11"),
        ((*PACK, "--images", "pictures", "--unlabelled", "./pictures"), "pictures is named twice"),
        ((*PACK, "--images", "pictures", "--classes", "none.json"), "--classes none.json: no such file"),
        (("pack", "--images", "pictures", "--out", "."), "--out . is the folder that this is run in"),
        ((*KNOWN, "--mean", "124,116,104"), "--mean takes three numbers from 0 to 1"),
        ((*KNOWN, "--std", "58,57,57"), "Divide by 255 what is in levels"),
        ((*KNOWN, "--unit-rows", "40"), "--unit-rows 40 is not a power of two"),
        ((*KNOWN, "--summary", "new.zarr/summary.json"), "--summary new.zarr/summary.json lies in"),
        ((*KNOWN, "--summary", "some.zarr/summary.json"), "some.zarr, which is a Zarr store"),
        ((*NAMED, "--out", "."), "--out . is the folder that this is run in, or one around it"),
        ((*NAMED, "--out", ".."), "--out .. is the folder that this is run in, or one around it"),
        ((*KNOWN, "--summary", "teacher.safetensors"), "--summary teacher.safetensors is there, and is no result"),
        ((*KNOWN, "--summary", "data/000000.tar"), "--summary data/000000.tar is there, and is no result that may be"),
        ((*FITTED, NET, "--history", "own_nets.py"), "--history own_nets.py is there, and is no result"),
        ((*NAMED, "--out", "own_nets.py"), "own_nets.py is a file, and a folder is needed there"),
        ((*NAMED, "--out", "own_nets.py/store.zarr"), "own_nets.py is a file, and a folder is needed there"),
        (("pack", "--images", "pictures", "--out", "own_nets.py"), "own_nets.py is a file"),
        ((*OTHER, "local-dir:none"), "Name a folder that stages.fit_teacher or student.export wrote"),
        ((*OTHER, "pictures"), "Is --model local-dir:pictures meant?"),
        ((*OTHER, NET, "--weights", "pictures"), "pictures is a folder. Name a file in it"),
        ((*SHEET[:3], "--out", "x.svg"), "--out x.svg ends in '.svg'; it can be written as .png"),
        (
            ("compact_logits", "--logits", "./a.zarr", "--keep", "argmax", "--out", "a.zarr"),
            "is the store that is read",
        ),
    ],
)
def test_it_is_refused(world: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str) -> None:
    monkeypatch.chdir(world)
    monkeypatch.syspath_prepend(str(world))
    before = files(world)
    command = importlib.import_module(f"stages.{words[0]}").main
    result = CliRunner().invoke(command, [*words[1:], "--log-level", "error"])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2) and said in result.output, result.output
    assert files(world) == before


def files(folder: Path) -> set[Path]:
    """All but what stays by intent: locks, which are empty, and bytecode."""
    return {path for path in folder.rglob("*") if "__pycache__" not in str(path) and path.suffix != ".lock"}
