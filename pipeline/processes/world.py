"""Which process of a run is this, and where do its processes meet? Read from what the launcher put in the environment.

    torchrun        RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT    ranks that meet
    srun            SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID                 ranks that meet if MASTER_ADDR is set,
                                                                              else slices
    sbatch --array  SLURM_ARRAY_TASK_ID, _COUNT, _MIN, _STEP                  slices; torchrun in each makes ranks of it

*Ranks* meet: one of them hands out work, unit by unit, to whoever is free. *Slices* never meet: the work is cut into as
many fixed parts, and each takes its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError

PORT = 29500
"""Where ranks meet if MASTER_PORT does not say it; torch's own default"""

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one process stands among those of its run, and where these meet."""

    rank: int = 0
    """Among those that meet"""
    world: int = 1
    slice: int = 0
    """Which part of the work this and its ranks take"""
    slices: int = 1
    local_rank: int = 0
    """Among those on this node"""
    local_world: int = 1
    address: str = ""
    """Where they meet"""
    port: int = 0
    hosted: bool = False
    """Whether the launcher keeps the meeting place open; else rank 0 does"""

    def __post_init__(self) -> None:
        for name, number, count in (("rank", self.rank, self.world), ("slice", self.slice, self.slices)):
            if not 0 <= number < count:
                raise UserError(f"The launcher says that this is {name} {number} of {count}. Start it as one of them.")

    @property
    def leads(self) -> bool:
        """Whether this one opens the store, shows how far along the work is, and writes the summary."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether this is the only process of the run: no other rank, and no other slice of the work."""
        return self.world == 1 and self.slices == 1

    def device(self, name: str, count: int) -> str:
        """The GPU of this process where there are `count` of them and none was named."""
        return f"cuda:{self.local_rank % count}" if name in ("auto", "cuda") and count else name

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ) -> Place:
        """The place that the launcher gave to this process; alone where there was none."""
        part, parts = _array(env)
        if "RANK" in env and "WORLD_SIZE" in env:
            numbers = _numbers(env, *TORCHRUN)
        elif _in_step(env):
            numbers = _numbers(env, "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE")
        else:
            return cls(slice=part, slices=parts)
        rank, world, local_rank, local_world = numbers
        if world == 1:
            return cls(slice=part, slices=parts)
        node: dict[str, Any] = {"local_rank": local_rank, "local_world": max(1, local_world)}
        if "MASTER_ADDR" not in env:
            return cls(slice=part * world + rank, slices=parts * world, **node)
        return cls(rank=rank, world=world, slice=part, slices=parts, **_meeting(env), **node)

    @classmethod
    def among_ranks(cls, env: Mapping[str, str] = os.environ) -> Place:
        """The place that torchrun gave to this process, in a run whose processes always meet; alone without it."""
        if "RANK" not in env or "WORLD_SIZE" not in env:
            return cls()
        rank, world, local_rank, local_world = _numbers(env, *TORCHRUN)
        node: dict[str, Any] = {"local_rank": local_rank, "local_world": max(1, local_world)}
        return cls(rank=rank, world=world, **_meeting(env), **node)


def threads_are_set(env: Mapping[str, str] = os.environ) -> bool:
    """Whether the launcher, or who started it, has said with how many threads to compute."""
    return "OMP_NUM_THREADS" in env


def _array(env: Mapping[str, str]) -> tuple[int, int]:
    """Which task of how many of a job array this is; array numbers may begin anywhere and go in steps."""
    if "SLURM_ARRAY_TASK_ID" not in env:
        return 0, 1
    if "SLURM_ARRAY_TASK_COUNT" not in env:
        raise UserError("SLURM_ARRAY_TASK_ID is set and SLURM_ARRAY_TASK_COUNT is not. Set both, or neither.")
    number, count, first, step = _numbers(env, *(f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "COUNT", "MIN", "STEP")))
    return (number - first) // max(1, step), count


def _in_step(env: Mapping[str, str]) -> bool:
    """Whether srun started this; sbatch sets the same variables for the batch script, which is one process alone."""
    batch = "SLURM_JOB_ID" in env and "SLURM_STEP_ID" not in env
    return "SLURM_PROCID" in env and "SLURM_NTASKS" in env and not batch


def _meeting(env: Mapping[str, str]) -> dict[str, Any]:
    """Where ranks meet, and who keeps the place open."""
    return {
        "address": env.get("MASTER_ADDR", ""),
        "port": _numbers({"MASTER_PORT": str(PORT), **env}, "MASTER_PORT")[0],
        "hosted": env.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    }


def _numbers(env: Mapping[str, str], *names: str) -> list[int]:
    try:
        return [int(env.get(name, "0").split("(")[0]) for name in names]
    except ValueError:
        said = ", ".join(f"{name}={env.get(name)}" for name in names)
        raise UserError(
            f"The launcher's environment holds what is no number: {said}. Start it by torchrun or srun."
        ) from None
