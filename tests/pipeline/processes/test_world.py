"""Where a process of a training stands among those that torchrun started."""

from __future__ import annotations

import pytest

from pipeline.errors import UserError
from pipeline.processes.world import Place, threads_are_set

NODE = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}


def test_ranks_are_those_of_torchrun() -> None:
    met = {**NODE, "MASTER_ADDR": "node0", "MASTER_PORT": "4000", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    expected = Place(rank=5, world=8, local_rank=1, local_world=4, address="node0", port=4000, hosted=True)
    assert Place.among_ranks(met) == expected


def test_ranks_without_a_meeting_place_are_ranks_all_the_same() -> None:
    place = Place.among_ranks(NODE)
    assert (place.rank, place.world, place.slices, place.address) == (5, 8, 1, "")


@pytest.mark.parametrize("env", [{}, {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, {"SLURM_ARRAY_TASK_ID": "3"}])
def test_a_training_without_torchrun_is_alone(env: dict[str, str]) -> None:
    """Each task of a job array may train a student of its own."""
    assert Place.among_ranks(env) == Place()


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match="RANK=three"):
        Place.among_ranks({**NODE, "RANK": "three"})


def test_who_sets_the_threads_is_heard() -> None:
    assert threads_are_set({"OMP_NUM_THREADS": "2"}) and not threads_are_set({})
