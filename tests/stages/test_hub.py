"""A store labelled from shards on the Hugging Face Hub (its client, a loopback server) is that of the same files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import safetensors.torch
import timm
import torch
from click.testing import CliRunner

from pipeline.store.reader import StoreReader
from stages.teacher_logits import main
from tests.pictures import tiny_shards
from tests.servers.hub import hub_server
from tests.stores import tree

NET = "test_resnet"
WITH_URLS = {"zarr.json", "index/zarr.json", "receipts/base.json", "COMPLETE"}
"""Where the shards lie is written into these (or a digest of it); labels, witness views and receipts do not know"""


def arguments(shards: str, out: Path, workers: int) -> list[str]:
    flags = ["--model", NET, "--weights", str(out.parent / "teacher.safetensors"), "--image-size", "32", "--views", "2"]
    flags += ["--teacher-size", "view", "--mix-window", "8", "--unit-rows", "32", "--batch-size", "16"]
    return ["--shards", shards, "--out", str(out), "--workers", str(workers), "--device", "cpu", *flags]


def test_the_store_is_that_of_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    safetensors.torch.save_file(timm.create_model(NET, num_classes=3).state_dict(), tmp_path / "teacher.safetensors")
    folder = tmp_path / "hub/datasets/owner/name"
    tiny_shards(folder / "train", rows=50, shards=3, class_names=("ant", "bee", "cat"))
    near = CliRunner().invoke(main, arguments(f"{folder}/train/*.tar", tmp_path / "near.zarr", 0))
    assert near.exit_code == 0, near.output
    far = "hf://datasets/owner/name/train/"
    with hub_server(tmp_path / "hub") as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "DISTILL_CACHE_DIR": str(tmp_path / "cache")}
        line = [sys.executable, "-m", "stages.teacher_logits", *arguments(f"{far}*.tar", tmp_path / "far.zarr", 1)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", **env}
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300, env=env)
        assert done.returncode == 0, done.stderr
        assert sum("/large/" in line for line in hub.asked) == 3, "each shard is fetched once, for all processes"
    one, other = (tree(tmp_path / name) for name in ("near.zarr", "far.zarr"))
    assert one.keys() == other.keys()
    assert {key for key in one if one[key] != other[key]} == WITH_URLS
    stores = [StoreReader.open(tmp_path / name) for name in ("near.zarr", "far.zarr")]
    assert stores[0].manifest == stores[1].manifest and stores[0].index.digest() == stores[1].index.digest()
    assert stores[1].index.urls == tuple(f"{far}{number:06d}.tar" for number in range(3))
