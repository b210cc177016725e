"""Which figures does the report list, and in which words? Each table is made of what was measured, and says no more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.progress import duration
from stages.reporting.measures import gain_interval, mistaken, wilson
from stages.reporting.report_data import Story, decimal, points, remembered, share, signed, taught
from stages.reporting.results import BEST_HEAD, HEADS, KINDS, called

SETTINGS = (
    "model", "patch_size", "width", "depth", "heads", "init", "distill", "alpha", "tau", "smoothing", "epochs", "batch",
    "lr", "warmup_epochs", "opt", "weight_decay", "drop_path", "repeats", "ema", "precision", "views", "keep",
)  # fmt: skip
"""What of a student's flags is told, in this order; all of them are in students.csv"""
LISTED = 20
"""Classes in a table: all, or of more than these the ones that gained or lost most"""
CONFUSIONS = 10


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table; `colour` marks what it is about."""

    head: str
    cells: Sequence[str]
    colour: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Figures with their names; the first column names the rows."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Row]


def _by_kind(story: Story, kinds: Iterable[str], cells: Callable[[str], Sequence[str]]) -> list[Row]:
    return [Row(called(kind), cells(kind), story.results.colours.get(kind, "dim")) for kind in kinds]


def accuracy(story: Story) -> Table:
    """The accuracy of every head of every kind of student, and the gain of the kind."""
    results, gains = story.results, story.results.gains()

    def cells(kind: str) -> list[str]:
        heads, of_kind = results.heads(kind), results.of(kind)
        sure = wilson(sum(s.best for s in of_kind) / len(of_kind), of_kind[0].images)
        gain, gain_sure = gains.get(kind), gain_interval(results, kind)
        gained = [points(gain) if gain else "–", f"({gain_sure.signed})" if gain and gain_sure else "–"]
        loss, error = (results.mean(value, kind) for value in (lambda s: s.loss, lambda s: s.calibration))
        agrees = share(results.mean(lambda s: s.as_teacher, kind))
        told = [*(str(heads.get(h, "–")) for h in HEADS), f"({sure})", *(gained if gains else ())]
        return [*told, decimal(loss, 3), decimal(error, 3), agrees]

    return Table(
        "Top-1 in %, gains in points: mean ± standard deviation over the seeds; in brackets where other "
        f"{story.students[0].images:,} pictures would put it (95 %)",
        ["learned from", *HEADS.values(), "(95 %)", *(("gain", "(95 %)") if gains else ()),
         "log loss", "calibration error", "agrees with teacher (%)"],
        _by_kind(story, results.kinds, cells),
    )  # fmt: skip


def classes(story: Story, kind: str) -> Table:
    """Which share of each class each kind recognises, `kind` last; of many classes, those that it changed most."""
    names, recalls = story.classes, story.recalls
    images_K, share_K = recalls[kind]
    plain = "none" in recalls and kind != "none"
    plain_K = recalls["none"][1] if plain else np.zeros(len(names))
    kinds = [k for k in recalls if k != kind] + [kind]
    caption = (
        "Share of each class that is recognised, in %, mean over the seeds; in brackets where as many other pictures "
        f"would put {taught(kind)} (95 %)"
    )
    order_K = np.arange(len(names))
    if len(names) > LISTED:
        order_K = np.argsort(np.nan_to_num(share_K - plain_K), kind="stable")
        order_K = order_K[np.r_[: LISTED // 2, -LISTED // 2 : 0]]
        which = "lost and gained most" if plain else "are recognised least and most"
        caption = f"The {LISTED} of {len(names)} classes that {which}. {caption}. All of them: classes.csv"

    def cells(k: int) -> list[str]:
        sure = "–" if np.isnan(share_K[k]) else f"({wilson(float(share_K[k]), int(images_K[k]))})"
        told = [f"{images_K[k]:,}", *(share(recalls[other][1][k]) for other in kinds), sure]
        change = share_K[k] - plain_K[k]
        return [*told, "–" if np.isnan(change) else signed(change)] if plain else told

    head = ["class", "pictures", *map(called, kinds), "(95 %)", *(["change"] if plain else [])]
    return Table(caption, head, [Row(names[k], cells(k)) for k in order_K.tolist()])


def confusions(story: Story, kind: str) -> Table:
    """The most frequent confusions of classes by a kind's students."""
    names, students = story.classes, len(story.results.of(kind))
    found = [] if story.confused is None else mistaken(story.confused, CONFUSIONS)
    rows = [Row(names[k], [names[j], f"{often / students:.1f}", share(part, " %")]) for k, j, often, part in found]
    caption = f"The commonest confusions of {taught(kind)}, mean over the seeds"
    return Table(caption, ["true class", "taken for", "pictures", "of the class"], rows)


def calibration(story: Story) -> Table:
    """How confident the students are, and how often they are right."""

    def cells(kind: str) -> list[str]:
        bins = story.reliabilities[kind]
        answers = sum(n for *_, n in bins)
        sure, right = (sum(b[at] * b[2] for b in bins) / answers for at in (0, 1))
        return [share(sure, " %"), share(right, " %"), decimal(story.results.mean(lambda s: s.calibration, kind), 3)]

    return Table(
        "Mean confidence beside accuracy; the calibration error is their distance, bin by bin, weighted by pictures",
        ["learned from", "sure", "right", "calibration error"],
        _by_kind(story, story.reliabilities, cells),
    )


def tokens(story: Story) -> Table:
    """How similar the two tokens are, and the weights of the two heads."""

    def cells(kind: str) -> list[str]:
        record = story.tokens[kind]
        cosines = (record["input"]["tokens"], record["blocks"][-1]["mean"], record["weight_rows"]["mean"])
        return [*(decimal(value, 2) for value in cosines), share(record["heads_agree"], " %")]

    head = ["learned from", "as learned", "after the last block", "rows of the two heads", "heads agree"]
    return Table("Cosine similarity of tokens and of the heads’ weights", head, _by_kind(story, story.tokens, cells))


def costs(story: Story) -> Table:
    """What labelling and training took, and what training with the teacher beside each student would have taken."""
    store, sizes = story.store, story.store.bytes_per_view()
    views = store.layout.views * store.manifest.rows
    kept = ", ".join(f"{name} {size:.1f}" for name, size in sizes.items())
    whole = _bytes(sum(sizes.values()) * views)
    rows = [
        Row("stored for each view", [f"{sum(sizes.values()):.1f} bytes", kept]),
        Row("the whole store", [whole, f"{views:,} views, keep {store.manifest.keep}"]),
    ]
    if (rate := story.results.mean(lambda s: s.median("images_per_second"))) is not None:
        rows.append(Row("a student learns", [f"{rate:,.0f} images/s", "no teacher in the step"]))
    if (wait := story.results.mean(lambda s: s.median("wait"))) is not None:
        rows.append(Row("of its time it waits for views", [f"{100 * wait:.0f} %", "mean of all students"]))
    if (rate := story.teacher_rate) is not None:
        distilled = [len(s.epochs) for s in story.students if s.kind != "none" and s.epochs]
        passes = sum(distilled) / store.layout.views
        rows.append(Row("the teacher answers", [f"{rate:,.0f} views/s", "measured for this page, on this machine"]))
        rows.append(Row("asked once for all views", [duration(views / rate), "its forward passes alone"]))
        if distilled:
            online = [duration(passes * views / rate), f"{passes:.1f} times as many forward passes"]
            rows.append(Row(f"asked by {len(distilled)} students, online", online))
    return Table("Bytes, rates and the teacher’s work", ["what", "how much", "that is"], rows)


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def earlier(story: Story) -> Table:
    """The results of this report above those of earlier ones, for comparison."""
    now = {"date": "this report", "commit": story.made.commit, "found": remembered(story)}
    lines = [now, *reversed(story.earlier)]
    known = {name for line in lines for name, value in line["found"].items() if value} - {"gain", "labels", "teacher"}
    kinds = [kind for kind in KINDS if kind in known] + sorted(known - set(KINDS))

    def cells(line: Mapping[str, Any]) -> list[str]:
        found = line["found"]
        heads = [found.get(kind) or {} for kind in kinds]
        gains, labels = found.get("gain", {}), found.get("labels", {})
        kept = [str(labels[name]) for name in ("rows", "views", "keep", "bytes_per_view") if name in labels]
        top1 = [share(of_heads.get(BEST_HEAD, of_heads.get("class"))) for of_heads in heads]
        best = signed(max(gains.values())) if gains else "–"
        return [line["commit"] or "–", *top1, best, share(found.get("teacher")), " · ".join(kept) or "–"]

    head = ["date", "commit", *map(called, kinds), "best gain", "teacher", "rows · views · keep · bytes a view"]
    caption = "Held-out top-1 in %, mean over the seeds, of this report and of earlier ones with other results"
    return Table(caption, head, [Row(line["date"], cells(line)) for line in lines])


def settings(story: Story) -> Table:
    """The flags of the trainings: one value where all students share it, or the value of each kind."""
    parameters = {s.parameters for s in story.students if s.parameters}
    rows = [Row("parameters", [f"{parameters.pop():,}"])] if len(parameters) == 1 else []
    for name in SETTINGS:
        by_kind: dict[str, list[str]] = {}
        for student in story.students:
            if student.settings:
                by_kind.setdefault(student.kind, []).append(_value(student.settings.get(name)))
        told = {kind: " or ".join(dict.fromkeys(values)) for kind, values in by_kind.items()}
        one = set(told.values())
        if one - {"–"}:
            each = "; ".join(f"{called(kind)} {text}" for kind, text in told.items())
            rows.append(Row(f"--{name.replace('_', '-')}", [one.pop() if len(one) == 1 else each]))
    return Table("What the students were trained with", ["flag", "value"], rows)


def _value(value: object) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
