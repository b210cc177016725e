"""Order and content are those that were asked for, whoever renders them; failures arrive as themselves."""

import multiprocessing
import os
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ImageError, ShardError, WorkerError
from pipeline.rendering.loader import Loader, requests_of
from pipeline.shards.index import scan
from pipeline.views.recipe import Recipe
from tests.pictures import tiny_shards

ROWS, VIEWS = 40, 3


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return scan(tiny_shards(tmp_path_factory.mktemp("shards"), rows=ROWS))


@pytest.fixture(scope="module")
def recipe():
    return Recipe.preset("deit", image_size=32, mix_window=8)


def rendered(index, recipe, **how):
    """All views of all rows, in whatever batches, as one table by (view, row)."""
    batch = how.pop("batch", 7)
    requests = [request for view in range(VIEWS) for request in requests_of(np.arange(ROWS), view, batch)]
    with Loader(recipe, index, batch=batch, **how) as loader:
        taken = [(s.answers(), s.pixels_BHWC.copy()) for s in loader.render(requests)]
    assert [a.row_B.tolist() for a, _ in taken] == [r.tolist() for r, _ in requests]
    crc = np.concatenate([a.crc_B for a, _ in taken]).reshape(VIEWS, ROWS)
    luma = np.concatenate([a.luma_B16 for a, _ in taken]).reshape(VIEWS, ROWS, 16)
    return crc, luma, np.concatenate([p for _, p in taken])


@pytest.fixture(scope="module")
def reference(index, recipe):
    return rendered(index, recipe, workers=0, batch=ROWS)


@pytest.mark.parametrize(
    "how",
    [
        {"workers": 0, "batch": 1},
        {"workers": 1, "batch": 32},
        {"workers": 2, "batch": 7},
        {"workers": 2, "batch": 7, "together": 3},
        {"workers": 5, "batch": 7},
        {"workers": 2, "batch": 32, "start_method": "spawn"},
        {"workers": 1, "batch": 7, "start_method": "forkserver"},
    ],
    ids=str,
)
def test_content_does_not_depend_on_how_it_was_rendered(index, recipe, reference, how):
    for ours, theirs in zip(rendered(index, recipe, **dict(how)), reference, strict=True):
        assert (ours == theirs).all()


def test_a_loader_serves_many_runs_even_after_one_was_abandoned(index, recipe):
    with Loader(recipe, index, batch=8, workers=2) as loader:
        crcs = []
        for _ in range(3):
            run = loader.render(requests_of(np.arange(ROWS), 0, 8))
            crcs.append(next(run).crc_B.copy())
            run.close()
        whole = np.concatenate([s.crc_B.copy() for s in loader.render(requests_of(np.arange(ROWS), 0, 8))])
    assert all((crc == whole[:8]).all() for crc in crcs)


def test_a_killed_worker_is_noticed_and_named(index, recipe):
    with Loader(recipe, index, batch=8, workers=2) as loader:
        run = loader.render(requests_of(np.tile(np.arange(ROWS), 10), 0, 8))  # far more than are asked for ahead
        next(run)
        os.kill(loader._workers[1][0].pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"exit code -9 \(worker 1\)"):
            list(run)


def test_a_worker_that_dies_in_the_middle_of_its_answer_is_noticed(index, recipe):
    with Loader(recipe, index, batch=8, workers=1) as loader:
        process, _ = loader._workers[0]
        ours, theirs = multiprocessing.Pipe()
        loader._workers[0] = process, ours
        os.write(theirs.fileno(), (1000).to_bytes(4, "big") + b"the first of them")
        theirs.close()
        process.kill()
        with pytest.raises(WorkerError, match=r"exit code -9 \(worker 0\)"):
            list(loader.render(requests_of(np.arange(8), 0, 8)))


def test_workers_do_not_outlive_a_loader_that_could_not_start(index, recipe, monkeypatch):
    started, start = [], BaseProcess.start

    def second_fails(process):
        if started:
            raise OSError("no more processes")
        start(process)
        started.append(process)

    monkeypatch.setattr(BaseProcess, "start", second_fails)
    with pytest.raises(OSError, match="no more processes"):
        Loader(recipe, index, batch=8, workers=2)
    assert started[0].exitcode == -signal.SIGKILL


def test_a_loader_whose_end_was_interrupted_is_at_its_end(index, recipe, monkeypatch):
    loader = Loader(recipe, index, batch=8, workers=2)
    run = loader.render(requests_of(np.tile(np.arange(ROWS), 10), 0, 8))
    next(run)
    crew = [process for process, _ in loader._workers]

    def interrupted(process, timeout=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as now:
        now.setattr(BaseProcess, "join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            loader.close()
    run.close()
    for process in crew:
        process.join(60)
        assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("workers", [0, 2])
def test_a_users_error_arrives_as_itself(tmp_path, recipe, workers):
    urls = tiny_shards(tmp_path, rows=16, replace={5: b"\xff\xd8\xff\xe0 not a picture"})
    index = scan(urls)
    with (
        Loader(recipe, index, batch=8, workers=workers) as loader,
        pytest.raises(ImageError, match="s0/000005"),
    ):
        list(loader.render(requests_of(np.arange(16), 0, 8)))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_changed_is_noticed_when_it_is_read(tmp_path, recipe, workers):
    urls = tiny_shards(tmp_path, rows=16)
    index = scan(urls)
    with Path(urls[0]).open("r+b") as shard:
        shard.seek(int(index.offsets[3]) + 100)
        shard.write(b"\x00\x01\x02")
    with Loader(recipe, index, batch=8, workers=workers) as loader, pytest.raises(ShardError, match="s0/000003"):
        list(loader.render(requests_of(np.arange(16), 0, 8)))


def test_a_batch_goes_to_the_worker_that_has_answered_and_not_to_the_next_in_turn(index, recipe):
    """One worker is held (a picture that takes long); what comes next goes to the other, again and again."""
    with Loader(recipe, index, batch=8, workers=2) as loader:
        held, quick = loader._workers
        os.kill(held[0].pid, signal.SIGSTOP)
        for number, worker in enumerate((0, 1)):
            slot = loader._slots[number].first(8)
            slot.row_B[:], slot.view_B[:] = np.arange(8), 0
            loader._send(worker, (number, 8))
        for _ in range(3):
            assert quick[1].poll(180)
            assert loader._least_busy(last=1) == 1
            loader._receive(1)
            loader._send(1, (1, 8))
        os.kill(held[0].pid, signal.SIGCONT)
        loader._receive(0)
        assert loader._least_busy(last=1) == 0
