"""Starting from other weights: another resolution, other classes, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from timm.layers import resample_abs_pos_embed  # type: ignore[attr-defined]

from pipeline.errors import StudentError, WeightsError
from student.checkpoints.checkpoint import save
from student.checkpoints.starting_weights import init_from, read_initial
from student.network.model import Student, StudentSpec, build

SMALL: dict[str, Any] = {"num_classes": 7, "image_size": 32, "patch_size": 8, "width": 64, "depth": 1, "drop_path": 0.0}
REMEDY = "Check --model and its sizes against what was trained: only resolution and classes may differ."


def _small(seed: int = 1, **changes: Any) -> Student:
    return build(StudentSpec(**{**SMALL, **changes}), seed=seed)


def _state(student: Student) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in student.state_dict().items()}


def test_the_same_student_takes_every_tensor() -> None:
    source, student = _small(1), _small(2)
    start = init_from(student, source.state_dict())
    assert not start.resampled and not start.fresh and len(start.loaded) == len(source.net.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(_state(student).values(), _state(source).values(), strict=True))
    assert str(start) == f"{len(start.loaded)} tensors loaded"


def test_another_resolution_resamples_the_patches_and_keeps_the_rows_of_both_tokens() -> None:
    source, student = _small(1), _small(2, image_size=48)
    start = init_from(student, source.net.state_dict())
    assert start.resampled == ("pos_embed",)
    own, old = student.net.state_dict()["pos_embed"], source.net.state_dict()["pos_embed"]
    assert own.shape == (1, 2 + 36, 64) and torch.equal(own[:, :2], old[:, :2])
    expected = torch.nn.functional.interpolate(
        old[:, 2:].reshape(1, 4, 4, 64).permute(0, 3, 1, 2), size=(6, 6), mode="bicubic", antialias=True
    )
    torch.testing.assert_close(own[:, 2:], expected.permute(0, 2, 3, 1).reshape(1, 36, 64))
    assert torch.equal(own, resample_abs_pos_embed(old, [6, 6], num_prefix_tokens=2))


def test_a_position_embedding_without_rows_for_tokens_is_all_patches() -> None:
    one = {"model": "deit3_small_patch16_224", "patch_size": 8, "width": 64, "depth": 1, "num_classes": 7}
    source, student = (build(StudentSpec(image_size=size, **one), seed=0) for size in (32, 64))  # type: ignore[arg-type]
    assert init_from(student, source.state_dict()).resampled == ("pos_embed",)
    assert student.net.state_dict()["pos_embed"].shape == (1, 64, 64)


def test_other_classes_get_new_heads_and_the_rest_is_loaded() -> None:
    source, student = _small(1), _small(2, num_classes=4)
    before = _state(student)
    start = init_from(student, source.state_dict())
    assert start.fresh == ("head.bias", "head.weight", "head_dist.bias", "head_dist.weight")
    after = _state(student)
    assert torch.equal(after["net.head.weight"], before["net.head.weight"])
    assert torch.equal(after["net.dist_token"], source.state_dict()["net.dist_token"])
    assert str(start).endswith("new and random: head.bias, head.weight, head_dist.bias, head_dist.weight")


def test_new_heads_on_request_even_for_as_many_classes() -> None:
    source, student = _small(1), _small(2)
    headless = {name: tensor for name, tensor in source.state_dict().items() if ".head" not in name}
    assert len(init_from(student, headless, new_heads=True).fresh) == 4


def test_a_file_as_deit_publishes_it(tmp_path: Path) -> None:
    source = _small(1)
    torch.save({"model": source.net.state_dict()}, tmp_path / "deit.pth")
    safetensors.torch.save_file(source.net.state_dict(), tmp_path / "deit.safetensors")
    for name in ("deit.pth", "deit.safetensors"):
        student = _small(2)
        assert not init_from(student, read_initial(tmp_path / name).state).fresh
        assert torch.equal(student.net.state_dict()["dist_token"], source.net.state_dict()["dist_token"])


def test_a_run_and_an_exported_folder(tmp_path: Path) -> None:
    source, ema = _small(1), _small(3)
    save(_made(tmp_path / "run"), {"spec": {}, "model": source.state_dict(), "ema": ema.state_dict(), "meta": {}})
    safetensors.torch.save_file(source.net.state_dict(), _made(tmp_path / "export") / "model.safetensors")
    for where, averaged, expected in (
        (tmp_path / "run", False, source),
        (tmp_path / "run", True, ema),
        (tmp_path / "run" / "last.pt", False, source),
        (tmp_path / "export", False, source),
    ):
        student = _small(2)
        init_from(student, read_initial(where, ema=averaged).state)
        assert torch.equal(_state(student)["net.cls_token"], expected.state_dict()["net.cls_token"])


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (
            {"model": "deit_tiny_patch16_224"},
            {},
            "--init does not fit deit_tiny_distilled_patch16_224: "
            f"it lacks dist_token, head_dist.bias, head_dist.weight. {REMEDY}",
        ),
        (
            {},
            {"model": "deit_tiny_patch16_224"},
            "--init does not fit deit_tiny_patch16_224: "
            f"it has what the student has not: dist_token, head_dist.bias, head_dist.weight. {REMEDY}",
        ),
        (
            {"patch_size": 4, "image_size": 16},
            {},
            "--init does not fit deit_tiny_distilled_patch16_224: "
            f"patch_embed.proj.weight is (64, 3, 4, 4) there, (64, 3, 8, 8) here. {REMEDY}",
        ),
        (
            {"width": 128},
            {},
            "--init: pos_embed of shape (1, 18, 128) is no square grid of patches with 2 tokens of width 64, "
            f"as deit_tiny_distilled_patch16_224 needs. {REMEDY}",
        ),
    ],
)
def test_another_architecture_is_refused(source: dict[str, Any], target: dict[str, Any], message: str) -> None:
    student = _small(2, **target)
    before = _state(student)
    with pytest.raises(StudentError) as error:
        init_from(student, _small(1, **source).state_dict())
    assert str(error.value) == message
    assert all(torch.equal(a, b) for a, b in zip(_state(student).values(), before.values(), strict=True))


def test_a_position_embedding_that_is_no_row_of_patches_is_not_resampled() -> None:
    sources = [StudentSpec(model="pit_ti_distilled_224", num_classes=3, image_size=size) for size in (64, 96)]
    with pytest.raises(StudentError, match=r"pos_embed is .* there, .* here"):
        init_from(build(sources[1]), build(sources[0]).state_dict())


def test_weights_that_are_not_finite_are_refused() -> None:
    state = _state(_small(1))
    state["net.blocks.0.mlp.fc1.weight"][0, 0] = torch.nan
    with pytest.raises(StudentError) as error:
        init_from(_small(2), state, where="--init w.pth")
    assert str(error.value) == (
        "--init w.pth: blocks.0.mlp.fc1.weight holds values that are not finite. Start from an earlier checkpoint."
    )


def test_a_place_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudentError) as error:
        read_initial(tmp_path / "nowhere")
    assert str(error.value) == f"--init {tmp_path / 'nowhere'}: no such file or directory."


def test_a_moving_average_that_is_not_there_is_refused(tmp_path: Path) -> None:
    source = _small(1)
    run = _made(tmp_path / "run")
    save(run, {"spec": {}, "model": source.state_dict(), "ema": None, "meta": {}})
    export = _made(tmp_path / "export") / "model.safetensors"
    safetensors.torch.save_file(source.net.state_dict(), export)
    torch.save(source.net.state_dict(), tmp_path / "deit.pth")
    remedy = "Leave --init-ema out, or give a run that was trained with --ema."
    for path, message in (
        (run, f"{run}/last.pt holds no moving average of the weights."),
        (export.parent, f"{export} is no checkpoint of student.train and holds one set of weights."),
        (tmp_path / "deit.pth", f"{tmp_path}/deit.pth is no checkpoint of student.train and holds one set of weights."),
    ):
        assert read_initial(path)
        with pytest.raises(StudentError) as error:
            read_initial(path, ema=True)
        assert str(error.value) == f"--init-ema: {message} {remedy}"


def test_whose_a_file_is_tells_its_end_and_not_its_name(tmp_path: Path) -> None:
    source, averaged = _small(1), _small(3)
    run = _made(tmp_path / "run")
    save(run, {"spec": {}, "model": source.state_dict(), "ema": averaged.state_dict(), "meta": {}})
    torch.save(source.net.state_dict(), tmp_path / "timm.pt")
    (run / "last.pt").rename(tmp_path / "ours.pth")
    for name in ("timm.pt", "ours.pth"):
        student = _small(2)
        init_from(student, read_initial(tmp_path / name).state)
        assert torch.equal(_state(student)["net.cls_token"], source.state_dict()["net.cls_token"])
    assert torch.equal(
        read_initial(tmp_path / "ours.pth", ema=True).state["net.cls_token"], _state(averaged)["net.cls_token"]
    )


def test_in_a_run_directory_a_file_that_was_cut_short_is_refused_as_such(tmp_path: Path) -> None:
    run = _made(tmp_path / "run")
    last = save(run, {"spec": {}, "model": _small(1).state_dict(), "ema": None, "meta": {}})
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(StudentError, match="is cut short, or not a checkpoint of"):
        read_initial(run)
    with pytest.raises(WeightsError, match="cannot be read as tensors"):
        read_initial(last)
