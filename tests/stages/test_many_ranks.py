"""However many processes label a store, started, killed and restarted however: its bytes are those of one process."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from click.testing import CliRunner
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import pipeline.remote.client
from pipeline.durable import s3_lease
from pipeline.durable.local import LocalObjects
from pipeline.durable.s3 import S3Objects
from pipeline.labelling.store_status import store_status
from pipeline.store.reader import StoreReader
from pipeline.store.writer import StoreWriter
from stages.labelling import roles
from stages.teacher_logits import main
from stages.verify_logits import main as verify_logits
from tests.many_ranks import Hold, Rank, eventually, meeting, run_here, start
from tests.network import Cable, cabled, enter
from tests.patience import all_forked
from tests.pictures import tiny_shards
from tests.servers.s3 import forget, point_at, s3_server

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
    group = begin(ranks, meeting(world), folder, out, "--timeout", 60)
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


def test_without_rank_0_the_others_end_in_time_and_any_number_goes_on(
    folder, reference, ranks, tmp_path, monkeypatch
) -> None:
    out = tmp_path / "store.zarr"
    monkeypatch.setattr(StoreWriter, "finish", lambda _: time.sleep(600))  # a kill cannot come too late
    for world in (3, 2):
        group = begin(ranks, meeting(world), folder, out)
        wanted = min(receipts(out) + 3, UNITS)
        eventually(lambda wanted=wanted: receipts(out) >= wanted)
        group[0].kill()
        codes = [rank.wait() for rank in group[1:]]
        for code, rank in zip(codes, group[1:], strict=True):
            assert code in (0, 1), rank.said
            if code:
                assert "error: rank" in rank.said and "Start the same command again" in rank.said
                assert "Traceback" not in rank.said
        assert not (out / "COMPLETE").exists()
    monkeypatch.undo()
    group = begin(ranks, meeting(4), folder, out)
    assert [rank.wait() for rank in group] == [0] * 4, [rank.said for rank in group]
    assert tree(out) == reference


def test_ranks_killed_at_random_in_any_numbers_end_with_the_store_of_one_process(
    folder, reference, ranks, tmp_path
) -> None:
    """One rank, rank 0, or all of them, again and again; then the same command with nobody killed.

    A rank is killed by itself, at a call that changes the disk, so that the kill cannot come too late; all are killed
    from here, after a random time.
    """
    out, generator, killed = tmp_path / "store.zarr", np.random.default_rng(4), 0
    calls = {"rank 0": 60, "one": 150}
    for number, victims in enumerate(("rank 0", "all", "one", "rank 0", "all", "one")):
        world = 2 + number % 2
        doomed = 0 if victims == "rank 0" else 1 + int(generator.integers(world - 1))
        group = []
        for env in meeting(world):
            at = int(generator.integers(calls[victims])) if victims != "all" and env["RANK"] == doomed else None
            given = arguments(folder, out, "--timeout", 1.5)
            group.append(start(main, given, env, tmp_path / f"{number}-{env['RANK']}.log", killed_at=at))
        ranks += group
        if victims == "all":
            wanted = receipts(out) + int(generator.integers(4))
            eventually(lambda group=group, wanted=wanted: receipts(out) >= wanted or not any_lives(group))
            time.sleep(generator.uniform(0, 0.1))
            for rank in group:
                rank.process.kill()
        codes = [rank.wait() for rank in group]
        killed += codes.count(-signal.SIGKILL)
        assert set(codes) <= {0, 1, -signal.SIGKILL} and not any("Traceback" in rank.said for rank in group), codes
        if (out / "COMPLETE").exists():
            assert tree(out) == reference
            shutil.rmtree(out)
    assert killed >= 1, "the first round begins a store, which rank 0 cannot do in fewer calls than it has"
    group = begin(ranks, meeting(3), folder, out, "--timeout", 60)
    assert [rank.wait() for rank in group] == [0] * 3, [rank.said for rank in group]
    assert tree(out) == reference


def any_lives(group: list[Rank]) -> bool:
    return any(rank.process.is_alive() for rank in group)


def test_a_run_does_not_sweep_while_a_process_of_an_earlier_one_writes(
    folder, reference, ranks, tmp_path, monkeypatch
) -> None:
    out, hold = tmp_path / "store.zarr", Hold(tmp_path)
    hold.on(monkeypatch, LocalObjects)
    group = begin(ranks, meeting(2), folder, out, "--timeout", 60)
    hold.wait_for(*group)
    seen = store_status(out)
    assert [(writer.told["rank"], writer.pid, writer.works) for writer in seen.writers] == [
        (number, rank.process.pid, True) for number, rank in enumerate(group)
    ]
    assert (seen.state, seen.units, seen.units_done) == ("waiting", UNITS, 0), "for its first unit"
    late = begin(ranks, [{}], folder, out)[0]
    assert late.wait() == 1
    assert "is being written by" in late.said
    hold.release()
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


def test_slices_one_after_the_other_some_killed_and_another_number_of_them(
    folder, reference, ranks, tmp_path, monkeypatch
) -> None:
    out = tmp_path / "store.zarr"
    first, second, third = array(3)
    task = begin(ranks, [second], folder, out)[0]
    assert task.wait() == 0 and f"slice 2 of 3 is done; {UNITS * 2 // 3} units of other slices are missing" in task.said
    with monkeypatch.context() as patch:
        hold = Hold(tmp_path)
        hold.on(patch, LocalObjects, after=2)
        killed = begin(ranks, [first], folder, out)[0]
    hold.wait_for(killed)
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
    lead = begin(ranks, envs[:1], folder, out, "--timeout", 60)[0]
    other = begin(ranks, envs[1:], folder, out, "--timeout", 60, "--seed", 5)[0]
    assert other.wait() == 1
    assert "seed: 0 against 5" in other.said
    assert lead.wait() == 0, lead.said


def attempt(folder: str, out: str) -> None:
    """What each worker of torchrun runs; in the first attempt rank 1 dies."""
    import os

    all_forked(Path(out).parent)
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1":
        eventually(lambda: receipts(Path(out)) >= 2)
        os.kill(os.getpid(), 9)
    env = {name: value for name, value in os.environ.items() if name.startswith(("TORCHELASTIC_", "MASTER_"))}
    env |= {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    log = Path(out).with_name(f"{os.environ['TORCHELASTIC_RESTART_COUNT']}-{os.environ['RANK']}.log")
    code = run_here(main, [str(a) for a in arguments(Path(folder), Path(out), "--timeout", 60)], env, log)
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


@pytest.fixture
def cable() -> Iterator[Cable]:
    with cabled() as made:
        yield made


def test_a_node_that_is_cut_off_ends_in_time_and_the_rest_goes_on(
    folder, reference, cable, ranks, tmp_path, monkeypatch
) -> None:
    out, hold = tmp_path / "store.zarr", Hold(tmp_path)
    hold.on(monkeypatch, LocalObjects)
    envs = [{**env, "MASTER_ADDR": cable.address(0), **cable.env(node)} for node, env in enumerate(meeting(2))]
    lead, other = begin(ranks, envs, folder, out)
    hold.wait_for(lead, other)
    cable.cut()
    hold.release()
    assert other.wait() == 1, other.said
    assert "cannot reach the other ranks" in other.said and "Traceback" not in other.said
    assert lead.wait() == 0, lead.said  # it says that rank 1 was lost if that one still had work in hand
    assert tree(out) == reference
    StoreReader.open(out)


def test_a_node_that_cannot_be_reached_from_the_start_ends_in_time(folder, reference, cable, ranks, tmp_path) -> None:
    out = tmp_path / "store.zarr"
    cable.cut()
    envs = [{**env, "MASTER_ADDR": cable.address(0), **cable.env(node)} for node, env in enumerate(meeting(2))]
    lead, other = begin(ranks, envs, folder, out)
    assert other.wait() == 1, other.said
    assert "cannot reach the other ranks" in other.said and "Traceback" not in other.said
    assert lead.wait() == 0, lead.said
    assert tree(out) == reference


def serve_s3(node: str, folder: Path, pipe: multiprocessing.connection.Connection) -> None:
    """An S3 server on that node; it says its port, and how many receipts there are whenever it is asked."""
    enter(node)
    with s3_server(host="0.0.0.0") as (port, client):
        for path in sorted((folder / "shards").glob("*.tar")):
            client.put_object(Bucket="bucket", Key=f"train/{path.name}", Body=path.read_bytes())
        pipe.send(port)
        while pipe.recv() != "end":
            found = client.list_objects_v2(Bucket="bucket", Prefix="store.zarr/receipts/").get("Contents", [])
            pipe.send(len(found) - 1)


@pytest.fixture
def far_s3(cable: Cable, folder: Path) -> Iterator[tuple[int, Callable[[], int]]]:
    """The port of an S3 server on the first node, and a function that counts the receipts there."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=serve_s3, args=(cable.nodes[0], folder, theirs))
    process.start()
    theirs.close()

    def count() -> int:
        ours.send("count")
        return int(ours.recv())

    try:
        assert ours.poll(180)
        yield ours.recv(), count
    finally:
        with contextlib.suppress(OSError):
            ours.send("end")
        process.join(20)
        process.kill()


def test_a_node_that_loses_its_object_store_ends_in_time_and_another_goes_on(
    folder, cable, far_s3, ranks, tmp_path, monkeypatch
) -> None:
    """Attempts and pauses are those of docs/scaling.md, with shorter time-outs."""
    port, count = far_s3
    point_at(port, monkeypatch)
    client = pipeline.remote.client
    for module, name, seconds in ((client, "STALL_S", 3.0), (client, "CONNECT_S", 3.0), (s3_lease, "LEASE_S", 6)):
        monkeypatch.setattr(module, name, seconds)
    given = [
        "--out",
        "s3://bucket/store.zarr",
        *arguments(folder, Path("unused"), "--summary", tmp_path / "s.json")[4:],
    ]
    given += ["--shards", "s3://bucket/train/*.tar", "--cache-dir", tmp_path / "cache"]
    runs = []
    for node, address in ((1, cable.address(0)), (0, "127.0.0.1")):
        env = {**cable.env(node), "AWS_ENDPOINT_URL": f"http://{address}:{port}"}
        runs.append((given, env, tmp_path / f"{node}.log"))
    hold = Hold(tmp_path)
    hold.on(monkeypatch, S3Objects, after=2)
    cut_off = start(main, *runs[0])
    ranks.append(cut_off)
    hold.wait_for(cut_off)
    cable.cut()
    hold.release()
    assert cut_off.wait() == 1, cut_off.said
    assert "s3://bucket/store.zarr" in cut_off.said and "Nothing that was finished is lost" in cut_off.said
    assert "Traceback" not in cut_off.said
    assert count() == 2
    ranks.append(start(main, *runs[1]))
    assert ranks[-1].wait() == 0, ranks[-1].said
    assert count() == UNITS
    checked = ["--logits", "s3://bucket/store.zarr", "--workers", 0, "--cache-dir", tmp_path / "cache"]
    ranks.append(start(verify_logits, checked, runs[1][1], tmp_path / "verify.log"))
    assert ranks[-1].wait() == 0 and "s3://bucket/store.zarr is in order" in ranks[-1].said
    forget()


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
        assert [rank.wait() for rank in ranks] == [0, 0], [rank.said for rank in ranks]
        found = {
            entry["Key"].removeprefix("store.zarr/"): client.get_object(Bucket="bucket", Key=entry["Key"])[
                "Body"
            ].read()
            for entry in client.list_objects_v2(Bucket="bucket", Prefix="store.zarr/")["Contents"]
        }
    assert found.keys() == reference.keys()
    labels = ("argmax/c", "crc/c", "logits/c", "witness/pixels/c")
    assert {k: v for k, v in found.items() if k.startswith(labels)} == {
        k: v for k, v in reference.items() if k.startswith(labels)
    }
    forget()


def test_a_slice_that_mends_what_its_ranks_left_sees_that_the_others_have_ended(
    folder, reference, tmp_path, monkeypatch
) -> None:
    """The other slice commits its last unit while this one does what ranks that were lost had in hand."""
    out, (first, second) = tmp_path / "store.zarr", array(2)
    label, calls = roles._label, []

    def interrupted(plan, store, teacher, tasks, *rest):
        calls.append(len(calls))
        if len(calls) == 1:
            label(plan, store, teacher, list(tasks)[1:], *rest)
            return [1]
        monkeypatch.setattr(roles, "_label", label)
        assert start(main, arguments(folder, out), second, tmp_path / "second.log").wait() == 0
        assert not (out / "COMPLETE").exists()
        return label(plan, store, teacher, tasks, *rest)

    monkeypatch.setattr(roles, "_label", interrupted)
    task = start(main, arguments(folder, out), first, tmp_path / "first.log")
    assert task.wait() == 0, task.said
    assert "ranks 1 were lost" in task.said and "are missing" not in task.said
    assert tree(out) == reference
