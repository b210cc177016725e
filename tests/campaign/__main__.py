"""Run the fault campaign and print its table.

    python -m tests.campaign [ROW …] [--scale full|reduced|N%] [--seed N] [--out benchmarks/results/campaign.md]

Each row that is finished is kept in a JSON file beside the table, so that an interrupted campaign goes on with the rows
that are missing (those of the same scale and seed; --again forgets them). Exit status 1 if anything was silent, failed,
or a sabotage went unnoticed.
"""

from __future__ import annotations

import importlib
import json
import logging
import platform
import sys
import time
from pathlib import Path
from typing import Any

import click
import cv2
import torch

from pipeline.processes.machine import granted_cores
from tests.campaign.tally import Scale, Tally
from tests.faults import memory_disk

ROWS = (
    *("kills", "writes", "flips", "tars", "misalignments", "topology"),
    *("student_kills", "worker_kills", "races", "losses", "hostile", "picture_caches", "zoo", "stacks", "old_stores"),
)
PAGE = Path(__file__).parents[2] / "docs" / "trust.md"


def one_thread() -> None:
    """Cases are forked from this process, and a forked process must not meet a thread pool that it did not make."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def run_row(name: str, scale: Scale) -> dict[str, Any]:
    """One campaign and its self-check, as a record."""
    module = importlib.import_module(f"tests.campaign.{name}")
    one_thread()
    begun = time.monotonic()
    logging.disable(logging.WARNING)  # thousands of warnings about what was done on purpose
    try:
        with memory_disk() as place:
            tally: Tally = module.run(scale, place)
        with memory_disk() as place:
            sabotaged: Tally = module.sabotage(place)
    finally:
        logging.disable(logging.NOTSET)
    noticed = not sabotaged.sound and sabotaged.count > 0
    return {
        "row": name,
        "title": module.TITLE,
        "shows": module.SHOWS,
        "share": scale.share,
        "seed": scale.seed,
        **tally.to_json(),
        "noticed": noticed,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "seconds": round(time.monotonic() - begun, 1),
    }


def is_sound(record: dict[str, Any]) -> bool:
    """As promised, and able to fail."""
    return bool(record["count"] and not record["silent"] and not record["failures"] and record["noticed"])


def table(records: list[dict[str, Any]], earlier: str = "") -> str:
    """The table that is published; rows of an earlier one stay where nothing newer is at hand."""
    found = rows_of(earlier) | {record["title"]: (_line(record), _notes(record)) for record in records}
    heads = ("campaign", "run", "silent", "failed", "sabotage", "must show", "seconds", "on")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    chosen = [found[title] for title in sorted(found, key=_place)]
    lines += [line for line, _ in chosen]
    for _, notes in chosen:
        lines += notes
    return "\n".join(lines) + "\n"


def rows_of(text: str) -> dict[str, tuple[str, list[str]]]:
    """The line and the notes of each row of a table, by its title."""
    found: dict[str, tuple[str, list[str]]] = {}
    noted: list[str] = []
    for line in text.splitlines():
        if (cells := line.split(" | "))[0].startswith("| ") and len(cells) == 8 and cells[0] != "| campaign":
            found[cells[0].removeprefix("| ")] = line, []
        elif line.startswith("**") and line.endswith("**") and (title := line.strip("*")) in found:
            noted = found[title][1]
            noted += ["", line, ""]
        elif line.startswith("- "):
            noted.append(line)
    return found


def _place(title: str) -> int:
    titles = [importlib.import_module(f"tests.campaign.{name}").TITLE for name in ROWS]
    return titles.index(title) if title in titles else len(titles)


def _line(record: dict[str, Any]) -> str:
    noticed = "noticed" if record["noticed"] else "**unnoticed**"
    share = "" if record["share"] == 1 else f" ({record['share']:.0%} scale)" if record["share"] else " (reduced)"
    cells = (
        record["title"],
        f"{record['count']:,}{share}",
        len(record["silent"]),
        len(record["failures"]),
        noticed,
    )
    return "| " + " | ".join(map(str, (*cells, record["shows"], f"{record['seconds']:.0f}", record["date"]))) + " |"


def _notes(record: dict[str, Any]) -> list[str]:
    lines = ["", f"**{record['title']}**", ""] if record["notes"] or not is_sound(record) else []
    lines += [f"- {note}" for note in record["notes"]]
    lines += [f"- SILENT: {text}" for text in record["silent"][:20]]
    return lines + [f"- failed: {text}" for text in record["failures"][:20]]


def heading(scale: str, seed: int) -> str:
    """How the table came to be."""
    cores = granted_cores()
    return (
        f"# The fault campaign\n\n`python -m tests.campaign --scale {scale} --seed {seed}`, Python "
        f"{platform.python_version()}, torch {torch.__version__}, {platform.machine()}, {cores} cores. Rows that were "
        "run at another scale say so.\n\n"
    )


@click.command()
@click.argument("rows", nargs=-1, type=click.Choice(ROWS))
@click.option("--scale", default="full", show_default=True, help="full, reduced, or a percentage of the full counts.")
@click.option("--seed", default=0, show_default=True, help="Seed of kill times, mutations and places.")
@click.option("--out", type=click.Path(path_type=Path), default="benchmarks/results/campaign.md", show_default=True)
@click.option("--publish", is_flag=True, help="Put the table into docs/trust.md, too.")
@click.option("--again", is_flag=True, help="Run rows that are there already.")
def main(rows: tuple[str, ...], scale: str, seed: int, out: Path, publish: bool, again: bool) -> None:
    """Damage, kill and mislead the program, and count what it did not notice."""
    asked = Scale.parse(scale, seed)
    chosen = rows or ROWS
    kept = out.with_suffix("")
    kept.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        path = kept / f"{name}.json"
        if not again and _is_there(path, asked):
            click.echo(f"{name}: there already ({path})")
            continue
        click.echo(f"{name}: running")
        record = run_row(name, asked)
        path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        said = f"{len(record['silent'])} silent, {len(record['failures'])} failed of {record['count']:,}"
        click.echo(f"{name}: {said}, sabotage {'noticed' if record['noticed'] else 'UNNOTICED'}, {record['seconds']} s")
    records = [json.loads((kept / f"{n}.json").read_bytes()) for n in ROWS if (kept / f"{n}.json").exists()]
    earlier = out.read_text(encoding="utf-8") if out.exists() else ""
    out.write_text(heading(scale, seed) + table(records, earlier), encoding="utf-8")
    if publish:
        _publish(records)
    click.echo(table(records) + f"\n{out}")
    sys.exit(0 if all(map(is_sound, records)) else 1)


def _publish(records: list[dict[str, Any]]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    begin, end = (f"<!-- campaign: {which} -->\n" for which in ("begin", "end"))
    before, after = text[: text.index(begin) + len(begin)], text[text.index(end) :]
    earlier = text[len(before) : len(text) - len(after)]
    PAGE.write_text(f"{before}\n{table(records, earlier)}\n{after}", encoding="utf-8")


def _is_there(path: Path, asked: Scale) -> bool:
    if not path.exists():
        return False
    record = json.loads(path.read_bytes())
    return bool((record["share"], record["seed"]) == (asked.share, asked.seed))


if __name__ == "__main__":
    main()
