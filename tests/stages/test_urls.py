"""Every command that takes a store or shards takes them at URLs, and does there what it does to files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from pipeline.inspection.audit import audit
from pipeline.store.reader import StoreReader
from stages import compact_logits, inspect_views, report, verify_logits
from tests.class_stores import NAMES, store_of
from tests.command_line import run as run_here
from tests.many_ranks import start
from tests.pictures import tiny_shards
from tests.servers.s3 import forget, point_at, s3_server


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards and a store of them."""
    folder = tmp_path_factory.mktemp("near")
    urls = tiny_shards(folder / "data", rows=20, classes=3, class_names=NAMES)
    store_of(folder / "store.zarr", urls, "dense")
    return folder


@pytest.fixture
def s3(near: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a server that has all of it in `bucket`."""
    with s3_server() as (port, client):
        for path in near.rglob("*"):
            if path.is_file():
                client.upload_file(str(path), "bucket", str(path.relative_to(near)))
        point_at(port, monkeypatch)
        monkeypatch.setenv("DISTILL_CACHE_DIR", str(tmp_path / "cache"))
        yield client
        forget()


def run(command: click.Command, *words: object, folder: Path, expect: int = 0) -> str:
    """The command in a process that has read no URL before; what it says."""
    process = start(command, words, {}, folder / "said.txt")
    code, said = process.wait(), process.said
    process.log.unlink()
    assert code == expect and "Traceback" not in said, said
    return said


FAR = ("--logits", "s3://bucket/store.zarr", "--shards", "s3://bucket/data/{000000..000001}.tar")


def test_a_store_is_checked_at_its_url_by_workers_too(s3: Any, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "stages.verify_logits", *FAR, "--workers", "1", "--device", "cpu", "--out"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*line, str(tmp_path / "out.json")], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("s3://bucket/store.zarr is in order\n")
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["findings"] == [] and found["sample"]["views"] == 40
    said = run(verify_logits.main, *FAR, "--start-method", "fork", folder=tmp_path, expect=1)
    assert "error: --start-method fork does not go with s3://bucket/" in said


def test_damage_at_a_url_is_named(s3: Any, tmp_path: Path) -> None:
    data = s3.get_object(Bucket="bucket", Key="store.zarr/argmax/c.1.0")["Body"].read()
    s3.put_object(Bucket="bucket", Key="store.zarr/argmax/c.1.0", Body=bytes([data[0] ^ 1]) + data[1:])
    s3.put_object(Bucket="bucket", Key="store.zarr/notes.txt", Body=b"")
    said = run(verify_logits.main, *FAR[:2], "--digests-only", "--workers", 0, folder=tmp_path, expect=1)
    assert "s3://bucket/store.zarr/argmax/c.1.0: (unit view 1, run 0) has SHA-256" in said
    assert "s3://bucket/store.zarr/notes.txt: is not of this store" in said
    assert "error: s3://bucket/store.zarr: 2 things are off" in said


@pytest.mark.parametrize("direction", ["far to far", "far to near", "near to far"])
def test_a_store_is_compacted_from_url_to_url(s3: Any, near: Path, tmp_path: Path, monkeypatch, direction: str) -> None:
    monkeypatch.chdir(tmp_path)
    source = "s3://bucket/store.zarr" if direction.startswith("far") else near / "store.zarr"
    out = "s3://bucket/small.zarr" if direction.endswith("far") else tmp_path / "small.zarr"
    keep = ("--keep", "topk:2", "--temperatures", "1")
    said = run(compact_logits.main, "--logits", source, *keep, "--out", out, folder=tmp_path)
    assert f"store: {out} (2 views × 20 rows); fidelity: " in said and (tmp_path / "small.fidelity.json").exists()
    run_here(compact_logits.main, "--logits", near / "store.zarr", *keep, "--out", tmp_path / "local.zarr")
    local = {path.relative_to(tmp_path / "local.zarr"): path for path in (tmp_path / "local.zarr").rglob("*")}
    expected = {str(key): path.read_bytes() for key, path in local.items() if path.is_file()}
    if direction.endswith("far"):
        keys = [e["Key"] for e in s3.list_objects_v2(Bucket="bucket", Prefix="small.zarr/")["Contents"]]
        found = {
            key.removeprefix("small.zarr/"): s3.get_object(Bucket="bucket", Key=key)["Body"].read() for key in keys
        }
    else:
        found = {key: (tmp_path / "small.zarr" / key).read_bytes() for key in expected}
        assert audit(StoreReader.open(tmp_path / "small.zarr").name) == []
    assert found == expected


def test_views_are_shown_from_a_url(s3: Any, near: Path, tmp_path: Path) -> None:
    shown = []
    for name, where in (("near", ("--logits", near / "store.zarr")), ("far", FAR)):
        said = run(inspect_views.main, *where, "--rows", "1,5", "--out", tmp_path / f"{name}.png", folder=tmp_path)
        shown.append(said.splitlines()[:-1])
    assert shown[0] == shown[1] and "checksum that is stored" in shown[0][-1]
    said = run(inspect_views.main, *FAR[2:], "--image-size", 32, "--out", tmp_path / "c.png", folder=tmp_path)
    assert "ant" in said, "class names beside the shards"


@pytest.mark.parametrize("command", [verify_logits.main, compact_logits.main, inspect_views.main, report.main])
def test_a_flag_for_a_path_refuses_a_url(command: click.Command, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    flag = {verify_logits.main: "--out", compact_logits.main: "--report"}.get(command, "--out")
    more = {compact_logits.main: ("--keep", "argmax", "--out", "x.zarr")}.get(command, ())
    line = ("--logits", "absent.zarr", flag, "s3://bucket/result", *more)
    said = run(command, *line, folder=tmp_path, expect=2)
    assert f"{flag} takes a path on this machine, and s3:/bucket/result looks like a URL" in said
    assert [path.name for path in tmp_path.iterdir()] == []
