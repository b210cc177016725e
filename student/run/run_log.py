"""What does a run say while it trains, and what does it leave behind to read?

``metrics.jsonl`` is the one record: a line an interval (``kind`` = steps) and a line an epoch (``kind`` = epoch). A run
that goes on from a checkpoint first drops the lines that lie beyond it, so no step is there twice and none is missing.
What others are told (`student.run.loggers`) is derived from it.

Only rank 0 logs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from pipeline.durable.file import write_text
from pipeline.durable.local import flush
from pipeline.progress import LiveLine, duration
from student.checkpoints.run_folder import RECORD, STATUS
from student.run.loggers import Line, Loggers, numbers
from student.run.run_status import Telling

LASTING = {"ema_top1": 1, "top1": 2}
"""The scores that a narrow terminal shows longest."""

log = logging.getLogger(__name__)


class RunLog:
    """The record of a run, its derivatives, and the line that the user sees."""

    def __init__(
        self,
        run: Path,
        *,
        epoch: int,
        update: int,
        total: int,
        loggers: tuple[str, ...] = (),
        config: Mapping[str, Any] | None = None,
        ranks: Sequence[Mapping[str, Any]] = (),
        stream: TextIO | None = None,
    ) -> None:
        self._path = run / RECORD
        kept = [line for line in _read(self._path) if _before(line, epoch, update)]
        _rewrite(self._path, kept)
        self._file = self._path.open("a", encoding="utf-8")
        self._total = total
        self._telling = Telling(run / STATUS, total=total, epochs=(config or {}).get("epochs"), ranks=ranks)
        self._line = LiveLine(stream)
        self._telling.tell("begins", epoch=epoch, update=update)
        self._loggers = Loggers(loggers, run, kept=kept, update=update, config=config or {})

    def steps(self, line: Line, *, rate: float, wait: float, left: float, recorded: bool = True) -> None:
        """Show a line about an interval, and write it into the record where it is to be `recorded`."""
        self._tell(line, rate=rate, wait=wait, left=left)
        if recorded:
            self._write({"kind": "steps", **line, "images_per_second": round(rate, 1), "wait": round(wait, 4)})
        self._show(line["update"], line["loss"], rate, wait, left)

    @property
    def due(self) -> bool:
        """Whether a terminal, or who looks at the run from elsewhere, is to be told of a step between two records."""
        return self._line.due or self._telling.due

    def live(self, line: Line, *, rate: float, wait: float, left: float) -> None:
        """Show how far the run is on the live line, without writing it into the record."""
        self._tell(line, rate=rate, wait=wait, left=left)
        if self._line.due:
            self._show(line["update"], line["loss"], rate, wait, left)

    def does(self, state: str, line: Line) -> None:
        """Tell who looks at the run what it does now, if it is not trained: it is judged, or at an end."""
        self._telling.tell(state, **line)

    def _tell(self, line: Line, *, rate: float, wait: float, left: float) -> None:
        if self._telling.due:
            self._telling.tell("trains", **line, rate=round(rate, 1), wait=round(wait, 4), left_s=round(left))

    def epoch(self, line: Line) -> None:
        """Show a line about an epoch, and write it into the record."""
        line = {"kind": "epoch", **line}
        self._write(line)
        names = [name for name in sorted(numbers(line)) if "top1" in name]
        parts = [f"epoch {line['epoch'] + 1}", f"loss {line['loss']:.4f}"]
        parts += [f"{name} {line[name]:.4f}" for name in names]
        first_to_go = sorted(range(len(names)), key=lambda at: (LASTING.get(names[at], 0), -at))
        self._line.show(parts, expendable=[at + 2 for at in first_to_go], stays=True)

    def flush(self) -> None:
        """Put the record on the disk: a checkpoint must never know more than its log."""
        self._file.flush()
        flush(self._file.fileno())

    def close(self) -> None:
        """End the live line, and close the record and the trackers."""
        self._line.end()
        self.flush()
        self._file.close()
        self._loggers.close()

    def _write(self, line: Line) -> None:
        self._file.write(json.dumps(line, sort_keys=True) + "\n")
        self._file.flush()
        self._loggers.tell(line)

    def _show(self, update: int, loss: float, rate: float, wait: float, left: float) -> None:
        step = f"step {update:0{len(str(self._total))}d}/{self._total}"
        parts = [step, f"loss {loss:.4f}", f"{rate:,.0f} img/s", f"wait {100 * wait:.0f}%", f"eta {duration(left)}"]
        self._line.show(parts, expendable=(3, 2, 1))


def _before(line: Line, epoch: int, update: int) -> bool:
    """Whether a line was written before this position; an epoch's line comes when the epoch is over."""
    return bool(line["epoch"] < epoch if line["kind"] == "epoch" else line["update"] <= update)


def _read(path: Path) -> list[Line]:
    """The lines up to the first that is not whole (a kill in the middle of writing it)."""
    lines: list[Line] = []
    if path.exists():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
                lines.append({**line, "kind": line["kind"], "epoch": line["epoch"], "update": line["update"]})
            except (json.JSONDecodeError, KeyError, TypeError):
                log.warning("%s: the record after line %d is not whole and is dropped", path, len(lines))
                break
    return lines


def _rewrite(path: Path, lines: list[Line]) -> None:
    write_text(path, "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))
