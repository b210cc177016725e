"""A tiled store and a plain one of the same pictures have the same labels, verify each other, and teach alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import zarr

from pipeline.labelling.writers import index_at
from pipeline.shards.index import scan
from pipeline.shards.patterns import expand
from stages import teacher_logits, tile, verify_logits
from student import train
from tests.jpegs import sampled
from tests.pictures import write_tar
from tests.small_students import HERE, STUDENT
from tests.tiled_runs import NET, ROWS, objects, run, weights_of

LABELS = ("argmax", "crc", "logits")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain shards and tiled ones, and the store that the teacher's stage makes of each."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "plain").mkdir()
    for number in range(2):
        rows = range(number * ROWS // 2, (number + 1) * ROWS // 2)
        members = [
            item
            for row in rows
            for item in (
                (f"{row:03d}.jpg", sampled(("420", "444", "422")[row % 3], 200, 150, seed=row)),
                (f"{row:03d}.cls", b"%d" % (row % 3)),
            )
        ]
        write_tar(folder / "plain" / f"{number}.tar", members)
    run(tile.main, "--shards", folder / "plain", "--out", folder / "tiled", "--workers", 0)
    torch.manual_seed(0)
    safetensors.torch.save_file(timm.create_model(NET, num_classes=3).state_dict(), folder / "teacher.safetensors")
    for name in ("plain", "tiled"):
        label(folder, folder / f"{name}.zarr", folder / name)
    return folder


def label(folder: Path, store: Path, shards: Path, *more: object, expect: int = 0) -> str:
    words = ["--shards", shards, "--out", store, "--model", NET, "--weights", folder / "teacher.safetensors"]
    words += ["--image-size", 32, "--teacher-size", "view", "--mix-window", 8, "--device", "cpu", "--views", 2]
    words += ["--batch-size", 16, "--unit-rows", 16, "--keep", "dense", "--workers", 0, "--log-level", "error"]
    return run(teacher_logits.main, *words, *more, expect=expect)


def test_the_labels_are_the_same_byte_for_byte(world: Path) -> None:
    """All objects of the store but its index, and what names the index by its digest."""
    ours, theirs = objects(world / "plain.zarr"), objects(world / "tiled.zarr")
    assert ours.keys() == theirs.keys()
    other = {name.split("/")[0] for name in ours if ours[name] != theirs[name]}
    assert other <= {"index", "receipts", "zarr.json", "COMPLETE"} and "index" in other
    assert {name.split("/")[0] for name in ours} >= {*LABELS, "witness"}


@pytest.mark.parametrize(("store", "shards"), [("plain", "tiled"), ("tiled", "plain")])
def test_each_verifies_the_labels_of_the_other(world: Path, store: str, shards: str) -> None:
    words = ("--logits", world / f"{store}.zarr", "--shards", world / shards, "--sample", 80, "--workers", 0)
    assert "is in order" in run(verify_logits.main, *words)


@pytest.mark.parametrize(("store", "shards"), [("plain", "tiled"), ("tiled", "plain")])
def test_a_store_goes_on_growing_from_the_other_shards(world: Path, tmp_path: Path, store: str, shards: str) -> None:
    """Views that are added from the other shards are those that would have been made from its own."""
    grown, whole = tmp_path / "grown.zarr", tmp_path / "whole.zarr"
    label(world, grown, world / store, "--views", 1)
    label(world, grown, world / shards, "--views", 3)
    label(world, whole, world / store, "--views", 3)
    ours, theirs = zarr.open(str(grown), mode="r"), zarr.open(str(whole), mode="r")
    for name in LABELS:
        assert np.array_equal(ours[name][:], theirs[name][:]), name
    assert "is in order" in run(verify_logits.main, "--logits", grown, "--sample", 120, "--workers", 0)
    assert {path.name for path in grown.iterdir()} == {path.name for path in whole.iterdir()}
    assert (grown / "COMPLETE").read_bytes() == (whole / "COMPLETE").read_bytes()


def test_an_index_is_never_written_from_other_shards(world: Path, tmp_path: Path) -> None:
    store = tmp_path / "store.zarr"
    label(world, store, world / "plain", "--views", 1)
    chunk = next(
        path
        for path in (store / "index").rglob("*")
        if path.is_file() and "payload_crc" in str(path) and path.name != "zarr.json"
    )
    chunk.unlink()
    output = label(world, store, world / "tiled", "--views", 2, expect=1)
    assert "index" in output


@pytest.mark.parametrize("store", ["plain", "tiled"])
def test_a_student_learns_the_same_from_either(world: Path, tmp_path: Path, store: str) -> None:
    """The same weights, bit for bit, from the shards of the labels and from the others."""
    states = []
    for shards in ("plain", "tiled"):
        out = tmp_path / shards
        words = ["--logits", world / f"{store}.zarr", "--shards", world / shards, "--out", out, *STUDENT, *HERE]
        words += ["--epochs", 1, "--batch", 16, "--warmup-epochs", 0.5, "--lr", 0.01, "--log-level", "error"]
        run(train.main, *words)
        states.append(weights_of(out))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_other_ranks_find_the_same(world: Path) -> None:
    """Those that are told what to label hold the first shard alone to its size."""
    index, found = (scan(expand([str(world / name)])) for name in ("plain", "tiled"))
    assert index_at(index, found.urls).digest() == index.digest()
    assert index_at(index, index.urls) is index
