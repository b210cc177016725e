"""A fitted teacher is a function of its contract: resumed, finished, refused; and teacher_logits can ask it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner

from pipeline.shards.index import scan
from pipeline.shards.patterns import expand
from pipeline.teacher.fit import Fit, FitSettings, order_of, smoothed_loss, targets
from pipeline.teacher.loading import load_teacher
from pipeline.views.mixing import plan_mixing
from pipeline.views.recipe import Recipe
from stages.fit_teacher import main
from stages.teacher_logits import main as label
from tests.faults import Calls
from tests.pictures import jpeg, sample, tiny_shards, write_tar

NET = "test_resnet"
NAMES = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    tiny_shards(folder, rows=30, shards=2, classes=3, class_names=NAMES)
    return f"{folder}/*.tar"


def arguments(shards, out, *more):
    fixed = ["--model", NET, "--image-size", 32, "--recipe", "light", "--batch", 16, "--workers", 0, "--device", "cpu"]
    return [str(a) for a in ("--shards", shards, "--out", out, *fixed, "--log-level", "error", *more)]


def fit(*args, expect=0):
    result = CliRunner().invoke(main, arguments(*args))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == expect, result.output
    return result.output


@pytest.fixture(scope="module")
def fitted(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("fitted") / "teacher"
    fit(shards, out, "--epochs", 2, "--val-shards", shards, "--history", out.parent / "curve.csv")
    return out


def tree(root: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(root.iterdir())}


def test_what_it_writes_is_what_timm_and_the_teacher_load(fitted, shards):
    assert sorted(tree(fitted)) == ["config.json", "fit.json", "model.safetensors"]
    config = json.loads((fitted / "config.json").read_text())
    assert config["label_names"] == NAMES and config["num_classes"] == 3
    teacher = load_teacher(f"local-dir:{fitted}", view_size=32, device="cpu")
    assert teacher.num_classes == 3 and teacher.card.input_size == 32
    pixels_BHWC = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    state = safetensors.torch.load_file(fitted / "model.safetensors")
    import timm

    model = timm.create_model(NET, num_classes=3).eval()
    model.load_state_dict(state)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (teacher.card.mean, teacher.card.std))
    with torch.inference_mode():
        x_BCHW = (torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2).float() - mean) / std
        expected_BK = model(x_BCHW).numpy()
    np.testing.assert_allclose(teacher(pixels_BHWC), expected_BK, atol=1e-4)


def test_labels_of_other_views_than_it_was_fitted_to_are_told(fitted, shards, tmp_path):
    line = ["--shards", shards, "--model", f"local-dir:{fitted}", "--image-size", "32", "--mix-window", "2"]
    line += ["--views", "1", "--workers", "0", "--device", "cpu", "--out", str(tmp_path / "s.zarr")]
    said = CliRunner().invoke(label, [*line, "--recipe", "deit"]).output
    assert f"the teacher in {fitted} was fitted to other views" in said and "'' against 'rand-m9" in said
    said = CliRunner().invoke(label, [*line, "--recipe", "light", "--out", str(tmp_path / "t.zarr")]).output
    assert "other views" not in said and (tmp_path / "t.zarr/COMPLETE").exists()


def test_it_is_seen_as_it_will_be_seen(shards, tmp_path):
    fit(shards, tmp_path / "teacher", "--epochs", 1, "--input-size", 48)
    teacher = load_teacher(f"local-dir:{tmp_path / 'teacher'}", view_size=32, device="cpu")
    assert teacher.card.input_size == 48


def test_stopped_and_started_again_it_ends_with_the_same_bytes(fitted, shards, tmp_path, monkeypatch):
    import stages.fit_teacher as stage

    epoch = stage.run_epoch

    def interrupted(run, *rest):
        if run.epoch == 1:
            raise KeyboardInterrupt
        epoch(run, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(stage, "run_epoch", interrupted)
        fit(shards, tmp_path / "teacher", "--epochs", 2, "--val-shards", shards, expect=130)
    assert sorted(tree(tmp_path / "teacher")) == ["last.pt"]
    fit(shards, tmp_path / "teacher", "--epochs", 2, "--val-shards", shards)
    assert tree(tmp_path / "teacher") == tree(fitted)


def test_finished_before_it_only_reports(fitted, shards, tmp_path):
    before = tree(fitted)
    output = fit(shards, fitted, "--epochs", 2, "--metrics", tmp_path / "m.json", "--history", tmp_path / "c.csv")
    assert "(finished before)" in output and tree(fitted) == before
    assert set(json.loads((tmp_path / "m.json").read_text())) == {"loss", "val_loss", "val_top1"}
    assert (tmp_path / "c.csv").read_text() == (fitted.parent / "curve.csv").read_text()
    assert (tmp_path / "c.csv").read_text().splitlines()[0] == "epoch,loss,val_loss,val_top1"


def test_other_flags_are_refused_with_both_values_or_begin_anew(shards, tmp_path):
    out = tmp_path / "teacher"
    fit(shards, out, "--epochs", 1)
    before = tree(out)
    output = fit(shards, out, "--epochs", 1, "--lr", 0.01, expect=1)
    assert output == (
        f"error: {out} holds a teacher that was fitted otherwise: settings.lr: 0.001 then, 0.01 now. Give the flags "
        "that it was begun with, another --out, or --if-changed restart to fit it anew.\n"
    )
    assert tree(out) == before
    fit(shards, out, "--epochs", 1, "--lr", 0.01, "--if-changed", "restart")
    assert json.loads((out / "fit.json").read_text())["contract"]["settings"]["lr"] == 0.01
    assert tree(tmp_path / "teacher.previous") == before, "set aside, and not removed"


def test_a_fit_that_is_killed_leaves_the_teacher_that_it_was_to_replace(shards, tmp_path, monkeypatch):
    out = tmp_path / "teacher"
    fit(shards, out, "--epochs", 1)
    before = tree(out)

    import stages.fit_teacher as stage

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(stage, "run_epoch", interrupted)
        fit(shards, out, "--epochs", 2, "--if-changed", "restart", expect=130)
    assert tree(tmp_path / "teacher.previous") == before
    fit(shards, out, "--epochs", 2, "--if-changed", "restart")
    assert tree(tmp_path / "teacher.previous") == before and not (tmp_path / "teacher.previous-2").exists()


def test_a_fit_that_is_killed_at_its_very_end_goes_when_it_is_replaced(shards, tmp_path, monkeypatch):
    from pipeline.teacher import fit_folder

    def killed(_model, path, **_):
        Path(path).write_text("{")
        raise KeyboardInterrupt

    out = tmp_path / "teacher"
    fit(shards, out, "--epochs", 1)
    before = tree(out)
    with monkeypatch.context() as patched:
        patched.setattr(fit_folder, "save_config_for_hf", killed)
        fit(shards, out, "--epochs", 1, "--lr", 0.01, "--if-changed", "restart", expect=130)
    fit(shards, out, "--epochs", 1, "--lr", 0.02, "--if-changed", "restart")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["teacher", "teacher.previous"]
    assert tree(tmp_path / "teacher.previous") == before


def test_a_folder_of_someone_else_is_refused(shards, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    output = fit(shards, tmp_path, "--epochs", 1, "--if-changed", "restart", expect=1)
    assert output == f"error: {tmp_path} holds files that no fit wrote (thesis.tex). Name another --out.\n"


def test_a_students_run_is_refused_and_nothing_is_to_be_removed(shards, tmp_path):
    torch.save({"spec": {}, "model": {}}, tmp_path / "last.pt")
    for more in ((), ("--if-changed", "restart")):
        output = fit(shards, tmp_path, "--epochs", 1, *more, expect=1)
        assert "is no state of a fit" in output and "Name another --out" in output and "emove" not in output, output
    assert (tmp_path / "last.pt").exists()


def test_changed_weights_are_found(shards, tmp_path):
    out = tmp_path / "teacher"
    fit(shards, out, "--epochs", 1)
    state = safetensors.torch.load_file(out / "model.safetensors")
    state["fc.bias"] = state["fc.bias"] + 1
    safetensors.torch.save_file(state, out / "model.safetensors")
    assert "not what was fitted" in fit(shards, out, "--epochs", 1, expect=1)


def test_a_single_class_is_refused(tmp_path):
    members = [m for n in range(4) for m in sample(f"key{n}", jpeg(n), 0)]
    write_tar(tmp_path / "000000.tar", members)
    output = fit(f"{tmp_path}/000000.tar", tmp_path / "teacher", expect=1)
    assert output == (
        "error: The shards hold 4 rows with only class 0; a classifier needs at least 2 classes to tell apart. "
        "Pack labelled images (a folder per class), or give --shards that have labels.\n"
    )


def test_an_argument_that_the_model_has_not_is_named(shards, tmp_path):
    output = fit(shards, tmp_path / "teacher", "--model-arg", "wings=2", expect=1)
    assert "--model test_resnet cannot be built with these --model-arg (wings=2)" in output


def test_a_model_that_cannot_be_is_found_before_the_shards_are_read(tmp_path):
    (tmp_path / "no.tar").write_bytes(b"no shard" * 200)
    for flags, said in (
        (("--model-arg", "wings=2"), "--model test_resnet cannot be built with these --model-arg (wings=2)"),
        (("--model", "test_resnat"), "timm has no model 'test_resnat'; near it: test_resnet"),
        (("--weights", str(tmp_path / "none.pth")), f"{tmp_path}/none.pth: no such file."),
        (("--model", "a:b", "--pretrained"), "--pretrained is for timm's models; a:b is a function of yours."),
        ((), "no.tar"),
    ):
        assert said in fit(str(tmp_path / "no.tar"), tmp_path / "teacher", *flags, expect=1)


def test_weights_of_other_classes_keep_all_but_the_head(fitted, shards, tmp_path):
    folder = tmp_path / "two"
    tiny_shards(folder, rows=12, shards=1, classes=2, class_names=["ant", "bee"])
    fit(f"{folder}/*.tar", tmp_path / "teacher", "--epochs", 1, "--weights", fitted / "model.safetensors", "--lr", 1e-9)
    new, old = (safetensors.torch.load_file(f / "model.safetensors") for f in (tmp_path / "teacher", fitted))
    assert new["fc.weight"].shape[0] == 2
    torch.testing.assert_close(new["conv1.0.weight"], old["conv1.0.weight"], atol=1e-6, rtol=0)


def test_a_model_of_ones_own_is_fitted_and_then_asked(shards, tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "def net(classes=3):\n"
        "    model = nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(196, classes))\n"
        "    model.num_classes, model.mean, model.std = classes, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)\n"
        "    return model\n"
        "def four():\n"
        "    return net(4)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    out, flags = tmp_path / "teacher", ("--epochs", 1, "--val-shards", shards)
    fit(shards, out, *flags, "--model", "my_nets:net")
    assert sorted(tree(out)) == ["fit.json", "model.safetensors"], "timm has nothing to build it from"
    teacher = load_teacher("my_nets:net", view_size=32, weights=out / "model.safetensors", device="cpu")
    assert teacher.num_classes == 3 and teacher.card.mean == (0.5, 0.5, 0.5)
    again = tmp_path / "again"
    fit(shards, again, *flags, "--model", "my_nets:net")
    assert tree(again) == tree(out), "fresh weights are drawn from the seed"
    fit(shards, tmp_path / "further", "--epochs", 0, "--model", "my_nets:net", "--weights", out / "model.safetensors")
    assert tree(tmp_path / "further")["model.safetensors"] == tree(out)["model.safetensors"]

    refused = tmp_path / "refused"
    assert "my_nets:four gives 4 logits, the shards have 3 classes" in fit(
        shards, refused, "--model", "my_nets:four", expect=1
    )
    assert "--pretrained is for timm's models" in fit(
        shards, refused, "--model", "my_nets:net", "--pretrained", expect=1
    )
    assert "--model-arg is for timm's models" in fit(
        shards, refused, "--model", "my_nets:net", "--model-arg", "a=1", expect=1
    )
    assert not refused.exists() or not list(refused.iterdir())


def test_an_epoch_sees_every_labelled_row_once_and_no_other(tmp_path):
    members = [m for n in range(12) for m in sample(f"key{n}", jpeg(n), n % 3 if n % 4 else None)]
    write_tar(tmp_path / "000000.tar", members)
    index = scan(expand([f"{tmp_path}/000000.tar"]))
    labelled = np.flatnonzero(index.classes >= 0)
    orders = [order_of(labelled, index, 5, epoch) for epoch in range(3)]
    assert all(sorted(order) == sorted(labelled) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_targets_are_the_shares_of_the_labels(shards):
    index = scan(expand([shards]))
    recipe = Recipe(image_size=32, mix_window=8)
    run = Fit(
        model=torch.nn.Linear(1, 1), settings=FitSettings(), recipe=recipe, index=index, device=torch.device("cpu"),
        precision="fp32", eye=None,
    )  # fmt: skip
    row_B, view_B = np.arange(30), np.full(30, 4)
    mixing = plan_mixing(recipe, 30, row_B, view_B)
    target_BK = targets(run, row_B, view_B).numpy()
    for row in range(30):
        expected_K = np.zeros(3)
        expected_K[index.classes[row]] += mixing.lam_B[row]
        expected_K[index.classes[mixing.partner_B[row]]] += 1 - mixing.lam_B[row]
        np.testing.assert_allclose(target_BK[row], expected_K, atol=1e-6)


def test_the_loss_is_the_smoothed_cross_entropy_where_all_is_labelled():
    logits_BK, truth_B = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0, 1])
    ours = smoothed_loss(logits_BK, torch.nn.functional.one_hot(truth_B, 4).float(), 0.1)
    torch.testing.assert_close(ours, torch.nn.functional.cross_entropy(logits_BK, truth_B, label_smoothing=0.1))


def test_killed_at_any_write_a_teacher_taken_as_it_is_ends_the_same(fitted, shards, tmp_path):
    """Also between its weights and its record, when the folder holds nothing that says whose they are."""
    flags = ("--epochs", 0, "--weights", fitted / "model.safetensors")
    fit(shards, tmp_path / "whole", *flags)
    whole, out = tree(tmp_path / "whole"), tmp_path / "teacher"
    for at in range(0, 60, 3):
        with Calls(at).active():
            result = CliRunner().invoke(main, arguments(shards, out, *flags))
        if result.exit_code == 0:
            break
        assert result.exit_code == 1 and "Input/output error" in result.output, result.output
    assert 9 < at < 57 and tree(out) == whole


def test_weights_that_no_fit_wrote_are_not_replaced(fitted, shards, tmp_path):
    shutil.copy(fitted / "model.safetensors", tmp_path)
    shutil.copy(fitted / "config.json", tmp_path)
    before = tree(tmp_path)
    assert "holds files that no fit wrote (config.json, model.safetensors)" in fit(
        shards, tmp_path, "--epochs", 0, "--weights", fitted / "model.safetensors", expect=1
    )
    assert tree(tmp_path) == before


def test_auto_is_settled_before_it_becomes_part_of_the_contract(fitted, shards, tmp_path):
    assert json.loads((fitted / "fit.json").read_text())["contract"]["precision"] == "fp32"
    output = fit(shards, fitted, "--epochs", 2, "--precision", "bf16", expect=1)
    assert "precision: 'fp32' then, 'bf16' now" in output
    earlier = tmp_path / "earlier"
    shutil.copytree(fitted, earlier)
    record = json.loads((earlier / "fit.json").read_text())
    record["contract"]["precision"] = "auto"
    (earlier / "fit.json").write_text(json.dumps(record))
    assert "(finished before)" in fit(shards, earlier, "--epochs", 2)


def test_a_full_device_is_told_with_the_flag_that_helps(shards, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    monkeypatch.setattr("stages.fit_teacher.run_epoch", full)
    output = fit(shards, tmp_path / "teacher", "--epochs", 1, expect=1)
    assert "error: The memory of cpu is too small: CUDA out of memory." in output and "--batch" in output
