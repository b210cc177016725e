"""An exported student answers the same in timm and in ONNX Runtime, and says how to prepare a picture."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import onnxruntime
import pytest
import timm
import torch
from click.testing import CliRunner, Result
from timm.data import resolve_model_data_config

from pipeline.errors import StudentError
from student.checkpoints import checkpoint
from student.checkpoints.starting_weights import init_from, read_initial
from student.export import main
from student.network.model import build, fuse
from tests.faults import in_child, wait_for
from tests.saved_runs import NAMES, save_run


def _export(folder: Path, *flags: str) -> Result:
    arguments = ["--checkpoint", str(folder / "run"), "--out", str(folder / "export"), *flags]
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def _images(size: int = 32) -> torch.Tensor:
    return torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(3))


def test_timm_loads_the_folder_and_answers_the_same_bits(tmp_path: Path) -> None:
    student, _ = save_run(tmp_path / "run")
    result = _export(tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f'timm.create_model("local-dir:{tmp_path / "export"}", pretrained=True)\n')
    model = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    assert torch.equal(model(_images()), fuse(student(_images())))
    config = resolve_model_data_config(model)
    assert config["input_size"] == (3, 32, 32) and config["crop_pct"] == 0.875 and config["interpolation"] == "bicubic"
    assert list(config["mean"]) == [0.5, 0.4, 0.3] and list(config["std"]) == [0.2, 0.3, 0.4]
    written = json.loads((tmp_path / "export" / "config.json").read_text())
    assert written["label_names"] == list(NAMES) and written["num_classes"] == 4
    assert not {"license", "tag", "url", "hf_hub_id"} & written["pretrained_cfg"].keys()


@pytest.mark.parametrize("head", ["class", "distillation"])
def test_timm_answers_with_one_head_alone(tmp_path: Path, head: str) -> None:
    student, _ = save_run(tmp_path / "run")
    assert _export(tmp_path, "--head", head).exit_code == 0
    model = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    heads = student(_images())
    assert torch.equal(model(_images()), heads.cls if head == "class" else heads.dist)


def test_onnx_runtime_answers_the_same_for_any_batch(tmp_path: Path) -> None:
    _, averaged = save_run(tmp_path / "run")
    result = _export(tmp_path, "--format", "onnx", "--ema", "--head", "distillation")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'export' / 'model.onnx'}: logits, class_logits, distillation_logits\n"
    session = onnxruntime.InferenceSession(str(tmp_path / "export" / "model.onnx"))
    for count in (1, 2, 5):
        images = _images()[:count]
        heads = averaged(images)
        answers = session.run(["class_logits", "distillation_logits", "logits"], {"images": images.numpy()})
        for found, expected in zip(answers, (heads.cls, heads.dist, heads.dist), strict=True):
            np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["preprocessing"]) == json.loads((tmp_path / "export" / "preprocessing.json").read_text())
    assert json.loads(metadata["preprocessing"])["class_names"] == list(NAMES)


def test_a_single_head_leaves_with_one_output(tmp_path: Path) -> None:
    student, _ = save_run(tmp_path / "run", model="resnet10t", patch_size=None, width=None, depth=None, image_size=64)
    assert _export(tmp_path).exit_code == 0 and _export(tmp_path, "--format", "onnx").exit_code == 0
    model = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    images = _images(64)
    assert torch.equal(model(images), student(images).cls)
    session = onnxruntime.InferenceSession(str(tmp_path / "export" / "model.onnx"))
    assert [output.name for output in session.get_outputs()] == ["logits"]
    refused = _export(tmp_path, "--head", "distillation")
    assert refused.exit_code == 1 and refused.stderr == (
        "error: resnet10t has one head, and no distillation head to export. Leave --head out, or give --head class.\n"
    )


def test_an_exported_student_can_be_trained_further(tmp_path: Path) -> None:
    student, _ = save_run(tmp_path / "run")
    assert _export(tmp_path).exit_code == 0
    other = build(student.spec, seed=9).eval()
    assert not init_from(other, read_initial(tmp_path / "export").state).fresh
    assert torch.equal(other(_images()).cls, student(_images()).cls)


def test_an_exported_head_is_no_student_to_start_from(tmp_path: Path) -> None:
    student, _ = save_run(tmp_path / "run")
    assert _export(tmp_path, "--head", "class").exit_code == 0
    initial = read_initial(tmp_path / "export")
    with pytest.raises(StudentError, match=r"head_dist is all zero, as where one head was exported .* --head fused"):
        init_from(build(student.spec, seed=9), initial.state)
    other = build(student.spec, seed=9)
    assert len(init_from(other, initial.state, new_heads=True).fresh) == 4 and other.net.head_dist.weight.any()
    with pytest.raises(StudentError, match=r"--init-which best: .*export is no run directory"):
        read_initial(tmp_path / "export", which="best")


def test_exporting_twice_gives_the_same_bytes_and_leaves_nothing_else(tmp_path: Path) -> None:
    save_run(tmp_path / "run")
    _export(tmp_path)
    first = {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()}
    _export(tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()} == first
    assert first.keys() == {"model.safetensors", "config.json", "preprocessing.json", "README.md"}


@pytest.mark.parametrize("moved", [1, 2])
def test_an_export_that_was_killed_between_two_files_is_made_again(tmp_path: Path, moved: int) -> None:
    """They go one by one into a folder in which something hidden lies."""
    save_run(tmp_path / "run")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / ".gitkeep").touch()
    move = Path.replace

    def killed() -> None:
        def replace(self: Path, target: Path) -> Path:
            found = move(self, target)
            if len(list((tmp_path / "export").iterdir())) == 1 + moved:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        torch.set_num_threads(1)
        Path.replace = replace  # type: ignore[method-assign,assignment]
        _export(tmp_path)

    assert wait_for(in_child(killed)) == -signal.SIGKILL
    assert _export(tmp_path).exit_code == 0
    names = {path.name for path in (tmp_path / "export").iterdir()}
    assert names == {"model.safetensors", "config.json", "preprocessing.json", "README.md", ".gitkeep"}


def test_both_formats_share_a_folder_and_another_student_sets_them_aside(tmp_path: Path) -> None:
    save_run(tmp_path / "run")
    _export(tmp_path)
    (tmp_path / "export" / "README.md").write_text("mine")
    onnx = _export(tmp_path, "--format", "onnx")
    assert onnx.exit_code == 0 and "README.md is not as an export wrote it, and stays as it is" in onnx.stderr
    both = {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()}
    assert both.keys() == {"model.safetensors", "config.json", "preprocessing.json", "model.onnx", "README.md"}
    assert _export(tmp_path, "--ema").exit_code == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "export.previous").iterdir()} == both
    written = {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()}
    assert written.keys() == {"model.safetensors", "config.json", "preprocessing.json", "README.md"}
    assert (
        written["README.md"] != both["README.md"] == b"mine"
        and written["model.safetensors"] != both["model.safetensors"]
    )


@pytest.mark.parametrize("words", [("--head", "class"), ("--ema",)])
def test_a_folder_is_of_one_head_and_one_average(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Else one card would speak of two formats that answer differently."""
    save_run(tmp_path / "run")
    _export(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()}
    assert _export(tmp_path, "--format", "onnx", *words).exit_code == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "export.previous").iterdir()} == before
    assert not (tmp_path / "export" / "model.safetensors").exists()


def test_the_card_says_who_this_is_and_how_good(tmp_path: Path) -> None:
    """From the checkpoint alone, or from the run's record of the epoch that it closes."""
    save_run(tmp_path / "run")
    _export(tmp_path)
    card = tmp_path / "export/README.md"
    plain = _head(card)
    assert (plain["architecture"], plain["classes"], plain["head"]) == ("deit_tiny_distilled_patch16_224", 4, "fused")
    assert (
        "teacher" not in plain and "accuracy" not in plain and "Not measured while it was trained" in card.read_text()
    )
    state = checkpoint.load(tmp_path / "run")
    told = {"fingerprint": "f" * 8, "recipe": "r" * 8, "index": "i" * 8, "teacher_weights": "w" * 8, "keep": "topk:5"}
    settings = {"views": 3, "lr": 0.01, "init": "/home/me/secret.pt"}
    more = {"teacher": "regnety_160", "store": told, "distill": {"kind": "hard"}, "settings": settings}
    state["meta"] |= {**more, "recipe": {"image_size": 32, "randaugment": "rand-m9"}}
    checkpoint.save(tmp_path / "run", state)
    lines = [{"kind": "epoch", "epoch": 1, "top1": 0.1}]
    lines += [
        {"kind": "epoch", "epoch": 2, "top1": 0.75, "top1_class": 0.5, "top1_distillation": 0.625, "ema_top1": 1.0}
    ]
    record = "".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "epo'
    (tmp_path / "run/metrics.jsonl").write_text(record)
    result = _export(tmp_path)
    assert result.exit_code == 0 and "validation pictures" not in result.stderr, result.stderr
    full = _head(card)
    assert full["accuracy"] == {"both together": 0.75, "class": 0.5, "distillation": 0.625}
    assert [full[name] for name in ("teacher", "store", "recipe", "data", "labels")] == [
        "regnety_160", "f" * 8, "r" * 8, "i" * 8, "topk:5",
    ]  # fmt: skip
    text = card.read_text()
    assert "taught by the stored answers of regnety_160 (hard distillation)" in text and "secret" not in text
    assert "| distillation | 62.50 % |" in text and "randaugment rand-m9" in text and "lr 0.01" in text
    result = _export(tmp_path, "--head", "class")
    assert "--head class names 50.0 % of the run's validation pictures, fused 75.0 %: --head fused" in result.stderr
    result = _export(tmp_path, "--ema")
    assert result.exit_code == 0 and "validation pictures" not in result.stderr, result.stderr
    assert _head(card)["accuracy"] == {"both together": 1.0} and _head(card)["moving_average"] is True


def _head(card: Path) -> dict[str, Any]:
    """The card's front matter, as hubs read it."""
    found: dict[str, Any] = huggingface_hub.ModelCard.load(card).data.to_dict()
    return found


@pytest.mark.parametrize("name", ["fit.json", "thesis.tex", "model.safetensors"])
def test_a_folder_of_other_peoples_files_is_refused(tmp_path: Path, name: str) -> None:
    """A teacher's folder has files of the same names; so has a model that was downloaded."""
    save_run(tmp_path / "run")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / name).write_text("mine")
    result = _export(tmp_path)
    assert result.exit_code == 1 and result.stderr == (
        f"error: --out {tmp_path}/export holds files that no export wrote ({name}). Name a new folder.\n"
    )
    assert [path.read_text() for path in (tmp_path / "export").iterdir()] == ["mine"]


def test_a_moving_average_that_is_not_there_is_refused(tmp_path: Path) -> None:
    save_run(tmp_path / "run", ema=False)
    result = _export(tmp_path, "--ema")
    assert result.exit_code == 1 and result.stderr == (
        "error: This checkpoint holds no moving average of the weights. Leave --ema out, or train with --ema.\n"
    )
    assert not (tmp_path / "export").exists()


def test_no_checkpoint(tmp_path: Path) -> None:
    result = _export(tmp_path)
    assert result.exit_code == 1 and result.stderr.startswith(f"error: {tmp_path / 'run'}")


def test_names_of_classes_for_a_student_without(tmp_path: Path) -> None:
    save_run(tmp_path / "run", names=None)
    plain = _export(tmp_path)
    assert "learned from shards that name no classes: class_names is null" in plain.output
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    (tmp_path / "four.txt").write_text("a\nb\nc\nd\n")
    short = _export(tmp_path, "--classes", str(tmp_path / "three.txt"))
    assert short.exit_code == 1 and "names 3 classes (a, b, c), the student has 4 classes" in short.output
    assert _export(tmp_path, "--classes", str(tmp_path / "four.txt")).exit_code == 0
    assert json.loads((tmp_path / "export" / "config.json").read_text())["label_names"] == ["a", "b", "c", "d"]
    (tmp_path / "named").mkdir()
    save_run(tmp_path / "named" / "run")
    other = _export(tmp_path / "named", "--classes", str(tmp_path / "four.txt"))
    assert other.exit_code == 1 and "names 4 classes (a, b, c, d), the student learned 4 classes (" in other.output
