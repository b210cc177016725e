"""When, from which commit and on what was this made, and what did earlier reports find?

Reports leave a line each in a file (``--earlier``), so that the next one can show what became of a change. A line
that says the same as the last one is not written twice.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.durable.local import LocalObjects
from pipeline.processes.machine import machine, version
from stages.reporting.results import Line, ReportError

UNCOMMITTED = "with changes"


@dataclass(frozen=True, slots=True)
class Made:
    """When, from which commit and on which machine a report was made."""

    date: str
    commit: str | None
    """Of the folder that it was made in; None outside git"""
    machine: Mapping[str, str]

    def __str__(self) -> str:
        from_commit = f"commit {self.commit}" if self.commit else "no commit (not under git)"
        on = f"{self.machine['processor']}, {self.machine['cores']} cores"
        versions = f"Python {self.machine['python']}, torch {self.machine['torch']}, timm {version('timm')}"
        return f"Made on {self.date}, {from_commit}, on {on}; {versions}."


def made_here() -> Made:
    """The date of today, the commit of the current folder, and this machine."""
    return Made(datetime.now(tz=UTC).date().isoformat(), commit_of(Path.cwd()), machine())


def commit_of(folder: Path) -> str | None:
    """The commit that is checked out, and whether files differ from it (but for DVC's own record of this run)."""
    try:
        found = _git(folder, "rev-parse", "--short=12", "HEAD").strip()
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock").strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{found} {UNCOMMITTED}" if changed else found


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=20, encoding="utf-8"
    )
    return done.stdout


def read_history(path: Path | None) -> list[Line]:
    """The results of earlier reports, the oldest first; empty where `path` is None or absent."""
    if path is None or not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        found = [json.loads(line) for line in lines]
        return [
            {**line, "date": line["date"], "commit": line["commit"], "found": dict(line["found"])} for line in found
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ReportError(
            f"{path} is no record of earlier reports ({type(error).__name__}: {error}). "
            "Move it away, or leave --earlier out."
        ) from error


def remember(path: Path, earlier: list[Line], made: Made, found: Mapping[str, Any]) -> None:
    """Append the results of this report to the file, unless they are those of the last one."""
    if earlier and earlier[-1]["found"] == found:
        return
    lines = [*earlier, {"date": made.date, "commit": made.commit, "found": found}]
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    LocalObjects(path.parent).put(path.name, text.encode())
