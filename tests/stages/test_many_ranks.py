"""However many processes label a store, started, killed and restarted however: its bytes are those of one process."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from click.testing import CliRunner
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pipeline.store import LabelStore
from stages.teacher_logits import main
from tests.pictures import tiny_shards
from tests.pipeline.s3server import forget, point_at, s3_server
from tests.stages.ranks import Rank, eventually, meeting, run_here, start

NET, ROWS, VIEWS = "test_resnet", 90, 8
UNITS = VIEWS * 3
TIMEOUT = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    tiny_shards(folder / "shards", rows=ROWS, shards=2, classes=3, class_names=["ant", "bee", "cat"])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    safetensors.torch.save_file(timm.create_model(NET, num_classes=3).state_dict(), folder / "teacher.safetensors")
    return folder


def arguments(folder: Path, out: Path, *more: object) -> list[object]:
    fixed = ["--model", NET, "--image-size", 32, "--teacher-size", "view", "--mix-window", 8, "--device", "cpu"]
    fixed += ["--views", VIEWS, "--batch-size", 16, "--unit-rows", 32, "--views-together", 2, "--workers", 0]
    fixed += ["--log-level", "warning", "--timeout", TIMEOUT, "--weights", folder / "teacher.safetensors"]
    return ["--shards", folder / "shards" / "*.tar", "--out", out, *fixed, *more]


@pytest.fixture(scope="module")
def reference(folder: Path) -> dict[str, bytes]:
    out = folder / "reference.zarr"
    result = CliRunner().invoke(main, [str(a) for a in arguments(folder, out)])
    assert result.exit_code == 0, result.output
    return tree(out)


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def receipts(out: Path) -> int:
    return len(list(out.glob("receipts/*/*.json")))


@pytest.fixture
def ranks(tmp_path: Path, folder: Path) -> Iterator[list[Rank]]:
    """Processes that are ended however the test does."""
    started: list[Rank] = []
    yield started
    for rank in started:
        if rank.process.is_alive():
            rank.kill()


def begin(ranks: list[Rank], envs: list[dict[str, object]], folder: Path, out: Path, *more: object) -> list[Rank]:
    new = [
        start(main, arguments(folder, out, *more), env, out.with_name(f"{len(ranks) + at}.log"))
        for at, env in enumerate(envs)
    ]
    ranks += new
    return new


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_that_meet_make_the_store_of_one_process(world, folder, reference, ranks, tmp_path) -> None:
    out = tmp_path / "store.zarr"
    group = begin(ranks, meeting(world), folder, out)
    assert [rank.wait() for rank in group] == [0] * world, [rank.said for rank in group]
    assert tree(out) == reference
    assert "teacher  720/720 views" in group[0].said and "summary" in group[0].said
    assert all("views" not in rank.said for rank in group[1:]), "only rank 0 shows progress"


def test_a_killed_rank_loses_what_it_had_in_hand_and_nothing_else(folder, reference, ranks, tmp_path) -> None:
    out = tmp_path / "store.zarr"
    group = begin(ranks, meeting(3), folder, out)
    eventually(lambda: receipts(out) >= 3)
    group[2].kill()
    assert [rank.wait() for rank in group[:2]] == [0, 0], [rank.said for rank in group]
    assert tree(out) == reference


def test_without_rank_0_the_others_end_in_time_and_any_number_goes_on(folder, reference, ranks, tmp_path) -> None:
    out = tmp_path / "store.zarr"
    for world in (3, 2):
        group = begin(ranks, meeting(world), folder, out)
        before = receipts(out)
        eventually(lambda before=before: receipts(out) >= before + 3)
        group[0].kill()
        begun = time.monotonic()
        codes = [rank.wait(4 * TIMEOUT) for rank in group[1:]]
        assert time.monotonic() - begun < 4 * TIMEOUT
        for code, rank in zip(codes, group[1:], strict=True):
            assert code in (0, 1), rank.said
            if code:
                assert "error: rank" in rank.said and "Start the same command again" in rank.said
                assert "Traceback" not in rank.said
        assert not (out / "COMPLETE").exists()
    group = begin(ranks, meeting(4), folder, out)
    assert [rank.wait() for rank in group] == [0] * 4, [rank.said for rank in group]
    assert tree(out) == reference


def test_a_run_does_not_sweep_while_a_process_of_an_earlier_one_writes(folder, reference, ranks, tmp_path) -> None:
    out = tmp_path / "store.zarr"
    group = begin(ranks, meeting(2), folder, out)
    eventually(lambda: receipts(out) >= 1)
    late = begin(ranks, [{}], folder, out)[0]
    assert late.wait() == 1
    assert "is being written by" in late.said
    assert [rank.wait() for rank in group] == [0, 0]
    assert tree(out) == reference


def array(count: int) -> list[dict[str, object]]:
    fixed = {"SLURM_ARRAY_TASK_COUNT": count, "SLURM_ARRAY_TASK_MIN": 1, "SLURM_ARRAY_TASK_STEP": 1}
    return [{**fixed, "SLURM_ARRAY_TASK_ID": 1 + at} for at in range(count)]


def test_slices_at_once_make_the_store_and_the_last_one_finishes_it(folder, reference, ranks, tmp_path) -> None:
    out = tmp_path / "store.zarr"
    tasks = begin(ranks, array(3), folder, out, "--timeout", 60)
    assert [task.wait() for task in tasks] == [0, 0, 0], [task.said for task in tasks]
    assert tree(out) == reference
    assert sum("is done;" in task.said for task in tasks) <= 2


def test_slices_one_after_the_other_some_killed_and_another_number_of_them(folder, reference, ranks, tmp_path) -> None:
    out = tmp_path / "store.zarr"
    first, second, third = array(3)
    task = begin(ranks, [second], folder, out)[0]
    assert task.wait() == 0 and f"slice 2 of 3 is done; {UNITS * 2 // 3} units of other slices are missing" in task.said
    killed = begin(ranks, [first], folder, out)[0]
    done = receipts(out)
    eventually(lambda: receipts(out) > done)
    killed.kill()
    killed.process.join()
    assert begin(ranks, [third], folder, out)[0].wait() == 0
    assert not (out / "COMPLETE").exists()
    tasks = begin(ranks, array(2), folder, out, "--timeout", 60)
    assert [task.wait() for task in tasks] == [0, 0], [task.said for task in tasks]
    assert tree(out) == reference


def test_ranks_refuse_to_label_otherwise_than_rank_0(folder, ranks, tmp_path) -> None:
    out = tmp_path / "store.zarr"
    envs = meeting(2)
    lead = begin(ranks, envs[:1], folder, out)[0]
    other = begin(ranks, envs[1:], folder, out, "--seed", 5)[0]
    assert other.wait() == 1
    assert "seed: 0 against 5" in other.said
    assert lead.wait() == 0, lead.said


def attempt(folder: str, out: str) -> None:
    """What each worker of torchrun runs; in the first attempt rank 1 dies."""
    import os

    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1":
        eventually(lambda: receipts(Path(out)) >= 2)
        os.kill(os.getpid(), 9)
    env = {name: value for name, value in os.environ.items() if name.startswith(("TORCHELASTIC_", "MASTER_"))}
    env |= {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    log = Path(out).with_name(f"{os.environ['TORCHELASTIC_RESTART_COUNT']}-{os.environ['RANK']}.log")
    code = run_here(main, [str(a) for a in arguments(Path(folder), Path(out), "--timeout", 30)], env, log)
    assert code == 0, log.read_text()


def test_torchrun_restarts_after_a_death_and_the_store_is_the_same(folder, reference, tmp_path) -> None:
    out = tmp_path / "store.zarr"
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, run_id="test", rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        max_restarts=1, monitor_interval=0.1, start_method="fork",
    )  # fmt: skip
    elastic_launch(config, attempt)(str(folder), str(out))
    logs = {path.name: path.read_text() for path in tmp_path.glob("*.log")}
    assert "1-0.log" in logs, "it was not restarted"
    assert tree(out) == reference, logs


# ---- a node that is cut off

NETWORK = "10.231.77"


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def cable() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a cable between them."""
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` command: network namespaces cannot be made")
    names = ("distill-a", "distill-b")
    try:
        for name in names:
            made = ip("netns", "add", name)
            if made.returncode:
                pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip()}")
        made = ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        if made.returncode:
            pytest.skip(f"a pair of network devices cannot be made here: {made.stderr.strip()}")
        for number, name in enumerate(names, 1):
            for words in (
                ("addr", "add", f"{NETWORK}.{number}/24", "dev", "cable"),
                ("link", "set", "cable", "up"),
                ("link", "set", "lo", "up"),
            ):
                assert ip("-n", name, *words).returncode == 0
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)


def test_a_node_that_is_cut_off_ends_in_time_and_the_rest_goes_on(folder, reference, cable, ranks, tmp_path) -> None:
    out = tmp_path / "store.zarr"
    envs = [{**env, "MASTER_ADDR": f"{NETWORK}.1", "NETNS": name} for env, name in zip(meeting(2), cable, strict=True)]
    lead, other = begin(ranks, envs, folder, out)
    eventually(lambda: receipts(out) >= 3)
    cut = time.monotonic()
    assert ip("-n", cable[1], "link", "set", "cable", "down").returncode == 0
    assert other.wait(4 * TIMEOUT) == 1, other.said
    assert time.monotonic() - cut < 3 * TIMEOUT
    assert "cannot reach the other ranks" in other.said and "Traceback" not in other.said
    assert lead.wait(60) == 0, lead.said  # it says that rank 1 was lost if that one still had work in hand
    assert tree(out) == reference
    assert LabelStore.open_finished(out).missing() == []


# ---- everything in S3


def test_ranks_with_shards_and_store_in_s3_make_the_same_bytes(folder, reference, ranks, tmp_path, monkeypatch) -> None:
    """Where the shards lay is written into the store, and so is the one difference."""
    with s3_server() as (port, client):
        for path in sorted((folder / "shards").glob("*.tar")):
            client.put_object(Bucket="bucket", Key=f"train/{path.name}", Body=path.read_bytes())
        point_at(port, monkeypatch)
        monkeypatch.setenv("DISTILL_CACHE_DIR", str(tmp_path / "cache"))
        where = ["--shards", "s3://bucket/train/*.tar", "--timeout", 60]
        logs = [tmp_path / f"{at}.log" for at in range(2)]
        given = arguments(folder, Path("unused"), *where, "--summary", tmp_path / "summary.json")[2:]
        given[1] = "s3://bucket/store.zarr"
        ranks += [start(main, given, env, log) for env, log in zip(meeting(2), logs, strict=True)]
        assert [rank.wait(90) for rank in ranks] == [0, 0], [rank.said for rank in ranks]
        found = {
            entry["Key"].removeprefix("store.zarr/"): client.get_object(Bucket="bucket", Key=entry["Key"])[
                "Body"
            ].read()
            for entry in client.list_objects_v2(Bucket="bucket", Prefix="store.zarr/")["Contents"]
        }
    assert found.keys() == reference.keys()
    labels = ("argmax/c", "crc/c", "luma/c", "logits/c", "witness/pixels/c")
    assert {k: v for k, v in found.items() if k.startswith(labels)} == {
        k: v for k, v in reference.items() if k.startswith(labels)
    }
    forget()
