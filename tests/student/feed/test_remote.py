"""A student trains from an object store as from a disk: shards and labels by URL, on a real S3 protocol server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.views.recipe import Recipe
from tests.saved_runs import run_afresh, save_run
from tests.servers.s3 import forget, point_at, s3_server
from tests.small_students import CLASSES, arguments, make_store, same, train, weights


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[int, Any]]:
    with s3_server() as found:
        yield found


@pytest.fixture
def s3(server: tuple[int, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    point_at(server[0], monkeypatch)
    yield server[1]
    forget()


def upload(s3: Any, folder: Path, prefix: str) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            s3.upload_file(str(path), "bucket", f"{prefix}/{path.relative_to(folder)}")


def test_shards_and_labels_by_url_give_the_same_student(s3: Any, tmp_path: Path) -> None:
    store = make_store(tmp_path / "world")
    upload(s3, store, "store.zarr")
    upload(s3, tmp_path / "world" / "data", "data")
    code, said = train(arguments(store, tmp_path / "near"), tmp_path / "near.txt")
    assert code == 0, said
    far = arguments(Path("store.zarr"), tmp_path / "far", "--shards", "s3://bucket/data/{000000..000001}.tar")
    far += ["--val-shards", "s3://bucket/data/000000.tar", "--cache-dir", str(tmp_path / "cache"), "--workers", "1"]
    far[far.index("store.zarr")] = "s3://bucket/store.zarr"
    line, env = [sys.executable, "-m", "student.train", *far], {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False, env=env)
    assert done.returncode == 0, done.stderr
    near, distant = weights(tmp_path / "near"), weights(tmp_path / "far")
    model = [name for name in near if name.startswith("/model/")]
    assert model and same({n: near[n] for n in model}, {n: distant[n] for n in model})


def test_a_student_is_judged_by_labels_and_shards_at_urls(s3: Any, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DISTILL_CACHE_DIR", str(tmp_path / "cache"))
    save_run(tmp_path / "run", num_classes=CLASSES, names=None)
    recipe = Recipe.preset("none", image_size=32, seed=5)
    store = make_store(tmp_path, rows=30, views=1, keep="argmax", recipe=recipe)
    upload(s3, store, "judged/store.zarr")
    upload(s3, tmp_path / "data", "judged/data")
    found = []
    for name, place, ranks in (("near", tmp_path, 1), ("far", "s3://bucket/judged", 2)):
        line = ["--checkpoint", str(tmp_path / "run"), "--shards", f"{place}/data/{{000000..000001}}.tar"]
        line += ["--logits", f"{place}/store.zarr", "--out", str(tmp_path / f"{name}.json")]
        line += ["--workers", "0", "--device", "cpu"]
        status, said = run_afresh("student.evaluate", line, ranks)
        assert status == 0, said
        found.append((tmp_path / f"{name}.json").read_bytes())
    assert found[0] == found[1] and b"class/teacher" in found[0]
