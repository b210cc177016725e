"""Dropout that belongs to the item: whoever trains on it, in whatever micro-batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from student.network.dropout import ItemDropout, drops_by_itself, kept
from student.network.model import StudentSpec, build
from tests.small_engines import engine, parameters, step

SPEC = StudentSpec(num_classes=5, image_size=32, patch_size=8, width=32, depth=1, heads=2, drop_path=0.0, drop=0.25)


def keys(count: int, epoch: int = 0, seed: int = 3) -> torch.Tensor:
    row_B = np.arange(count)
    drops = ItemDropout.install(nn.Sequential(nn.Dropout(0.5)), seed)
    return torch.from_numpy(drops.draw(epoch, row_B, row_B * 0))


def test_rate_and_independence() -> None:
    key_2B = keys(4000)
    for p in (0.1, 0.25, 0.9):
        kept_BN = kept(key_2B, 1, 64, p).double()
        assert float(kept_BN.mean()) == pytest.approx(1 - p, abs=0.004)
        assert (kept_BN.mean(0) - (1 - p)).abs().max() < 0.03 and (kept_BN.mean(1) - (1 - p)).abs().max() < 0.3
    base = kept(key_2B, 1, 64, 0.5).double()
    others = (kept(key_2B, 2, 64, 0.5), kept(keys(4000, epoch=1), 1, 64, 0.5), kept(keys(4000, seed=4), 1, 64, 0.5))
    for other in (*others, base.bool().roll(1, 0), base.bool().roll(1, 1)):
        assert abs(np.corrcoef(base.flatten(), other.double().flatten())[0, 1]) < 0.01
    assert torch.corrcoef(base.T).sub(torch.eye(64)).abs().max() < 0.09  # 64 numbers of 4,000 items


def test_both_heads_of_a_distilled_student_drop_otherwise() -> None:
    net = build(SPEC, seed=1).train()
    drops = ItemDropout.install(net, seed=3)
    assert [module.p for module in drops.modules] == [0.25]
    drops.use(keys(2))
    once, twice = drops.modules[0](torch.ones(2, 32)), drops.modules[0](torch.ones(2, 32))
    assert once.unique().tolist() == pytest.approx([0.0, 1 / 0.75]) and not torch.equal(once, twice)
    drops.use(keys(2))
    assert torch.equal(drops.modules[0](torch.ones(2, 32)), once)
    assert torch.equal(drops.modules[0].eval()(torch.ones(2, 32)), torch.ones(2, 32))
    assert net.state_dict().keys() == build(SPEC, seed=1).state_dict().keys()


def test_micro_batches_drop_what_the_whole_drops() -> None:
    moved = []
    for accumulate in (1, 3, 12):
        trained = engine(accumulate=accumulate, drop=0.3, opt="sgd", lr=1.0)
        trained.learn(step(), 0)
        moved.append(parameters(trained.student))
    assert torch.allclose(moved[0], moved[1], rtol=0, atol=2e-6) and torch.allclose(
        moved[0], moved[2], rtol=0, atol=2e-6
    )
    plain = engine(opt="sgd", lr=1.0)
    plain.learn(step(), 0)
    assert not torch.allclose(moved[0], parameters(plain.student), rtol=0, atol=1e-4)


def test_an_architecture_that_drops_by_itself_is_told(caplog: pytest.LogCaptureFixture) -> None:
    itself = build(StudentSpec(model="test_efficientnet", num_classes=5, image_size=32, drop_path=0.0, drop=0.2))
    assert drops_by_itself(itself, 0.2, ItemDropout.install(itself, 0))
    engine(model="test_efficientnet", patch_size=None, width=None, depth=None, heads=None, drop_path=0.0, drop=0.2)
    assert "draws its dropout by itself" in caplog.text
    caplog.clear()
    engine(drop=0.2)
    assert not caplog.text
