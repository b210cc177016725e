"""Drop path that belongs to the item: whoever trains on it, in whatever micro-batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.layers.drop import DropPath

from student.network.drop_path import ItemDropPath
from student.network.model import Student, StudentSpec, build

SPEC = StudentSpec(num_classes=5, image_size=32, patch_size=8, width=32, depth=3, heads=2, drop_path=0.4)


def student() -> Student:
    return build(SPEC, seed=1).train()


def test_rates_and_factors() -> None:
    masks = ItemDropPath.install(student(), seed=3)
    assert masks.rate_L == pytest.approx((0.2, 0.2, 0.4, 0.4))
    row_B = np.arange(20_000)
    scale_LB = torch.from_numpy(masks.draw(0, row_B, np.zeros_like(row_B)))
    for rate, scale_B in zip(masks.rate_L, scale_LB, strict=True):
        assert scale_B.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)])
        assert float((scale_B == 0).float().mean()) == pytest.approx(rate, abs=0.015)
    assert abs(np.corrcoef(scale_LB.numpy())[0, 1]) < 0.03


def test_a_mask_depends_on_the_item_and_the_epoch_alone() -> None:
    masks = ItemDropPath.install(student(), seed=3)
    row_B, view_B = np.array([5, 9, 2**33, 5]), np.array([0, 0, 7, 1])
    whole = masks.draw(4, row_B, view_B)
    assert np.array_equal(masks.draw(4, row_B[::-1], view_B[::-1]), whole[:, ::-1])
    many = np.arange(500), np.zeros(500, np.int64)
    base = masks.draw(4, *many)
    other_seed = ItemDropPath.install(student(), seed=4).draw(4, *many)
    for other in (masks.draw(5, *many), masks.draw(4, many[0], many[1] + 1), other_seed):
        assert 0.3 < float((other != base).mean()) < 0.6


def test_factors_act_as_timm_says() -> None:
    """With every factor 1 it is the network without drop path; an item whose branches are all dropped sees no block."""
    net, plain = student(), build(SPEC, seed=1).eval()
    masks = ItemDropPath.install(net, seed=3)
    x_BCHW = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    masks.use(torch.ones(4, 2))
    assert torch.allclose(net(x_BCHW).cls, plain(x_BCHW).cls, atol=1e-6)
    masks.use(torch.tensor([[0.0, 1.0]] * 4))
    only_first_block = build(StudentSpec(**{**SPEC.to_json(), "depth": 1, "drop_path": 0.0}), seed=1)
    only_first_block.load_state_dict(plain.state_dict(), strict=False)
    assert torch.allclose(net(x_BCHW).cls[0], only_first_block(x_BCHW).cls[0], atol=1e-6)
    assert torch.allclose(net(x_BCHW).cls[1], plain(x_BCHW).cls[1], atol=1e-6)


def test_no_effect_in_evaluation_and_on_the_state() -> None:
    net, plain = student(), build(SPEC, seed=1)
    ItemDropPath.install(net, seed=3)
    assert net.state_dict().keys() == plain.state_dict().keys()
    x_BCHW = torch.ones(1, 3, 32, 32)
    assert torch.equal(net.eval()(x_BCHW).cls, plain.eval()(x_BCHW).cls)


def test_a_student_whose_patches_stand_in_the_batch() -> None:
    """As in TNT, whose inner blocks see one patch as one item."""
    net = torch.nn.Sequential(DropPath(0.5)).train()
    masks = ItemDropPath.install(net, seed=3)
    masks.use(torch.tensor([[0.0, 2.0]]))
    assert net(torch.ones(6, 4))[:, 0].tolist() == [0, 0, 0, 2, 2, 2]


def test_a_student_without_drop_path() -> None:
    masks = ItemDropPath.install(build(StudentSpec(**{**SPEC.to_json(), "drop_path": 0.0}), seed=1), seed=3)
    assert masks.draw(0, np.arange(3), np.arange(3)).shape == (0, 3)
