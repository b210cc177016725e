"""What is a report about, in which words and colours does it speak of it, and what of it can be taken along?"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.labelling.cost import Cost
from pipeline.shards.index import SampleIndex
from pipeline.store.reader import StoreReader
from stages.reporting.gallery import Shelf
from stages.reporting.made import Made
from stages.reporting.measures import Interval, gain_interval, recall, reliability
from stages.reporting.results import CALLED, KINDS, Line, Results, Spread, mean_curve

OTHERS = 4
"""Colours for kinds of students that are not known by name"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All that the page is about."""

    results: Results
    store: StoreReader
    index: SampleIndex
    architecture: str | None
    """The teacher's, where its name does not say it"""
    cost: Cost | None
    per_view: Sequence[tuple[int, float]]
    views: Sequence[Shelf]
    held_out: Sequence[Shelf]
    made: Made
    earlier: Sequence[Line] = field(default_factory=tuple)
    """What earlier reports found, the oldest first"""

    @property
    def labelled(self) -> int:
        """Rows with a label."""
        return int((self.index.classes >= 0).sum())

    @property
    def classes(self) -> list[str]:
        """What the classes are called."""
        manifest = self.store.manifest
        return list(manifest.class_names or map(str, range(manifest.num_classes)))

    @property
    def best(self) -> tuple[str, Spread] | None:
        """The kind of distillation that gained most, and its gain."""
        gains = self.results.gains()
        return max(gains.items(), key=lambda pair: pair[1].mean) if gains else None

    @property
    def sure(self) -> Interval | None:
        """The interval of that gain, of the pictures."""
        return gain_interval(self.results, self.best[0]) if self.best else None

    @property
    def label_bytes(self) -> dict[str, float]:
        """Bytes of a view's labels that each kind reads, where its store keeps what this one does."""
        sizes = {name: size for name, size in self.store.bytes_per_view().items() if name not in ("crc", "luma")}
        read = {"none": 0.0, "hard": sizes.get("argmax", 0.0), "soft": sum(sizes.values())}
        keep = str(self.store.manifest.keep)
        same = (
            kind for kind in self.results.kinds if all(s.settings.get("keep") == keep for s in self.results.of(kind))
        )
        return {"none": 0.0} | {kind: read[kind] for kind in same if kind in read}

    def found(self) -> dict[str, Any]:
        """What is remembered of this report."""
        sizes = self.store.bytes_per_view()
        labels = {"views": self.store.layout.views, "rows": len(self.index), "keep": str(self.store.manifest.keep)}
        return {**self.results.summary(), "labels": labels | {"bytes_per_view": round(sum(sizes.values()), 1)}}


def called(kind: str) -> str:
    """A kind of student in words."""
    return CALLED.get(kind, kind)


def taught(kind: str) -> str:
    """The students of a kind in words."""
    return "students without a teacher" if kind == "none" else f"students of {called(kind)}"


def colour(kind: str) -> str:
    """The page's colour of a kind, or of the teacher."""
    return kind if kind in (*KINDS, "teacher") else f"other{zlib.crc32(kind.encode()) % OTHERS + 1}"


def points(spread: Spread) -> str:
    """A gain in percentage points, with its sign."""
    text = f"{100 * spread.mean:+.1f}".replace("-", "−")
    return f"{text} ± {100 * spread.deviation:.1f}" if len(spread.values) > 1 else text


def files(story: Story) -> list[tuple[str, bytes]]:
    """The page's figures as tables, by their names."""
    found = [("students.csv", _students(story.results))]
    found += [(f"{name}.csv", curve_table(story.results, name)) for name in ("top1", "loss") if _known(story, name)]
    recalls = {kind: recall(story.results.of(kind), len(story.classes)) for kind in story.results.kinds}
    shown = {kind: r for kind, r in recalls.items() if r is not None}
    if shown:
        images_K = next(iter(shown.values()))[0]
        rows = zip(story.classes, images_K.tolist(), *(r[1].tolist() for r in shown.values()), strict=True)
        found.append(("classes.csv", table(["class", "pictures", *shown], rows)))
    bins = [(kind, *b) for kind in story.results.kinds for b in reliability(story.results.of(kind))]
    if bins:
        found.append(("reliability.csv", table(["learned_from", "confidence", "right", "answers"], bins)))
    return found


def _known(story: Story, name: str) -> bool:
    return any(name in line for student in story.results.students for line in student.epochs)


def _students(results: Results) -> bytes:
    flags = sorted({name for student in results.students for name in student.settings})
    heads = list(dict.fromkeys(head for student in results.students for head in student.accuracy))
    head = ["student", *heads, "log_loss", "calibration_error", "agrees_with_teacher", "images_per_second", *flags]
    rows = [
        [s.name, *(s.accuracy.get(h) for h in heads), s.loss[s.head], s.calibration[s.head], s.as_teacher, s.rate]
        + [s.settings.get(flag) for flag in flags]
        for s in results.students
    ]
    return table(head, rows)


def curve_table(results: Results, name: str) -> bytes:
    """A column for each kind of student (mean over its seeds), a line for each number of updates."""
    columns = {kind: dict(mean_curve([s.epochs for s in results.of(kind)], name)) for kind in results.kinds}
    updates = sorted({update for curve in columns.values() for update in curve})
    rows = [
        [f"{update:g}", *(f"{curve[update]:.6f}" if update in curve else "" for curve in columns.values())]
        for update in updates
    ]
    return table(["update", *columns], rows)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """CSV."""
    text = io.StringIO()
    written = csv.writer(text, lineterminator="\n")
    written.writerow(head)
    written.writerows(rows)
    return text.getvalue().encode()
