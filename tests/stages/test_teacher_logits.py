"""The store is a function of its manifest: not of workers, order, interruption or growth. Run as users run it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import zarr
from click.testing import CliRunner

from pipeline.labelling import cost
from pipeline.labelling.fill import label_missing
from pipeline.labelling.tasks import tasks_of
from pipeline.labelling.writers import open_to_label
from pipeline.proofs.proof import kept
from pipeline.rendering.renderer import Renderer
from pipeline.store.reader import StoreReader
from pipeline.teacher.loading import load_teacher
from stages.compact_logits import main as compact
from stages.fit_teacher import main as fit_teacher
from stages.teacher_logits import main
from stages.verify_logits import main as verify_logits
from student.evaluate import main as evaluate
from student.train import main as train
from tests.faults import apart
from tests.pictures import in_place, jpeg, tiny_shards, write_tar

NET, ROWS = "test_resnet", 90


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    tiny_shards(folder, rows=ROWS, shards=2, classes=3, class_names=["ant", "bee", "cat"])
    return f"{folder}/*.tar"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "teacher.safetensors"
    safetensors.torch.save_file(timm.create_model(NET, num_classes=3).state_dict(), path)
    return path


def arguments(shards, weights, out, *more):
    fixed = ["--model", NET, "--weights", weights, "--image-size", 32, "--teacher-size", "view", "--mix-window", 8]
    fixed += ["--device", "cpu", "--views", 3, "--batch-size", 16, "--unit-rows", 32, "--log-level", "error"]
    return [str(a) for a in ("--shards", shards, "--out", out, *fixed, *more)]


def label(*args, expect=0):
    result = CliRunner().invoke(main, arguments(*args))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == expect, result.output
    return result.output


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def reference(shards, weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "store.zarr"
    label(shards, weights, out, "--workers", 0)
    return out


@pytest.mark.parametrize(
    "how",
    [
        ("--workers", 2),
        ("--workers", 1, "--views-together", 1),
        ("--workers", 4, "--views-together", 2),
        ("--workers", 2, "--start-method", "spawn"),
    ],
    ids=str,
)
def test_the_bytes_do_not_depend_on_how_it_was_run(shards, weights, reference, tmp_path, how):
    label(shards, weights, tmp_path / "store.zarr", *how)
    assert tree(tmp_path / "store.zarr") == tree(reference)


@pytest.mark.parametrize("batch", [1, 7, 32])
def test_views_and_answers_do_not_depend_on_the_batch(shards, weights, reference, tmp_path, batch):
    label(shards, weights, tmp_path / "store.zarr", "--batch-size", batch, "--workers", 1)
    ours, theirs = zarr.open(str(tmp_path / "store.zarr"), mode="r"), zarr.open(str(reference), mode="r")
    for name in ("crc", "argmax"):
        assert (ours[name][:] == theirs[name][:]).all()


def test_a_lowrank_store_is_the_same_however_it_was_made(shards, weights, tmp_path):
    """At once, by workers, view after view, and from a dense store; and its dry run writes nothing."""
    fixed = (shards, weights, tmp_path / "store.zarr", "--keep", "lowrank:2+2")
    said = label(*fixed, "--workers", 0)
    told = json.loads((tmp_path / "store.summary.json").read_text())["gauge"]
    assert list(told["temperatures"]) == ["1", "2", "3", "4"] and told["views"] > 0
    assert f"lowrank:2+2 keeps of the teacher's signal: {100 * told['temperatures']['1']['signal']:.0f} % at" in said
    label(shards, weights, tmp_path / "grown.zarr", "--keep", "lowrank:2+2", "--workers", 2, "--views", 1)
    label(shards, weights, tmp_path / "grown.zarr", "--keep", "lowrank:2+2", "--workers", 2)
    label(shards, weights, tmp_path / "dense.zarr", "--workers", 0)
    words = ("--logits", tmp_path / "dense.zarr", "--keep", "lowrank:2+2", "--out", tmp_path / "small.zarr")
    result = CliRunner().invoke(compact, [str(word) for word in words])
    assert result.exit_code == 0 and "dense → lowrank:2+2" in result.output, result.output
    assert tree(tmp_path / "grown.zarr") == tree(tmp_path / "small.zarr") == tree(tmp_path / "store.zarr")
    assert "keep: lowrank:2+2 against topk:2" in label(*fixed[:3], "--keep", "topk:2", expect=1)
    assert "bytes a view" in label(shards, weights, tmp_path / "no.zarr", "--keep", "lowrank:2+2", "--dry-run")
    assert not (tmp_path / "no.zarr").exists()
    words = ("--logits", tmp_path / "store.zarr", "--keep", "topk:2", "--out", tmp_path / "topk.zarr")
    result = CliRunner().invoke(compact, [str(word) for word in words])
    assert result.stderr == "error: labels kept as lowrank:2+2 cannot become topk:2. Start from a dense store.\n"


def test_how_views_look_is_kept_as_asked_and_else_as_in_the_store(shards, weights, reference, tmp_path):
    """Within four bytes unless asked for more or less; a store with thumbnails, as older ones, is grown by them."""
    out = tmp_path / "store.zarr"
    assert StoreReader.open(reference).manifest.luma == "sketch" and not (reference / "luma").exists()
    label(shards, weights, out, "--luma", "--workers", 0, "--views", 1)
    grown = label(shards, weights, out, "--workers", 0, "--views", 2)
    store = StoreReader.open(out)
    assert store.manifest.luma is True and store.layout.views == 2, grown
    thumbnails, plain_B = store.read(1, 0).luma_B16, store.read(1, 0).crc_B
    kept_B = StoreReader.open(reference).read(1, 0).crc_B
    assert thumbnails.shape == (len(kept_B), 16) and (plain_B >> 16 == kept_B >> 16).all()
    assert "luma: True against False" in label(shards, weights, out, "--no-luma", "--workers", 0, expect=1)
    words = ("--logits", out, "--keep", "argmax", "--sketch", "--out", tmp_path / "small.zarr")
    assert CliRunner().invoke(compact, [str(word) for word in words]).exit_code == 0
    small = StoreReader.open(tmp_path / "small.zarr")
    assert small.manifest.luma == "sketch" and (small.read(1, 0).crc_B == kept_B).all()
    label(shards, weights, tmp_path / "bare.zarr", "--no-luma", "--workers", 0, "--views", 1)
    words = ("--logits", tmp_path / "bare.zarr", "--keep", "argmax", "--sketch", "--out", tmp_path / "no.zarr")
    refused = CliRunner().invoke(compact, [str(word) for word in words])
    assert refused.exit_code == 1 and "has no thumbnails (--no-luma)" in refused.stderr


def test_units_may_be_done_in_any_order(shards, weights, reference, tmp_path):
    finished = StoreReader.open(reference)
    teacher = load_teacher(NET, view_size=32, weights=weights, device="cpu", input_size="view", batch_size=16)
    with open_to_label(tmp_path / "s.zarr", finished.manifest, finished.index, views=3) as store:
        label_missing(store, teacher, workers=0, tasks=tasks_of(store.missing(), 2)[::-1])
        store.finish()
    assert tree(tmp_path / "s.zarr") == tree(reference)


def test_appending_views_gives_the_store_made_at_once(shards, weights, reference, tmp_path):
    out = tmp_path / "store.zarr"
    label(shards, weights, out, "--views", 1, "--workers", 0)
    before = {name: data for name, data in tree(out).items() if "/c.0." in name}
    label(shards, weights, out, "--workers", 0)
    after = tree(out)
    assert after == tree(reference)
    assert before and all(after[name] == data for name, data in before.items())


def test_damage_that_a_listing_does_not_show_is_mended_by_a_recheck(shards, weights, reference, tmp_path):
    out = tmp_path / "store.zarr"
    shutil.copytree(reference, out)
    damaged = out / "argmax/c.1.0"
    data = damaged.read_bytes()
    damaged.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (out / "crc/c.2.1").unlink()
    said = label(shards, weights, out, "--workers", 0, expect=1)  # it meets the damage as it writes the summary
    assert "argmax/c.1.0 (unit view 1, run 0) has SHA-256" in said and "Run teacher_logits --recheck" in said
    assert {name for name, found in tree(out).items() if found != tree(reference)[name]} == {"argmax/c.1.0"}
    label(shards, weights, out, "--workers", 0, "--recheck")
    assert tree(out) == tree(reference)


def test_a_finished_store_is_left_alone(shards, weights, reference):
    before = {p: p.stat().st_mtime_ns for p in reference.rglob("*")}
    label(shards, weights, reference, "--workers", 0)
    assert {p: p.stat().st_mtime_ns for p in reference.rglob("*")} == before


def test_plain_zarr_says_what_the_teacher_says_about_the_view(reference, weights):
    store = StoreReader.open(reference)
    teacher = load_teacher(NET, view_size=32, weights=weights, device="cpu", input_size="view")
    renderer = Renderer(store.manifest.recipe, store.index, store.index.files())
    group = zarr.open(str(reference), mode="r")
    pixels = np.empty((1, 32, 32, 3), np.uint8)
    for row, view in [(0, 0), (17, 2), (ROWS - 1, 1)]:
        rendered = renderer.render(np.array([row]), np.array([view]), pixels)
        logits = teacher(pixels)[0]
        assert group["crc"][view, row] == kept("sketch", rendered.crc_B, rendered.luma_B16)[0][0]
        assert group["argmax"][view, row] == logits.argmax()
        stored = group["logits"][view, row] * group["logits"].attrs["scale"] + group["logits"].attrs["offset"]
        np.testing.assert_allclose(stored, logits, atol=1 / 512 + 1e-4)


ENDLESS = """
import time
from pipeline.store.writer import StoreWriter
from stages.teacher_logits import main
StoreWriter.finish = lambda _: time.sleep(600)
main()
"""
"""The command, which a kill cannot come too late for"""


def test_killed_at_any_time_it_ends_identical(shards, weights, reference, tmp_path):
    out = tmp_path / "store.zarr"
    command = [sys.executable, "-c", ENDLESS, *arguments(shards, weights, out, "--workers", 1)]
    for attempt in range(5):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(out.glob("receipts/*/*.json"))) > attempt:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, errors.decode()
        assert not (out / "COMPLETE").exists()
        if (out / "argmax").exists() and not (out / "receipts" / "2" / "2.json").exists():
            (out / "argmax" / "c.2.2").write_bytes(b"half")
    label(shards, weights, out, "--workers", 0)
    assert tree(out) == tree(reference)


def test_another_recipe_is_refused_with_both_values(shards, weights, reference):
    before = tree(reference)
    output = label(shards, weights, reference, "--crop-scale", "0.3,1", "--workers", 0, expect=1)
    assert "crop_scale: (0.08, 1.0) against (0.3, 1.0)" in output and "Traceback" not in output
    assert tree(reference) == before


def test_another_teacher_is_refused(shards, weights, reference, tmp_path):
    torch.manual_seed(5)
    safetensors.torch.save_file(timm.create_model(NET, num_classes=3).state_dict(), tmp_path / "other.safetensors")
    output = label(shards, tmp_path / "other.safetensors", reference, "--workers", 0, expect=1)
    assert "teacher weights_sha256" in output


def test_a_teacher_of_other_classes_is_refused(shards, tmp_path):
    safetensors.torch.save_file(timm.create_model(NET, num_classes=5).state_dict(), tmp_path / "five.safetensors")
    output = label(shards, tmp_path / "five.safetensors", tmp_path / "s.zarr", "--workers", 0, expect=1)
    assert "The shards have 3 classes" in output and "answers with 5" in output and "--class-map" in output
    assert not (tmp_path / "s.zarr").exists()


def test_a_dry_run_says_the_cost_and_writes_nothing(shards, weights, tmp_path):
    output = label(shards, weights, tmp_path / "s.zarr", "--dry-run", "--workers", 0)
    for word in (
        "270",
        "bytes a view",
        "views/s",
        "from a --picture-cache",
        "--view-cache",
        "break-even",
        "nothing was written",
    ):
        assert word in output
    assert not (tmp_path / "s.zarr").exists() and " is there: " not in output


def test_a_dry_run_tells_of_the_store_that_is_there(shards, weights, tmp_path):
    out = tmp_path / "s.zarr"
    label(shards, weights, out, "--views", 1, "--workers", 0)
    before = tree(out)
    output = label(shards, weights, out, "--views", 3, "--dry-run", "--workers", 0)
    assert f"{out} is there: 90 of 270 labels are done" in output
    output = label(shards, weights, out, "--keep", "argmax", "--dry-run", "--workers", 0)
    assert (
        f"{out} is there: it was labelled under keep: " in output and "refused without --if-changed rebuild" in output
    )
    assert tree(out) == before


def test_one_bad_image_is_named_and_can_be_greyed(weights, tmp_path):
    tiny_shards(tmp_path / "sh", rows=ROWS, shards=1, classes=3, replace={41: b"\xff\xd8\xff\xe0 rubbish"})
    output = label(f"{tmp_path}/sh/*.tar", weights, tmp_path / "s.zarr", "--workers", 0, expect=1)
    assert "s0/000041" in output
    grey = ("--workers", 1, "--on-bad-image", "grey", "--log-level", "warning")
    output = label(f"{tmp_path}/sh/*.tar", weights, tmp_path / "s.zarr", *grey)
    assert (tmp_path / "s.zarr" / "COMPLETE").exists()
    assert output.count("row 41 ('s0/000041') cannot be decoded: a grey picture stands in for it") == 1


@pytest.mark.parametrize(
    ("pattern", "message"), [("/nowhere/*.tar", "/nowhere/*.tar"), ("{000..", "{000.."), ("", "")], ids=str
)
def test_shards_that_are_not_there(weights, tmp_path, pattern, message):
    output = label(pattern, weights, tmp_path / "s.zarr", "--workers", 0, expect=1)
    assert output.startswith("error: ") and message in output and not (tmp_path / "s.zarr").exists()


AGAIN = ("--workers", 0, "--log-level", "warning", "--if-changed", "rebuild")


def test_a_store_made_otherwise_is_made_anew_only_when_that_is_asked_for(shards, weights, reference, tmp_path):
    out = tmp_path / "store.zarr"
    label(shards, weights, out, "--workers", 0, "--seed", 7)
    other = tree(out)
    assert "seed: 7 against 0" in label(shards, weights, out, "--workers", 0, expect=1)
    assert tree(out) == other
    output = label(shards, weights, out, *AGAIN)
    assert tree(out) == tree(reference)
    previous = tmp_path / "store.previous.zarr"
    assert tree(previous) == other
    assert re.search(rf"{out} is set aside, not removed: {previous} \([0-9.]+ kB\)\. It stays", output)


@pytest.mark.parametrize("words", [(), ("--if-changed", "rebuild")])
def test_fewer_views_than_stored_use_the_store_as_it_is(shards, weights, reference, tmp_path, words):
    out = Path(shutil.copytree(reference, tmp_path / "store.zarr"))
    output = label(shards, weights, out, *AGAIN[:4], "--views", 2, *words)
    assert f"{out} has 3 views, this run asks for 2: it is used as it is" in output
    assert f"store: {out} (3 views × 90 rows)" in output
    assert tree(out) == tree(reference) and not (tmp_path / "store.previous.zarr").exists()


def test_a_value_that_is_given_back_brings_its_store_back(shards, weights, reference, tmp_path):
    """Twice another seed, the second run interrupted; then the first value again: nothing is labelled anew."""
    out = Path(shutil.copytree(reference, tmp_path / "store.zarr"))
    label(shards, weights, out, *AGAIN, "--seed", 7)
    (out / "COMPLETE").unlink()
    (out / "receipts/2/0.json").unlink()  # as if it had been killed
    begun = tree(out)
    output = label(shards, weights, out, *AGAIN)
    assert f"{out} is what was set aside as {tmp_path}/store.previous.zarr" in output and tree(out) == tree(reference)
    assert tree(tmp_path / "store.previous-2.zarr") == begun or tree(tmp_path / "store.previous.zarr") == begun


def test_one_generation_is_kept_the_newest_that_was_finished(shards, weights, reference, tmp_path):
    out = Path(shutil.copytree(reference, tmp_path / "store.zarr"))
    label(shards, weights, out, *AGAIN, "--seed", 7)
    seventh = tree(out)
    output = label(shards, weights, out, *AGAIN, "--seed", 8)
    assert "store.previous.zarr is removed (" in output and f"since {out} is whole" in output
    assert tree(tmp_path / "store.previous.zarr") == seventh and not (tmp_path / "store.previous-2.zarr").exists()
    (out / "COMPLETE").unlink()
    label(shards, weights, out, *AGAIN, "--seed", 9)
    assert tree(tmp_path / "store.previous.zarr") == seventh, "the unfinished one of seed 8 goes, and not this"


def test_a_begun_store_without_a_label_makes_room(shards, weights, reference, tmp_path):
    out = Path(shutil.copytree(reference, tmp_path / "store.zarr"))
    shutil.rmtree(out / "receipts/0"), shutil.rmtree(out / "receipts/1"), shutil.rmtree(out / "receipts/2")
    (out / "COMPLETE").unlink()
    label(shards, weights, out, *AGAIN, "--seed", 7)
    assert sorted(path.name for path in tmp_path.glob("*.zarr")) == ["store.zarr"]


def test_what_is_set_aside_stays_on_its_disk(shards, weights, reference, tmp_path):
    """A store that is a link to a larger disk is set aside there, and the new one is made there."""
    (tmp_path / "large").mkdir()
    shutil.copytree(reference, tmp_path / "large/labels.zarr")
    out = tmp_path / "store.zarr"
    out.symlink_to(tmp_path / "large/labels.zarr")
    label(shards, weights, out, *AGAIN, "--seed", 7)
    assert out.is_symlink() and (tmp_path / "large/labels.zarr/COMPLETE").exists()
    assert tree(tmp_path / "large/labels.previous.zarr") == tree(reference)


def test_what_is_not_a_store_is_never_removed(shards, weights, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "dear.jpg").write_bytes(b"only copy")
    output = label(shards, weights, tmp_path / "photos", "--workers", 0, "--if-changed", "rebuild", expect=1)
    assert "is not a label store" in output and (tmp_path / "photos" / "dear.jpg").exists()


OWN = """
import torch
from torch import nn


class Fine(nn.Module):
    num_classes, mean, std = 3, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, x_BCHW):
        return self.head(x_BCHW.mean((2, 3)))


class Net(Fine):
    def __init__(self, said):
        super().__init__()
        self.said, self.seen = said, 0

    def forward(self, x_BCHW):
        self.seen += 1
        logits_BC = super().forward(x_BCHW)
        if self.seen == 3:
            logits_BC[1, 2] = self.said()
        return logits_BC


def full():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")


def fine():
    torch.manual_seed(0)
    return Fine()


def infinite():
    return Net(lambda: float("inf"))


def large():
    return Net(lambda: 400.0)


def greedy():
    return Net(full)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "their_nets.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "their_nets", raising=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("infinite", "their_nets:infinite answered inf for class 2 of row 17, view 0, in fp32"),
        ("large", "the teacher's logit 400 (row 17, view 0, class 2) is outside"),
        ("greedy", "The memory of cpu is too small: CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
)
def test_what_the_teacher_cannot_do_is_told_with_its_place_or_remedy(own, shards, tmp_path, name, message):
    """The third batch of 16, of views that are rendered together: the second one's rows of the first view."""
    words = ("--model", f"their_nets:{name}", "--workers", 0, "--views", 2, "--views-together", 2)
    line = arguments(shards, "", tmp_path / "s.zarr", *words)
    line[line.index("--weights") : line.index("--weights") + 2] = []
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 1 and f"error: {message}" in result.output, result.output
    assert name != "greedy" or "Give a smaller --batch-size" in result.output


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang")), reason="torch.compile needs a C++ compiler")
@apart  # once torch.compile has traced, no fork of a process that has ever gone backward can do so
def test_compiled_answers_are_a_contract_of_their_own(own, shards, tmp_path, monkeypatch):
    """Begun again at a short tail, a compiled run ends with the bytes of one that was not interrupted."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    line = arguments(shards, "", tmp_path / "s.zarr", "--model", "their_nets:fine", "--workers", 0)
    line[line.index("--weights") : line.index("--weights") + 2] = []

    def run(*more):
        torch.compiler.reset()
        return CliRunner().invoke(main, [*line, *more])

    result = run("--compile")
    assert result.exit_code == 0, result.output
    whole = tree(tmp_path / "s.zarr")
    (tmp_path / "s.zarr/receipts/1/2.json").unlink()
    assert run("--compile").exit_code == 0
    assert tree(tmp_path / "s.zarr") == whole
    result = run()
    assert result.exit_code == 1 and "teacher precision: fp32+compile against fp32" in result.output
    checked = CliRunner().invoke(
        verify_logits, ["--logits", str(tmp_path / "s.zarr"), "--teacher", "--workers", "0", "--device", "cpu"]
    )
    assert checked.exit_code == 0 and "deviate by at most 0.0000" in checked.output, checked.output


def test_a_dry_run_starts_its_workers_as_it_is_told(shards, weights, tmp_path, monkeypatch):
    def fork():
        raise AssertionError("forked")

    monkeypatch.setattr(cost, "SECONDS", 0.2)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fork", fork)
        line = arguments(shards, weights, tmp_path / "s.zarr", "--dry-run", "--workers", 1, "--start-method", "spawn")
        result = CliRunner().invoke(main, line)
    assert result.exit_code == 0 and "nothing was written" in result.output, (result.output, result.exception)


def test_a_summary_goes_where_it_is_told_or_the_run_does_not_begin(shards, weights, tmp_path):
    out, summary = tmp_path / "s.zarr", tmp_path / "new" / "folder" / "summary.json"
    (tmp_path / "file").touch()
    output = label(shards, weights, out, "--workers", 0, "--summary", tmp_path / "file" / "summary.json", expect=1)
    assert output.startswith(f"error: cannot write {tmp_path}/file/summary.json: ") and "--summary" in output
    assert not out.exists()
    label(shards, weights, out, "--workers", 0, "--views", 1, "--summary", summary)
    assert json.loads(summary.read_text())


def test_temperatures_are_refused_whatever_is_kept(shards, weights, tmp_path):
    for given in ("0", "1,1", "nan", "warm"):
        output = label(shards, weights, tmp_path / "s.zarr", "--workers", 0, "--temperatures", given, expect=1)
        assert f"temperatures '{given}': " in output and "is not a list of distinct numbers from" in output
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_a_class_corrected_inside_a_shard_is_refused_by_all_who_read_it(weights, tmp_path, kind):
    """The same size, the same time of change: a second labelling, of as many or more views, and a student refuse."""
    labels = {"cls": lambda row: b"%d" % (row % 3), "json": lambda row: json.dumps({"label": row % 3}).encode()}[kind]
    members = [m for row in range(24) for m in ((f"{row:02d}.jpg", jpeg(row)), (f"{row:02d}.{kind}", labels(row)))]
    tar, out = write_tar(tmp_path / "0.tar", members), tmp_path / "store.zarr"
    label(tar, weights, out, "--workers", 0)
    stamp = tar.stat()
    in_place(tar, f"07.{kind}", labels(2))
    os.utime(tar, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    told = "row 7 ('07') has class 2, and had class 1 when it was indexed: the shard was changed."
    before = tree(out)
    assert told in label(tar, weights, out, "--workers", 0, expect=1)
    assert told in label(tar, weights, out, "--workers", 0, "--views", 4, expect=1)
    assert told in label(tar, weights, out, "--workers", 0, "--if-changed", "refuse", expect=1)
    student = CliRunner().invoke(train, ["--logits", str(out), "--out", str(tmp_path / "run"), "--workers", "0"])
    assert student.exit_code == 1 and told in student.output
    verified = CliRunner().invoke(verify_logits, ["--logits", str(out), "--workers", "0"])
    assert verified.exit_code == 1 and told in verified.output
    assert tree(out) == before


def test_classes_by_name_under_another_key_need_flags_once(weights, tmp_path):
    """The store keeps the key and the names: whoever reads it, and a second labelling, need no flag."""
    names = ["ant", "bee", "cat"]
    (tmp_path / "names.txt").write_text("\n".join(names))
    text = [json.dumps({"class": names[row % 3], "id": row}).encode() for row in range(24)]
    members = [m for row in range(24) for m in ((f"{row:02d}.jpg", jpeg(row)), (f"{row:02d}.json", text[row]))]
    tar, out = write_tar(tmp_path / "0.tar", members), tmp_path / "store.zarr"
    found = ("--label-key", "class", "--classes", tmp_path / "names.txt")
    label(tar, weights, out, "--workers", 0, *found)
    before = tree(out)
    label(tar, weights, out, "--workers", 0)
    label(tar, weights, out, "--workers", 0, *found)
    label(tar, weights, out, "--workers", 0, "--label-key", "id", expect=1)
    assert tree(out) == before
    store = StoreReader.open(out)
    assert (store.index.label_key, store.index.class_names) == ("class", tuple(names))
    assert store.index.classes.tolist() == [row % 3 for row in range(24)]
    net = ("--width", 32, "--depth", 1, "--heads", 2, "--patch-size", 16, "--epochs", 1, "--batch", 24, "--no-dvclive")
    words = ("--logits", out, "--out", tmp_path / "run", "--workers", 0, "--device", "cpu", "--val-shards", tar, *net)
    student = CliRunner().invoke(train, [str(word) for word in words])
    assert student.exit_code == 0, student.output
    judged = tmp_path / "metrics.json"
    words = ("--checkpoint", tmp_path / "run", "--shards", tar, "--workers", 0, "--device", "cpu", "--out", judged)
    result = CliRunner().invoke(evaluate, [str(word) for word in (*words, "--label-key", "class")])
    assert result.exit_code == 0, result.output
    assert json.loads(judged.read_text())["student"]["fused_logits"]["top1"] is not None


@pytest.fixture(scope="module")
def named(shards, weights, tmp_path_factory):
    """The teacher's weights in a folder that names their classes: ant, bee, cat."""
    out = tmp_path_factory.mktemp("named") / "teacher"
    words = ["--shards", shards, "--out", out, "--model", NET, "--weights", weights, "--epochs", 0, "--workers", 0]
    words += ["--image-size", 32, "--device", "cpu", "--log-level", "error"]
    result = CliRunner().invoke(fit_teacher, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return out


def logits_of(out):
    return zarr.open_group(out, mode="r")["logits"][:]


def asked(shards, out, model, *more, expect=0):
    """As `label`, with a model that has its weights in it."""
    words = arguments(shards, "", out, "--workers", 0, "--log-level", "info", *more)
    at = words.index("--weights")
    del words[at : at + 2]
    words[words.index("--model") + 1] = str(model)
    result = CliRunner().invoke(main, words)
    assert result.exit_code == expect, result.output
    return result.output


def test_a_teacher_of_the_same_classes_in_another_order(weights, named, reference, tmp_path):
    """Refused by name; put in order by name, it says what it says to shards in its own order."""
    tiny_shards(tmp_path / "turned", rows=ROWS, shards=2, classes=3, class_names=["cat", "bee", "ant"])
    out, turned, model = tmp_path / "store.zarr", f"{tmp_path}/turned/*.tar", f"local-dir:{named}"
    told = f"The shards' classes are cat, bee, ant; those of {model} are ant, bee, cat: class 0 is 'cat' here and 'ant'"
    for more in ((), ("--dry-run",)):
        output = asked(turned, out, model, *more, expect=1)
        assert told in output and "--class-map by-name puts the teacher's in the order" in output and not out.exists()
    beside = label(turned, named / "model.safetensors", out, "--workers", 0, expect=1)
    assert "the same classes in another order" in beside and f"the config.json beside {named}" in beside
    assert "have the names of the data's" in asked(turned, out, model, "--class-map", "by-name")
    store = StoreReader.open(out)
    assert (store.manifest.class_map, store.manifest.class_names) == ((2, 1, 0), ("cat", "bee", "ant"))
    assert np.array_equal(logits_of(out), logits_of(reference)[..., ::-1])
    again = tmp_path / "fit"
    words = ["--shards", turned, "--out", again, "--model", NET, "--weights", named / "model.safetensors"]
    words += ["--epochs", 0, "--workers", 0, "--image-size", 32, "--device", "cpu"]
    result = CliRunner().invoke(fit_teacher, [str(word) for word in words])
    assert result.exit_code == 1 and "the same classes in another order" in result.output


def test_a_teacher_of_other_classes_or_of_none(shards, weights, named, tmp_path):
    tiny_shards(tmp_path / "other", rows=ROWS, shards=2, classes=3, class_names=["ant", "bee", "zebra"])
    other, model = f"{tmp_path}/other/*.tar", f"local-dir:{named}"
    output = asked(other, tmp_path / "o.zarr", model, expect=1)
    assert "class 2 is 'zebra' here and 'cat' there. These are other classes." in output
    (tmp_path / "names.txt").write_text("ant\nbee\nzebra\n")
    asked(other, tmp_path / "o.zarr", model, "--teacher-classes", tmp_path / "names.txt")
    (tmp_path / "map.json").write_text("[0, 1, 2]")
    asked(other, tmp_path / "p.zarr", model, "--class-map", tmp_path / "map.json")
    tiny_shards(tmp_path / "plain", rows=ROWS, shards=1, classes=3)
    assert "the shards name no classes" in asked(f"{tmp_path}/plain/*.tar", tmp_path / "q.zarr", model)
    said = label(shards, weights, tmp_path / "r.zarr", "--workers", 0, "--log-level", "info", "--mean", "0.4,0.5,0.6")
    assert f"the teacher {NET} has no names for its classes (--teacher-classes FILE gives them)" in said
    own = ",".join(f"{value:g}" for value in timm.create_model(NET).pretrained_cfg["mean"])
    assert f"--mean is 0.4,0.5,0.6, and the configuration of {NET} says {own}: its answers are worse" in said
