"""Labels and weights are the same with kept pictures or views and without, whatever happens to what is kept."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from pipeline.feeding import watch
from pipeline.feeding.advice import Measurement
from pipeline.labelling import fill
from pipeline.rendering.renderer import Renderer
from pipeline.rendering.view_cache import views_in
from pipeline.store.reader import StoreReader
from stages import teacher_logits
from student import train
from student.run import launch
from tests.jpegs import sampled
from tests.pictures import write_tar
from tests.small_students import HERE, STUDENT
from tests.tiled_runs import NET, objects, run, weights_of

ROWS = 16


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    members = [
        item
        for row in range(ROWS)
        for item in (
            (f"{row:03d}.jpg", sampled(("420", "444")[row % 2], 120, 90, seed=row)),
            (f"{row:03d}.cls", b"%d" % (row % 3)),
        )
    ]
    (folder / "plain").mkdir()
    write_tar(folder / "plain" / "0.tar", members)
    torch.manual_seed(0)
    safetensors.torch.save_file(timm.create_model(NET, num_classes=3).state_dict(), folder / "teacher.safetensors")
    return folder


def label(folder: Path, store: Path, *more: object) -> str:
    words = ["--shards", folder / "plain", "--out", store, "--model", NET, "--weights", folder / "teacher.safetensors"]
    words += ["--image-size", 32, "--teacher-size", "view", "--mix-window", 8, "--device", "cpu", "--views", 2]
    words += ["--batch-size", 16, "--unit-rows", 16, "--keep", "argmax", "--workers", 0, "--views-together", 1]
    return run(teacher_logits.main, *words, "--log-level", "error", *more)


def learn(folder: Path, store: Path, out: Path, *more: object) -> dict[str, torch.Tensor]:
    words = ["--logits", store, "--out", out, *STUDENT, *HERE, "--epochs", 2, "--batch", 8, "--warmup-epochs", 0.5]
    run(train.main, *words, "--lr", 0.01, "--log-level", "error", *more)
    return weights_of(out)


def test_the_same_labels_and_weights(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filled by the teacher's stage, damaged in every file, filled again by the student, and read by the next one."""
    cache = tmp_path / "cache"
    label(world, tmp_path / "without.zarr")
    label(world, tmp_path / "with.zarr", "--picture-cache", cache, "--picture-cache-size", "10M")
    assert objects(tmp_path / "without.zarr") == objects(tmp_path / "with.zarr")
    kept = sorted(cache.rglob("*-*-*-*"))
    assert len(kept) == ROWS
    for number, path in enumerate(kept):
        data = bytearray(path.read_bytes())
        data[[60, len(data) // 2, -1][number % 3]] ^= 1
        path.write_bytes(data)
    plain = learn(world, tmp_path / "without.zarr", tmp_path / "plain")
    monkeypatch.setenv("DISTILL_PICTURE_CACHE", str(cache))
    for name in ("mended", "read", "workers"):
        workers = ("--workers", 2) if name == "workers" else ()  # processes that read one another's pictures
        ours = learn(world, tmp_path / "without.zarr", tmp_path / name, *workers)
        assert ours.keys() == plain.keys() and all(torch.equal(ours[key], plain[key]) for key in plain)
    assert sorted(cache.rglob("*-*-*-*")) == kept


def test_views_are_drawn_once_for_all(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the teacher's stage, with pictures kept in the same folder; no student draws any, but what was damaged."""
    cache = tmp_path / "cache"
    label(world, tmp_path / "without.zarr")
    label(world, tmp_path / "with.zarr", "--view-cache", cache, "--picture-cache", cache)
    assert objects(tmp_path / "without.zarr") == objects(tmp_path / "with.zarr")
    kept = sorted(cache.glob("views-*/??/*"))
    assert len(kept) == 2 * ROWS and len(sorted(cache.glob("pictures-*/??/*"))) == ROWS
    plain = learn(world, tmp_path / "without.zarr", tmp_path / "plain")
    monkeypatch.setenv("DISTILL_VIEW_CACHE", str(cache))
    monkeypatch.setenv("DISTILL_VIEW_CACHE_SIZE", "10M")
    for name in ("read", "mended", "workers"):
        with monkeypatch.context() as patched:
            if name == "read":
                patched.setattr(Renderer, "render", lambda *_: pytest.fail("a view was drawn"))
            if name == "mended":
                for path in kept[::3]:
                    path.write_bytes(path.read_bytes()[:-1] + b"?")
            ours = learn(world, tmp_path / "without.zarr", tmp_path / name, "--workers", 2 * (name == "workers"))
        assert ours.keys() == plain.keys() and all(torch.equal(ours[key], plain[key]) for key in plain)
    assert sorted(cache.glob("views-*/??/*")) == kept


def test_a_student_says_where_else_a_wrong_view_may_come_from(world: Path, tmp_path: Path) -> None:
    """Whole entries of other pixels: a witness among them, and views that are met later."""
    label(world, tmp_path / "store.zarr")
    reader = StoreReader.open(str(tmp_path / "store.zarr"))
    for view in (0, 1):
        folder = tmp_path / f"cache{view}"
        cache = views_in(folder, 1 << 30, reader.manifest.recipe, reader.index, 2)
        for row in range(ROWS):
            cache.keep(row, view, np.zeros((32, 32, 3), np.uint8))
        with pytest.raises(AssertionError) as refused:
            learn(world, tmp_path / "store.zarr", tmp_path / "run", "--view-cache", folder)
        said = " ".join(str(refused.value).split())
        assert f"It may also come from --view-cache {folder}: remove that, and it is drawn anew." in said
        assert ("is not the one that was labelled" in said) == (view == 1)


def test_sizes_and_folders_of_no_use_are_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"--picture-cache-size 'much' is no size\. Give bytes, or a number"):
        label(world, tmp_path / "x.zarr", "--picture-cache", tmp_path / "c", "--picture-cache-size", "much")
    with pytest.raises(AssertionError, match=r"--view-cache-size '-1' is no size\."):
        label(world, tmp_path / "x.zarr", "--view-cache", tmp_path / "c", "--view-cache-size", "-1")
    for flag in ("--view-cache", "--picture-cache"):
        for place in (tmp_path / "x.zarr", tmp_path / "x.zarr" / "c"):
            with pytest.raises(AssertionError, match=r"is a Zarr store\. Choose"):
                label(world, tmp_path / "x.zarr", flag, place)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(AssertionError, match="is a file"):
        label(world, tmp_path / "x.zarr", "--picture-cache", tmp_path / "file")


def test_both_commands_look_at_how_they_are_fed(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each has measured by its last step: views of this run, drawn here, some of them repeated."""
    seen: list[Measurement] = []
    monkeypatch.setattr(watch, "advice", seen.append)
    for module in (fill, launch):
        monkeypatch.setattr(module, "Watch", partial(watch.Watch, seconds=0.0))
    label(world, tmp_path / "store.zarr", "--batch-size", 4)
    learn(world, tmp_path / "store.zarr", tmp_path / "run", "--batch", 4)
    teacher, student = seen
    assert teacher.repeats is None and teacher.views == teacher.effort.views == 4
    assert student.repeats == 1 and student.views == student.effort.views == 4
    assert all(0 < found.working <= found.seconds and 0 < found.waiting < 1 and found.takes > 0 for found in seen)
