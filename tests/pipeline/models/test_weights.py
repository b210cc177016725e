"""Weights are data: read without executing, loaded without a gap, identified by their bytes."""

import pickle
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from pipeline.errors import WeightsError
from pipeline.models.weights import load_strictly, read_weights, weights_digest
from tests.campaign.shapes import oddities


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("sprung"),))


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_the_same_weights_have_one_digest_whatever_file_they_came_from(tmp_path):
    state = small().state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "w.pth")
    assert (
        weights_digest(read_weights(tmp_path / "w.safetensors"))
        == weights_digest(read_weights(tmp_path / "w.pth"))
        == weights_digest(state)
    )


@pytest.mark.parametrize("change", ["value", "name", "dtype", "shape"])
def test_any_change_changes_the_digest(change):
    state = {"a": torch.arange(6.0), "b": torch.ones(2)}
    other = dict(state)
    if change == "value":
        other["a"] = state["a"] + 1e-6
    elif change == "name":
        other["c"] = other.pop("b")
    elif change == "dtype":
        other["b"] = state["b"].double()
    else:
        other["a"] = state["a"].reshape(2, 3)
    assert weights_digest(other) != weights_digest(state)


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": Trap()}))
    torch.save({"state_dict": Trap()}, tmp_path / "evil2.pth")
    for name in ("evil.pth", "evil2.pth"):
        with pytest.raises(WeightsError, match="cannot be read as tensors"):
            read_weights(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 64])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_damaged_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        read_weights(tmp_path / name)


def test_a_checkpoint_that_inflates_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000))
    with pytest.raises(WeightsError, match=r"'archive/data.pkl' is compressed, from 10,000 bytes to \d+, and torch"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("expanded", "is expanded"),
        ("sparse", "is sparse"),
        ("in compressed rows", "is sparse"),
        ("quantised", "is quantised"),
        ("meta", "is on the meta device"),
        ("complex", "is complex"),
        ("overlapping", "is expanded"),
    ],
)
def test_a_tensor_that_is_not_its_numbers_is_refused_by_name(tmp_path, name, words):
    torch.save({"state_dict": {"a": torch.ones(2), "b.weight": oddities()[name]}}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=rf"tensor 'state_dict\.b\.weight' {words}"):
        read_weights(tmp_path / "w.pth")


def test_transposed_shared_and_sliced_tensors_are_plain(tmp_path):
    whole = torch.arange(60.0).reshape(3, 4, 5)
    state = {"a": whole, "b": whole.permute(2, 0, 1), "c": whole[1, :, 2:], "d": nn.Parameter(whole[0])}
    torch.save(state, tmp_path / "w.pth")
    found = read_weights(tmp_path / "w.pth")
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_what_is_nested_in_itself_is_looked_at_once(tmp_path):
    deep: list[object] = [torch.ones(1)]
    for _ in range(40):  # looked at one by one, these were 2^40
        deep = [deep, deep]
    torch.save({"a": torch.ones(1), "b": deep}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no state dict"):
        read_weights(tmp_path / "w.pth")


def test_a_checkpoint_of_somebody_elses_making_is_told_by_its_keys(tmp_path):
    torch.save({"model_state_dict": {"a": torch.ones(1)}, "epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(
        WeightsError, match=r"Its keys: model_state_dict, epoch\. Save the state dict alone, or under one"
    ):
        read_weights(tmp_path / "w.pth")


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        read_weights(tmp_path / "none.safetensors")


def test_loading_is_strict_about_names_and_shapes():
    model, state = small(), small().state_dict()
    with pytest.raises(WeightsError, match=r"misses 0.weight \(1 of 7\)"):
        load_strictly(model, {k: v for k, v in state.items() if k != "0.weight"}, "w")
    with pytest.raises(WeightsError, match="unknown tensors: extra"):
        load_strictly(model, {**state, "extra": torch.ones(1)}, "w")
    with pytest.raises(WeightsError, match=r"0.weight has shape \(5, 3\), the model \(4, 3\)"):
        load_strictly(model, {**state, "0.weight": torch.ones(5, 3)}, "w")
    load_strictly(model, state, "w")


def test_counters_of_batch_norms_may_be_absent():
    """Files older than these counters answer as ever; any other tensor that is missing is still refused."""
    state = small().state_dict()
    del state["1.num_batches_tracked"]
    model = small()
    nn.init.zeros_(model[0].weight)
    load_strictly(model, state, "w.safetensors")
    assert torch.equal(model[0].weight, state["0.weight"]) and model[1].num_batches_tracked == 0
    del state["1.running_mean"]
    with pytest.raises(WeightsError, match=r"misses 1\.running_mean"):
        load_strictly(model, state, "w.safetensors")
