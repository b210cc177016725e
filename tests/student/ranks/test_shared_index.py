"""One rank scans, all have the index: real processes over gloo, large and small, slow, damaged, killed, restarted."""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import pipeline.store.reader
import student.ranks.shared_index
from pipeline.commands.command import command
from pipeline.processes.rendezvous import Meeting
from pipeline.shards.index import SampleIndex, scan
from pipeline.store.reader import StoreReader
from pipeline.views.recipe import Recipe
from student.evaluate import main as evaluate
from student.ranks.ranks import joined
from student.ranks.shared_index import indexed
from student.train import main as train
from tests.many_ranks import Rank, eventually, meeting, run_here, start
from tests.patience import LATE_S, all_forked
from tests.pictures import tiny_shards
from tests.saved_runs import save_run
from tests.small_students import CLASSES, arguments, make_store

ROWS, NAMES = 50, ("ant", "bee", "cat")


@command()
@click.option("--shards", multiple=True)
@click.option("--out", type=Path)
@click.option("--timeout", type=float)
def index(shards: tuple[str, ...], out: Path, timeout: float) -> None:
    """Have the index, and say what it is."""
    with joined("cpu", timeout) as ranks:
        found = indexed(shards, ranks, workers=0)
        report(found, out / f"{ranks.rank}.json")


def report(found: SampleIndex, path: Path) -> None:
    keys = [found.key(row) for row in range(len(found))]
    said = {"urls": found.urls, "names": found.class_names, "digest": found.digest(), "keys": keys}
    path.write_text(json.dumps({**said, "mapped": found.mapped}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_shards(tmp_path / "data", ROWS, shards=3, class_names=NAMES)
    return tmp_path


def line_of(folder: Path, timeout: float = 60) -> list[object]:
    return ["--shards", f"{folder}/data/*.tar", "--out", folder, "--timeout", timeout]


def begin(ranks: list[Rank], folder: Path, world: int, timeout: float = 60, **env: object) -> list[Rank]:
    line = line_of(folder, timeout)
    ranks += [start(index, line, {**own, **env}, folder / f"{at}.log") for at, own in enumerate(meeting(world))]
    return ranks


def spy(patch: pytest.MonkeyPatch, owner: Any, name: str, tell: Callable[[str], None]) -> None:
    """From here on each call of the function, here and in processes that start, is told with its rank."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def told(*args: Any, **kwargs: Any) -> Any:
        tell(f"{os.environ.get('RANK', '-')} {args[1] if len(args) > 1 else ''}")
        return original(*args, **kwargs)

    patch.setattr(owner, name, told)


class Diary:
    """Lines of several processes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{line}\n")

    @property
    def ranks(self) -> list[str]:
        return sorted(line.split()[0] for line in self.path.read_text().splitlines()) if self.path.exists() else []


@pytest.mark.parametrize("world", [1, 2, 3])
def test_all_ranks_have_the_index_that_one_has_scanned(folder, ranks, monkeypatch, world) -> None:
    scanned = Diary(folder / "scanned")
    spy(monkeypatch, student.ranks.shared_index, "scan", scanned)
    monkeypatch.setattr(student.ranks.shared_index, "PIECE", 64)  # so that each array comes in many
    if world == 1:
        ranks.append(start(index, line_of(folder), {}, folder / "0.log"))
    else:
        begin(ranks, folder, world)
    assert [rank.wait() for rank in ranks] == [0] * world, [rank.said for rank in ranks]
    report(scan(sorted(map(str, (folder / "data").glob("*.tar")))), folder / "local.json")
    for rank in range(world):
        assert json.loads((folder / f"{rank}.json").read_text()) == json.loads((folder / "local.json").read_text())
    assert scanned.ranks == ["-" if world == 1 else "0"]


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_large_index_is_fetched_once_a_node_and_mapped(folder, ranks, monkeypatch, nodes) -> None:
    fetched = Diary(folder / "fetched")
    spy(monkeypatch, Meeting, "wait_for", fetched)
    monkeypatch.setattr("pipeline.shards.index.LARGE", 1)
    for at, env in enumerate(meeting(3)):
        own = {**env, "DISTILL_CACHE_DIR": folder / f"node{at % nodes}"}
        ranks.append(start(index, line_of(folder), own, folder / f"{at}.log"))
    assert [rank.wait() for rank in ranks] == [0, 0, 0], [rank.said for rank in ranks]
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(3)]
    assert all(one["mapped"] for one in found) and found[0] == found[1] == found[2]
    heads = [line for line in fetched.path.read_text().splitlines() if line.endswith(" index")]
    pieces = [line for line in fetched.path.read_text().splitlines() if not line.endswith(" index")]
    assert sorted(heads) == ["1 index", "2 index"]
    arrays = len(SampleIndex.ARRAYS)  # each of one piece; rank 1 is on the node of rank 0, or on one of its own
    assert [line.split()[0] for line in pieces] == ([] if nodes == 1 else ["1"] * arrays)


def test_a_scan_that_takes_longer_than_the_time_out_is_waited_for(folder, ranks, monkeypatch) -> None:
    original = student.ranks.shared_index.scan

    def slow(*args: Any, **kwargs: Any) -> SampleIndex:
        (folder / "begun").touch()
        eventually((folder / "go").exists)
        return original(*args, **kwargs)

    monkeypatch.setattr(student.ranks.shared_index, "scan", slow)
    begin(ranks, folder, 2, timeout=4)
    eventually((folder / "begun").exists)
    time.sleep(9)
    (folder / "go").touch()
    assert [rank.wait() for rank in ranks] == [0, 0], [rank.said for rank in ranks]


def test_an_error_of_the_scan_ends_all_ranks_with_it(folder, ranks) -> None:
    shard = folder / "data/000001.tar"
    shard.write_bytes(shard.read_bytes()[:1000])
    begin(ranks, folder, 3)
    assert [rank.wait() for rank in ranks] == [1, 1, 1]
    said = [rank.said.splitlines()[-1] for rank in ranks]
    assert said[0].startswith(f"error: {shard}")
    assert said[1:] == [said[0].replace("error: ", "error: rank 0 stopped: ")] * 2
    assert not any("Traceback" in rank.said for rank in ranks)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_without_a_sign_of_life_the_others_end(folder, ranks, monkeypatch, number) -> None:
    def hangs(*_args: Any, **_kwargs: Any) -> SampleIndex:
        (folder / "begun").touch()
        eventually((folder / "never").exists, 300)
        raise AssertionError

    monkeypatch.setattr(student.ranks.shared_index, "scan", hangs)
    lead, other = begin(ranks, folder, 2, timeout=4)
    eventually((folder / "begun").exists)
    os.kill(lead.process.pid or 0, number)
    assert other.wait() == 1, other.said
    last = other.said.splitlines()[-1]
    assert last.startswith("error: rank 1 of 2 at 127.0.0.1:") and "Start the same command again" in last
    assert "Traceback" not in other.said


def attempt(folder: str) -> None:
    """What each worker of torchrun runs; in the first attempt rank 1 dies when it has the index."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    env = {name: value for name, value in os.environ.items() if name.startswith("TORCHELASTIC_") or name in names}
    line = [str(word) for word in line_of(Path(folder), 30)]
    number = os.environ["TORCHELASTIC_RESTART_COUNT"]
    log = Path(folder) / f"{number}-{os.environ['RANK']}.log"
    all_forked(Path(folder))
    time.sleep(LATE_S if (number, env["RANK"]) == ("1", "1") else 0)
    assert run_here(index, line, env, log) == 0, log.read_text()
    if number == "0" and env["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_restart_by_torchrun_believes_nothing_that_the_first_attempt_left(folder) -> None:
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, run_id="test", rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        max_restarts=1, monitor_interval=0.1, start_method="fork",
    )  # fmt: skip
    elastic_launch(config, attempt)(str(folder))
    assert (folder / "1-0.log").exists(), "it was not restarted"
    assert (folder / "0.json").read_bytes() == (folder / "1.json").read_bytes()


# ---- in the commands


def test_training_scans_its_validation_shards_once(folder, ranks, monkeypatch) -> None:
    store = make_store(folder / "world")
    scanned, looked = Diary(folder / "scanned"), Diary(folder / "looked")
    spy(monkeypatch, student.ranks.shared_index, "scan", scanned)
    spy(monkeypatch, pipeline.store.reader, "require_sizes", looked)
    line = arguments(store, folder / "run", "--max-steps", "3", "--val-shards", str(store.parent / "data/000000.tar"))
    ranks += [start(train, line, env, folder / f"{at}.log") for at, env in enumerate(meeting(2))]
    assert [rank.wait() for rank in ranks] == [0, 0], [rank.said for rank in ranks]
    assert (scanned.ranks, looked.ranks) == (["0"], ["0"])
    assert "top1" in (folder / "run/metrics.jsonl").read_text()


@pytest.mark.parametrize("labelled", [False, True])
def test_evaluation_scans_and_lists_once_and_each_rank_reads_its_own_answers(
    tmp_path, ranks, monkeypatch, labelled
) -> None:
    recipe = Recipe.preset("none", image_size=32, seed=5)
    store = make_store(tmp_path, rows=70, views=1, keep="argmax", recipe=recipe)
    save_run(tmp_path / "run", num_classes=CLASSES, names=None)
    scanned, looked, read = (Diary(tmp_path / name) for name in ("scanned", "looked", "read"))
    spy(monkeypatch, student.ranks.shared_index, "scan", scanned)
    spy(monkeypatch, pipeline.store.reader, "require_sizes", looked)
    spy(monkeypatch, StoreReader, "read_arrays", read)
    line = ["--checkpoint", tmp_path / "run", "--shards", tmp_path / "data/*.tar", "--workers", 0, "--device", "cpu"]
    line += ["--logits", store] if labelled else []
    for world in (1, 2):
        found = [*line, "--out", tmp_path / f"{world}.json"]
        envs = meeting(2) if world == 2 else [{}]
        ranks += [start(evaluate, found, env, tmp_path / f"{world}{at}.log") for at, env in enumerate(envs)]
    assert [rank.wait() for rank in ranks] == [0, 0, 0], [rank.said for rank in ranks]
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()
    once = ["-", "0"]
    assert (scanned.ranks, looked.ranks) == (([], once) if labelled else (once, []))
    # 70 rows are five units of 16; the ranks' parts meet in the third
    assert read.ranks == (["-"] * 5 + ["0"] * 3 + ["1"] * 3 if labelled else [])
