"""Start as `student.train` does, get the first batch, and say how long ago the process began.

python -m benchmarks.first_batch STORE OUT BATCH WORKERS        # called by benchmarks.startup
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def since_start() -> float:
    """Seconds since the kernel started this process."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def main(store: Path, out: Path, batch: int, workers: int) -> None:
    """Print the stages as JSON."""
    import student.train  # noqa: F401  # all that the command imports
    from benchmarks.commands import peak_bytes, resident
    from benchmarks.startup import settings_for
    from pipeline.models.device import choose_device
    from student.ranks.ranks import Ranks, Stop
    from student.run.launch import launched
    from student.run.resume import Places

    stages = {"imported": since_start(), "imported bytes": float(peak_bytes(os.getpid()))}
    before = resident()
    places = Places(logits=str(store), out=out, workers=workers, dvclive=False)
    with launched(places, settings_for(batch), Ranks(device=choose_device("cpu")), Stop()) as run:
        assert run is not None
        stages["launched"] = since_start()
        step = next(run.feed.steps(0, 0, 1))
        assert len(step.pixels_BHWC) == step.count
        stages["first batch"] = since_start()
        stages |= {name: float(size - before[name]) for name, size in resident().items()}
    print(json.dumps(stages))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
