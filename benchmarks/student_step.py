"""What do stored labels cost a training step, against the same step without a teacher?

Students of one size take steps in turn on the same photographs (no teacher, hard, soft from dense, soft from top-10);
each step renders its views, proves them against the store, gathers labels and learns. Rendering is done in this process
so that processor time holds all of it. `python -m benchmarks checks` times the labels alone, reading included.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack

from benchmarks.bench import Bench
from benchmarks.labels_at_hand import made_up_store, settings_of, training
from benchmarks.race import Contestant, race
from benchmarks.report import Table, grid
from pipeline.models.device import choose_device
from student.feed.feed import Feed
from student.learning.engine import Engine
from student.ranks.ranks import Ranks

CASES = {
    "no teacher": ("none", "argmax"),
    "hard": ("hard", "argmax"),
    "soft, dense": ("soft", "dense"),
    "soft, topk:10": ("soft", "topk:10"),
}
BASE, *LABELLED = CASES
BATCH = 32


def measure(bench: Bench) -> Table:
    """Race the cases."""
    index = bench.photographs.indexed(bench.scratch("student"), bench.rows(512))
    student, batch = bench.students[0], 8 if bench.tiny else BATCH
    ranks = Ranks(device=choose_device("cpu"))
    with ExitStack() as stack:
        runs: dict[str, Contestant] = {}
        for case, (distill, keep) in CASES.items():
            path = bench.scratch(f"student-{case}") / "store.zarr"
            store = made_up_store(path, index, keep, unit_rows=512)
            settings = settings_of(student, batch, distill=distill, precision=bench.precision)
            runs[case] = steps(*stack.enter_context(training(store, settings, workers=0, ranks=ranks)))
        result = race(runs, seconds=bench.seconds, fewest=bench.fewest if bench.tiny else 2 * bench.fewest)
    rows = [
        [
            case,
            f"{1000 * batch * result.cost(case).median:.1f}",
            f"{1 / result.ratio(case, BASE).median:.3f}",
            f"{1000 * batch * result.cost(case, busy=True).median:.1f}",
            f"{1 / result.ratio(case, BASE, busy=True).median:.3f}",
        ]
        for case in CASES
    ]
    return Table(
        name="student_step",
        title=f"A step of deit_{student} in {bench.precision}, batch {batch}: stored labels against none",
        columns=("labels", "ms a step", "× no teacher", "processor ms", "× no teacher, processor"),
        rows=grid(rows),
        figures={
            **{f"{case} against none (wall)": 1 / result.ratio(case, BASE).median for case in LABELLED},
            **{f"{case} against none (processor)": 1 / result.ratio(case, BASE, busy=True).median for case in LABELLED},
        },
        notes=(
            f"{result.rounds} rounds in turn; medians of ratios within a round. Without a teacher the second head "
            "learns the true labels, as DeiT trained without distillation would with two heads.",
        ),
    )


def steps(feed: Feed, engine: Engine) -> Contestant:
    """One step a turn."""
    source, numbers = feed.steps(0, 0, 1000), itertools.count()

    def turn() -> int:
        step = next(source)
        engine.learn(step, next(numbers)).sum().item()
        return step.count

    return turn
