"""With how many threads does torch compute, and does a run that goes on compute with as many?

On a CPU the number decides in which order sums are added up, and so the last bits of the weights. It is part of the
run: every checkpoint holds it, and who goes on sets it again, whatever the cores or the environment are by then.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from student.ranks.ranks import Ranks

log = logging.getLogger(__name__)


def settle(meta: Mapping[str, Any] | None, ranks: Ranks) -> dict[str, int]:
    """Set torch to the threads that the run was begun with, by its checkpoint's `meta`; gives what the next says."""
    here = torch.get_num_threads()
    if meta is not None and ranks.device.type == "cpu":
        _take_up(meta, ranks, here)
    return {"threads": torch.get_num_threads(), "world": ranks.world}


def _take_up(meta: Mapping[str, Any], ranks: Ranks, here: int) -> None:
    then, world = meta.get("threads"), meta.get("world")
    if then is None:
        log.warning(
            "The checkpoint does not say with how many threads torch computed, as older ones do not. It goes on with "
            "%d; if that is another number than before, the last bits of the weights will differ.", here,
        )  # fmt: skip
    elif world != ranks.world:
        log.info(
            "The run goes on with %d processes, after %d: the last bits of the weights differ.", ranks.world, world
        )
    elif then != here:
        torch.set_num_threads(then)
        log.warning(
            "torch computes with %d threads, as when the run was begun, and not with the %d that it would take here: "
            "their number decides the last bits of the weights. --resume none begins the run again with %d.",
            then, here, here,
        )  # fmt: skip
