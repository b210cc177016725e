"""What do the runs of a table say? Means and deviations over seeds, and differences seed by seed."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.evidence.claims import of_row
from benchmarks.evidence.claims import table as verdict_lines
from benchmarks.evidence.experiments import Experiment, Row
from benchmarks.evidence.lab import HEADS
from benchmarks.evidence.statistic import paired
from benchmarks.evidence.steps import Step, in_order
from benchmarks.report import Table, grid
from pipeline.shards.index import scan
from pipeline.shards.patterns import expand
from pipeline.store.layout import Unit
from pipeline.store.reader import StoreReader

ALONE = HEADS[:2]
MISTAKES = "mistakes shared"


def table_of(name: str, experiment: Experiment, work: Path, seeds: Sequence[int]) -> Table:
    """The table of the runs that are finished: rows with fewer seeds say so, and a row with none is named below."""
    columns, cells = COLUMNS[experiment.kind]
    rows: list[list[str]] = []
    figures: dict[str, float] = {}
    base: dict[int, float] = {}
    absent: list[str] = []
    for row in experiment.rows:
        found = finished(row, work, seeds)
        if not found:
            absent.append(row.name)
            continue
        base = found if row.base or not base else base
        part = _part(row, work)
        fewer = "" if len(found) == len(seeds) else f" (seeds {', '.join(map(str, found))})"
        rows.append([row.name + fewer, *heads(part, work), *against(found, base, row.base), *cells(part, work)])
        figures |= {f"{row.name}, seed {seed}": value for seed, value in found.items()}
        figures |= {f"{row.name}, {what}": value for what, value in seen(experiment.kind, part, list(found), work)}
    done = [step for step in in_order(experiment.steps()) if step.done(work)]
    seconds = sum(step.seconds(work) for step in done)
    return Table(
        name=name,
        title=experiment.title,
        columns=("", "class head", "distillation head", "both fused", "against the base, 95 % interval", *columns),
        rows=grid(rows),
        figures=figures,
        notes=(
            f"Top-1 on held-out pictures in %, mean ± standard deviation over seeds {', '.join(map(str, seeds))}; the "
            "base is the first row, or the last one before with an empty comparison. Differences are taken seed by "
            "seed; in brackets the 95 % t interval of their mean.",
            *experiment.notes,
            *taken_over(experiment.rows, figures),
            *teachers_said(done, work),
            *([f"Not run: {'; '.join(absent)}."] if absent else []),
            f"{len(done)} commands, {seconds / 60:.0f} minutes in all (runs that other tables share are counted in "
            "each).",
        ),
        after=tuple(verdict_lines(name, figures)),
    )


def teachers_said(done: Sequence[Step], work: Path) -> Iterator[str]:
    """How sure and how right the teachers were on the views that were learned from, from the summaries of stores."""
    stores = [step for step in done if step.module == "stages.teacher_logits" and "none" not in step.flags]
    for step in stores:
        path = work / f"{step.path.removesuffix('.zarr')}.summary.json"
        if path.exists():
            namesakes = [other for other in stores if other.title == step.title]
            told = json.loads(path.read_text(encoding="utf-8"))
            yield f"Labels {step.title}{_own_flags(step, namesakes)}: {labels_said(told)}."


def labels_said(told: Mapping[str, Any]) -> str:
    """A store's summary in a line."""
    right = (told.get("unmixed") or {}).get("top1")
    top1 = "" if right is None else f", top-1 on those that are not mixed {100 * right:.1f} %"
    sure = "" if told["entropy"] is None else f", entropy of the answers {told['entropy']:.2f} nats"
    return f"{told['views']} views of {told['rows']:,} pictures{sure}{top1}"


def _own_flags(step: Step, namesakes: Sequence[Step]) -> str:
    """What tells a store from others of the same name: the flags that most of them have not."""
    usual = Counter(pair for other in namesakes for pair in _pairs(other))
    own = [f"{flag} {value or '(nothing)'}" for flag, value in _pairs(step) if usual[flag, value] <= len(namesakes) / 2]
    return f" ({', '.join(own)})" if own and len(namesakes) > 1 else ""


def _pairs(step: Step) -> list[tuple[str, str]]:
    """Flag and value, as the command reads them: the last one counts."""
    return list(dict(zip(step.flags[::2], step.flags[1::2], strict=True)).items())


def seen(kind: str, row: Row, seeds: Sequence[int], work: Path) -> Iterator[tuple[str, float]]:
    """What is known of each seed beside its top-1, by name: of each head alone, and of every block."""
    if row.head == "fused_logits":
        for seed, step in zip(seeds, row.scores, strict=True):
            answers = read(step, work)
            heads_of = ALONE if has(answers, ALONE[-1]) else ()
            yield from ((f"{head} head, seed {seed}", top1(answers, head)) for head in heads_of)
    if kind in ("tokens", "course", "parting"):
        for seed, step in zip(seeds, row.about, strict=True):
            for number, block in enumerate(read(step, work)["blocks"], 1):
                yield f"cosine after block {number}, seed {seed}", block["mean"]
    if kind == "inherited":
        for seed, step in zip(seeds, row.about, strict=True):
            found = read(step, work)
            yield f"{MISTAKES}, seed {seed}", found["alike_where_wrong"]
            for number, distance in enumerate(found["distance"], 1):
                yield f"reach of block {number}, seed {seed}", distance


def taken_over(rows: Sequence[Row], figures: Mapping[str, float]) -> Iterator[str]:
    """How many more of the teacher's mistakes a student shares than another, seed by seed."""
    shared = {row.name: of_row(figures, f"{row.name}, {MISTAKES}") for row in rows}
    for mine, other in itertools.combinations([name for name in shared if shared[name]], 2):
        if not (both := sorted(set(shared[mine]) & set(shared[other]))):
            continue
        effect = paired([100 * shared[other][seed] for seed in both], [100 * shared[mine][seed] for seed in both])
        yield f"The convnet's mistakes that are shared, {other} against {mine}: {effect.text()} points."


def finished(row: Row, work: Path, seeds: Sequence[int]) -> dict[int, float]:
    """Top-1 of the head that counts, for every seed whose runs are done; empty where what its own cells are read from
    is not."""
    if row.about and len(row.about) != len(row.scores) and not all(step.done(work) for step in row.about):
        return {}
    pairs = zip(seeds, row.scores, _about_of_seeds(row), strict=True)
    done = [(seed, step) for seed, step, about in pairs if step.done(work) and all(one.done(work) for one in about)]
    return {seed: top1(read(step, work), row.head) for seed, step in done}


def done_part(experiment: Experiment, work: Path, seeds: Sequence[int]) -> tuple[Row, ...]:
    """The rows that have a finished seed, with the finished seeds alone."""
    return tuple(_part(row, work) for row in experiment.rows if finished(row, work, seeds))


def _about_of_seeds(row: Row) -> list[tuple[Step, ...]]:
    """What a seed's cells are read from, where there is one of it for every seed."""
    return [(step,) for step in row.about] if len(row.about) == len(row.scores) else [() for _ in row.scores]


def _part(row: Row, work: Path) -> Row:
    """A row with its finished seeds alone."""
    kept = [step.done(work) and all(one.done(work) for one in about)
            for step, about in zip(row.scores, _about_of_seeds(row), strict=True)]  # fmt: skip
    about = row.about
    if len(about) == len(kept):
        about = tuple(step for step, keep in zip(about, kept, strict=True) if keep)
    return replace(row, scores=tuple(step for step, keep in zip(row.scores, kept, strict=True) if keep), about=about)


def shares(row: Row, work: Path) -> list[float]:
    """Top-1 of the head that counts, a seed each."""
    return [top1(read(step, work), row.head) for step in row.scores]


def heads(row: Row, work: Path) -> Iterator[str]:
    """The three answers, where there are three; the row's own alone where it is about one of them."""
    average, _, own = row.head.rpartition("/")
    for head in HEADS:
        name = f"{average}/{head}" if average else head
        found = [top1(read(step, work), name) for step in row.scores if has(read(step, work), name)]
        shown = found if own in ("fused_logits", head) else []
        yield spread([100 * value for value in shown])


def against(found: Mapping[int, float], base: Mapping[int, float], is_base: bool) -> Iterator[str]:
    """The mean difference over the seeds of both, with its interval."""
    both = sorted(set(found) & set(base))
    if is_base or not both:
        yield ""
    else:
        yield paired([100 * found[seed] for seed in both], [100 * base[seed] for seed in both]).text()


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard deviation."""
    if not values:
        return ""
    return f"{fmean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def top1(scores: dict[str, Any], head: str) -> float:
    """Of one answer; a student with one head has only that."""
    average, _, name = head.rpartition("/")
    found = scores[average or "student"]
    return float(found[name if name in found else "class"]["top1"])


def has(scores: dict[str, Any], head: str) -> bool:
    """Whether the student gives this answer."""
    average, _, name = head.rpartition("/")
    return name in scores.get(average or "student", {})


def read(step: Step, work: Path) -> Any:
    """The JSON that a step left."""
    return json.loads((work / step.path).read_text(encoding="utf-8"))


# -- cells of their own


def _none(row: Row, work: Path) -> list[str]:
    return []


def _teacher(row: Row, work: Path) -> list[str]:
    """How good the teacher is on the pictures that judge the students."""
    if not row.about:
        return [""]
    store = StoreReader.open(str(work / row.about[0].path))
    right = 0
    for run in range(store.layout.runs):
        start, stop = store.layout.rows_of(Unit(0, run))
        chosen_B = store.read_arrays(0, run, ["argmax"])["argmax"]
        right += int((chosen_B == store.index.classes[start:stop]).sum())
    return [f"{100 * right / store.manifest.rows:.1f}"]


def _bytes(row: Row, work: Path) -> list[str]:
    """What a view of this store takes, proofs apart."""
    sizes = StoreReader.open(str(work / row.about[0].path)).bytes_per_view()
    return [f"{sum(size for name, size in sizes.items() if name not in ('crc', 'luma')):.2f}"]


def _kilobytes(row: Row, work: Path) -> list[str]:
    """What a photograph takes in its shards."""
    index = scan(expand([f"{work / row.about[0].path}/*.tar"]))
    return [f"{index.lengths.mean() / 1000:.1f}"]


def _time(row: Row, work: Path) -> list[str]:
    """How long training took, and the loss at its end."""
    losses = [curve(step, work, "loss")[-1][1] for step in row.about]
    return [spread([step.seconds(work) for step in row.about], 0), spread(losses, 4)]


def _tokens(row: Row, work: Path) -> list[str]:
    """Cosine of the two tokens after the first block and after the last."""
    found = [[block["mean"] for block in read(step, work)["blocks"]] for step in row.about]
    return [spread([blocks[at] for blocks in found], 3) for at in (0, -1)]


def _parted(row: Row, work: Path) -> list[str]:
    """The same, where a mean would hide that some seeds part and others do not."""
    ends = [read(step, work)["blocks"][-1]["mean"] for step in row.about]
    return [_tokens(row, work)[0], ", ".join(f"{end:.2f}" for end in ends)]


def _inherited(row: Row, work: Path) -> list[str]:
    """Agreement with the teacher where it is wrong, and how far the first block and the last look."""
    found = [read(step, work) for step in row.about]
    alike = [100 * one["alike_where_wrong"] for one in found]
    return [spread(alike), *(spread([one["distance"][at] for one in found]) for at in (0, -1))]


COLUMNS: dict[str, tuple[tuple[str, ...], Callable[[Row, Path], list[str]]]] = {
    "accuracy": ((), _none),
    "views": ((), _none),
    "teachers": (("teacher's own top-1",), _teacher),
    "bytes": (("bytes a view",), _bytes),
    "curves": (("seconds", "training loss at the end"), _time),
    "packed": (("kB a photograph",), _kilobytes),
    "inherited": (("the teacher's mistakes, %", "reach of the first block", "of the last"), _inherited),
    "tokens": (("cosine after the first block", "after the last"), _tokens),
    "course": (("cosine after the first block", "after the last"), _tokens),
    "parting": (("cosine after the first block", "after the last, a seed each"), _parted),
}


def curve(run: Step, work: Path, name: str) -> list[tuple[int, float]]:
    """(update, value) at the ends of epochs."""
    lines = (work / run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    epochs = [entry for entry in map(json.loads, lines) if entry["kind"] == "epoch"]
    return [(entry["update"], entry[name]) for entry in epochs if name in entry]
