"""How far is a labelling or a training, by whom, how fast, and how long still?

    python -m student.status store.zarr
    python -m student.status s3://bucket/store.zarr
    python -m student.status runs/student --json

From the files alone, on any machine that sees them; nothing is locked or changed. Exit status 1 where something is
damaged, or there is neither a store nor a run.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from pipeline.commands.command import command
from pipeline.durable.file import json_text
from pipeline.durable.writer_lock import Writer
from pipeline.errors import UserError
from pipeline.labelling.store_status import StoreStatus, store_status
from pipeline.progress import duration
from student.checkpoints.run_folder import LAST, PREVIOUS, RECORD, STATUS, path_of
from student.run.run_status import RunStatus, run_status


@command()
@click.argument("place", metavar="STORE|RUN")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def main(place: str, as_json: bool) -> None:
    """Say how far a labelling or a training is: what is done, by whom, how fast, how long still.

    \b
    Example:
      python -m student.status store.zarr
    """
    found: StoreStatus | RunStatus = run_status(Path(place)) if _is_run(place) else store_status(place)
    if as_json:
        click.echo(json_text(_record(found)), nl=False)
    else:
        lines = _store_lines(found) if isinstance(found, StoreStatus) else _run_lines(found)
        click.echo("\n".join(lines))
    if found.state == "damaged":
        raise UserError(found.why)


def _is_run(place: str) -> bool:
    if "://" in place:
        return False
    run = Path(place)
    return any(path.exists() for path in (run / STATUS, run / RECORD, path_of(run, LAST), path_of(run, PREVIOUS)))


def _store_lines(found: StoreStatus) -> list[str]:
    share = f" {100 * found.labels_done / found.labels:.1f} %" if found.labels else ""
    lines = [f"store    {found.state}{share if found.state != 'finished' else ''}"]
    if found.labels:
        lines.append(f"labels   {found.labels_done:,} of {found.labels:,}")
        lines.append(f"         {found.views} views x {found.rows:,} rows")
        lines.append(f"units    {found.units_done:,} of {found.units:,}{_ago(', last', found.last_s)}")
    if found.rate and found.state in ("labelling", "stopped"):
        lines.append(f"speed    {found.rate:,.0f} labels/s{_left(found.left_s)}")
    lines += [_line(writer) for writer in found.writers]
    return lines


def _run_lines(found: RunStatus) -> list[str]:
    told = found.told
    lines = [f"run      {found.state}"]
    if isinstance(told.get("update"), int):
        of = f" of {told['total']:,}" if isinstance(told.get("total"), int) else ""
        lines.append(f"step     {told['update']:,}{of}{_epoch(told)}")
    if isinstance(told.get("loss"), float):
        lines.append(f"loss     {told['loss']:.4f}")
    if isinstance(told.get("rate"), (int, float)) and found.state == "training":
        lines.append(f"speed    {told['rate']:,.0f} img/s, wait {100 * told.get('wait', 0):.0f}%{_left(found.left_s)}")
    lines += [f"{name[:20]:20} {100 * value:.2f} %" for name, value in sorted(found.scores.items())]
    if found.saved_s is not None:
        lines.append(f"saved    {duration(found.saved_s)} ago")
    ranks = found.ranks if len(found.ranks) > 1 else [found.writer] if found.writer else []
    lines += [f"why      {found.why}"] if found.state == "failed" else []
    over = found.state in ("finished", "stopped", "failed", "damaged")
    return lines + [_line(writer, number) for number, writer in enumerate([] if over else ranks)]


def _epoch(told: Any) -> str:
    if not isinstance(told.get("epoch"), int):
        return ""
    number, epochs = told["epoch"] + 1, told.get("epochs")
    return f", epoch {min(number, epochs)} of {epochs}" if isinstance(epochs, int) else f", epoch {number}"


def _line(writer: Writer, number: int | None = None) -> str:
    """A process, in the room of a narrow terminal."""
    told = writer.told
    rank = told.get("rank", number)
    slices = f" slice {told['slice'] + 1}/{told['slices']}" if told.get("slices", 1) != 1 else ""
    who = f"rank {rank}{slices}" if rank is not None else "process"
    rate = f", {told['rate']:,.0f}/s" if number is None and isinstance(told.get("rate"), (int, float)) else ""
    silent = f", silent {duration(writer.silent_s)}" if writer.state == "silent" or writer.silent_s > 20 else ""
    state = writer.state if writer.state != "silent" else "no word"
    return f"{who:8} {writer.host[:20]} {writer.pid} {state}{rate if writer.works else ''}{silent}"[:60].rstrip()


def _ago(what: str, seconds: float | None) -> str:
    return "" if seconds is None else f"{what} {duration(seconds)} ago"


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f", {duration(seconds)} to go"


def _record(found: StoreStatus | RunStatus) -> dict[str, Any]:
    kind = "store" if isinstance(found, StoreStatus) else "run"
    record = {"kind": kind, **dataclasses.asdict(found), "left_s": found.left_s}
    if isinstance(found, StoreStatus):
        return {**record, "labels": found.labels, "writers": [_told(writer) for writer in found.writers]}
    return {
        **record,
        "ranks": [_told(writer) for writer in found.ranks],
        "writer": found.writer and _told(found.writer),
    }


def _told(writer: Writer) -> dict[str, Any]:
    return {**dataclasses.asdict(writer), "state": writer.state}


if __name__ == "__main__":
    main()
