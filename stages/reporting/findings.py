"""What does the report say first, what do its figures say that one would miss, and what can be tried next?

The opening says "add" only of what was gained, and gives the least and the most of all seeds. Findings are rules of
thumb, each with the figures that it rests on: what the gain is worth, whether the labels are fit (the doctor's
and the gauge's word, as the labelling left it), whether students are as sure as they are right, which classes lost, and
what held the training up. Where nothing was gained, what to try next comes in the order in which it is cheap to try.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stages.reporting.measures import gain_interval
from stages.reporting.report_data import Story, inspected, points, share, signed
from stages.reporting.results import called

LEARNED_FROM = {
    "none": "from the true labels alone",
    "hard": "also from the teacher’s choices (hard labels)",
    "soft": "also from the teacher’s probabilities (soft labels)",
}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
MOST_TOLD = 3
"""Gains that are told in words; of more, the largest alone"""
WORSE_CALIBRATED = 0.02
LOST = 0.1
"""Of a class's recall, from which it is told"""
FEWEST = 20
"""Pictures of a class, below which nothing is said of it"""
WAITED = 0.2
OTHERWISE: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "tau": ("temperature", lambda tau: "1 or 2" if tau > 2 else "3"),
    "alpha": ("weight of the teacher’s term", lambda alpha: "0.9" if alpha < 0.8 else "0.5"),
}
"""What soft labels are learned with: its name in words, and what to try beside the value that was tried"""
LITTLE_BETTER = 0.03


def headline(story: Story) -> tuple[str, str]:
    """The headline of the page; its second part is stressed."""
    if story.best is None:
        return "What the students learned", ""
    gain = story.best[1].mean
    if gain <= 0:
        return "Here the teacher’s labels did ", "not help"
    if not _clear(story):
        return f"The teacher’s stored labels gave {signed(gain)} points, ", "which may be chance"
    return "The teacher’s stored labels are worth ", f"{signed(gain)} points"


def _clear(story: Story) -> bool:
    """Whether every seed gained, and as many other pictures would say so too."""
    return story.best is not None and min(story.best[1].values) > 0 and (story.sure is None or story.sure.low > 0)


def lead(story: Story) -> str:
    """The first paragraph: which students were compared, and who taught them."""
    number = len(story.students)
    trained = "vision transformer" if number == 1 else "vision transformers of one size"
    updates = {int(s.epochs[-1]["update"]) for s in story.students if s.epochs}
    each = " each" if number > 1 else ""
    how_long = f", for {updates.pop():,} updates{each}" if len(updates) == 1 else ""
    name = story.architecture or story.store.manifest.teacher.name
    views = story.store.layout.views
    return (
        f"{_count(number).capitalize()} {trained} learned{_from_what(story, how_long)}. The teacher ({name}) had "
        f"answered {views} view{'s' if views > 1 else ''} of each picture beforehand, once and for all."
    )


def _from_what(story: Story, how_long: str) -> str:
    """Which students saw which pictures: true labels alone teach nothing about a picture that has none."""
    results, rows, labelled = story.results, len(story.index), story.labelled
    sources = {kind: LEARNED_FROM.get(kind, f"called {kind}") for kind in results.kinds}
    groups = {kind: f"{_count(len(results.of(kind)))} {source}" for kind, source in sources.items()}
    if labelled == rows or "none" not in groups:
        some = f", of which {labelled:,} have a label" if labelled < rows else ""
        if len(story.students) == 1:
            return f" from views of {rows:,} pictures{some}{how_long}, {sources.popitem()[1]}"
        return f" from the same views of {rows:,} pictures{some}{how_long}: {_listed(list(groups.values()))}"
    del groups["none"]
    alone = len(results.of("none"))
    seen = f"from the {labelled:,} pictures that have a label" if labelled else "from true labels, which none here has"
    more = f", and {_count(len(story.students) - alone)} from the same views of all {rows:,}, of them "
    return f"{how_long}: {_count(alone)} {seen}{more + _listed(list(groups.values())) if groups else ''}"


def gained(story: Story) -> str:
    """The second paragraph: how accurate they are, and what was gained."""
    results, gains = story.results, story.results.gains()
    plain = results.best("none")
    if plain is None or story.best is None:
        return _uncompared(story).text
    seeds = len(plain.values)
    over = f" (mean ± standard deviation of {_count(seeds)} seeds)" if seeds > 1 else ""
    images = results.of("none")[0].images
    parts = [f"Of {images:,} held-out pictures the students without a teacher name {plain} % correctly{over}."]
    for kind in gains if len(gains) <= MOST_TOLD else [story.best[0]]:
        gain = gains[kind]
        verb = "add" if gain.mean > 0 else "change this by"
        least, most = signed(min(gain.values)), signed(max(gain.values))
        each = f", seed by seed {least} to {most}" if len(gain.values) > 1 else ""
        sure = gain_interval(results, kind)
        told = f"; other pictures, as many, would say {sure.signed} (95 %)" if sure else ""
        most_of = f", the most of {_count(len(gains))} kinds" if len(gains) > MOST_TOLD else ""
        parts.append(f"{called(kind).capitalize()} {verb} {points(gain).lstrip('+')} points{most_of}{each}{told}.")
    if results.teacher_accuracy is not None:
        parts.append(f"The teacher itself names {share(results.teacher_accuracy, ' %')}.")
    return " ".join(parts)


def _count(number: int) -> str:
    return NUMBERS[number] if number < len(NUMBERS) else f"{number:,}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])}, and {names[-1]}"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the figures say, and what to do about it; `good` is None where it is neither."""

    text: str
    remedy: str = ""
    good: bool | None = None


def findings(story: Story) -> list[Finding]:
    """Everything that stands out in the results, the gain first."""
    warned = [Finding(line, good=False) for line in inspected(story)[1]]
    return [*_gain(story), *warned, *_calibration(story), *_classes(story), *_training(story), *_missing(story)]


def _gain(story: Story) -> Iterator[Finding]:
    if story.best is None:
        yield _uncompared(story)
        return
    (kind, gain), sure = story.best, story.sure
    clear, lost = _clear(story), (sure.high if sure else gain.mean) < 0
    verb = f"add {points(gain).lstrip('+')}" if gain.mean > 0 else f"change accuracy by {points(gain)}"
    told = f"{called(kind).capitalize()} {verb} points"
    told += f"; as many other pictures would say {sure.signed} (95 %)." if sure else "."
    if gain.mean > 0 and not clear:
        yield Finding(
            f"{told} That may be chance.", "Judge on more pictures, or train more seeds, before you believe it."
        )
    else:
        yield Finding(told, good=True if clear else False if lost else None)
    if len(gain.values) == 1:
        pictures = " The interval above is of the pictures alone." if sure else ""
        yield Finding(
            f"There is one seed: how far another one would be from it, nobody knows.{pictures}",
            "Train two more seeds (students: in params.yaml).",
        )
    if not clear:
        yield from _instead(story)


def _uncompared(story: Story) -> Finding:
    """Why there is no gain to tell."""
    kinds = story.results.kinds
    if "none" not in kinds:
        lacking, remedy = "learned without the teacher", "Train one more, with --distill none and the same seed."
    elif len(kinds) == 1:
        lacking, remedy = "learned from the teacher", "Train one more, with --distill soft and the same seed."
    else:
        lacking, remedy = "has the seed of one without the teacher", "Train them with the same seeds."
    return Finding(f"No student {lacking}, so nothing here says what its labels are worth.", remedy)


def _instead(story: Story) -> Iterator[Finding]:
    """What to try where nothing was gained."""
    results = story.results
    plain, teacher = results.mean(lambda s: s.best, "none"), results.teacher_accuracy
    if plain is not None and teacher is not None and teacher < plain + LITTLE_BETTER:
        yield Finding(
            f"The teacher names {share(teacher, ' %')} of the held-out pictures, the students without it "
            f"{share(plain, ' %')}: it has little to teach.",
            "Fit it longer, begin with published weights (fit_teacher --pretrained), or take a larger one.",
        )
    if story.labelled == len(story.index):
        yield Finding(
            "Every picture has a label, so the teacher’s answers replace nothing that is missing.",
            "Add pictures without a label (pack --unlabelled DIR), or take a teacher that has seen other pictures.",
        )
    if "soft" not in results.kinds:
        yield Finding("No student learned from the teacher’s probabilities.", "Try --distill soft, at --tau 1 and 2.")
    for name, (text, other) in OTHERWISE.items():
        values = {s.settings[name] for s in results.of("soft") if name in s.settings}
        for value in values if len(values) == 1 else ():
            yield Finding(
                f"One {text} was tried, {value:g}.", f"Try --{name} {other(value)}: dvc exp run -S train.{name}=…"
            )


def _calibration(story: Story) -> Iterator[Finding]:
    errors = {kind: story.results.mean(lambda s: s.calibration, kind) or 0.0 for kind in story.results.kinds}
    plain = errors.get("none", 1.0)
    worse = {kind: error for kind, error in errors.items() if error >= plain + WORSE_CALIBRATED}
    told = []
    for kind, error in worse.items():
        bins = story.reliabilities.get(kind, [])
        surer = sum(n * (sure - right) for sure, right, n in bins) > 0
        how = f", {'surer' if surer else 'less sure'} than right" if bins else ""
        told.append(f"{called(kind)} {error:.2f}{how}")
    if told:
        yield Finding(
            f"Probabilities mean less than without a teacher (calibration error {plain:.2f}): {'; '.join(told)}.",
            "Where probabilities are used, divide the logits by one number that is fitted on held-out pictures "
            "(temperature scaling); it changes no answer.",
            good=False,
        )


def _classes(story: Story) -> Iterator[Finding]:
    kind, recalls = story.closest, story.recalls
    if kind is None or "none" not in recalls:
        return
    images_K, share_K = recalls[kind]
    change_K = np.where(images_K >= FEWEST, share_K - recalls["none"][1], 0.0)
    lost = [k for k in np.argsort(change_K, kind="stable").tolist() if change_K[k] <= -LOST]
    if lost:
        said = ", ".join(f"{story.classes[k]} ({signed(change_K[k], 0)} points)" for k in lost[:3])
        more = f", and {len(lost) - 3} more" if len(lost) > 3 else ""
        yield Finding(
            f"With {called(kind)} some classes are recognised less often: {said}{more}.",
            "See what the teacher says of their pictures (stages.inspect_views); it may not know these classes.",
            good=False,
        )


def _training(story: Story) -> Iterator[Finding]:
    wait = story.results.mean(lambda s: s.median("wait"))
    if wait is not None and wait >= WAITED:
        yield Finding(
            f"The students waited {100 * wait:.0f} % of their time for views.",
            "Give more --workers, let views share a decode (--repeats), or keep decoded pictures (docs/scaling.md).",
        )


def _missing(story: Story) -> Iterator[Finding]:
    """What the files of an earlier release do not say."""
    parts = {
        "settings": "settings",
        "reliability": "bins",
        "the answers to single pictures": "answers",
        "how each student learned": "epochs",
    }
    lacking = [name for name, part in parts.items() if not all(getattr(s, part) for s in story.students)]
    if lacking:
        yield Finding(
            f"Not in the files that this was made from: {', '.join(lacking)}.",
            "Judge the students again (student.evaluate --out … --predictions …), and keep runs/ beside their scores.",
        )
