"""The harness of the evidence: what is one run, what is done again, what a table says; and offline equals online."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from benchmarks.evidence import online as evidence_online
from benchmarks.evidence.experiments import EXPERIMENTS, Experiment, Row, online, packing
from benchmarks.evidence.lab import SCALES, Lab
from benchmarks.evidence.pictures import SIDE, SPRITE, prepare
from benchmarks.evidence.plots import draw
from benchmarks.evidence.steps import Step, commands, in_order, run
from benchmarks.evidence.tables import table_of
from pipeline.errors import UserError
from pipeline.store.reader import StoreReader
from stages import teacher_logits
from tests.pictures import encoded, scene

CLASSES = ("cat", "dog", "fox")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for part, each in (("train", 16), ("val", 6)):
        for number, name in enumerate(CLASSES):
            place = folder / part / name
            place.mkdir(parents=True)
            for i in range(each):
                (place / f"{i}.png").write_bytes(encoded(scene(100 * number + i, 32, 32), "PNG"))
    return folder


@pytest.fixture(scope="module")
def lab(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    work = tmp_path_factory.mktemp("work")
    scale = replace(SCALES["tiny"], labelled=32, fit_rows=32, epochs=2, views=2, view_counts=(1, 2), batch=16)
    scale = replace(scale, efficiency=(12, 24, 48))
    return Lab(pictures=prepare(data, work), work=work, scale=scale, seeds=(3,), weights=None)


def test_every_table_is_a_set_of_commands_that_share_their_runs(lab: Lab) -> None:
    tables = {name: experiment(lab) for name, experiment in EXPERIMENTS.items()}
    assert len(tables) == 9
    lines = {name: set(commands(table.steps())) for name, table in tables.items()}
    assert all(line.startswith("python -m ") for found in lines.values() for line in found)
    assert lines["tokens"] & lines["distillation"] and lines["storage"] & lines["distillation"]
    for table in tables.values():
        order = in_order(table.steps())
        assert len({step.path for step in order}) == len(order)
        assert all(order.index(need) < order.index(step) for step in order for need in step.needs)


def test_a_changed_flag_is_another_run_and_so_is_all_that_follows(lab: Lab) -> None:
    one, other = (Step("a.b", "x", flags) for flags in (("--seed", "0"), ("--seed", "1")))
    assert one.path != other.path
    assert Step("c.d", "y", (), (one,)).path != Step("c.d", "y", (), (other,)).path
    assert Step("a.b", "x", ("--seed", "0")).path == one.path


def test_offline_equals_online_bit_for_bit_and_nothing_runs_twice(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = online(lab)
    run(experiment.steps(), lab.work, jobs=2)
    offline, live = (lab.work / row.about[0].path / "last.pt" for row in experiment.rows)
    mine, theirs = (torch.load(path, weights_only=True)["model"] for path in (offline, live))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine) and len(mine) > 10
    table = table_of("online", experiment, lab.work, lab.seeds)
    assert table.rows[1][4].startswith("+0.0 (+0.0 to +0.0)")
    assert draw("online", experiment, lab.work, lab.work / "plots").stat().st_size > 5000
    capsys.readouterr()
    run(experiment.steps(), lab.work, jobs=2)
    assert "0/0 steps" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"stages.pack.*ended with [12]"):
        run([Step("stages.pack", "wrong", ("--images", "nowhere"))], lab.work, jobs=1)


def test_a_run_beside_its_teacher_that_is_stopped_is_not_taken_for_finished(lab: Lab, monkeypatch) -> None:
    live = online(lab).rows[1].about[0]
    run(live.needs, lab.work, jobs=2)
    monkeypatch.chdir(lab.work)
    monkeypatch.setattr(evidence_online.Stop, "__init__", lambda stop: setattr(stop, "signal", signal.SIGTERM))
    result = CliRunner().invoke(evidence_online.main, [*live.flags, "--out", "stopped"])
    assert result.exit_code == 143, result.output


def test_a_table_of_pictures_that_was_cut_by_a_kill_is_written_again(lab: Lab, tmp_path, monkeypatch) -> None:
    mine, whole = replace(lab, work=tmp_path), Path.write_text

    def cut(path: Path, text: str, **more: str) -> None:
        whole(path, text[: len(text) // 2], **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "write_text", cut)
        mine.shards(10)
    mine.shards(10)
    (table,) = (tmp_path / "subsets").glob("*.csv")
    assert table.read_text() == mine.pictures.subset(10)


def scored(work: Path, name: str, share: float) -> Step:
    """A step that is done and has left this accuracy."""
    step = Step("student.evaluate", name, (), (), ".json")
    (work / step.path).parent.mkdir(exist_ok=True)
    answer = {"top1": share}
    found = {"student": {"class": answer, "distillation": {"top1": share + 0.1}, "fused_logits": answer}}
    (work / step.path).write_text(json.dumps(found))
    step.receipt(work).parent.mkdir(exist_ok=True)
    step.receipt(work).write_text(json.dumps({"command": step.arguments, "seconds": 60}))
    return step


def test_a_table_compares_seed_by_seed(tmp_path: Path) -> None:
    plain = tuple(scored(tmp_path, f"plain-{seed}", share) for seed, share in enumerate((0.40, 0.50)))
    taught = tuple(scored(tmp_path, f"taught-{seed}", share) for seed, share in enumerate((0.44, 0.52)))
    rows = (
        Row(name="none", scores=plain, head="class", base=True),
        Row(name="hard", scores=taught),
        Row(name="its distillation head", scores=taught, head="distillation"),
    )
    table = table_of("t", Experiment(title="T", rows=rows), tmp_path, (0, 1))
    assert table.rows[0] == ("none", "45.0 ± 7.1", "", "", "")
    assert table.rows[1] == ("hard", "48.0 ± 5.7", "58.0 ± 5.7", "48.0 ± 5.7", "+3.0 (+2.0 to +4.0)")
    assert table.rows[2] == ("its distillation head", "", "58.0 ± 5.7", "", "+13.0 (+12.0 to +14.0)")
    assert table.figures["hard, seed 1"] == 0.52
    assert draw("t", Experiment(title="T", rows=rows), tmp_path, tmp_path / "plots").exists()


def test_subsets_are_nested_and_balanced(data: Path, tmp_path: Path) -> None:
    pictures = prepare(data, tmp_path)
    few, more = (pictures.subset(*wanted).splitlines()[1:] for wanted in ((6, 0), (6, 9)))
    assert more[:6] == few and len(more) == 15
    assert sorted(line.split(",")[1] for line in few) == sorted(CLASSES * 2)
    assert all(line.endswith(",") for line in more[6:])
    with pytest.raises(UserError, match="48"):
        pictures.subset(40, 9)


def test_sprites_are_cut_into_folders(tmp_path: Path) -> None:
    labels = np.arange(SPRITE * SPRITE) % 3
    pixels = np.zeros((SPRITE * SIDE, SPRITE * SIDE, 3), np.uint8)
    pixels[SIDE : 2 * SIDE, 0:SIDE] = 200  # row 1, column 0: picture 100
    for name in ("train_1", "test"):
        Image.fromarray(pixels).save(tmp_path / f"{name}.webp", lossless=True)
        np.save(tmp_path / f"{name}_labels.npy", labels)
    (tmp_path / "classes.json").write_text(json.dumps(list(CLASSES)))
    pictures = prepare(tmp_path, tmp_path / "work")
    bright = [path for path in pictures.train.rglob("*.png") if np.asarray(Image.open(path)).any()]
    assert [(path.parent.name, path.name) for path in bright] == [(CLASSES[100 % 3], "000100.png")]
    assert sum(1 for _ in pictures.val.rglob("*.png")) == SPRITE * SPRITE


def test_other_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither"):
        prepare(tmp_path, tmp_path)


def test_a_live_teacher_is_the_stored_one_in_every_respect(lab: Lab, monkeypatch) -> None:
    live = online(lab).rows[1].about[0]
    run(live.needs, lab.work, jobs=2)
    monkeypatch.chdir(lab.work)
    flags = list(live.flags)
    teacher = flags[flags.index("--teacher") + 1]
    (shards,) = (step.path for step in in_order(live.needs) if step.path == lab.shards(lab.scale.labelled).path)
    line = [
        "--shards",
        f"{shards}/*.tar",
        "--model",
        teacher,
        "--out",
        "other.zarr",
        "--image-size",
        "32",
        "--workers",
        "0",
    ]
    line += [
        "--views",
        "1",
        "--recipe",
        "light",
        "--mean",
        "0.1,0.2,0.3",
        "--teacher-size",
        "40",
        "--precision",
        "fp32",
    ]
    result = CliRunner().invoke(teacher_logits.main, [*line, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    flags[flags.index("--logits") + 1] = "other.zarr"
    seen: list[Any] = []
    monkeypatch.setattr(evidence_online, "fit", lambda run: seen.append(run.feed.teacher.card))
    result = CliRunner().invoke(evidence_online.main, [*flags, "--views", "1", "--out", "live"])
    assert result.exit_code == 0, result.output
    assert seen == [StoreReader.open("other.zarr").manifest.teacher]
    flags += ["--teacher-precision", "bf16", "--views", "1", "--out", "live"]
    result = CliRunner().invoke(evidence_online.main, flags)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "error: other.zarr was labelled by another teacher: precision fp32 then, bf16 now. Give the stored values."
    )


def test_a_live_teacher_answers_on_one_process(lab: Lab) -> None:
    live = online(lab).rows[1].about[0]
    result = CliRunner().invoke(
        evidence_online.main, [*live.flags, "--out", "ranks"], env={"WORLD_SIZE": "2", "RANK": "1"}
    )
    assert result.exit_code == 1 and result.stderr.startswith("error: This is rank 1 of 2"), result.output


def test_photographs_are_packed_at_every_size_and_judged_as_they_are(lab: Lab) -> None:
    experiment = packing(lab)
    packed = {step.path: step.flags for step in in_order(experiment.steps()) if step.module == "stages.pack"}
    bounded = [flags[flags.index("--max-side") + 1] for flags in packed.values() if "--max-side" in flags]
    assert bounded == [str(round(views * lab.scale.side)) for views in (1.34, 1.14, 0.86)] == ["43", "36", "28"]
    learned = {row.scores[0].needs[0].flags[1] for row in experiment.rows}
    judged = {step.flags[step.flags.index("--shards") + 1] for row in experiment.rows for step in row.scores}
    assert len(learned) == 4 and judged == {f"{lab.judged().path}/*.tar"}


def test_a_convnet_of_imagenet_knows_folders_by_their_wnid(lab: Lab, tmp_path: Path) -> None:
    for name in ("n02102040", "n01440764"):
        (tmp_path / "train" / name).mkdir(parents=True)
    (tmp_path / "val").mkdir()
    (tmp_path / "tf_efficientnet_lite0.safetensors").touch()
    lab = replace(lab, pictures=prepare(tmp_path, tmp_path), work=tmp_path, weights=tmp_path)
    teacher = lab.of_imagenet()
    class_map = tmp_path / teacher.flags[teacher.flags.index("--class-map") + 1]
    assert json.loads(class_map.read_text()) == {"n01440764": 0, "n02102040": 217}
    (tmp_path / "train" / "dogs").mkdir()
    with pytest.raises(UserError, match=r"a folder 'dogs'.*Name folders by wnid"):
        lab.of_imagenet()
