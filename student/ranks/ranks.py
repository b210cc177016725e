"""Which process of the run is this, on which device, and what do all of them agree on?

Under ``torchrun`` (RANK, WORLD_SIZE and LOCAL_RANK in the environment) the ranks form one process group: NCCL on CUDA,
gloo elsewhere. Alone, every function here is the identity. A rank that gets no answer within the time-out says so and
ends: nothing waits for ever, and the last checkpoint is whole. A run that torchrun starts again finds the values of its
earlier attempt in torchrun's store; so its ranks first agree on a name, under which they then group.

A stop (SIGTERM, SIGINT) is a wish of one rank that becomes a decision of all: each step's sums carry it along, so every
rank sees it after the same step.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, TCPStore

from pipeline.errors import StudentError, first_line
from pipeline.models.device import choose_device
from pipeline.processes.rendezvous import meet
from pipeline.processes.world import Place

MOST_SAID = 512
"""Bytes of what a rank may say in `Ranks.gather`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """The processes that train together, seen from this one: its rank, how many they are, its device."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    timeout_s: float = 600.0
    """How long one of the others may be silent"""

    @property
    def main(self) -> bool:
        """Whether this process is the one that logs and writes checkpoints."""
        return self.rank == 0

    def part(self, rows: int) -> tuple[int, int]:
        """The first of this rank's rows, and the one after the last; each row is exactly one rank's."""
        return rows * self.rank // self.world, rows * (self.rank + 1) // self.world

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, with the same bits on each."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: dict[str, Any]) -> list[dict[str, Any]]:
        """What each rank says, in their order: small JSON, on every rank."""
        if self.world == 1:
            return [value]
        data = json.dumps(value).encode()[:MOST_SAID].ljust(MOST_SAID)
        mine = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(self.device)
        all_of_it = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(all_of_it, mine)
        return [json.loads(bytes(part.cpu().tolist())) for part in all_of_it]

    def require_same(self, value: int, what: str) -> None:
        """Refuse to go on where the ranks hold different values of what must be one."""
        if self.world == 1:
            return
        limits = torch.tensor([value, -value], dtype=torch.int64, device=self.device)
        dist.all_reduce(limits, dist.ReduceOp.MAX)
        high, low = int(limits[0]), -int(limits[1])
        if low != high:
            raise StudentError(
                f"The ranks disagree about {what}: from {low} to {high} (rank {self.rank} has {value}). "
                "--out must be one directory that all nodes share."
            )


@contextlib.contextmanager
def joined(device: str, timeout_s: float) -> Iterator[Ranks]:
    """The process group, from the environment that torchrun makes; no group for a process alone."""
    place = Place.among_ranks()
    chosen = choose_device(device, place.local_rank)
    if place.world == 1:
        yield Ranks(device=chosen, timeout_s=timeout_s)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    try:
        _group(place, "nccl" if chosen.type == "cuda" else "gloo", timeout_s)
        yield Ranks(rank=place.rank, world=place.world, device=chosen, timeout_s=timeout_s)
    except RuntimeError as error:
        if not _is_network(error):
            raise
        raise StudentError(
            f"Rank {place.rank} of {place.world} lost the others (time-out {timeout_s:g} s): "
            f"{first_line(error, None)} "
            "Start the same command again: it goes on from the last checkpoint, with any number of processes."
        ) from error
    else:  # after an error the others may wait in a collective, and so would this
        dist.destroy_process_group()


def _group(place: Place, backend: str, timeout_s: float) -> None:
    """Make the process group, which believes whatever stands in its store."""
    within = timedelta(seconds=timeout_s)
    if not place.hosted:  # rank 0 opens a store that is new
        dist.init_process_group(backend, timeout=within)
        return
    name = _agreed_name(place, timeout_s)
    store = TCPStore(place.address, place.port, is_master=False, timeout=within, wait_for_workers=False)
    dist.init_process_group(
        backend, store=PrefixStore(name, store), rank=place.rank, world_size=place.world, timeout=within
    )


def _agreed_name(place: Place, timeout_s: float) -> str:
    with meet(place, timeout_s) as meeting:
        if not place.leads:
            return meeting.wait_for("group")
        name = secrets.token_hex(8)
        meeting.put("group", name)
        if lost := meeting.wait_for_others():
            raise StudentError(
                f"Rank 0 of {place.world} has heard nothing of rank {lost[0]} for {timeout_s:g} s (--timeout). "
                "Start the same command again: it goes on from the last checkpoint, with any number of processes."
            )
        return name


class Stop:
    """Whether this process was asked to stop; the second time it stops at once."""

    def __init__(self) -> None:
        self.signal = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[Stop]:
        """Take SIGTERM and SIGINT as a wish, while the context lasts."""
        before = {number: signal.signal(number, self._hear) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number


_NETWORK_WORDS = ("gloo", "nccl", "connection closed by peer", "connection reset", "timed out waiting")


def _is_network(error: RuntimeError) -> bool:
    """Whether an error came from the process group; gloo raises plain RuntimeErrors."""
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in _NETWORK_WORDS)
