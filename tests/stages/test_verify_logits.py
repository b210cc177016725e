from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from click.testing import CliRunner, Result

from pipeline.labels.soft_labels import SoftLabels, encode
from pipeline.store.reader import StoreReader
from pipeline.store.unit_labels import UnitLabels
from pipeline.store.writer import StoreWriter
from stages import compact_logits, teacher_logits
from stages.verify_logits import main
from tests.pictures import in_place, tiny_shards

NET, ROWS, VIEWS = "test_resnet", 70, 2


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a teacher's weights, and a store that the teacher's stage has made of them."""
    folder = tmp_path_factory.mktemp("world")
    tiny_shards(folder / "shards", rows=ROWS, shards=2, classes=3)
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = timm.create_model(NET, num_classes=3).state_dict()
        safetensors.torch.save_file(state, folder / f"teacher{seed}.safetensors")
    words: list[object] = ["--shards", f"{folder}/shards/*.tar", "--out", folder / "store.zarr", "--model", NET]
    words += ["--weights", folder / "teacher0.safetensors", "--image-size", 32, "--teacher-size", "view"]
    words += ["--mix-window", 8, "--device", "cpu", "--views", VIEWS, "--batch-size", 16, "--unit-rows", 32]
    words += ["--keep", "topk:2", "--workers", 0, "--log-level", "error"]
    result = CliRunner().invoke(teacher_logits.main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def store(world: Path, tmp_path: Path) -> Path:
    shutil.copytree(world / "store.zarr", tmp_path / "store.zarr")
    return tmp_path / "store.zarr"


def verify(store: Path, *words: object, expect: int = 0) -> tuple[Result, dict[str, Any]]:
    out = store.with_suffix(".json")
    every = ["--logits", store, "--workers", 0, "--device", "cpu", "--out", out, *words]
    result = CliRunner().invoke(main, [str(word) for word in every])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == expect, result.output
    return result, json.loads(out.read_text())


def rewrite(store: Path, change: Any) -> None:
    """The same store with other labels, as if its teacher's run had gone wrong; `change` gets a unit's labels."""
    old = StoreReader.open(store)
    wrong = store.with_name("wrong.zarr")
    with StoreWriter.open(
        wrong,
        old.manifest,
        old.index,
        old.layout.views,
        witness=old.witness,
        environment=lambda: old.layout.environment,
    ) as new:
        for unit in new.missing():
            new.write(unit, change(old, unit, old.read(unit.view, unit.run)))
        new.finish()
    shutil.rmtree(store)
    wrong.rename(store)


def test_a_sound_store_is_in_order(store: Path, world: Path) -> None:
    result, report = verify(store, "--sample", 40, "--teacher", "--weights", world / "teacher0.safetensors")
    lines = result.stdout.splitlines()
    assert lines[0] == "bytes      6 units read: all as written"
    assert lines[1] == f"witnesses  all {ROWS} witness views are identical"
    assert lines[2].startswith("sample     ") and lines[2].endswith(" views drawn again: 0 have another checksum")
    assert "logits deviate by at most 0.0000, log-sum-exp by 0; 0 other argmax" in lines[3]
    assert lines[4].startswith("signal     topk:2 keeps of the teacher's signal: 100 % at T = 1 (KL 0.000), ")
    assert list(report["gauge"]["temperatures"]) == ["1", "3"]
    assert lines[-1] == f"{store} is in order"
    assert report["findings"] == [] and report["witness"]["kind"] == "identical"
    assert report["sample"]["views"] == report["sample"]["asked"] >= 40


def test_the_sample_is_spread_over_all_views_and_runs(store: Path) -> None:
    assert verify(store, "--sample", 100)[1]["sample"]["views"] == 100
    assert verify(store, "--sample", 10_000)[1]["sample"]["views"] == ROWS * VIEWS
    assert verify(store, "--sample", 0)[1]["sample"]["views"] == 0


def test_workers_give_the_same_answer(store: Path) -> None:
    assert verify(store, "--sample", 100, "--workers", 2)[1] == verify(store, "--sample", 100)[1]


def test_a_changed_byte_is_named(store: Path) -> None:
    key = store / "topk_index/c.1.1.0"
    data = bytearray(key.read_bytes())
    data[30] ^= 4
    key.write_bytes(data)
    (store / "notes.txt").touch()
    result, report = verify(store, "--digests-only", expect=1)
    assert [finding["where"] for finding in report["findings"]] == [str(key), f"{store}/notes.txt"]
    assert f"  {key}: (unit view 1, run 1) has SHA-256" in result.stdout
    progress, error = result.stderr.splitlines()
    assert progress.startswith("read  6/6 units | 100.0% |")
    assert error == f"error: {store}: 2 things are off, listed above. Damaged units: run teacher_logits --recheck."
    result, report = verify(store, "--sample", 10_000, expect=1)
    assert len(report["findings"]) == 2, "the sample meets the damage again, and it is not told twice"


@pytest.mark.parametrize("kind", ["row", "crc"])
def test_labels_that_belong_to_other_views_are_found(store: Path, kind: str) -> None:
    def shift(_old: StoreReader, unit: Any, labels: UnitLabels) -> UnitLabels:
        if (unit.view, unit.run) != (1, 2):
            return labels
        order = np.roll(np.arange(len(labels.crc_B)), 1)
        if kind == "row":
            return dataclasses.replace(labels, crc_B=labels.crc_B[order])
        return dataclasses.replace(labels, crc_B=labels.crc_B ^ np.uint32(1 << 31))

    rewrite(store, shift)
    result, report = verify(store, "--sample", 10_000, expect=1)
    assert report["sample"]["changed"] == len(report["findings"]) == ROWS - 64
    assert report["findings"][0]["where"].startswith(f"{store}: view 1, row 64 (key '")
    assert "drawn here it has checksum" in result.stdout
    if kind == "crc":
        drifted = verify(store, "--sample", 10_000, "--accept-drift")[1]
        assert drifted["sample"]["changed"] == ROWS - 64 and drifted["sample"]["other_looks"] == 0
    else:
        said = verify(store, "--sample", 10_000, "--accept-drift", expect=1)[0].stdout
        assert f"{ROWS - 64} have another checksum, {ROWS - 64} look otherwise" in said
        assert "of 8 parts of its sketch differ" in said


def test_another_teacher_is_refused_and_another_answer_is_found(store: Path, world: Path) -> None:
    result, _ = verify(store, "--teacher", "--weights", world / "teacher1.safetensors", expect=1)
    assert "was labelled by weights" in result.stdout and "Give its own with --weights." in result.stdout

    def worse(old: StoreReader, _unit: Any, labels: UnitLabels) -> UnitLabels:
        logits_BC = np.random.default_rng(0).normal(0, 3, (len(labels.crc_B), 3)).astype(np.float32)
        return dataclasses.replace(labels, labels=encode(logits_BC, old.manifest.keep, old.manifest.temperatures))

    rewrite(store, worse)
    words = ("--sample", 40, "--teacher", "--weights", world / "teacher0.safetensors")
    result, report = verify(store, *words, expect=1)
    (finding,) = report["findings"]
    assert finding["where"] == f"{store}: teacher {NET}"
    assert "0.05 is tolerated (--tolerance)" in finding["what"] and report["sample"]["largest_deviation"] > 0.05
    assert report["sample"]["argmax_changes"] > 0
    verify(store, *words, "--tolerance", 100)


def test_another_choice_alone_is_found_too(store: Path, world: Path) -> None:
    argmax = store.with_name("argmax.zarr")
    words = ["--logits", store, "--out", argmax, "--keep", "argmax", "--log-level", "error"]
    assert CliRunner().invoke(compact_logits.main, [str(word) for word in words]).exit_code == 0
    words = ["--sample", 40, "--teacher", "--weights", world / "teacher0.safetensors"]
    verify(argmax, *words)

    def other(_old: StoreReader, _unit: Any, labels: UnitLabels) -> UnitLabels:
        argmax_B = ((labels.labels.argmax_B.astype(int) + 1) % 3).astype(np.uint8)
        return dataclasses.replace(labels, labels=SoftLabels(argmax_B=argmax_B))

    rewrite(argmax, other)
    _, report = verify(argmax, *words, "--tolerance", 0, expect=1)
    assert "of 48 views have another argmax" in report["findings"][0]["what"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tolerance", "nan"], "nan is not a finite number"),
        (["--tolerance", "inf"], "inf is not a finite number"),
        (["--tolerance", "-1"], "-1.0 is not in the range x>=0"),
        (["--digests-only", "--teacher"], "--digests-only draws nothing"),
        (["--digests-only", "--shards", "x.tar"], "--digests-only draws nothing"),
    ],
)
def test_flags_that_would_be_passed_over_are_refused(store: Path, words: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["--logits", str(store), *words])
    assert result.exit_code == 2 and said in result.output


def test_shards_that_moved_are_named_and_changed_ones_found(store: Path, world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "shards", tmp_path / "moved")
    pattern = f"{tmp_path}/moved/*.tar"
    verify(store, "--shards", pattern, "--sample", 20)
    shard = next((tmp_path / "moved").glob("*.tar"))
    data = bytearray(shard.read_bytes())
    index = StoreReader.open(store).index
    data[int(index.offsets[0]) + 100] ^= 1
    shard.write_bytes(data)
    result, _ = verify(store, "--shards", pattern, "--sample", 20, expect=1)
    assert "the image of row 0" in result.stdout and "the shard was changed or damaged" in result.stdout
    shutil.rmtree(tmp_path / "moved")
    result, _ = verify(store, "--shards", pattern, expect=1)
    assert "not checked further" in result.stdout and result.exit_code == 1
    verify(store, "--digests-only")


def test_a_store_that_is_not_there_or_not_finished(tmp_path: Path, store: Path) -> None:
    result = CliRunner().invoke(main, ["--logits", str(tmp_path / "none.zarr")])
    assert result.exit_code == 1 and "there is no label store" in result.stdout
    (store / "COMPLETE").unlink()
    result, report = verify(store, expect=1)
    assert "is not finished: 6 of 6 units are there" in result.stdout
    assert len(report["findings"]) == 1


def test_a_class_that_was_corrected_inside_a_shard(store: Path, world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "shards", tmp_path / "shards")
    where = ("--shards", f"{tmp_path}/shards/*.tar")
    verify(store, *where, "--sample", 0)
    in_place(tmp_path / "shards" / "000001.tar", "s0/000040.cls", b"2")
    in_place(tmp_path / "shards" / "000001.tar", "s0/000041.cls", b"0")
    result, record = verify(store, *where, "--sample", 0, expect=1)
    assert "classes    2 rows have another than they had when they were indexed" in result.output
    assert (
        "row 40 ('s0/000040') has class 2, and had class 1 when it was indexed: the shard was changed" in result.output
    )
    assert len([finding for finding in record["findings"] if finding["where"] == "shards"]) == 2
