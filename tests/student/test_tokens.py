"""How alike the two tokens are, computed another way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch.nn.functional import cosine_similarity

from pipeline.errors import StudentError
from student import tokens
from student.judging.token_similarity import Similarity, _exact
from student.network.model import StudentSpec, build
from tests.pictures import tiny_shards
from tests.saved_runs import SMALL, save_run
from tests.small_students import rank_env


def _images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_each_block_by_walking_through_the_network() -> None:
    student = build(StudentSpec(**{**SMALL, "depth": 3}), seed=1).eval()
    net: Any = student.net
    images = _images(5)
    similarity = Similarity(student)
    similarity.add(images[:2])
    similarity.add(images[2:])
    found = similarity.summary()
    with torch.inference_mode():
        x = net._pos_embed(net.patch_embed(images))
        for number, block in enumerate(net.blocks):
            x = block(x)
            cosine = cosine_similarity(x[:, 0], x[:, 1], dim=-1).double()
            assert found["blocks"][number]["mean"] == pytest.approx(cosine.mean().item(), abs=2e-6)
            deviation = cosine.std(correction=0).item()
            assert found["blocks"][number]["deviation"] == pytest.approx(deviation, abs=2e-5)
        x = net.norm(x)
        assert found["norm"]["mean"] == pytest.approx(
            cosine_similarity(x[:, 0], x[:, 1], dim=-1).mean().item(), abs=2e-6
        )
        heads = student(images)
    assert found["heads_agree"] == pytest.approx((heads.cls.argmax(-1) == heads.dist.argmax(-1)).double().mean().item())
    start = cosine_similarity(net.cls_token[0, 0], net.dist_token[0, 0], dim=0).item()
    assert found["input"]["tokens"] == pytest.approx(start, abs=2e-6)
    rows = cosine_similarity(net.head.weight, net.head_dist.weight, dim=-1)
    assert found["weight_rows"]["mean"] == pytest.approx(rows.mean().item(), abs=2e-6)
    assert found["images"] == 5 and len(found["blocks"]) == 3


def test_one_and_the_same_token_twice_is_alike_everywhere() -> None:
    student = build(StudentSpec(**SMALL), seed=1).eval()
    net = cast(Any, student.net)
    with torch.no_grad():
        net.dist_token.copy_(net.cls_token)
        net.pos_embed[:, 1] = net.pos_embed[:, 0]
        net.head_dist.load_state_dict(net.head.state_dict())
    similarity = Similarity(student)
    similarity.add(_images(3))
    found = similarity.summary()
    means = [place["mean"] for place in (*found["blocks"], found["norm"])]
    assert means == pytest.approx([1.0] * 3, abs=1e-6) and found["heads_agree"] == 1.0
    assert found["input"] == {"tokens": 1.0, "tokens_with_position": 1.0}
    assert found["weight_rows"] == {"mean": 1.0, "least": 1.0, "most": 1.0}


def _look(folder: Path, *flags: str) -> Result:
    line = ["--checkpoint", str(folder / "run"), "--shards", str(folder / "data/*.tar"), "--device", "cpu"]
    return CliRunner().invoke(tokens.main, [*line, "--workers", "0", *flags], catch_exceptions=False)


def test_the_command_writes_json_and_a_curve(tmp_path: Path) -> None:
    save_run(tmp_path / "run")
    tiny_shards(tmp_path / "data", 9, classes=4)
    out, plot = tmp_path / "tokens.json", tmp_path / "tokens.png"
    result = _look(tmp_path, "--out", str(out), "--plot", str(plot), "--batch", "4")
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text())["images"] == 9
    with Image.open(plot) as picture:
        assert min(picture.size) > 200
    assert result.stdout.splitlines()[-1] == f"wrote {out}, {plot}"


def test_a_student_without_a_distillation_token_is_refused(tmp_path: Path) -> None:
    save_run(tmp_path / "run", model="deit_tiny_patch16_224")
    tiny_shards(tmp_path / "data", 2)
    result = _look(tmp_path)
    assert result.exit_code == 1 and result.stderr == (
        "error: deit_tiny_patch16_224 has no distillation token to look at. "
        "Train a distilled DeiT, deit_tiny_distilled_patch16_224 for example.\n"
    )
    with pytest.raises(StudentError):
        Similarity(build(StudentSpec(model="levit_128s", num_classes=3, image_size=64)))


def test_a_lost_rank_ends_it_within_the_time_out_that_is_asked_for(tmp_path: Path) -> None:
    save_run(tmp_path / "run")
    tiny_shards(tmp_path / "data", 2)
    env = {**rank_env(2)[0], "DISTILL_TIMEOUT": "2"}  # rank 0 of 2, and nobody else
    line = ["--checkpoint", str(tmp_path / "run"), "--shards", str(tmp_path / "data/*.tar"), "--device", "cpu"]
    result = CliRunner().invoke(tokens.main, [*line, "--workers", "0"], env=env, catch_exceptions=False)
    assert result.exit_code == 1 and "time-out 2 s" in result.stderr, result.output


def test_similarity_is_exact_on_the_cpu_alone() -> None:
    """Apple's devices know no float64."""
    student = build(StudentSpec(**SMALL), seed=1).eval()
    moved: list[str] = []

    class Watched(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            moved.append(func.__name__)
            return super().__torch_function__(func, types, args, kwargs or {})

    _exact(torch.ones(2, 2).as_subclass(Watched))
    assert moved.index("cpu") < moved.index("double")
    assert Similarity(student).summary()["images"] == 0
