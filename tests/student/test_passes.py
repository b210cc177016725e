"""Whoever draws, and whenever he begins: a pass over views is one epoch, whole, for each process from its own place."""

from __future__ import annotations

import copy
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed
from torch.utils.data import DataLoader

from pipeline.errors import MismatchError, StudentError
from pipeline.shards.index import scan
from student.dataset import StoredViews
from student.feed import position
from student.feed.position import Position
from tests.small_students import CLASSES, make_store

pytestmark = pytest.mark.usefixtures("one_thread")

Steps = list[tuple[int, int]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("world"), views=3, keep="argmax")


def loader(views: StoredViews, workers: int = 2, **more: Any) -> Any:
    return DataLoader(views, batch_size=None, num_workers=workers, **more)


def steps(batches: Any) -> Steps:
    return [(batch.epoch, batch.step) for batch in batches]


def epoch(number: int, of: int = 5) -> Steps:
    return [(number, step) for step in range(of)]


@pytest.mark.parametrize("persistent", [False, True])
def test_a_pass_that_was_left_is_followed_by_a_whole_one(store: Path, persistent: bool) -> None:
    views = StoredViews(store, batch=20)
    given = loader(views, persistent_workers=persistent, prefetch_factor=1)
    for number in range(0, 8, 2):
        first = next(iter(given))
        assert (first.epoch, first.step) == (number, 0)
        assert steps(given) == epoch(number + 1)
        assert views.epoch == number + 2, "which is what comes next"
    views.set_epoch(7)
    next(iter(given))
    views.set_epoch(3)
    assert steps(given) == epoch(3)


def test_passes_of_other_numbers_of_workers_follow_each_other(store: Path) -> None:
    views = StoredViews(store, batch=20)
    found = [steps(loader(views, workers)) for workers in (1, 2, 0, 3, 2)]
    assert found == [epoch(number) for number in range(5)]
    views.load_state_dict({**views_state(store), "epoch": 1, "step": 3})
    assert steps(loader(views, 2)) == [(1, 3), (1, 4)] and steps(loader(views, 1)) == epoch(2)


def views_state(store: Path) -> dict[str, Any]:
    return StoredViews(store, batch=20).state_dict()


def test_an_epoch_that_is_set_while_a_pass_is_on_its_way_is_that_of_the_next(store: Path) -> None:
    views = StoredViews(store, batch=20)
    given = iter(loader(views))
    first = next(given)
    views.set_epoch(5)
    assert steps([first, *given]) == epoch(0) and steps(loader(views)) == epoch(5)
    found = []
    for batch in views:  # this process draws by itself
        found.append((batch.epoch, batch.step))
        if batch.step == 2:
            views.set_epoch(1)
    assert found == epoch(6) and steps(views) == epoch(1)


def test_two_loops_at_once_are_refused(store: Path) -> None:
    with pytest.raises(StudentError, match="Another loop over these views was begun while this loop was in epoch 0"):
        list(zip(StoredViews(store, batch=20), again := StoredViews(store, batch=20), again, strict=False))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loop_that_another_thread_is_within_goes_on(store: Path, workers: int) -> None:
    views = StoredViews(store, batch=20, workers=workers)
    inside, refused, found = threading.Event(), threading.Event(), []
    expect = views.start().answers.expect

    def waiting(batch: Any) -> None:
        inside.set()
        assert refused.wait(60)
        expect(batch)

    views.start().answers.expect = waiting  # type: ignore[method-assign]
    first = threading.Thread(target=lambda: found.extend(steps(views)))
    first.start()
    assert inside.wait(60)
    try:
        with pytest.raises(StudentError, match=r"^Another thread is within a loop over these views\. Open a second"):
            next(iter(views))
    finally:
        refused.set()
        first.join()
    assert found == epoch(0)
    views.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_views_that_are_closed_within_their_loop_say_so(store: Path, workers: int) -> None:
    views = StoredViews(store, batch=20, workers=workers)
    told = "These views were closed while this loop was in epoch 0, and ended it. Close them behind the loop"
    with pytest.raises(StudentError, match=told):
        for _ in views:
            views.close()
            assert not multiprocessing.active_children()
    assert steps(views) == [(0, step) for step in range(1, len(views))], "the next loop goes on behind the step given"
    for batch in views:
        if batch.step + 1 == len(views):
            views.close()  # nothing is lost by it
    assert views.epoch == 2


def _give(views: StoredViews, first: int, more: int, queue: Any) -> None:
    torch.set_num_threads(1)
    views.set_epoch(first)
    queue.put((first, [steps(loader(views, workers)) for workers in (0, more, 0)]))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_that_inherit_views_have_places_of_their_own(store: Path, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    views, queue = StoredViews(store, batch=20), context.SimpleQueue()
    processes = [context.Process(target=_give, args=(views, first, 2, queue)) for first in (10, 20)]
    for process in processes:
        process.start()
    found = dict(queue.get() for _ in processes)
    for process in processes:
        process.join()
    assert found == {first: [epoch(first + number) for number in range(3)] for first in (10, 20)}
    assert steps(views) == epoch(0)


def _rows(rank: int, views: StoredViews, meeting: str, queue: Any) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    views.set_epoch(0)
    found = [[batch.row.tolist() for batch in loader(views, workers)] for workers in (0, 2)]
    queue.put((rank, views.ranks.world, found))
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_views_that_were_opened_before_the_process_group_are_shared_out(
    store: Path, tmp_path: Path, method: str
) -> None:
    context: Any = multiprocessing.get_context(method)
    views, queue = StoredViews(store, batch=20), context.SimpleQueue()
    meeting = f"file://{tmp_path}/meeting"
    processes = [context.Process(target=_rows, args=(rank, views, meeting, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    shares = {rank: found for rank, world, found in (queue.get() for _ in processes) if world == 2}
    for process in processes:
        process.join()
    want = [[batch.row.tolist() for batch in views] for _ in range(2)]
    for turn, whole in enumerate(want):
        assert [left + right for left, right in zip(shares[0][turn], shares[1][turn], strict=True)] == whole


BAD: list[tuple[Callable[[Path], Any], str]] = [
    (lambda store: StoredViews(store, rank=1), r"rank is 1 and world is None\. Give both, or neither\."),
    (lambda store: StoredViews(store, answer=3), r"answer '3' is not known"),  # type: ignore[arg-type]
    (lambda store: StoredViews(store, tau="3"), r"tau is 3\. Give a temperature above 0"),  # type: ignore[arg-type]
    (lambda store: StoredViews(store, mean=0.5), "give three numbers each"),  # type: ignore[arg-type]
    (lambda store: StoredViews(store, mean=("a", "b", "c")), "give three numbers each"),  # type: ignore[arg-type]
    (lambda store: StoredViews(store, mean=(123, 116, 103)), "of pixels from 0 to 1"),
    (lambda store: StoredViews(store, std=(1, 1, float("nan"))), "give three numbers each"),
    (lambda store: StoredViews(store, device="gpu"), r"device is 'gpu'\. Give cpu, cuda"),
    (lambda store: StoredViews(store).load_state_dict([1]), r"A state is what state_dict\(\) gave, not \[1\]"),  # type: ignore[arg-type]
    (lambda store: StoredViews(store).state_dict(after=5), r"after is 5\. Give a batch of these views"),  # type: ignore[arg-type]
    (lambda store: StoredViews(store).set_epoch(2**32), "epoch is 4294967296"),
]


@pytest.mark.parametrize(("ask", "said"), BAD)
def test_what_makes_no_sense_is_refused_in_words(store: Path, ask: Callable[[Path], Any], said: str) -> None:
    with pytest.raises(StudentError, match=said):
        ask(store)


def test_an_index_of_other_shards_is_refused(store: Path, tmp_path: Path) -> None:
    make_store(tmp_path, rows=40, keep="argmax")
    other = scan([str(path) for path in sorted(tmp_path.rglob("*.tar"))])
    with pytest.raises(MismatchError, match=r"This index \(40 rows\) is not of the shards that"):
        StoredViews(store, index=other)


def test_folders_of_caches_and_of_shards_are_taken_by_their_paths(store: Path, tmp_path: Path) -> None:
    want = [batch.pixels for batch in StoredViews(store, batch=20)]
    shards = store.parent / "data"
    for number in range(2):
        asked: dict[str, Any] = {"pictures": tmp_path / "pictures", "view_cache": str(tmp_path / "views")}
        found = [batch.pixels for batch in StoredViews(store, batch=20, shards=shards, **asked)]
        assert all(torch.equal(one, other) for one, other in zip(found, want, strict=True)), number
    assert any((tmp_path / "views").rglob("*"))


def test_a_batch_is_known_by_its_fields_too(store: Path) -> None:
    views = StoredViews(store, batch=20)
    batch = next(iter(views))
    assert views.state_dict(after=batch._asdict()) == views.state_dict(after=batch) == views.state_dict()
    assert batch.truth().shape[1] == CLASSES and torch.equal(batch.truth(), batch.truth(CLASSES))
    with pytest.raises(StudentError, match=r"num_classes is 1\. Give a whole number of at least "):
        batch.truth(1)


def test_a_place_is_kept_by_copies_and_moved_by_none_of_them() -> None:
    place = Position()
    place.set(3, 2)
    other = copy.deepcopy(place)
    other.set(7, 0)
    assert (place.get(), other.get(), place.claim(), place.get()) == ((3, 2), (7, 0), (3, 2), (4, 0))


def test_a_script_without_a_guard_is_told_of_it(store: Path, tmp_path: Path) -> None:
    script = tmp_path / "loop.py"
    script.write_text(
        "from student.dataset import StoredViews\n"
        f"with StoredViews({str(store)!r}, workers=1, start_method='spawn') as views:\n"
        "    print(len(list(views)))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and 'below `if __name__ == "__main__":`' in ended.stderr


def _late(who: int, worker: int) -> None:
    if worker == who:
        time.sleep(2)


def test_two_loaders_at_once_each_give_an_epoch(store: Path) -> None:
    views = StoredViews(store, batch=20)
    first = iter(loader(views, worker_init_fn=partial(_late, 1)))
    begun = next(first)
    assert steps(loader(views)) == epoch(1) and steps([begun, *first]) == epoch(0)


def test_passes_of_one_seed_are_told_apart(store: Path) -> None:
    views = StoredViews(store, batch=20)
    found = []
    for number in range(3):
        views.set_epoch(10 + number)
        torch.manual_seed(5)  # of which a loader draws the seed of a pass
        late = partial(_late, 0 if number else 1)
        given = iter(loader(views, worker_init_fn=late))
        found.append(steps([next(given)] if number == 0 else given))
        del given
    assert found == [[(10, 0)], epoch(11), epoch(12)]


def test_a_worker_that_lags_goes_through_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a stage is iterated several times within one pass of a loader."""
    place, now = Position(), SimpleNamespace(id=0, num_workers=2, seed=7)
    monkeypatch.setattr(position, "get_worker_info", lambda: now)
    monkeypatch.setattr(position, "current_process", lambda: SimpleNamespace(_identity=(10 + now.id,)))
    found = []
    for worker in range(2):
        now.id, now.seed = worker, 7 + worker
        found.append([place.claim()[0] for _ in range(3)])
    assert found == [[0, 1, 2], [0, 1, 2]]


def test_a_second_loop_behind_the_last_step_ends_nothing(store: Path) -> None:
    views = StoredViews(store, batch=20)
    for batch in views:
        if batch.step == len(views) - 1:
            assert steps(views) == epoch(1)
    assert views.state_dict()["epoch"] == 2


def test_statistics_may_be_tensors_and_a_state_is_known_again(store: Path) -> None:
    views = StoredViews(store, batch=20, mean=torch.tensor([0.1, 0.2, 0.3]), std=np.full(3, 0.5))
    assert steps(loader(views)) == epoch(0)
    with pytest.raises(StudentError, match="drawn ahead"):
        views.state_dict()
    next(iter(views))
    assert views.state_dict()["step"] == 1
