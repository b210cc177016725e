"""How workers of torchrun wait for each other."""

from __future__ import annotations

import os
from pathlib import Path

from tests.many_ranks import eventually

LATE_S = 2.0
"""Rank 1 comes later the second time: what it left in the store is there to be taken for its own"""


def all_forked(folder: Path) -> None:
    """Wait until all workers of this attempt are forked, each of which comes here.

    Nobody speaks to the launcher's store before: a fork while its thread works may hang.
    """
    attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
    (folder / f"forked-{attempt}-{os.environ['RANK']}").touch()
    ranks = range(int(os.environ["WORLD_SIZE"]))
    eventually(lambda: all((folder / f"forked-{attempt}-{rank}").exists() for rank in ranks))
