"""What was measured, on what machine, under what load, and how can it be measured again?

A `Table` is written as Markdown for people and as sorted JSON for programs. It carries the command, the machine, the
versions of what draws pixels and moves tensors, and the load average before and after: a figure from a busy machine
says so.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
Cell = str | float | int


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    figures: Mapping[str, float] = field(default_factory=dict)
    """The numbers that a row of the table stands for, by name."""
    notes: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    """Lines of Markdown below the notes."""
    picture: bytes | None = None
    """A PNG beside the table"""

    def text(self) -> str:
        """Markdown: a line a row, then the notes."""
        lines = ["| " + " | ".join(cells) + " |" for cells in (self.columns, *self.rows)]
        lines.insert(1, "|" + "---|" * len(self.columns))
        notes = [f"\n- {note}" if i == 0 else f"- {note}" for i, note in enumerate(self.notes)]
        return "\n".join([*lines, *notes, *([""] if self.after else []), *self.after])


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """Under what a table was measured."""

    command: str
    photographs: str
    load_before: tuple[float, float, float]

    def lines(self) -> list[str]:
        """For people."""
        before, after = (" ".join(f"{value:.2f}" for value in load) for load in (self.load_before, load_average()))
        return [
            f"- command: `{self.command}`",
            f"- photographs: {self.photographs}",
            f"- machine: {machine()}",
            f"- with: {', '.join(f'{k} {v}' for k, v in versions().items())}",
            f"- load average (1, 5, 15 minutes): {before} before, {after} after",
            f"- date: {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC",
        ]


def write(table: Table, around: Circumstances, folder: Path = RESULTS) -> None:
    """Put a table into the results."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = around.lines()
    shown = [] if table.picture is None else [f"![{table.title}]({table.name}.png)", ""]
    text = "\n".join([f"# {table.title}", "", table.text(), "", *shown, *lines, ""])
    (folder / f"{table.name}.md").write_text(text, encoding="utf-8")
    if table.picture is not None:
        (folder / f"{table.name}.png").write_bytes(table.picture)
    record = {
        "title": table.title,
        "figures": {name: float(f"{value:.6g}") for name, value in table.figures.items()},
        "rows": [dict(zip(table.columns, row, strict=True)) for row in table.rows],
        "notes": table.notes,
        "circumstances": [line.removeprefix("- ") for line in lines],
    }
    data = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / f"{table.name}.json").write_text(data, encoding="utf-8")


def load_average() -> tuple[float, float, float]:
    """Processes that want to run, over the last 1, 5 and 15 minutes."""
    return os.getloadavg()


def machine() -> str:
    """Processor, cores, memory, accelerator."""
    found = _environment()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = "" if found["gpu"] == "none" else f", {found['gpu']}"
    return f"{_processor()}, {os.cpu_count()} cores, {found['cpu']}, {memory:.0f} GiB{gpu}, {found['machine']}"


def versions() -> dict[str, str]:
    """Of Python and what does the work."""
    found = _environment()
    return {name: found[name] for name in sorted(found) if name not in ("machine", "cpu", "gpu")}


@lru_cache(maxsize=1)
def _environment() -> dict[str, str]:
    """Asked of a process of its own: one that has looked for a GPU can fork none that uses it."""
    line = "import json; from pipeline.labelling import environment as e; print(json.dumps(e.describe_environment()))"
    said = subprocess.run([sys.executable, "-c", line], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    found: dict[str, str] = json.loads(said)
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return f"{fields.get('model name', 'unknown processor')} (family {fields.get('cpu family', '?')})"


def grid(rows: Sequence[Sequence[object]]) -> tuple[tuple[str, ...], ...]:
    """Cells as text."""
    return tuple(tuple(str(cell) for cell in row) for row in rows)
