"""Has something become much slower? Ratios against a peer in the same process, by processor time, with wide margins.

    python -m benchmarks guard          # exit status 1 when a ratio is below its margin

Processor time does not see what other processes do to the clock, and a ratio does not know how fast the machine is; the
margins lie at about 60 % of what was measured (benchmarks/results), so this fails for a lost optimisation and for
nothing else. It is not part of `make test`.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks import checks, render, student_step
from benchmarks.bench import Bench
from benchmarks.report import Table, grid
from pipeline.errors import UserError

MEASURES = {"render": render.measure, "checks": checks.measure, "student_step": student_step.measure}
Margin = tuple[str, str, float, bool]
MARGINS: tuple[Margin, ...] = (
    ("render", "1 view against timm uint8 (processor)", 1.2, True),
    ("render", "8 views against timm uint8 (processor)", 2.2, True),
    ("checks", "share of rendering, argmax", 0.04, False),
    ("checks", "share of rendering, dense", 0.10, False),
    ("student_step", "hard against none (processor)", 1.15, False),
    ("student_step", "soft, dense against none (processor)", 1.2, False),
)


def measure(bench: Bench) -> Table:
    """Measure, and refuse what is outside its margin."""
    return judged({name: measure(bench) for name, measure in MEASURES.items()})


def judged(tables: Mapping[str, Table]) -> Table:
    """Each figure against its margin."""
    rows, bad = [], []
    for name, figure, margin, at_least in MARGINS:
        found = tables[name].figures[figure]
        kept = found >= margin if at_least else found <= margin
        rows.append(
            [figure, f"{found:.3f}", f"{'at least' if at_least else 'at most'} {margin}", "yes" if kept else "NO"]
        )
        bad += [] if kept else [f"{figure} is {found:.3f}, {rows[-1][2]} is wanted"]
    table = Table(name="guard", title="Regression guard", columns=("ratio", "found", "margin", "kept"), rows=grid(rows))
    if bad:
        raise UserError(f"{'; '.join(bad)}. Run 'python -m benchmarks profile' and compare it with benchmarks/results.")
    return table
