"""The harness of the evidence: what is one run, what is done again, what a table says; and offline equals online."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from benchmarks.evidence import courses
from benchmarks.evidence import online as evidence_online
from benchmarks.evidence.__main__ import line_of
from benchmarks.evidence.__main__ import main as evidence
from benchmarks.evidence.catalogue import EXPERIMENTS
from benchmarks.evidence.claims import CLAIMS
from benchmarks.evidence.courses import course, inherit, parting, transfer
from benchmarks.evidence.experiments import HARD, Experiment, Row, online, packing
from benchmarks.evidence.inherited import distances, reach
from benchmarks.evidence.lab import Lab
from benchmarks.evidence.pictures import SIDE, SPRITE, Pictures, prepare
from benchmarks.evidence.plots import draw
from benchmarks.evidence.scales import SCALES
from benchmarks.evidence.steps import Step, commands, in_order, run
from benchmarks.evidence.tables import MISTAKES, table_of, taken_over, teachers_said
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
    assert len(tables) == 19
    lines = {name: set(commands(table.steps())) for name, table in tables.items()}
    assert all(line.startswith("python -m ") for found in lines.values() for line in found)
    assert lines["tokens"] & lines["distillation"] and lines["storage"] & lines["distillation"]
    assert len([line for line in lines["parting"] & lines["length"] if "student.train" in line]) == 2
    for table in tables.values():
        order = in_order(table.steps())
        assert len({step.path for step in order}) == len(order)
        assert all(order.index(need) < order.index(step) for step in order for need in step.needs)


def test_stores_of_one_name_are_told_apart_by_their_flags(lab: Lab, tmp_path: Path) -> None:
    stores = [lab.store(lab.teacher(), recipe=recipe) for recipe in ((), ("--mixup", "0"), ("--cutmix", "0"))]
    for store in stores:
        summary = tmp_path / f"{store.path.removesuffix('.zarr')}.summary.json"
        summary.parent.mkdir(parents=True, exist_ok=True)
        summary.write_text('{"views": 2, "rows": 32, "entropy": 1.5, "unmixed": {"top1": 0.75}}')
    told = [line.split(":")[0].split("32-0")[1] for line in teachers_said(stores, tmp_path)]
    assert told == ["", " (--mixup 0)", " (--cutmix 0)"]


def test_a_changed_flag_is_another_run_and_so_is_all_that_follows(lab: Lab) -> None:
    one, other = (Step("a.b", "x", flags) for flags in (("--seed", "0"), ("--seed", "1")))
    assert one.path != other.path
    assert Step("c.d", "y", (), (one,)).path != Step("c.d", "y", (), (other,)).path
    assert Step("a.b", "x", ("--seed", "0")).path == one.path
    namesake = Step("a.b", "y", ("--seed", "0"))
    assert in_order([one, Step("c.d", "z", (), (namesake,)), one])[:2] == [one, namesake], "each of two names is done"


def test_offline_equals_online_bit_for_bit_and_nothing_runs_twice(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = online(lab)
    run(experiment.steps(), lab.work, jobs=2)
    offline, live = (lab.work / row.about[0].path / "last.pt" for row in experiment.rows)
    mine, theirs = (torch.load(path, weights_only=True)["model"] for path in (offline, live))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine) and len(mine) > 10
    table = table_of("online", experiment, lab.work, lab.seeds)
    assert table.rows[1][4].startswith("+0.0")
    assert any(note.startswith("Labels ") and "2 views of 32 pictures, entropy" in note for note in table.notes)
    assert draw("online", experiment, lab.work, lab.seeds, lab.work / "plots").stat().st_size > 5000
    capsys.readouterr()
    run(experiment.steps(), lab.work, jobs=2)
    assert "0/0 steps" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"stages.pack.*ended with [12]"):
        run([Step("stages.pack", "wrong", ("--images", "nowhere"))], lab.work, jobs=1)


def test_slices_end_where_one_long_run_does(lab: Lab, tmp_path: Path) -> None:
    """Stopped again and again, the students are those of a lab that was left alone, bit for bit."""
    whole, sliced = (online(one).rows[0].about[0] for one in (lab, replace(lab, work=tmp_path)))
    run([whole], lab.work, jobs=1)
    for file in (lab.work / "subsets").iterdir():
        (tmp_path / "subsets").mkdir(exist_ok=True)
        (tmp_path / "subsets" / file.name).write_bytes(file.read_bytes())
    lengths = iter([0.1 * 1.4**turn for turn in range(22)])
    slices = 1
    while not run([sliced], tmp_path, jobs=1, until=time.monotonic() + next(lengths)):
        slices += 1
    mine, theirs = (torch.load(place / whole.path / "last.pt", weights_only=True) for place in (tmp_path, lab.work))
    assert slices > 2 and all(torch.equal(mine["model"][name], theirs["model"][name]) for name in theirs["model"])


def test_tokens_are_looked_at_on_the_way_without_changing_the_run(lab: Lab, monkeypatch) -> None:
    monkeypatch.setattr(courses, "PARTS", 2)
    experiment = course(lab)
    assert [row.name for row in experiment.rows[:2]] == ["hard, 50 % of the training", "hard, 100 % of the training"]
    halves = [row.about[0].needs[0] for row in experiment.rows[:2]]
    (undisturbed,) = lab.students("hard", lab.store(lab.teacher()), *HARD)
    run([*experiment.rows[1].about, *experiment.rows[1].scores, undisturbed], lab.work, jobs=2)
    half, mine, theirs = (
        torch.load(lab.work / one.path / "last.pt", weights_only=True) for one in (*halves, undisturbed)
    )
    assert all(torch.equal(mine["model"][name], theirs["model"][name]) for name in theirs["model"])
    assert half["epoch"] == 1 and mine["epoch"] == 2
    table = table_of("course", experiment, lab.work, lab.seeds)
    assert [row[0] for row in table.rows] == ["hard, 100 % of the training"]
    assert any(note.startswith("Not run: hard, 50 % of the training; soft") for note in table.notes)


def test_each_seeds_tokens_are_shown(lab: Lab) -> None:
    experiment = parting(lab)
    first = replace(experiment, rows=experiment.rows[:1])
    run(first.steps(), lab.work, jobs=2)
    found = json.loads((lab.work / first.rows[0].about[0].path).read_text())["blocks"]
    table = table_of("parting", first, lab.work, lab.seeds)
    ((name, *_, one, last),) = table.rows
    blocks = [table.figures[f"{name}, cosine after block {number}, seed 3"] for number in (1, 2)]
    assert blocks == [block["mean"] for block in found]
    assert (name, last) == ("as in every table", f"{found[-1]['mean']:.2f}") and one.startswith(
        f"{found[0]['mean']:.3f}"
    )


def test_what_is_inherited_is_measured_against_the_teachers_mistakes(lab: Lab) -> None:
    experiment = inherit(lab)
    row = experiment.rows[0]
    run([*row.scores, *row.about], lab.work, jobs=2)
    figures = table_of("inherit", replace(experiment, rows=(row,)), lab.work, lab.seeds).figures
    found = json.loads((lab.work / row.about[0].path).read_text())
    reader = StoreReader.open(str(lab.work / lab.answers(lab.alike()[0]).path))
    wrong = reader.read_arrays(0, 0, ["argmax"])["argmax"][: reader.manifest.rows] != reader.index.classes
    assert found["images"] == 18 and found["teacher_wrong"] == int(wrong.sum()) and len(found["distance"]) == 2
    assert figures["no teacher, mistakes shared, seed 3"] == found["alike_where_wrong"]
    assert figures["no teacher, reach of block 2, seed 3"] == found["distance"][1]
    shared = {f"{name}, {MISTAKES}, seed {seed}": value for name, value in (("a", 0.2), ("b", 0.3)) for seed in (0, 1)}
    (line,) = taken_over([replace(row, name="a"), replace(row, name="b")], shared)
    assert line.endswith("b against a: +10.0 [+10.0, +10.0] points.")
    farthest = float(distances(4, 4, 8).max())
    assert all(0 < reach < farthest for reach in found["distance"]) and 0 <= found["alike_where_wrong"] <= 1


def test_a_patch_that_looks_everywhere_alike_looks_the_mean_distance_far() -> None:
    apart = distances(2, 3, 10)
    assert apart[0, 1] == 10 and apart[0, 3] == 10 and apart[0, 4] == pytest.approx(200**0.5)
    assert reach(torch.ones(1, 2, 6, 6), apart)[0] == pytest.approx(float(apart.mean()))
    assert reach(torch.eye(6)[None, None], apart)[0] == 0


def test_a_student_is_moved_to_digits(lab: Lab) -> None:
    experiment = transfer(lab)
    assert {row for claim in CLAIMS["transfer"] for row in (claim.mine, claim.other)} <= {
        r.name for r in experiment.rows
    }
    moved = [row.scores[0].needs[0] for row in experiment.rows]
    assert ["--init" in student.flags for student in moved] == [False, True, True, True]
    digits = {step.flags[step.flags.index("--shards") + 1] for row in experiment.rows for step in row.scores}
    assert len(digits) == 1 and "digits-val" in digits.pop()
    row = experiment.rows[2]
    run(row.scores, lab.work, jobs=2)
    assert 0 <= json.loads((lab.work / row.scores[0].path).read_text())["student"]["class"]["top1"] <= 1


def test_settings_are_chosen_by_pictures_that_are_in_no_table(lab: Lab) -> None:
    choosing = replace(lab, choosing=True)
    table = lab.work / choosing.judged().flags[choosing.judged().flags.index("--csv") + 1]
    chosen = set(table.read_text().splitlines()[1:])
    assert len(chosen) == 12 and not chosen & set(lab.pictures.subset(36).splitlines())
    assert lab.judged() == lab.held_out() and choosing.held_out() == lab.held_out() != choosing.judged()


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
    assert table.rows[1] == ("hard", "48.0 ± 5.7", "58.0 ± 5.7", "48.0 ± 5.7", "+3.0 [-9.7, +15.7]")
    assert table.rows[2] == ("its distillation head", "", "58.0 ± 5.7", "", "+13.0 [+0.3, +25.7]")
    assert table.figures["hard, seed 1"] == 0.52
    assert draw("t", Experiment(title="T", rows=rows), tmp_path, (0, 1), tmp_path / "plots").exists()


ON_A_GPU_MACHINE = """
import multiprocessing, sys
sys.modules["matplotlib"] = None  # an extra
from pathlib import Path
import torch
from benchmarks.evidence.__main__ import publish
from benchmarks.evidence.experiments import Experiment, Row
from benchmarks.evidence.steps import Step
from benchmarks.report import Circumstances
work = Path(sys.argv[1])
row = Row(name="none", scores=(Step("student.evaluate", "plain-0", (), (), ".json"),), base=True)
lab = type("Lab", (), {"work": work, "seeds": (0,)})
around = Circumstances(command="c", photographs="p", load_before=(0, 0, 0))
publish("t", Experiment(title="T", rows=(row,)), lab, around, work / "tables", work / "tables")
child = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(torch.cuda._is_in_bad_fork()))
child.start(); child.join()
sys.exit(child.exitcode)
"""


def test_a_published_table_leaves_the_gpu_to_the_next_command(tmp_path: Path) -> None:
    """Each command is a fork of this process, which must not have looked for a GPU; and pictures are an extra."""
    scored(tmp_path, "plain-0", 0.4)
    done = subprocess.run([sys.executable, "-c", ON_A_GPU_MACHINE, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in sorted((tmp_path / "tables").iterdir())] == ["t.json", "t.md"]
    assert "torch " in (tmp_path / "tables/t.md").read_text()


def test_the_scale_for_a_gpu_learns_from_all_pictures_at_hand(data: Path, tmp_path: Path) -> None:
    line = ["distillation", "--data", str(data), "--work", str(tmp_path), "--scale", "large", "--seeds", "0"]
    said = CliRunner().invoke(evidence, [*line, "--commands"])
    assert said.exit_code == 0, said.output
    assert {len(path.read_text().splitlines()) - 1 for path in (tmp_path / "subsets").iterdir()} == {48}
    trained = [text for text in said.output.splitlines() if "student.train" in text]
    assert len(trained) == 6 and all("--epochs 300" in text and "--view-cache views" in text for text in trained)
    assert SCALES["tiny"].over(48) is SCALES["tiny"] and SCALES["large"].over(30_000).efficiency == (1000, 5000, 30_000)


def test_a_slice_that_is_over_says_so_and_nothing_is_published(tmp_path: Path) -> None:
    for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (tmp_path / name).mkdir(parents=True)
        for i in range(96):
            (tmp_path / name / f"{i}.png").write_bytes(encoded(scene(i, 32, 32), "PNG"))
    line = ["distillation", "--data", str(tmp_path), "--work", str(tmp_path / "work"), "--scale", "tiny"]
    result = CliRunner().invoke(evidence, [*line, "--minutes", "0"])
    assert result.exit_code == 75 and "the same command goes on" in result.output, result.output
    result = CliRunner().invoke(evidence, [*line, "--finished"])
    assert result.exit_code == 0 and "Not run: no distillation; no distillation, two class tokens;" in result.output
    assert not (tmp_path / "work" / "tables").exists()
    assert CliRunner().invoke(evidence, ["distillation"]).exit_code == 1
    refused = CliRunner().invoke(evidence, [*line, "--publish", "--choosing"])
    assert refused.exit_code == 1 and "--publish and --choosing" in refused.stderr


def test_the_command_of_a_table_leaves_out_where_and_how_it_was_cut(monkeypatch) -> None:
    said = "x distillation views --data /here --minutes 8 --seeds 1,2 --finished --publish --jobs 3 --work /there"
    monkeypatch.setattr("sys.argv", said.split())
    told = "python -m benchmarks.evidence views --data DATA --seeds 1,2 --work WORK"
    assert line_of("views") == told


def test_subsets_are_nested_and_balanced(data: Path, tmp_path: Path) -> None:
    pictures = prepare(data, tmp_path)
    few, more = (pictures.subset(*wanted).splitlines()[1:] for wanted in ((6, 0), (6, 9)))
    assert more[:6] == few and len(more) == 15
    assert sorted(line.split(",")[1] for line in few) == sorted(CLASSES * 2)
    assert all(line.endswith(",") for line in more[6:])
    with pytest.raises(UserError, match="48"):
        pictures.subset(40, 9)


def test_the_last_pictures_are_of_every_class_and_in_no_subset(lab: Lab, tmp_path: Path) -> None:
    for name, number in (("ant", 60), ("bee", 30), ("cow", 10)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(number):
            (tmp_path / "train" / name / f"{i}.png").touch()
    pictures = Pictures(tmp_path / "train", tmp_path / "train")
    last = pictures.last(20).splitlines()[1:]
    assert Counter(line.split(",")[1] for line in last) == {"ant": 12, "bee": 6, "cow": 2}
    assert len(pictures.last(1000).splitlines()) == 1 + 15 + 8 + 2
    own = replace(lab, pictures=pictures, work=tmp_path, scale=replace(lab.scale, fit_rows=20, labelled=20))
    assert [teacher.name for teacher in own.of_others()] == ["regnety-others"]
    assert replace(own, scale=replace(own.scale, labelled=90)).of_others() == ()  # every cow would be in both
    assert replace(own, scale=replace(own.scale, fit_rows=50)).of_others() == ()
    with pytest.raises(UserError, match=r"--choosing judges on a part"):
        replace(own, choosing=True).shards(90)
    with pytest.raises(UserError, match=r"ten classes of CIFAR-10.*ant, bee, cow"):
        replace(own, weights=tmp_path).given(20)


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
    teacher = replace(lab, scale=SCALES["photographs"]).teacher()
    class_map = tmp_path / teacher.flags[teacher.flags.index("--class-map") + 1]
    assert json.loads(class_map.read_text()) == {"n01440764": 0, "n02102040": 217}
    (tmp_path / "train" / "n02102040" / "one.png").touch()
    of_photographs = replace(
        lab, scale=replace(SCALES["photographs-short"], labelled=1, efficiency=(1, 1, 1), fit_rows=1)
    )
    names = [row.name for row in EXPERIMENTS["teachers"](of_photographs).rows]
    assert names == ["no teacher", "efficientnet_lite0", "efficientnet_lite0, tuned", "regnety"]
    assert {name for claim in CLAIMS["teachers"] for name in (claim.mine, claim.other)} >= set(names)
    without = EXPERIMENTS["teachers"](replace(of_photographs, weights=None))
    assert [row.name for row in without.rows] == ["no teacher", "regnety"]
    (tmp_path / "train" / "dogs").mkdir()
    with pytest.raises(UserError, match=r"a folder 'dogs'.*Name folders by wnid"):
        lab.of_imagenet()
