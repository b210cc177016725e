"""Under torchrun: a rank dies, all are started again, and the student is that of a run which nothing befell."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from student.train import main
from tests.many_ranks import LAUNCHER, run_here
from tests.patience import LATE_S, all_forked
from tests.small_students import arguments, make_store, same, weights


def attempt(line: list[str], logs: str, dies: bool) -> None:
    """What each worker runs; in the first attempt rank 1 ends its run after two steps, and dies."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("TORCHELASTIC_") or name in LAUNCHER}
    number, rank = kept["TORCHELASTIC_RESTART_COUNT"], kept["RANK"]
    last = dies and (number, rank) == ("0", "1")
    log = Path(logs) / f"{number}-{rank}.log"
    all_forked(Path(logs))
    time.sleep(LATE_S if (number, rank) == ("1", "1") else 0)
    code = run_here(main, [*line, "--max-steps", "2"] if last else line, kept, log)
    if last:
        os.kill(os.getpid(), signal.SIGKILL)
    assert code == 0, log.read_text()


def launch(store: Path, out: Path, *, dies: bool) -> list[str]:
    out.mkdir()
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, run_id=out.name, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        max_restarts=1, monitor_interval=0.1, start_method="fork",
    )  # fmt: skip
    val = str(store.parent / "data/000000.tar")
    line = arguments(store, out / "run", "--val-shards", val, "--checkpoint-every", "1", "--timeout", "60")
    elastic_launch(config, attempt)(line, str(out), dies)
    return sorted(path.name for path in out.glob("*.log"))


def test_a_run_that_torchrun_starts_again_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    assert launch(store, tmp_path / "whole", dies=False) == ["0-0.log", "0-1.log"]
    assert launch(store, tmp_path / "again", dies=True) == ["0-0.log", "0-1.log", "1-0.log", "1-1.log"]
    assert torch.load(tmp_path / "again/run/last.pt", weights_only=True)["epoch"] == 2
    assert same(weights(tmp_path / "whole/run"), weights(tmp_path / "again/run"))
