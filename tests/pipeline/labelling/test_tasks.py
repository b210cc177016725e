"""Units are shared out: each exactly once, to whoever is free, with every wait bounded."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.labelling.tasks import Handout, MeetingHandout, Task, handout_of, slice_of, tasks_of
from pipeline.processes import rendezvous
from pipeline.processes.rendezvous import LostError, Meeting, meet
from pipeline.processes.world import Place
from pipeline.store.layout import Unit
from tests.many_ranks import eventually, free_port

SHORT = 2.0
LONG = 60.0
"""Where nobody is lost, and nobody is waited for so long"""


def places(world: int) -> list[Place]:
    port = free_port()
    return [Place(rank=rank, world=world, address="127.0.0.1", port=port) for rank in range(world)]


# ---- places


@pytest.mark.parametrize(
    ("env", "place"),
    [
        ({}, Place()),
        ({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, Place()),
        (
            {
                "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "node0",
                "MASTER_PORT": "4000", "TORCHELASTIC_USE_AGENT_STORE": "True",
            },
            Place(rank=5, world=8, local_rank=1, local_world=4, address="node0", port=4000, hosted=True),
        ),
        (
            {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "MASTER_ADDR": "node0"},
            Place(rank=3, world=4, local_rank=1, address="node0", port=29500),
        ),
        (
            {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "3", "SLURM_NTASKS_PER_NODE": "4(x2)"},
            Place(slice=3, slices=4, local_rank=3, local_world=4),
        ),
        # the batch script itself: one process, whatever sbatch was asked for
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Place()),
        (
            {
                "SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_ARRAY_TASK_STEP": "2",
            },
            Place(slice=2, slices=3),
        ),
        (
            {
                "SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_PROCID": "2", "SLURM_NTASKS": "3",
            },
            Place(slice=5, slices=6),
        ),
        (
            {
                "SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2", "RANK": "2", "WORLD_SIZE": "3",
                "MASTER_ADDR": "x", "MASTER_PORT": "9",
            },
            Place(slice=1, slices=2, rank=2, world=3, address="x", port=9),
        ),
    ],
    ids=str,
)  # fmt: skip
def test_the_launcher_says_which_process_this_is(env: dict[str, str], place: Place) -> None:
    assert Place.from_environment(env) == place


def test_a_launcher_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(UserError, match="rank 4 of 4"):
        Place.from_environment({"RANK": "4", "WORLD_SIZE": "4", "MASTER_ADDR": "x"})
    with pytest.raises(UserError, match="RANK=three"):
        Place.from_environment({"RANK": "three", "WORLD_SIZE": "4"})
    with pytest.raises(UserError, match="Set both"):
        Place.from_environment({"SLURM_ARRAY_TASK_ID": "3"})


def test_each_rank_of_a_node_has_its_own_gpu() -> None:
    at = [Place(local_rank=rank, local_world=4) for rank in range(4)]
    assert [place.device("auto", 4) for place in at] == [f"cuda:{rank}" for rank in range(4)]
    assert [place.device("cuda", 1) for place in at] == ["cuda:0"] * 4, "a launcher that shows each rank its own GPU"
    assert (
        at[2].device("cpu", 4) == "cpu" and at[2].device("cuda:1", 4) == "cuda:1" and at[2].device("auto", 0) == "auto"
    )


# ---- slices


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 8), st.integers(1, 4))
def test_slices_are_a_partition_whatever_is_missing(views: int, runs: int, slices: int, together: int) -> None:
    units = [Unit(view, run) for view in range(views) for run in range(runs)]
    parts = [slice_of(units, together, Place(slice=at, slices=slices)) for at in range(slices)]
    assert Counter(unit for part in parts for unit in part) == Counter(units)
    later = units[::3]  # who comes later sees fewer missing, and takes none of another's
    assert all(
        set(slice_of(later, together, Place(slice=at, slices=slices))) <= set(part) for at, part in enumerate(parts)
    )


def test_a_process_alone_gets_all_tasks() -> None:
    tasks = tasks_of([Unit(view, run) for view in range(3) for run in range(2)], 2)
    with handout_of(Place(), timeout_s=1) as handout:
        assert (
            list(handout.announce(tasks)) == tasks == [Task(0, (0, 1)), Task(0, (2,)), Task(1, (0, 1)), Task(1, (2,))]
        )
        assert type(handout) is Handout and handout.count(5) == 5 and handout.settle(print) == []


# ---- ranks that meet


def take(place: Place, tasks: list[Task], taken: list[tuple[int, Task]], sums: list[int]) -> None:
    """Take part; rank 1 is slow: it has its first task in hand until all the others are done."""
    with handout_of(place, timeout_s=LONG) as handout:
        for task in handout.announce(tasks) if place.leads else handout.listen():
            taken.append((place.rank, task))
            eventually(lambda: any(rank == 1 for rank, _ in taken) and (place.rank != 1 or len(taken) == len(tasks)))
            sums.append(handout.count(len(task.views))) if place.leads else handout.count(len(task.views))
        assert handout.settle(sums.append if place.leads else None) == []


def test_each_task_goes_to_exactly_one_rank_and_no_rank_waits_for_a_slow_one() -> None:
    tasks = [Task(run, (0, 1)) for run in range(60)]
    taken: list[tuple[int, Task]] = []
    sums: list[int] = []
    threads = [threading.Thread(target=take, args=(place, tasks, taken, sums)) for place in places(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((task for _, task in taken), key=lambda task: task.run) == tasks
    assert [rank for rank, _ in taken].count(1) == 1, "the others do what the slow one leaves"
    assert sum(sums) == 120, "rank 0 counts for all"


def test_hellos_of_an_earlier_attempt_are_not_believed() -> None:
    first, second = places(2)
    with meet(first, LONG) as lead:
        lead._store.set("hello/1", "an earlier process of that rank")
        lead._store.set("session/an earlier process of that rank", "an earlier session")
        with meet(second, LONG) as follower:
            assert follower._session == lead._session
            lead.put("word", "said")
            assert follower.wait_for("word") == "said"


def test_a_rank_that_finds_nobody_says_so_in_time() -> None:
    place = places(2)[1]
    begun = time.monotonic()
    with pytest.raises(
        LostError, match=r"rank 1 of 2 at 127.0.0.1:\d+ cannot reach the other ranks: .* Start the same"
    ):
        Meeting(place, SHORT)
    assert time.monotonic() - begun < LONG


def test_a_rank_0_that_never_answers_is_waited_for_in_time() -> None:
    first, second = places(2)
    lead = Meeting(first, SHORT)  # there, but it never joins
    begun = time.monotonic()
    with pytest.raises(LostError, match=r"rank 0 did not answer within 2 s"), meet(second, SHORT):
        pass
    assert time.monotonic() - begun < LONG
    lead.leave()


def test_a_failure_of_rank_0_reaches_the_others_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "LINGER_S", LONG)
    first, second = places(2)

    def fail() -> None:
        with pytest.raises(UserError, match="not there"), meet(first, LONG) as lead:
            while lead.add("joined", 0) < 1:
                time.sleep(0.01)
            raise UserError("the shards are not there")

    thread = threading.Thread(target=fail)
    thread.start()
    with pytest.raises(LostError, match="rank 0 stopped: the shards are not there"), meet(second, LONG) as follower:
        follower.wait_for("tasks")
    thread.join()


def test_a_rank_that_falls_silent_is_given_up_and_its_task_is_left() -> None:
    first, second = places(2)
    with meet(first, SHORT) as lead:
        lost = Meeting(second, SHORT)
        lost.join()
        handouts = MeetingHandout(lead), MeetingHandout(lost)
        tasks = [Task(run, (0,)) for run in range(3)]
        ours = handouts[0].announce(tasks)
        theirs = handouts[1].listen()
        assert next(theirs) == tasks[0]
        lost._over.set()  # as if it had been killed: it beats no more, and never leaves
        assert list(ours) == tasks[1:]
        begun = time.monotonic()
        assert handouts[0].settle(lambda _: None) == [1]
        assert SHORT <= time.monotonic() - begun < LONG


def test_a_port_that_is_no_number_is_told():
    env = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "http"}
    with pytest.raises(UserError, match=r"holds what is no number: MASTER_PORT=http\. Start it by torchrun or srun"):
        Place.from_environment(env)
    assert Place.from_environment({name: env[name] for name in env if name != "MASTER_PORT"}).port == 29500
