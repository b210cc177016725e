"""A teacher sees with its own statistics and size, has a trained head, and answers finite numbers or not at all."""

import dataclasses
import functools
import json
import re

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from pipeline.errors import DeviceError, MismatchError, TeacherError, WeightsError
from pipeline.teacher.loading import load_teacher
from tests.faults import apart

NET = "resnet10t"


def saved(tmp_path, classes=5, name=NET, **options):
    torch.manual_seed(1)
    model = timm.create_model(name, num_classes=classes, **options)
    path = tmp_path / f"{name}-{classes}.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    return path, model.eval()


def pixels(count=3, size=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_the_answer_is_the_models_with_its_own_statistics(tmp_path):
    path, model = saved(tmp_path)
    teacher = load_teacher(NET, view_size=64, weights=path, device="cpu", input_size="view")
    config = model.pretrained_cfg
    x = torch.from_numpy(pixels()).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(config["mean"]).view(1, 3, 1, 1)) / torch.tensor(config["std"]).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = model(x).numpy()
    np.testing.assert_allclose(teacher(pixels()), expected, atol=2e-5)
    assert teacher.card.classes == 5 and teacher.card.precision == "fp32"


def test_statistics_given_by_hand_are_used_and_recorded(tmp_path):
    path, _ = saved(tmp_path)
    own = load_teacher(NET, view_size=64, weights=path, device="cpu")
    half = load_teacher(NET, view_size=64, weights=path, device="cpu", mean=(0.5,) * 3, std=(0.5,) * 3)
    assert half.card.mean == (0.5, 0.5, 0.5) and own.card.mean != half.card.mean
    assert np.abs(own(pixels()) - half(pixels())).max() > 1e-3


def test_a_convnet_enlarges_small_views_and_takes_large_ones_as_they_are(tmp_path):
    path, model = saved(tmp_path)
    trained = model.pretrained_cfg["input_size"][-1]
    assert load_teacher(NET, view_size=32, weights=path, device="cpu").card.input_size == trained
    assert load_teacher(NET, view_size=288, weights=path, device="cpu").card.input_size == 288
    assert load_teacher(NET, view_size=32, weights=path, device="cpu", input_size="48").card.input_size == 48


def test_a_teacher_tied_to_a_size_keeps_it(tmp_path):
    path, _ = saved(tmp_path, name="vit_tiny_patch16_224", depth=1)
    with pytest.raises(WeightsError, match="belongs to another architecture"):
        load_teacher("vit_tiny_patch16_224", view_size=384, weights=path, device="cpu")
    path, _ = saved(tmp_path, name="vit_tiny_patch16_224")
    teacher = load_teacher("vit_tiny_patch16_224", view_size=384, weights=path, device="cpu")
    assert teacher.card.input_size == 224
    assert teacher(pixels(1, 384)).shape == (1, 5)


def test_a_class_map_picks_and_reorders(tmp_path):
    path, _ = saved(tmp_path)
    whole = load_teacher(NET, view_size=64, weights=path, device="cpu")
    mapped = load_teacher(NET, view_size=64, weights=path, device="cpu", class_map=(4, 0))
    assert mapped.num_classes == 2 and mapped.card.classes == 5
    np.testing.assert_array_equal(mapped(pixels()), whole(pixels())[:, [4, 0]])
    with pytest.raises(MismatchError, match="class 1 to teacher class 5"):
        load_teacher(NET, view_size=64, weights=path, device="cpu", class_map=(4, 5))


def test_a_head_that_is_not_in_the_file_is_refused(tmp_path):
    _, model = saved(tmp_path)
    headless = {k: v for k, v in model.state_dict().items() if not k.startswith("fc.")}
    safetensors.torch.save_file(headless, tmp_path / "headless.safetensors")
    with pytest.raises(TeacherError, match=r"no tensor fc\.weight: a teacher without a trained head is refused"):
        load_teacher(NET, view_size=64, weights=tmp_path / "headless.safetensors", device="cpu")


def test_weights_of_another_architecture_are_refused(tmp_path):
    path, _ = saved(tmp_path)
    with pytest.raises(WeightsError, match="belongs to another architecture"):
        load_teacher("resnet18", view_size=64, weights=path, device="cpu")


def test_an_unknown_model_names_near_ones(tmp_path):
    with pytest.raises(TeacherError, match=r"no model 'regnety_161'; near it: .*regnety_16"):
        load_teacher("regnety_161", view_size=64, device="cpu")


def test_pretrained_weights_that_cannot_be_had_are_an_error_with_a_remedy(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TeacherError, match=r"cannot be had: .*--weights"):
        load_teacher("regnety_002.pycls_in1k", view_size=64, device="cpu")


def test_a_local_folder_brings_its_own_configuration(tmp_path):
    path, model = saved(tmp_path, classes=3)
    config = {"architecture": NET, "num_classes": 3, "num_features": 512}
    config["pretrained_cfg"] = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 48, 48]}
    config["pretrained_cfg"] |= {"num_classes": 3, "classifier": "fc", "first_conv": "conv1.0"}
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "config.json").write_text(json.dumps(config))
    (tmp_path / "teacher" / "model.safetensors").write_bytes(path.read_bytes())
    teacher = load_teacher(f"local-dir:{tmp_path / 'teacher'}", view_size=48, device="cpu")
    assert (teacher.card.mean, teacher.card.input_size, teacher.num_classes) == ((0.1, 0.2, 0.3), 48, 3)
    with torch.no_grad():
        x = torch.from_numpy(pixels(2, 48)).permute(0, 3, 1, 2).float() / 255
        x = (x - torch.tensor((0.1, 0.2, 0.3)).view(1, 3, 1, 1)) / torch.tensor((0.4, 0.5, 0.6)).view(1, 3, 1, 1)
        np.testing.assert_allclose(teacher(pixels(2, 48)), model(x).numpy(), atol=2e-5)


class Flat(nn.Module):
    """Mean colour, times a matrix: a model of the user's own."""

    num_classes, mean, std, input_size = 3, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 16

    def __init__(self, value=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3) * value)

    def forward(self, x):
        return x.mean((2, 3)) @ self.weight


def flat():
    return Flat()


def overflowing():
    return Flat(float("inf"))


def not_a_model():
    return "model"


def small_of_timm():
    model = timm.create_model(NET, num_classes=4)
    model.mean, model.std, model.input_size = (0.1, 0.2, 0.3), (0.7, 0.8, 0.9), 64
    return model


def test_what_a_model_of_ones_own_says_goes_before_what_timm_knew_of_it():
    card = load_teacher(f"{__name__}:small_of_timm", view_size=64, device="cpu").card
    assert (card.classes, card.mean, card.std, card.input_size) == (4, (0.1, 0.2, 0.3), (0.7, 0.8, 0.9), 64)


def test_a_model_of_the_users_own(tmp_path):
    teacher = load_teacher("tests.pipeline.teacher.test_teacher:flat", view_size=64, device="cpu", input_size="view")
    expected = pixels().mean((1, 2)) / 255 * 2 - 1
    np.testing.assert_allclose(teacher(pixels()), expected, atol=1e-5)
    torch.save({"weight": torch.eye(3) * 2}, tmp_path / "w.pth")
    doubled = load_teacher(
        "tests.pipeline.teacher.test_teacher:flat",
        view_size=64,
        device="cpu",
        weights=tmp_path / "w.pth",
        input_size="view",
    )
    np.testing.assert_allclose(doubled(pixels()), 2 * expected, atol=2e-5)
    assert doubled.card.weights_sha256 != teacher.card.weights_sha256


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.pipeline.teacher.test_teacher:absent", "cannot be imported"),
        ("no_such_module:model", "cannot be imported"),
        ("tests.pipeline.teacher.test_teacher:not_a_model", "returned a str"),
    ],
)
def test_a_function_that_gives_no_model_is_refused(name, message):
    with pytest.raises(TeacherError, match=message):
        load_teacher(name, view_size=64, device="cpu")


def test_an_answer_that_is_not_finite_stops_the_run():
    teacher = load_teacher("tests.pipeline.teacher.test_teacher:overflowing", view_size=64, device="cpu")
    with pytest.raises(TeacherError, match=r"answered (nan|inf|-inf) for class \d of view 0 .*--precision fp32"):
        teacher(pixels())


def test_a_device_that_is_not_here_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(DeviceError, match="--device cuda cannot be used here"):
        load_teacher("tests.pipeline.teacher.test_teacher:flat", view_size=64, device="cuda")


def test_bf16_is_near_fp32_and_says_so(tmp_path):
    path, _ = saved(tmp_path)
    exact = load_teacher(NET, view_size=64, weights=path, device="cpu", input_size="view")
    half = load_teacher(NET, view_size=64, weights=path, device="cpu", input_size="view", precision="bf16")
    assert half.card.precision == "bf16" and half(pixels()).dtype == np.float32
    assert 0 < np.abs(half(pixels()) - exact(pixels())).max() < 0.1


def traced(**options):
    return load_teacher("tests.pipeline.teacher.test_teacher:flat", view_size=16, device="cpu", **options)


def test_a_compiled_teacher_is_another_and_its_card_builds_it_again():
    eager, compiled = traced(precision="bf16"), traced(precision="bf16", compiled=True)
    assert (eager.card.precision, compiled.card.precision) == ("bf16", "bf16+compile")
    assert compiled.card == dataclasses.replace(eager.card, precision="bf16+compile")
    again = traced(precision=compiled.card.precision)
    assert again.card == compiled.card and again.precision == "bf16"
    with pytest.raises(TeacherError, match="no teacher runs in precision 'fp8\\+compile'; fp32, bf16, fp16 are known"):
        traced(precision="fp8+compile")


@apart  # once torch.compile has traced, no fork of a process that has ever gone backward can do so
def test_a_compiled_teacher_has_one_graph_for_batches_of_any_length(monkeypatch, caplog):
    """Traced as by torch.compile, and run by nobody: what a compiler would be given is looked at."""
    torch.compiler.reset()
    graphs = []

    def seen(graph, inputs):
        sizes = [tuple(x.shape) for x in inputs if isinstance(x, torch.Tensor)]
        graphs.append((sizes, any(isinstance(x, torch.SymInt) for x in inputs)))
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=seen))
    caplog.set_level("INFO")
    teacher, eager = traced(compiled=True, batch_size=8), traced(batch_size=8)
    for count in (3, 8, 5, 8):
        np.testing.assert_array_equal(teacher(pixels(count, 16)), eager(pixels(count, 16)))
    [(sizes, symbolic)] = graphs
    assert (8, 3, 16, 16) in sizes and not symbolic
    assert re.findall(r"--compile: the first batch took [\d.]+ s, compilation included", caplog.text) == [
        caplog.messages[-1]
    ]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["resnet10t", "test_vit", "test_efficientnet", "test_convnext"])
def test_an_answer_does_not_depend_on_what_a_batch_is_filled_with(tmp_path, name, precision):
    """In a batch of 8, three views have the same answers beside nothing, beside grey and beside other pictures."""
    path, _ = saved(tmp_path, name=name)
    teacher = load_teacher(
        name, view_size=64, weights=path, device="cpu", input_size="view", batch_size=8, precision=precision
    )
    alone = teacher(pixels(3))
    teacher.fills = True
    filled = teacher(pixels(3))
    for rest in (np.full((5, 64, 64, 3), 128, np.uint8), pixels(5, seed=1)):
        assert np.array_equal(teacher(np.concatenate([pixels(3), rest]))[:3], filled)
    assert np.abs(filled - alone).max() <= (1e-4 if precision == "fp32" else 0.1)
