"""The suite still runs: every table at a tiny scale, on painted pictures. The figures mean nothing here."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks import commands, guard, profile
from benchmarks.bench import Bench
from benchmarks.commands import watch
from benchmarks.growth import slope
from benchmarks.photographs import Photographs, load, painted
from benchmarks.race import Race, Spread, Turn, race
from benchmarks.report import Circumstances, Table, write
from pipeline.errors import UserError
from tests.pictures import jpeg

pytestmark = pytest.mark.usefixtures("one_thread")

TIMM = ("RandomResizedCropAndInterpolation", "RandAugment", "RandomErasing")


@pytest.fixture(scope="module")
def photographs() -> Photographs:
    return Photographs(payloads=tuple(jpeg(seed, 90, 70) for seed in range(8)), source="small scenes")


def tiny(photographs: Photographs, folder: Path) -> Bench:
    return Bench(
        photographs=photographs, folder=folder, seconds=0, workers=1, teacher="test_efficientnet", students=("toy",),
        batch=4, precision="fp32", tiny=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(photographs: Photographs, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Table]:
    """A table, measured once."""
    known: dict[str, Table] = {}

    def table(name: str) -> Table:
        if name not in known:
            known[name] = command.run(name, tiny(photographs, tmp_path_factory.mktemp(name)))
        return known[name]

    return table


@pytest.mark.parametrize("name", command.TABLES)
def test_a_table_is_measured(name: str, measured: Callable[[str], Table]) -> None:
    table = measured(name)
    assert table.name == name and table.rows and table.figures
    assert all(len(row) == len(table.columns) for row in table.rows)


WATCHED = """
import multiprocessing, pathlib, sys, time
def stay():
    while not pathlib.Path(sys.argv[1]).exists():
        time.sleep(0.01)
child = multiprocessing.get_context("fork").Process(target=stay)
child.start(); child.join()
"""


def test_processes_of_their_own_are_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child stays until it was looked at."""
    seen, look = set[int](), commands.peak_bytes

    def peak_bytes(pid: int) -> int:
        found = look(pid)
        seen.add(pid)
        if len(seen) > 1:
            (tmp_path / "seen").touch()
        return found

    monkeypatch.setattr(commands, "peak_bytes", peak_bytes)
    usage = watch(["-c", WATCHED, str(tmp_path / "seen")])
    assert usage.parent > 5e6 and usage.seconds > 0 and len(usage.children) == 1
    with pytest.raises(UserError, match="ended with 3"):
        watch(["-c", "import sys; sys.exit(3)"])


def test_an_unknown_table_is_refused(photographs: Photographs, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no table is called 'speed'"):
        command.run("speed", tiny(photographs, tmp_path))


def test_the_profile_names_functions_that_there_are() -> None:
    before = {name: getattr(owner, name) for calls in profile.STAGES.values() for owner, name in calls}
    with profile.clocks() as spent:
        assert not spent
    assert before == {name: getattr(owner, name) for calls in profile.STAGES.values() for owner, name in calls}
    assert set(TIMM) == set(profile.THEIRS)


def test_the_guard_looks_at_figures_that_there_are(measured: Callable[[str], Table]) -> None:
    assert all(figure in measured(name).figures for name, figure, _, _ in guard.MARGINS)


def test_the_guard_fails_for_a_lost_optimisation(measured: Callable[[str], Table]) -> None:
    kept = {
        name: dataclasses.replace(measured(name), figures={f: margin for n, f, margin, _ in guard.MARGINS if n == name})
        for name in guard.MEASURES
    }
    assert [row[-1] for row in guard.judged(kept).rows] == ["yes"] * len(guard.MARGINS)
    _, figure, margin, _ = guard.MARGINS[0]
    slow = {
        **kept,
        "render": dataclasses.replace(kept["render"], figures={**kept["render"].figures, figure: margin / 2}),
    }
    with pytest.raises(UserError, match=rf"{re.escape(figure)} is {margin / 2:.3f}, at least {margin} is wanted"):
        guard.judged(slow)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("table", ["gpu", "device_plans"])
def test_tables_about_a_gpu_say_what_they_need(photographs: Photographs, tmp_path: Path, table: str) -> None:
    with pytest.raises(UserError, match=r"CUDA"):
        command.run(table, tiny(photographs, tmp_path))


def test_contestants_take_turns() -> None:
    order: list[str] = []

    def turn(name: str) -> int:
        order.append(name)
        return 2

    result = race(
        {name: lambda name=name: turn(name) for name in "ab"},  # type: ignore[misc]
        seconds=0,
        fewest=3,
        before={"b": lambda: order.append("before b")},
    )
    lap = ["a", "before b", "b"]
    assert order == [*lap, *lap, "before b", "b", "a", *lap]
    assert result.rounds == 3 and all(turn.views == 2 for turn in result.turns["a"])


def test_ratios_are_taken_pair_by_pair() -> None:
    result = Race({
        "ours": (Turn(1, 1, 10), Turn(2, 1, 10), Turn(1, 1, 10)),
        "theirs": (Turn(2, 3, 10), Turn(4, 3, 10), Turn(9, 3, 10)),
    })  # fmt: skip
    assert result.ratio("ours", "theirs") == Spread(2, 2, 9)
    assert result.ratio("ours", "theirs", busy=True).median == pytest.approx(3)
    assert result.cost("ours").median == 0.1 and result.rate("theirs").median == 2.5
    assert result.ratio("ours", "theirs").text() == "2.00 (2.00–9.00)"


def test_slopes() -> None:
    assert slope([1, 4, 16], [3, 12, 48]) == pytest.approx(1)
    assert slope([1, 4, 16], [3, 3, 3]) == pytest.approx(0)


def test_results_say_how_they_were_measured(tmp_path: Path, photographs: Photographs) -> None:
    table = Table(name="t", title="T", columns=("a", "b"), rows=(("1", "2"),), figures={"x": 1 / 3}, notes=("n",))
    around = Circumstances(command="python -m benchmarks t", photographs=photographs.about, load_before=(1.0, 2.0, 3.0))
    write(table, around, tmp_path)
    text, record = (tmp_path / "t.md").read_text(), json.loads((tmp_path / "t.json").read_text())
    assert "| 1 | 2 |" in text and "- command: `python -m benchmarks t`" in text and "1.00 2.00 3.00 before" in text
    assert record["figures"] == {"x": 0.333333} and record["rows"] == [{"a": "1", "b": "2"}]


def test_photographs(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.JPEG").write_bytes(jpeg(1))
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    found = load(tmp_path)
    assert len(found) == 1 and len(found.whole_windows(4)) == 4
    assert found.about.startswith("1 photographs, median 64 × 48 pixels")
    with pytest.raises(UserError, match="no JPEG in --photos"):
        load(tmp_path / "nowhere")
    index = found.indexed(tmp_path / "shards", 5, per_shard=2)
    assert len(index) == 5 and len(index.urls) == 3 and len(set(index.key_hash.tolist())) == 5


def test_pictures_are_painted_where_there_are_none() -> None:
    first, again = (painted(1, width=120, height=90) for _ in range(2))
    assert first == again and "painted" in first.about and "120 × 90" in first.about


def test_the_command_prints_a_table(tmp_path: Path, photographs: Photographs) -> None:
    for number, payload in enumerate(photographs.payloads):
        (tmp_path / f"{number}.jpg").write_bytes(payload)
    result = CliRunner().invoke(command.main, ["sizes", "--photos", str(tmp_path), "--tiny", "--seconds", "0"])
    assert result.exit_code == 0, result.output
    assert "## Bytes a view in the store" in result.output and "RANDOM WEIGHTS" in result.output


def test_published_figures_are_of_photographs_and_whole_runs(
    tmp_path: Path, photographs: Photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0.jpg").write_bytes(photographs.payloads[0])
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(command, "load", lambda *_, **__: photographs)
    monkeypatch.setattr(command, "run", lambda *_: Table(name="sizes", title="Sizes", columns=("a",), rows=(("1",),)))

    def written(*flags: str) -> list[str]:
        result = CliRunner().invoke(command.main, ["sizes", *flags], catch_exceptions=False)
        assert result.exit_code == 0 and "## Sizes" in result.output
        assert ("\nnot written: " in result.output) == (flags[2:] == ("--small",) or not flags)
        return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("sizes.*"))

    assert written() == [] and written("--photos", str(tmp_path), "--small") == []
    assert written("--out", str(tmp_path / "mine")) == ["mine/sizes.json", "mine/sizes.md"]
    assert written("--photos", str(tmp_path))[2:] == ["results/sizes.json", "results/sizes.md"]


def test_help_names_every_table() -> None:
    shown = CliRunner().invoke(command.main, ["--help"]).output
    assert all(name in shown for name in (*command.TABLES, *command.ALONE))
