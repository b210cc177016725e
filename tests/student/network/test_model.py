"""Students as described: both heads always, sizes that are really taken, errors that name the flag."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from pipeline.errors import StudentError
from student.network.model import Heads, Student, StudentSpec, build, fuse, require_taken

SMALL: dict[str, Any] = {"num_classes": 7, "image_size": 32, "patch_size": 8, "width": 64, "depth": 2, "drop_path": 0.0}


def _small(**changes: Any) -> Student:
    return build(StudentSpec(**{**SMALL, **changes}), seed=1)


def _images(size: int = 32) -> Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_both_heads_in_training_and_in_evaluation() -> None:
    student, images = _small(), _images()
    trained, evaluated = student.train()(images), student.eval()(images)
    for heads in (trained, evaluated):
        assert heads.cls.shape == (3, 7) and heads.dist is not None and heads.dist.shape == (3, 7)
        assert not torch.equal(heads.cls, heads.dist)
    assert torch.equal(trained.cls, evaluated.cls)


def test_fused_logits_are_timms_own_answer() -> None:
    student, images = _small().eval(), _images()
    plain = timm.create_model(
        student.spec.model, num_classes=7, img_size=32, patch_size=8, embed_dim=64, num_heads=1, depth=2
    )
    plain.load_state_dict(student.net.state_dict())
    assert torch.equal(plain.eval()(images), fuse(student(images)))


def test_fused_probabilities_are_the_mean_of_the_heads() -> None:
    heads = Heads(torch.tensor([[0.0, 90.0, -90.0]]), torch.tensor([[2.0, 1.0, 0.0]]))
    assert heads.dist is not None
    expected = (heads.cls.softmax(-1) + heads.dist.softmax(-1)) / 2
    torch.testing.assert_close(fuse(heads, "probabilities").exp(), expected)
    assert fuse(Heads(heads.cls, None), "probabilities") is heads.cls


def test_evaluation_switches_dropout_and_norms_off() -> None:
    student, images = _small(drop=0.5, drop_path=0.5), _images()
    student.eval()
    assert torch.equal(student(images).cls, student(images).cls)
    modes = {type(module).__name__ for module in student.modules() if module.training}
    assert modes == {"VisionTransformerDistilled"}, "only the module that chooses what to return stays in training"
    student.train()
    assert not torch.equal(student(images).cls, student(images).cls)


def test_a_copy_keeps_its_own_switch() -> None:
    student = _small()
    copied = deepcopy(student).eval()
    assert copied.switches[0] is copied.net and copied(_images()).dist is not None


@pytest.mark.parametrize("name", sorted(set(timm.list_models("deit*distilled*"))))
def test_every_distilled_deit_has_two_heads(name: str) -> None:
    student = build(StudentSpec(model=name, num_classes=5, image_size=32, width=64, depth=1)).eval()
    assert student.two_heads and student.classifiers() == ("head", "head_dist")
    assert student(_images()).dist is not None


@pytest.mark.parametrize(
    ("name", "sizes", "two_heads"),
    [
        ("deit_tiny_patch16_224", {"depth": 1, "image_size": 32}, False),
        ("deit3_small_patch16_224", {"depth": 1, "image_size": 32}, False),
        ("resnet10t", {"image_size": 40}, False),
        ("levit_128s", {"image_size": 64}, True),
        ("repvit_m0_9", {"image_size": 32, "drop_path": 0.0}, True),
    ],
)
def test_any_timm_classifier_is_a_student(name: str, sizes: dict[str, Any], two_heads: bool) -> None:
    student = build(StudentSpec(model=name, num_classes=5, **sizes)).eval()
    heads = student(_images(sizes["image_size"]))
    assert heads.cls.shape == (3, 5) and (heads.dist is not None) == student.two_heads == two_heads
    assert all(f"{head}.weight" in student.net.state_dict() for head in student.classifiers())


def test_heads_follow_the_width() -> None:
    assert _small(width=128).net.blocks[0].attn.num_heads == 2  # type: ignore[union-attr,index]


def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two, other = _small(), _small(), build(StudentSpec(**SMALL), seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one.net.head.weight, two.net.head.weight)  # type: ignore[union-attr,arg-type]
    assert not torch.equal(one.net.head.weight, other.net.head.weight)  # type: ignore[union-attr,arg-type]


def test_a_description_survives_json_and_refuses_strangers() -> None:
    spec = StudentSpec(**SMALL)
    fields = spec.to_json()
    assert StudentSpec.from_json(json.loads(json.dumps(fields))) == spec
    with pytest.raises(StudentError, match="written by another version of this program"):
        StudentSpec.from_json({**fields, "colour": "red"})


EXAMPLE = "choose an architecture that has it (deit_tiny_distilled_patch16_224)."


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model": "resnet10t", "patch_size": 4},
            f"resnet10t has no --patch-size that could be 4. Leave it out, or {EXAMPLE}",
        ),
        ({"model": "resnet10t", "width": 64}, f"resnet10t has no --width that could be 64. Leave it out, or {EXAMPLE}"),
        (
            {"model": "vgg11", "drop_path": 0.1},
            f"vgg11 has no --drop-path that could be 0.1. Set it to 0, or {EXAMPLE}",
        ),
        (
            {"model": "tnt_s_patch16_224", "width": 64},
            f"tnt_s_patch16_224 has no --width that could be 64. Leave it out, or {EXAMPLE}",
        ),
        (
            {"image_size": 40},
            "An image of 40 pixels is no whole number of deit_tiny_distilled_patch16_224's patches of 16. "
            "Choose a multiple of 16 for --image-size, or another --patch-size.",
        ),
        (
            {"image_size": 32, "patch_size": 5},
            "An image of 32 pixels is no whole number of patches of 5. "
            "Choose an image size that is a multiple of the patch size.",
        ),
        (
            {"image_size": 32, "width": 100, "heads": 3},
            "deit_tiny_distilled_patch16_224 cannot be built with --image-size 32, --width 100, --heads 3, "
            "--drop-path 0.1: dim should be divisible by num_heads. Change the sizes so that they fit together.",
        ),
        ({"num_classes": 0}, "num_classes is 0; it must be from 1 to 65536."),
        ({"drop_path": 1.0}, "drop_path is 1.0; it must be at least 0 and below 1."),
        (
            {"model": "hf-hub:timm/deit"},
            "'hf-hub:timm/deit' is a place, not an architecture. Name a timm model, and give weights with --init FILE.",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StudentError) as error:
        build(StudentSpec(**{"num_classes": 5, **fields}))
    assert str(error.value) == message


def test_an_unknown_name_lists_those_near_it() -> None:
    with pytest.raises(StudentError) as error:
        build(StudentSpec(model="deit_tiny_distiled_patch16", num_classes=5))
    assert str(error.value).startswith(
        f"timm {timm.__version__} has no model 'deit_tiny_distiled_patch16'. Near it: deit_"
    )
    assert "deit_tiny_distilled_patch16_224" in str(error.value)


def test_a_size_that_an_architecture_swallows_is_noticed() -> None:
    student = _small()
    with pytest.raises(StudentError) as error:
        require_taken(student.net, StudentSpec(**{**SMALL, "depth": 3}))
    assert (
        str(error.value)
        == f"deit_tiny_distilled_patch16_224 has no --depth that could be 3. Leave it out, or {EXAMPLE}"
    )
