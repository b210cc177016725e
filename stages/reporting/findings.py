"""What do the figures say that one would miss, and what can be tried next?

Rules of thumb, each with the figures that it rests on: what the gain is worth, whether the labels are fit (the doctor's
and the gauge's word, as the labelling left it), whether students are as sure as they are right, which classes lost, and
what held the training up. Where nothing was gained, what to try next comes in the order in which it is cheap to try.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import numpy as np

from pipeline.inspection.doctor import doctor_text
from pipeline.inspection.gauge import gauge_text
from stages.reporting.measures import recall, reliability
from stages.reporting.page import Finding, Findings, Part
from stages.reporting.report_data import Story, called, points, taught

WORSE_CALIBRATED = 0.02
LOST = 0.1
"""Of a class's recall, from which it is told"""
FEWEST = 20
"""Pictures of a class, below which nothing is said of it"""
WAITED = 0.2
LITTLE_BETTER = 0.03


def findings(story: Story) -> Part:
    """All of them."""
    found = [
        *_gain(story),
        *_labels(story),
        *_calibration(story),
        *_classes(story),
        *_training(story),
        *_missing(story),
    ]
    return Part("findings", "What stands out, and what to try next", [Findings(found)])


def _gain(story: Story) -> Iterator[Finding]:
    best, sure = story.best, story.sure
    if best is None:
        yield Finding(
            "No student learned without the teacher, so nothing here says what its labels are worth.",
            "Train one more, with --distill none and the same seed.",
        )
        return
    kind, gain = best
    gained = gain.mean > 0 and (sure is None or sure.low > 0) and min(gain.values) > 0
    verb = f"add {points(gain).lstrip('+')}" if gain.mean > 0 else f"change accuracy by {points(gain)}"
    told = f"{called(kind).capitalize()} {verb} points"
    if sure is not None:
        told += f"; as many other pictures would say {sure.signed} (95 %)"
    unclear = gain.mean > 0 and not gained
    yield Finding(
        f"{told}. {'That may be chance.' if unclear else ''}".strip(),
        "Judge on more pictures, or train more seeds, before you believe it." if unclear else "",
        good=None if unclear else gained,
    )
    if len(gain.values) == 1:
        yield Finding(
            "There is one seed: how far another one would be from it, nobody knows. The interval above is of the "
            "pictures alone.",
            "Train two more seeds (students: in params.yaml).",
        )
    if not gained:
        yield from _instead(story)


def _instead(story: Story) -> Iterator[Finding]:
    """What to try where nothing was gained."""
    results = story.results
    plain, teacher = results.spread("none", lambda s: s.best), results.teacher_accuracy
    if plain is not None and teacher is not None and teacher < plain.mean + LITTLE_BETTER:
        yield Finding(
            f"The teacher names {100 * teacher:.1f} % of the held-out pictures, the students without it "
            f"{100 * plain.mean:.1f} %: it has little to teach.",
            "Fit it longer, begin with published weights (fit_teacher --pretrained), or take a larger one.",
        )
    if story.labelled == len(story.index):
        yield Finding(
            "Every picture has a label, so the teacher’s answers replace nothing that is missing.",
            "Add pictures without a label (pack --unlabelled DIR), or take a teacher that has seen other pictures.",
        )
    if "soft" not in results.kinds:
        yield Finding("No student learned from the teacher’s probabilities.", "Try --distill soft, at --tau 1 and 2.")
    for name, text in (("tau", "temperature"), ("alpha", "weight of the teacher’s term")):
        values = {s.settings[name] for s in results.students if s.kind == "soft" and name in s.settings}
        if len(values) == 1:
            value = values.pop()
            other = (
                "1 or 2" if name == "tau" and value > 2 else "3" if name == "tau" else "0.9" if value < 0.8 else "0.5"
            )
            yield Finding(f"One {text} was tried, {value:g}.", f"Try --{name} {other}: dvc exp run -S train.{name}=…")


def _labels(story: Story) -> Iterator[Finding]:
    """What the doctor and the gauge said when the store was filled."""
    labels = story.results.labels
    for line in doctor_text(labels.get("doctor")):
        if line.startswith("ADVICE: "):
            yield Finding(line.removeprefix("ADVICE: "), good=False)
    for line in gauge_text(labels.get("gauge"), labels.get("bytes_per_view", {})):
        if line.startswith("WARNING: "):
            yield Finding(line.removeprefix("WARNING: "), good=False)


def _calibration(story: Story) -> Iterator[Finding]:
    errors = {k: story.results.spread(k, lambda s: s.calibration[s.head]) for k in story.results.kinds}
    plain = errors.pop("none", None)
    for kind, error in errors.items():
        if plain is None or error is None or error.mean < plain.mean + WORSE_CALIBRATED:
            continue
        bins = reliability(story.results.of(kind))
        surer = sum(n * (sure - right) for sure, right, n in bins)
        how = (
            ""
            if not bins
            else " They are surer than they are right."
            if surer > 0
            else " They are more often right than they are sure."
        )
        yield Finding(
            f"Probabilities of {taught(kind)} mean less: calibration error {error.mean:.2f}, without a "
            f"teacher {plain.mean:.2f}.{how}",
            "Where probabilities are used, divide the logits by one number that is fitted on held-out pictures "
            "(temperature scaling); it changes no answer.",
            good=False,
        )


def _classes(story: Story) -> Iterator[Finding]:
    if story.best is None:
        return
    kind, names = story.best[0], story.classes
    taught, plain = (recall(story.results.of(k), len(names)) for k in (kind, "none"))
    if taught is None or plain is None:
        return
    change_K = np.where(taught[0] >= FEWEST, taught[1] - plain[1], 0.0)
    lost = [int(k) for k in np.argsort(change_K, kind="stable") if change_K[k] <= -LOST]
    if lost:
        said = ", ".join(f"{names[k]} ({100 * change_K[k]:+.0f} points)".replace("-", "−") for k in lost[:3])
        more = f", and {len(lost) - 3} more" if len(lost) > 3 else ""
        yield Finding(
            f"With {called(kind)} some classes are recognised less often: {said}{more}.",
            "See what the teacher says of their pictures (stages.inspect_views); it may not know these classes.",
            good=False,
        )


def _training(story: Story) -> Iterator[Finding]:
    waits = [s.wait for s in story.results.students if s.wait is not None]
    if waits and statistics.fmean(waits) >= WAITED:
        yield Finding(
            f"The students waited {100 * statistics.fmean(waits):.0f} % of their time for views.",
            "Give more --workers, let views share a decode (--repeats), or keep decoded pictures (docs/scaling.md).",
        )


def _missing(story: Story) -> Iterator[Finding]:
    """What the files of an earlier release do not say."""
    students = story.results.students
    lacking = [
        name
        for name, known in (
            ("settings", all(s.settings for s in students)),
            ("reliability", all(s.bins for s in students)),
            ("the answers to single pictures", all(s.answers for s in students)),
            ("how each student learned", all(s.epochs for s in students)),
        )
        if not known
    ]
    if lacking:
        yield Finding(
            f"Not in the files that this was made from: {', '.join(lacking)}.",
            "Judge the students again (student.evaluate --out … --predictions …), and keep runs/ beside their scores.",
        )
