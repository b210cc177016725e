"""What is a report about, in which words does it speak of it, and what of it can be taken along?"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.inspection.doctor import doctor_text
from pipeline.inspection.gauge import gauge_text
from pipeline.shards.index import SampleIndex
from pipeline.store.reader import StoreReader
from stages.reporting.gallery import Shelf
from stages.reporting.made import Made
from stages.reporting.measures import Interval, Reliability, confusion, gain_interval, recall, reliability
from stages.reporting.results import Line, Results, Spread, StudentResult, called, mean_curve


@dataclass(frozen=True, kw_only=True)
class Story:
    """Everything that the report shows."""

    results: Results
    store: StoreReader
    index: SampleIndex
    architecture: str | None
    """The teacher's, where its name does not say it"""
    teacher_rate: float | None
    """Views a second that the teacher answers; None where that was not measured"""
    per_view: Sequence[tuple[int, float]]
    views: Sequence[Shelf]
    held_out: Sequence[Shelf]
    made: Made
    earlier: Sequence[Line] = field(default_factory=tuple)
    """What earlier reports found, the oldest first"""

    @property
    def students(self) -> list[StudentResult]:
        """All students, sorted by kind and then by seed."""
        return [student for kind in self.results.kinds for student in self.results.of(kind)]

    @cached_property
    def labelled(self) -> int:
        """How many rows have a true label."""
        return int((self.index.classes >= 0).sum())

    @property
    def classes(self) -> list[str]:
        """The names of the classes; their numbers where they have none."""
        manifest = self.store.manifest
        return list(manifest.class_names or map(str, range(manifest.num_classes)))

    @property
    def best(self) -> tuple[str, Spread] | None:
        """The kind whose accuracy gained most over plain students, and by how much; None where none was compared."""
        gains = self.results.gains()
        return max(gains.items(), key=lambda pair: pair[1].mean) if gains else None

    @property
    def sure(self) -> Interval | None:
        """The interval of the best kind's gain; None where it cannot be computed."""
        return gain_interval(self.results, self.best[0]) if self.best else None

    @cached_property
    def recalls(self) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """For each kind: the pictures of each class, and the share recognised; only kinds whose answers were kept."""
        found = {kind: recall(self.results.of(kind), len(self.classes)) for kind in self.results.kinds}
        return {kind: of_classes for kind, of_classes in found.items() if of_classes is not None}

    @property
    def closest(self) -> str | None:
        """The kind whose classes are looked at one by one: the best one of those whose answers were kept."""
        best = self.best[0] if self.best else None
        return best if best in self.recalls else next(reversed(self.recalls), None)

    @cached_property
    def confused(self) -> NDArray[np.int64] | None:
        """How often students of the `closest` kind take a picture of each class (row) for each class (column)."""
        return confusion(self.results.of(self.closest), len(self.classes)) if self.closest else None

    @cached_property
    def reliabilities(self) -> dict[str, Reliability]:
        """By kind, how often its students are right at each confidence; only kinds for which that was measured."""
        return {kind: bins for kind in self.results.kinds if (bins := reliability(self.results.of(kind)))}

    @property
    def tokens(self) -> dict[str, Line]:
        """By kind, the similarity of the two tokens, as `student.tokens` measured it."""
        found = self.results.tokens
        return {kind: found[kind] for kind in [k for k in self.results.kinds if k in found] or sorted(found)}

    @property
    def judged_on(self) -> list[str]:
        """The processors on which the students' speed was measured."""
        return sorted({str(s.speed["machine"]["processor"]) for s in self.students if "machine" in s.speed})


def labels_by_share(story: Story) -> list[tuple[str, int, float]]:
    """(share of the main picture, views, how often it is named), where views are mixed; else nothing."""
    unmixed, by_share = (story.results.labels.get(name) or {} for name in ("unmixed", "by_lambda"))
    parts = {"unmixed": unmixed} if unmixed.get("views") else {}
    parts |= {f"{share.replace('-', '–')} of the view": found for share, found in by_share.items()}
    known = [(name, part) for name, part in parts.items() if part.get("top1") is not None]
    return [(name, int(part["views"]), float(part["top1"])) for name, part in known] if len(known) > 1 else []


def inspected(story: Story) -> tuple[list[str], list[str]]:
    """What the doctor and the gauge measured of the labels, and what they warn of."""
    labels = story.results.labels
    lines = [*doctor_text(labels.get("doctor")), *gauge_text(labels.get("gauge"), labels.get("bytes_per_view", {}))]
    marked = [line.partition(": ") for line in lines if line.startswith(("ADVICE: ", "WARNING: "))]
    plain = [line.rstrip(".") for line in lines if not line.startswith(("ADVICE: ", "WARNING: "))]
    return [f"{line[0].upper()}{line[1:]}." for line in plain], [text for _, _, text in marked]


def bytes_read(story: Story) -> dict[str, float]:
    """Bytes of a view's labels that each kind reads, where its store keeps what this one does."""
    sizes = {name: size for name, size in story.store.bytes_per_view().items() if name not in ("crc", "luma")}
    read = {"hard": sizes.get("argmax", 0.0), "soft": sum(sizes.values())}
    keeps = {kind: {s.settings.get("keep") for s in story.results.of(kind)} for kind in read}
    return {"none": 0.0} | {k: size for k, size in read.items() if keeps[k] == {str(story.store.manifest.keep)}}


def remembered(story: Story) -> dict[str, Any]:
    """The results of this report, as later reports will list them."""
    sizes = story.store.bytes_per_view()
    labels = {"views": story.store.layout.views, "rows": len(story.index), "keep": str(story.store.manifest.keep)}
    return {**story.results.summary(), "labels": labels | {"bytes_per_view": round(sum(sizes.values()), 1)}}


def tables_of(story: Story) -> dict[str, bytes]:
    """The data of the page's figures as CSV files, by their names."""
    found = {"students.csv": _students(story.results)}
    epochs = [line for student in story.students for line in student.epochs]
    found |= {
        f"{name}.csv": curve_table(story.results, name) for name in ("top1", "loss") if any(name in e for e in epochs)
    }
    if story.recalls:
        images_K = next(iter(story.recalls.values()))[0]
        rows = zip(story.classes, images_K.tolist(), *(r[1].tolist() for r in story.recalls.values()), strict=True)
        found["classes.csv"] = as_csv(["class", "pictures", *story.recalls], rows)
    if story.reliabilities:
        bins = [(kind, *b) for kind, bins in story.reliabilities.items() for b in bins]
        found["reliability.csv"] = as_csv(["learned_from", "confidence", "right", "answers"], bins)
    return found


def _students(results: Results) -> bytes:
    flags = sorted({name for student in results.students for name in student.settings})
    heads = list(dict.fromkeys(head for student in results.students for head in student.accuracy))
    head = ["student", *heads, "log_loss", "calibration_error", "agrees_with_teacher"]
    head += ["images_per_second", "forward_images_per_second", *flags]
    rows = [
        [f"{s.kind}-{s.seed}", *map(s.accuracy.get, heads), s.loss, s.calibration, s.as_teacher,
         s.median("images_per_second"), s.speed.get("forward_images_per_second"), *map(s.settings.get, flags)]
        for s in results.students
    ]  # fmt: skip
    return as_csv(head, rows)


def curve_table(results: Results, name: str) -> bytes:
    """A column for each kind of student (mean over its seeds), a line for each number of updates."""
    columns = {kind: dict(mean_curve([s.epochs for s in results.of(kind)], name)) for kind in results.kinds}
    rows = [
        [f"{update:g}", *(f"{curve[update]:.6f}" if update in curve else "" for curve in columns.values())]
        for update in sorted(set().union(*columns.values()))
    ]
    return as_csv(["update", *columns], rows)


def taught(kind: str) -> str:
    """What the page calls the students of a kind."""
    return "students without a teacher" if kind == "none" else f"students of {called(kind)}"


def share(value: float | None, unit: str = "") -> str:
    """A share as a percentage with one digit, or a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}{unit}"


def decimal(value: float | None, digits: int) -> str:
    """A number with so many digits, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float, digits: int = 1) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * value:+.{digits}f}".replace("-", "−")


def points(spread: Spread) -> str:
    """A gain in percentage points with its sign and, of several seeds, the standard deviation."""
    return signed(spread.mean) + (f" ± {100 * spread.deviation:.1f}" if len(spread.values) > 1 else "")


def as_csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """The bytes of a CSV file with this head and these rows."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue().encode()
