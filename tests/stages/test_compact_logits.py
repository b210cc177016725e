from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pipeline.labels.codes import logits_of
from pipeline.store.layout import Unit
from pipeline.store.reader import StoreReader
from stages.compact_logits import main
from tests.stores import finished, index_of, labels_of, manifest_of, tree

INDEX = index_of(100)
DENSE = manifest_of(INDEX, "dense")


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    finished(tmp_path / "dense.zarr", DENSE, INDEX)
    return tmp_path / "dense.zarr"


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.parametrize("keep", ["topk:3", "topk:12", "argmax"])
def test_it_writes_what_the_teacher_would_have_written(tmp_path: Path, dense: Path, keep: str) -> None:
    result = run("--logits", dense, "--keep", keep, "--temperatures", "1,3", "--out", tmp_path / "small.zarr")
    assert result.exit_code == 0, result.output
    finished(tmp_path / "direct.zarr", manifest_of(INDEX, keep), INDEX)
    assert tree(tmp_path / "small.zarr") == tree(tmp_path / "direct.zarr")
    assert str(tmp_path / "small.zarr") in result.output.splitlines()[-1]


def test_a_topk_store_becomes_a_smaller_one(tmp_path: Path) -> None:
    finished(tmp_path / "wide.zarr", manifest_of(INDEX, "topk:7"), INDEX)
    result = run(
        "--logits", tmp_path / "wide.zarr", "--keep", "topk:2", "--temperatures", "3", "--out", tmp_path / "s.zarr"
    )
    assert result.exit_code == 0, result.output
    finished(tmp_path / "direct.zarr", manifest_of(INDEX, "topk:2", temperatures=(3.0,)), INDEX)
    assert tree(tmp_path / "s.zarr") == tree(tmp_path / "direct.zarr")
    assert list(json.loads((tmp_path / "s.fidelity.json").read_text())["temperatures"]) == ["3"]


def test_it_goes_on_where_it_was(tmp_path: Path, dense: Path) -> None:
    out = tmp_path / "small.zarr"
    assert run("--logits", dense, "--keep", "topk:3", "--out", out).exit_code == 0
    whole = tree(out)
    (out / "COMPLETE").unlink()
    (out / "receipts/1/2.json").unlink()
    (out / "argmax/c.0.0").write_bytes(b"")
    stamp = (out / "argmax/c.0.1").stat().st_mtime_ns
    assert run("--logits", dense, "--keep", "topk:3", "--out", out).exit_code == 0
    assert tree(out) == whole
    assert (out / "argmax/c.0.1").stat().st_mtime_ns == stamp


def test_damage_of_what_is_finished_stops_it_and_is_mended_by_a_recheck(tmp_path: Path, dense: Path) -> None:
    out, words = tmp_path / "small.zarr", ("--logits", dense, "--keep", "topk:3", "--out", tmp_path / "small.zarr")
    assert run(*words).exit_code == 0
    whole = tree(out)
    (out / "topk_logit/c.0.1.0").write_bytes(bytes(len(whole["topk_logit/c.0.1.0"])))
    result = run(*words)
    assert result.exit_code == 1 and "topk_logit/c.0.1.0 (unit view 0, run 1) has SHA-256" in result.output
    assert run(*words, "--recheck").exit_code == 0
    assert tree(out) == whole


def test_the_table_says_what_is_lost(tmp_path: Path, dense: Path) -> None:
    report = tmp_path / "report.json"
    result = run("--logits", dense, "--keep", "topk:3", "--out", tmp_path / "small.zarr", "--report", report)
    figures = json.loads(report.read_text())
    codes = [labels_of(DENSE, Unit(view, run)).labels.parts["logits"] for view in range(2) for run in range(4)]
    logits_BC = logits_of(np.concatenate([c for c in codes if c is not None])).astype(np.float64)
    for temperature in (1.0, 3.0):
        p_BC = np.exp(logits_BC / temperature)
        p_BC /= p_BC.sum(1, keepdims=True)
        kept = np.argsort(-p_BC, axis=1, kind="stable")[:, :3]
        q_BC = np.zeros_like(p_BC)
        np.put_along_axis(q_BC, kept, np.take_along_axis(p_BC, kept, 1), 1)
        mass = q_BC.sum(1)
        q_BC[q_BC == 0] = np.repeat((1 - mass) / 9, 9)
        found = figures["temperatures"][f"{temperature:g}"]
        assert np.isclose(found["kept_mass"], mass.mean(), atol=1e-6)
        assert np.isclose(found["kl_mean"], (p_BC * np.log(p_BC / q_BC)).sum(1).mean(), rtol=1e-4)
    assert figures["views_compared"] == 200 and figures["argmax_agreement"] == 1.0
    small = StoreReader.open(tmp_path / "small.zarr")
    assert figures["after"] == {"keep": "topk:3", "bytes_per_view": small.bytes_per_view()}
    assert "dense → topk:3, compared on 200 views" in result.output
    assert "argmax is the same in 100.00 %" in result.output


def test_nothing_smaller_is_an_error_and_writes_nothing(tmp_path: Path, dense: Path) -> None:
    out = tmp_path / "small.zarr"
    result = run("--logits", dense, "--keep", "dense", "--out", out)
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: {dense} keeps dense, --keep dense asks for no less. Give a smaller topk:K, or argmax.\n"
    )
    result = run("--logits", dense, "--keep", "topk:13", "--out", out)
    assert result.stderr == "error: keep 'topk:13' wants 13 of 12 classes. Give a smaller K, or dense.\n"
    finished(tmp_path / "few.zarr", manifest_of(INDEX, "topk:2", temperatures=(1.0,)), INDEX)
    result = run("--logits", tmp_path / "few.zarr", "--keep", "topk:4", "--out", out)
    assert (result.exit_code, result.stderr) == (
        1,
        "error: labels kept as topk:2 cannot become topk:4. Give a K of at most that many.\n",
    )
    result = run("--logits", tmp_path / "few.zarr", "--keep", "topk:1", "--temperatures", "3", "--out", out)
    assert "error: temperature 3 is not stored, the labels hold the log-sum-exp at 1." in result.stderr
    assert not out.exists()


def test_the_source_must_be_finished_and_whole(tmp_path: Path, dense: Path) -> None:
    result = run("--logits", tmp_path / "none.zarr", "--keep", "argmax", "--out", tmp_path / "s.zarr")
    assert result.exit_code == 1 and "there is no label store" in result.stderr
    data = bytearray((dense / "logits/c.1.1.0").read_bytes())
    data[20] ^= 1
    (dense / "logits/c.1.1.0").write_bytes(data)
    result = run("--logits", dense, "--keep", "topk:3", "--out", tmp_path / "s.zarr")
    assert result.exit_code == 1 and f"{dense}/logits/c.1.1.0 (unit view 1, run 1) has SHA-256" in result.stderr


def test_a_report_goes_where_it_is_told_or_nothing_begins(tmp_path: Path, dense: Path) -> None:
    (tmp_path / "file").touch()
    out, words = tmp_path / "small.zarr", ("--logits", dense, "--keep", "argmax", "--out", tmp_path / "small.zarr")
    result = run(*words, "--report", tmp_path / "file" / "report.json")
    assert result.exit_code == 1 and f"cannot write {tmp_path}/file/report.json" in result.output
    assert "Give another --report." in result.output and not out.exists()
    assert run(*words, "--report", tmp_path / "new" / "report.json").exit_code == 0
    assert json.loads((tmp_path / "new" / "report.json").read_text())
