"""What a run refuses before its first step, or at the first view it touches: each with both values and the remedy."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from student.checkpoints import checkpoint
from student.learning.engine import Engine
from tests.pictures import jpeg, tiny_shards
from tests.small_students import RECIPE, arguments, make_store, record, same, train, weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="module")
def store(folder: Path) -> Path:
    return make_store(folder)


@pytest.fixture(scope="module")
def begun(folder: Path, store: Path) -> Path:
    """A run that has done two steps."""
    code, said = train(arguments(store, folder / "begun", "--max-steps", "2"), folder / "begun.txt")
    assert code == 0, said
    return folder / "begun"


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def refused(line: list[str], folder: Path, code: int = 1) -> str:
    """The one line of an error."""
    status, said = train(line, folder / "refused.txt")
    assert status == code, said
    last = said.splitlines()[-1]
    assert last.startswith("error: "), said
    assert "Traceback" not in said
    return last.removeprefix("error: ")


def test_an_incomplete_store(folder: Path, tmp_path: Path) -> None:
    store = make_store(tmp_path, rows=40, finish=False)
    assert "teacher_logits" in refused(arguments(store, tmp_path / "run"), folder)
    assert not (tmp_path / "run/last.pt").exists()


def test_a_flipped_bit_in_the_labels(folder: Path, tmp_path: Path) -> None:
    store = make_store(tmp_path, rows=40)
    chunk = max((p for p in (store / "argmax").rglob("*") if p.is_file() and p.name != "zarr.json"), key=str)
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 4
    chunk.write_bytes(data)
    said = refused(arguments(store, tmp_path / "run"), folder)
    assert str(chunk.relative_to(store)) in said


def test_shards_that_changed_since(folder: Path, tmp_path: Path) -> None:
    store = make_store(tmp_path, rows=40)
    tiny_shards(tmp_path / "data", 40, classes=5, replace={33: jpeg(33 + 77, 56, 56)})
    assert "000001.tar" in refused(arguments(store, tmp_path / "run"), folder)


def test_a_payload_that_changed_and_kept_its_size(folder: Path, tmp_path: Path) -> None:
    store = make_store(tmp_path, rows=40)
    shard = tmp_path / "data/000001.tar"
    data = bytearray(shard.read_bytes())
    data[512 + 700] ^= 1
    shard.write_bytes(data)
    said = refused(arguments(store, tmp_path / "run"), folder)
    assert "s0/000020" in said and "the shard was changed or damaged" in said


def test_shards_that_moved(folder: Path, tmp_path: Path) -> None:
    store = make_store(tmp_path, rows=40)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    refused(arguments(store, tmp_path / "run"), folder)
    moved = ("--shards", str(tmp_path / "elsewhere/{000000..000001}.tar"), "--max-steps", "1")
    code, said = train(arguments(store, tmp_path / "run", *moved), folder / "moved.txt")
    assert code == 0, said


def test_labels_of_other_pixels(folder: Path, tmp_path: Path) -> None:
    """A store whose labels are of another recipe than it says: the witnesses do not know, the first batch does."""
    store = make_store(tmp_path, rows=40, labelled=dataclasses.replace(RECIPE, flip=0.6))
    said = refused(arguments(store, tmp_path / "run"), folder)
    assert re.match(
        rf"View 0 of row \d+ \(key 's0/0000\d\d', {tmp_path}/data/00000[01].tar\) is not the one that was labelled: "
        r"its pixels have checksum [0-9a-f]{8} here and had [0-9a-f]{8} before the teacher "
        r"\(\d+ of 20 views in this batch differ\). Another image library, decoder or processor than the teacher's "
        r"draws other pixels, and so does a shard that was changed. 'python -m stages.verify_logits' tells which; "
        r"--accept-drift trains within 2 levels of the teacher's views.$",
        said,
    )
    said = refused(arguments(store, tmp_path / "run", "--accept-drift"), folder)
    assert re.search(r"is not the one that was labelled: its thumbnail is \d+ levels off", said)


def test_a_loss_that_the_store_cannot_serve(folder: Path, tmp_path: Path) -> None:
    store = make_store(tmp_path, rows=40, keep="topk:2")
    assert refused(arguments(store, tmp_path / "run", "--distill", "soft", "--tau", "2"), folder) == (
        "Soft distillation at temperature 2 needs the teacher's log-sum-exp at 2; this store (topk:2) has it at: 1, 3. "
        "Use a stored one (--tau), or label again with --temperatures 2."
    )
    code, said = train(arguments(store, tmp_path / "run", "--distill", "soft", "--tau", "3"), folder / "soft.txt")
    assert code == 0, said


def test_another_image_size(folder: Path, store: Path, tmp_path: Path) -> None:
    assert refused(arguments(store, tmp_path, "--image-size", "64"), folder) == (
        "--image-size is 64, the views of this store have 32 pixels. Label views of 64 (stages.teacher_logits "
        "--image-size 64), or leave --image-size out."
    )


def test_validation_shards_of_other_classes(folder: Path, store: Path, tmp_path: Path) -> None:
    val = tiny_shards(tmp_path / "val", 12, classes=7)
    said = refused(arguments(store, tmp_path / "run", "--val-shards", val[0]), folder)
    assert said == ("--val-shards: 6 classes, the student has 5. Judge it on pictures of the classes that it learned.")
    val = tiny_shards(tmp_path / "named", 12, classes=3, class_names=["ant", "bee", "cat"])
    said = refused(arguments(store, tmp_path / "run", "--val-shards", val[0]), folder)
    assert said.startswith("--val-shards: 3 classes, the student has 5.")


def test_other_settings(folder: Path, store: Path, begun: Path) -> None:
    said = refused(arguments(store, begun, "--epochs", "4", "--alpha", "0.3"), folder)
    assert said == (
        f"{begun} was begun with other settings: --alpha 0.5 then, 0.3 now; --epochs 2 then, 4 now. Give the same ones "
        f"again, or begin another run (another --out, or --resume none to begin this one again; --init {begun} starts "
        "from its weights)."
    )


def test_another_store(folder: Path, begun: Path, tmp_path: Path) -> None:
    other = make_store(tmp_path, keep="argmax")
    said = refused(arguments(other, begun), folder)
    assert said.startswith(f"{begun} was trained on the labels of manifest ")
    assert said.endswith("(test_teacher, keep argmax). Give the store that the run began with, or another --out.")


def test_a_store_that_has_grown_changes_nothing(folder: Path, tmp_path: Path) -> None:
    store, whole, grown = make_store(tmp_path, rows=40), tmp_path / "whole", tmp_path / "grown"
    assert train(arguments(store, whole), folder / "grown.txt")[0] == 0
    assert train(arguments(store, grown, "--max-steps", "2"), folder / "grown.txt")[0] == 0
    shards = [str(path) for path in sorted((tmp_path / "data").glob("*.tar"))]
    make_store(tmp_path, views=3, shards=shards)
    assert train(arguments(store, grown), folder / "grown.txt")[0] == 0
    assert same(weights(grown), weights(whole))
    assert refused(arguments(store, tmp_path / "run", "--views", "4"), folder) == (
        "The run uses 4 views, the store has 3. Label more, or give --views 3."
    )


def test_two_trainers_of_one_run(folder: Path, store: Path, tmp_path: Path) -> None:
    with checkpoint.only_writer(tmp_path):
        assert refused(arguments(store, tmp_path), folder) == (
            f"{tmp_path} is being written by another student.train. Wait for it, stop it, or give another --out."
        )


def test_a_damaged_checkpoint_is_put_aside(folder: Path, store: Path, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert train(arguments(store, whole), folder / "damaged.txt")[0] == 0
    assert train(arguments(store, run, "--max-steps", "3", "--checkpoint-every", "2"), folder / "damaged.txt")[0] == 0
    (run / "last.pt").write_bytes((run / "last.pt").read_bytes()[:-1])
    code, said = train(arguments(store, run), folder / "damaged.txt")
    assert code == 0 and "last.pt" in said
    assert (run / "last.damaged").exists() and same(weights(run), weights(whole)) and record(run) == record(whole)


def test_resume_none_and_from_a_path(folder: Path, store: Path, begun: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(arguments(store, run, "--resume", str(begun)), folder / "path.txt")[0] == 0
    again = tmp_path / "again"
    shutil.copytree(run, again)
    assert train(arguments(store, again, "--resume", "none"), folder / "path.txt")[0] == 0
    assert same(weights(run), weights(again))
    assert [line["update"] for line in record(again)] == [2, 3, 4, 6, 6]
    assert [line["update"] for line in record(run)] == [3, 4, 6, 6]
    assert same(weights(tmp_path / "again.previous"), weights(run)), "it was set aside"
    assert train(arguments(store, again, "--resume", str(again / "last.pt")), folder / "path.txt")[0] == 0
    assert not (tmp_path / "again.previous-2").exists(), "its own end is no other state"
    said = refused(arguments(store, tmp_path / "third", "--resume", str(tmp_path / "nowhere")), folder)
    assert said.startswith(f"{tmp_path}/nowhere is not there.")


def test_another_state_than_the_last_sets_the_run_aside(folder: Path, store: Path, begun: Path, tmp_path: Path) -> None:
    """Going back to the run's own previous.pt keeps its record, another run's state begins one; neither loses any."""
    run = tmp_path / "run"
    assert train(arguments(store, run, "--checkpoint-every", "1"), folder / "back.txt")[0] == 0
    ended, lines = tree(run), record(run)
    code, said = train(arguments(store, run, "--resume", str(run / "previous.pt")), folder / "back.txt")
    assert code == 0 and f"--resume {run}/previous.pt goes on from another state than {run} has last" in said
    assert tree(tmp_path / "run.previous") == ended and record(run) == lines
    assert train(arguments(store, run, "--resume", str(begun)), folder / "back.txt")[0] == 0
    assert same(weights(run), weights(tmp_path / "run.previous"))
    assert [line["update"] for line in record(run)] == [3, 4, 6, 6]


def test_a_folder_that_holds_other_work_is_no_run(folder: Path, store: Path, tmp_path: Path) -> None:
    (tmp_path / "fit.json").write_text("{}")
    assert refused(arguments(store, tmp_path, "--resume", "none"), folder) == (
        f"--out {tmp_path} is a fitted teacher (fit.json). Give the run a folder of its own."
    )


def test_a_run_that_was_set_aside_is_still_held(folder: Path, store: Path, begun: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(begun, tmp_path / "run"))
    with checkpoint.only_writer(run):
        checkpoint.set_aside(run, "Another one.")
        said = refused(arguments(store, run), folder)
        assert said.startswith(f"{run} is being written by another student.train.")
        said = refused(arguments(store, tmp_path / "run.previous"), folder)
        assert said.startswith(f"{run}.previous is being written by another student.train.")


def test_a_loss_that_is_no_number(folder: Path, store: Path, tmp_path: Path) -> None:
    more = ("--opt", "sgd", "--lr", "1e25", "--warmup-epochs", "0", "--checkpoint-every", "1")
    said = refused(arguments(store, tmp_path, *more), folder)
    assert said.startswith(("The loss of epoch 0, step ", "After step "))
    assert f"The checkpoint in {tmp_path} is from before. Lower --lr, or give --clip-grad 1" in said
    if (tmp_path / "last.pt").exists():
        state = torch.load(tmp_path / "last.pt", weights_only=True)
        assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_drift_is_refused_unless_accepted(folder: Path, tmp_path: Path) -> None:
    """Witnesses and checksums of pixels that are a level brighter: what another decoder might draw."""
    store = make_store(tmp_path, rows=40, brighten=1)
    said = refused(arguments(store, tmp_path / "run"), folder)
    assert "This machine does not draw the views that the teacher saw: 40 of 40 witness views drifted" in said
    assert "--accept-drift trains with every view held within 2 levels of its thumbnail" in said
    code, said = train(arguments(store, tmp_path / "run", "--accept-drift"), folder / "drift.txt")
    assert code == 0, said
    far = make_store(tmp_path / "far", rows=40, brighten=9)
    assert "different" in refused(arguments(far, tmp_path / "run2", "--accept-drift"), folder)


def test_fine_tuning_at_another_resolution_with_its_own_store(folder: Path, begun: Path, tmp_path: Path) -> None:
    larger = make_store(tmp_path, rows=40, recipe=dataclasses.replace(RECIPE, image_size=48))
    code, said = train(
        arguments(larger, tmp_path / "run", "--init", str(begun), "--image-size", "48"), folder / "fine.txt"
    )
    assert code == 0, said
    assert "resampled to this resolution: pos_embed" in said
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 5


def test_a_run_starts_from_the_checkpoint_of_another_that_is_asked_for(
    folder: Path, store: Path, begun: Path, tmp_path: Path
) -> None:
    val = str(store.parent / "data/000000.tar")
    other = tmp_path / "other"
    assert train(arguments(store, other, "--val-shards", val), folder / "init.txt")[0] == 0
    state = checkpoint.load(begun)
    checkpoint.save_best(other, state)  # best and last differ
    lr = ("--lr", "0", "--min-lr", "0", "--warmup-lr", "0", "--weight-decay", "0", "--max-steps", "1")
    for flags, file in (((), "last"), (("--init-which", "best"), "best")):
        run = tmp_path / file
        code, said = train(arguments(store, run, "--init", str(other), *flags, *lr), folder / "init.txt")
        assert code == 0 and f"--init {other}/{file}.pt: " in said, said
        began = checkpoint.load(run)["model"]
        assert all(torch.equal(began[name], value) for name, value in checkpoint.load(other, file)["model"].items())
    said = refused(arguments(store, tmp_path / "third", "--init", str(begun), "--init-which", "best"), folder)
    assert said.startswith(f"{begun}/best.pt is not there; {begun} has last")


def test_a_flag_that_is_younger_than_a_run_does_not_end_it(
    folder: Path, store: Path, begun: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    state = checkpoint.load(begun)
    del state["meta"]["settings"]["init_which"]
    run.mkdir()
    checkpoint.save(run, state)
    code, said = train(arguments(store, run), folder / "younger.txt")
    assert code == 0, said


def test_a_full_device_is_no_traceback(
    folder: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore")

    monkeypatch.setattr(Engine, "forward", full)
    said = refused(arguments(store, tmp_path / "run"), folder)
    assert said == (
        "The memory of cpu is too small: CUDA out of memory. Tried to allocate 20.00 MiB. Give a larger --accumulate "
        "(smaller micro-batches, the same gradient), or --precision bf16; a smaller --batch is another training."
    )


@pytest.mark.parametrize("seed", [str(2**64), "-1"])
def test_a_seed_that_no_generator_takes(folder: Path, store: Path, tmp_path: Path, seed: str) -> None:
    code, said = train(arguments(store, tmp_path / "run", "--seed", seed), folder / "seed.txt")
    assert code == 2 and "is not in the range 0<=x<=18446744073709551615" in said


def test_the_largest_seed(folder: Path, store: Path, tmp_path: Path) -> None:
    code, said = train(
        arguments(store, tmp_path / "run", "--seed", str(2**64 - 1), "--max-steps", "1"), folder / "seed.txt"
    )
    assert code == 0, said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--width", "34", "--heads", "4"), "cannot be built with --image-size 32, --patch-size 8, --width 34"),
        (("--patch-size", "5"), "An image of 32 pixels is no whole number of patches of 5."),
        (("--model", "deit_tiny_distilled_patch16_225"), "has no model 'deit_tiny_distilled_patch16_225'. Near it:"),
        (("--model", "resnet10t"), "resnet10t has no --"),
        (("--opt", "adamx"), "timm has no optimiser 'adamx'"),
        (("--layer-decay", "2"), "layer_decay is 2.0; it must be above 0 and at most 1."),
        (("--no-layer-decay-tokens",), "Give --layer-decay 0.75, say, or leave it out."),
        (("--init", "nowhere"), "--init nowhere: no such file or directory."),
        (("--init", "BEGUN", "--depth", "3"), "does not fit deit_tiny_distilled_patch16_224: it lacks blocks.2."),
        (("--init", "BEGUN", "--width", "48"), "(1, 1, 32) there, (1, 1, 48) here."),
    ],
)
def test_what_no_student_can_be_is_found_before_any_shard_is_scanned(
    flags: tuple[str, ...], said: str, store: Path, begun: Path, folder: Path, tmp_path: Path
) -> None:
    unreadable = tmp_path / "val.tar"
    unreadable.write_bytes(b"no shard" * 200)
    line = arguments(store, tmp_path / "run", "--val-shards", str(unreadable))
    assert str(unreadable) in refused(line, folder), "a scan would say so first"
    given = [str(begun) if flag == "BEGUN" else flag for flag in flags]
    assert said in refused([*line, *given], folder)
    assert not (tmp_path / "run/last.pt").exists()
