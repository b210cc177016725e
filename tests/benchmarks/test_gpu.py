"""The receipt runs, on the processor and with small models: every row is tried, and none fails."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks.receipt import Earlier, Found, Receipt
from benchmarks.report import Circumstances, Table, write
from pipeline.errors import UserError

NEEDED_BY_SOME = (
    "dvc dvclive mlxtend matplotlib onnx onnxruntime onnxscript mlflow wandb tensorboard s3fs aiohttp scipy"
)


def test_every_row_is_measured_and_written(tmp_path: Path) -> None:
    flags = ["--device", "cpu", "--small", "--tiny", "--workers", "1", "--minutes", "30", "--picture-cache"]
    result = CliRunner().invoke(command.main, ["gpu", *flags, str(tmp_path / "cache"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out/gpu.json").read_text())
    told = {row["what"]: row["figure"] for row in record["rows"]}
    assert not [row for row in told.items() if row[1].startswith(("failed", "broken"))], told
    skipped = [name for name, figure in told.items() if figure.startswith("skipped")]
    assert all("compile" in name or name.startswith("from command") for name in skipped), skipped
    fed = {f"toy: student.train, {case}" for case in ("plain", "three repeats", "tiled", "picture cache")}
    fed |= {f"toy: student.train, {case}" for case in ("three repeats and picture cache", "view cache")}
    assert fed <= {
        name for name in told if record["figures"].get(f"{name}, share") and f"{name}, waiting" in record["figures"]
    }
    for batch in (4, 8):
        for views in ("1 view", "8 views"):
            assert record["figures"][f"teacher_logits, eager, batch {batch}, {views} a decode, share"] > 0
    assert (tmp_path / "out/gpu.md").read_text().count("\n| toy: ") >= 6


def receipt(told: list[Table], seconds: float = 60.0) -> Receipt:
    return Receipt(title="A table", device=torch.device("cpu"), told=told.append, seconds=seconds)


def found() -> Found:
    return Found(text="7 views/s", figure=7.0, share=0.5, waited=0.25)


def slow() -> Found:
    time.sleep(30)
    return found()


def failing() -> Found:
    raise ValueError("no such thing\nand more")


def test_a_row_is_told_as_soon_as_it_is_there_whatever_becomes_of_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told: list[Table] = []
    made = receipt(told)
    made.row("one", found, takes=1)
    made.row("two", failing, takes=1)
    made.row("three", slow, takes=1, most=0.1)
    made.row("four", found, takes=61)
    made.skip("five", "it is not here")
    made.row("six", found, takes=1)
    assert [len(table.rows) for table in told] == [1, 2, 3, 4, 5, 6]
    assert [re.sub(r"5\d s are left", "60 s are left", row[1]) for row in told[-1].rows] == [
        "7 views/s", "failed: ValueError: no such thing", "broken off: not done within 0 s",
        "skipped: some 61 s are needed, 60 s are left", "skipped: it is not here", "7 views/s",
    ]  # fmt: skip
    assert told[-1].rows[0][2:4] == ("0.500", "25 %")
    assert told[-1].figures == {
        f"{n}{what}": v for n in ("one", "six") for what, v in (("", 7), (", share", 0.5), (", waiting", 0.25))
    }
    assert capsys.readouterr().out.startswith("one | 7 views/s | 0.500 | 25 % | ")


def test_what_an_earlier_run_found_is_not_measured_again(tmp_path: Path) -> None:
    told: list[Table] = []
    first = receipt(told)
    first.row("one", found, takes=1)
    first.row("two", failing, takes=1)
    around = Circumstances(command="", photographs="", load_before=(0.0, 0.0, 0.0))
    write(first.table(), around, tmp_path)
    earlier = Earlier.read(tmp_path / f"{first.table().name}.json")
    second = dataclasses.replace(receipt(told), earlier=earlier)
    assert second.row("one", failing, takes=1) == found()
    assert second.row("two", found, takes=1) == found()
    assert second.rows[0] == first.rows[0] and second.figures.items() >= first.figures.items()
    with pytest.raises(UserError, match="'A table', and this is 'Another'"):
        Receipt(title="Another", device=torch.device("cpu"), told=told.append, seconds=1, earlier=earlier)


def test_a_row_may_take_longer_where_there_is_patience() -> None:
    """A trial with small models runs where others are at work, too."""
    told: list[Table] = []
    made = Receipt(title="", device=torch.device("cpu"), told=told.append, seconds=60, patience=1000)
    assert made.row("slowish", lambda: time.sleep(0.2) or found(), takes=0.01, most=0.02) is not None
    assert receipt(told).row("slowish", lambda: time.sleep(0.2) or found(), takes=0.01, most=0.02) is None


def test_no_row_outlives_the_time_for_all() -> None:
    told: list[Table] = []
    begun = time.monotonic()
    receipt(told, seconds=2).row("slow", slow, takes=0.1, most=100)
    assert time.monotonic() - begun < 20 and told[-1].rows[0][1].startswith("broken off: not done within")


def test_the_receipt_imports_nothing_that_only_some_need() -> None:
    absent = f"sys.modules |= dict.fromkeys({NEEDED_BY_SOME!r}.split())"
    code = f"import sys; {absent}; import benchmarks.__main__, benchmarks.gpu, student.train, stages.teacher_logits"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
