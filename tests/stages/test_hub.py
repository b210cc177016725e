"""A store labelled from shards on the Hugging Face Hub (its client, a loopback server) is that of the same files.

And weights that lie there: where nobody answers, the commands say so at once, in one line, before they read any shard.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from click.testing import CliRunner

from pipeline.errors import TeacherError
from pipeline.store.reader import StoreReader
from pipeline.teacher import hub as hub_module
from pipeline.teacher.hub import SilentHubError, require_hub
from pipeline.teacher.loading import load_teacher
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


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address that refuses to be spoken to: a port that is taken, and not listened at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize(
    ("command", "flags", "remedy"),
    [
        (
            "stages.fit_teacher",
            ("--pretrained", "--out", "OUT"),
            "Give a file with --weights, or --no-pretrained to begin from random weights.",
        ),
        (
            "stages.teacher_logits",
            ("--out", "OUT.zarr"),
            "Fetch them where there is a network and keep the hub's cache; or name a folder that has them "
            "(local-dir:FOLDER), or a file (--weights).",
        ),
    ],
)
def test_weights_that_nobody_hands_out_are_told_in_one_line_and_before_the_scan(
    command: str, flags: tuple[str, ...], remedy: str, nobody: str, tmp_path: Path
) -> None:
    (tmp_path / "no.tar").write_bytes(b"no shard" * 200)
    env = {**os.environ, "HF_ENDPOINT": nobody, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", command, "--shards", str(tmp_path / "no.tar"), "--model", "resnet10t"]
    line += [flag.replace("OUT", str(tmp_path / "out")) for flag in flags]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300, env=env)
    assert done.returncode == 1 and done.stderr == (
        f"error: The pretrained weights of resnet10t cannot be had: {nobody} does not answer ([Errno 111] Connection "
        f"refused). {remedy}\n"
    )
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.zarr").exists()


def test_a_refusal_is_told_at_once_and_silence_when_it_has_lasted_as_long_as_is_allowed(
    nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", nobody)
    begun = time.monotonic()
    with pytest.raises(TeacherError, match=r"does not answer .*Connection refused"):
        load_teacher("regnety_002.pycls_in1k", view_size=64, device="cpu")
    refused_s = time.monotonic() - begun
    monkeypatch.setattr(hub_module, "ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes the call, and says nothing
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{mute.getsockname()[1]}")
        begun = time.monotonic()
        with pytest.raises(SilentHubError, match="does not answer"):
            require_hub("regnety_002.pycls_in1k")
        silent_s = time.monotonic() - begun
    assert refused_s < 25 and 0.4 < silent_s < 25, "the client itself would take half a minute for each of two files"


def test_what_is_kept_or_lies_elsewhere_needs_no_answer(
    nobody: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", nobody)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SilentHubError):
        require_hub("hf-hub:owner/name")
    place = tmp_path / "models--owner--name"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text("abc")
    (place / "snapshots/abc").mkdir(parents=True)
    (place / "snapshots/abc/model.safetensors").write_bytes(b"")
    require_hub("hf-hub:owner/name")
    with hub_server(tmp_path / "hub") as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        require_hub("resnet10t")  # it has no such model, and answers
        assert hub.asked


def test_a_folder_that_is_not_there_is_told_before_the_scan(tmp_path: Path) -> None:
    (tmp_path / "no.tar").write_bytes(b"no shard" * 200)
    line = arguments(str(tmp_path / "no.tar"), tmp_path / "out.zarr", 0)
    line = [*line[: line.index("--weights")], *line[line.index("--weights") + 2 :]]
    said = CliRunner().invoke(main, [*line, "--model", f"local-dir:{tmp_path}/none"]).output
    assert said == (
        f"error: The pretrained weights of local-dir:{tmp_path}/none cannot be had: {tmp_path}/none is no folder. Name "
        "a folder that stages.fit_teacher or student.export wrote.\n"
    )
    said = CliRunner().invoke(main, [*line, "--model", "resnet11t"]).output
    assert said.startswith("error: timm has no model 'resnet11t'; near it: ")
    said = CliRunner().invoke(main, [*line, "--weights", str(tmp_path / "none.pth")]).output
    assert said == f"error: {tmp_path}/none.pth: no such file.\n"
