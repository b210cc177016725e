"""What does the report say first? The gain, who was compared, how they learned, and what they say about pictures.

Each section is a function from what was measured to a part of the page, and says no more than that; one whose figures
are absent is left out. The narrative counts: it says "add" only of what was gained, and gives the least and the most of
all seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.reporting import figures
from stages.reporting.figures import Drawing
from stages.reporting.measures import confusion, gain_interval, mistaken, recall, reliability, wilson
from stages.reporting.page import Block, Card, Figures, Opening, Part, Row, Shelves, Table, Text
from stages.reporting.report_data import Story, called, colour, points, taught
from stages.reporting.results import HEADS, Results, Spread, StudentResult

LEARNED_FROM = {
    "none": "from the true labels alone",
    "hard": "also from the teacher’s choices (hard labels)",
    "soft": "also from its probabilities (soft labels)",
}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
LISTED = 20
"""Classes in a table: all, or of more than these the ones that gained or lost most"""
MOST_MATRIX = 200
"""Classes up to which a confusion matrix can be seen"""
CONFUSIONS = 10
CURVES = {"top1": "held-out accuracy", "loss": "training loss"}


def opening(story: Story) -> Opening:
    """The headline, what was compared, and the result in a few numbers."""
    best = story.best
    if best is None:
        headline = ("What the students learned", "", "")
    elif best[1].mean <= 0:
        headline = ("Here the teacher’s labels did ", "not help", "")
    else:
        headline = ("The teacher’s stored labels are worth ", f"{100 * best[1].mean:+.1f} points", "")
    return Opening(
        headline=headline, lead=_compared(story), more=_gained(story), cards=_cards(story.results), made=str(story.made)
    )


def _compared(story: Story) -> str:
    results = story.results
    updates = {int(s.epochs[-1]["update"]) for s in results.students if s.epochs}
    how_long = f", for {updates.pop():,} updates each" if len(updates) == 1 else ""
    number = _count(len(results.students)).capitalize()
    trained = "vision transformer" if len(results.students) == 1 else "vision transformers of one size"
    name = story.architecture or story.store.manifest.teacher.name
    views = story.store.layout.views
    return (
        f"{number} {trained} learned{_from_what(story, how_long)}. The teacher ({name}) had answered "
        f"{views} view{'s' if views > 1 else ''} of each picture beforehand, once and for all."
    )


def _from_what(story: Story, how_long: str) -> str:
    """Which students saw which pictures: true labels alone teach nothing about a picture that has none."""
    results, rows, labelled = story.results, len(story.index), story.labelled
    groups = {kind: f"{_count(len(results.of(kind)))} {LEARNED_FROM.get(kind, kind)}" for kind in results.kinds}
    if labelled == rows or "none" not in groups:
        some = f", of which {labelled:,} have a label" if labelled < rows else ""
        return f" from the same views of {rows:,} pictures{some}{how_long}: {_listed(list(groups.values()))}"
    del groups["none"]
    alone = len(results.of("none"))
    seen = f"from the {labelled:,} pictures that have a label" if labelled else "from true labels, which none here has"
    more = f", and {_count(len(results.students) - alone)} from the same views of all {rows:,}, of them "
    return f"{how_long}: {_count(alone)} {seen}{more + _listed(list(groups.values())) if groups else ''}"


def _gained(story: Story) -> str:
    results = story.results
    plain = results.spread("none", lambda s: s.best)
    if plain is None or story.best is None:
        return "There is no student without a teacher to compare with."
    images = results.of("none")[0].images
    parts = [f"Of {images:,} held-out pictures the students without a teacher name {plain} % correctly."]
    for kind, gain in results.gains().items():
        verb = "add" if gain.mean > 0 else "change this by"
        least, most = (f"{100 * value:+.1f}".replace("-", "−") for value in (min(gain.values), max(gain.values)))
        each = f", seed by seed {least} to {most}" if len(gain.values) > 1 else ""
        sure = gain_interval(results, kind)
        told = f"; other pictures, as many, would say {sure.signed} (95 %)" if sure else ""
        parts.append(f"{called(kind).capitalize()} {verb} {points(gain).lstrip('+')} points{each}{told}.")
    if results.teacher_accuracy is not None:
        parts.append(f"The teacher itself names {100 * results.teacher_accuracy:.1f} %.")
    return " ".join(parts)


def _count(number: int) -> str:
    return NUMBERS[number] if number < len(NUMBERS) else f"{number:,}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])}, and {names[-1]}"


def _cards(results: Results) -> list[Card]:
    gains = results.gains()
    cards = []
    for kind in results.kinds:
        spread = results.spread(kind, lambda s: s.best)
        assert spread is not None
        below = f"{points(gains[kind])} points" if kind in gains else "the baseline" if kind == "none" else ""
        cards.append(_card(called(kind), colour(kind), spread, below))
    if results.teacher_accuracy is not None:
        cards.append(_card("the teacher", "teacher", Spread((results.teacher_accuracy,)), "for comparison"))
    return cards


def _card(name: str, tone: str, spread: Spread, below: str) -> Card:
    beside = f"± {100 * spread.deviation:.1f} %" if len(spread.values) > 1 else "%"
    return Card(name=name, colour=tone, number=f"{100 * spread.mean:.1f}", beside=beside, below=below)


def accuracy(story: Story) -> Part:
    """Every head of every student."""
    results = story.results
    rows = [Row(head=called(kind), cells=_accuracy_row(results, kind), colour=colour(kind)) for kind in results.kinds]
    images = results.students[0].images
    return Part("accuracy", "Accuracy of each head", [
        Text(
            "A student has two heads: the class head learns the labels, the distillation head learns what the teacher "
            "said. Fused, their logits are averaged. (Without a teacher both learn the labels.)"
        ),
        Figures([figures.accuracy(results)], "Held-out accuracy: a dot for each seed, a bar at their mean."),
        Table(
            caption="Top-1 in %: mean ± standard deviation over the seeds; in brackets where other "
            f"{images:,} pictures would put it (95 %)",
            head=["learned from", *HEADS.values(), "(95 %)", "log loss", "calibration error", "agrees with teacher"],
            rows=rows,
        ),
    ])  # fmt: skip


def _accuracy_row(results: Results, kind: str) -> list[str]:
    heads = results.heads(kind)
    cells = [str(heads[head]) if head in heads else "–" for head in HEADS]
    best = results.spread(kind, lambda s: s.best)
    loss = results.spread(kind, lambda s: s.loss[s.head])
    error = results.spread(kind, lambda s: s.calibration[s.head])
    same = results.spread(kind, lambda s: s.as_teacher)
    assert best is not None and loss is not None and error is not None
    sure = wilson(best.mean, results.of(kind)[0].images)
    agrees = "–" if same is None else f"{100 * same.mean:.1f} %"
    return [*cells, f"({sure})", f"{loss.mean:.3f}", f"{error.mean:.3f}", agrees]


def classes(story: Story) -> Part | None:
    """Which classes are recognised, and which are taken for which."""
    results, names = story.results, story.classes
    found = {kind: recall(results.of(kind), len(names)) for kind in results.kinds}
    shown = {kind: r for kind, r in found.items() if r is not None}
    if not shown:
        return None
    kind = story.best[0] if story.best and story.best[0] in shown else list(shown)[-1]
    counts_KK = confusion(results.of(kind), len(names))
    drawn: list[Drawing] = [figures.classes(names, {k: share_K for k, (_, share_K) in shown.items()})]
    if counts_KK is not None and len(names) <= MOST_MATRIX:
        drawn.append(figures.confusion(names, counts_KK, kind))
    blocks: list[Block] = [
        Figures(
            drawn,
            f"How much of each class is recognised; and what {taught(kind)} take it for, in % of the class.",
        ),
        _class_table(names, shown, kind),
    ]
    if counts_KK is not None and (rows := _confusions(names, counts_KK, results.of(kind))):
        caption = f"The commonest confusions of {taught(kind)}, mean over the seeds"
        blocks.append(Table(caption=caption, head=["true class", "taken for", "pictures", "of the class"], rows=rows))
    return Part("classes", "Class by class", blocks)


def _class_table(
    names: Sequence[str], shown: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]], kind: str
) -> Table:
    images_K = shown[kind][0]
    change_K = shown[kind][1] - shown["none"][1] if "none" in shown and kind != "none" else np.full(len(names), np.nan)
    order_K = np.arange(len(names))
    caption = "Share of each class that is recognised, in %, mean over the seeds; in brackets where as many other "
    caption += f"pictures would put {taught(kind)} (95 %)"
    if len(names) > LISTED:
        by = np.nan_to_num(change_K if np.isfinite(change_K).any() else shown[kind][1])
        order_K = np.argsort(by, kind="stable")[np.r_[: LISTED // 2, -LISTED // 2 : 0]]
        caption = f"The {LISTED} of {len(names)} classes that lost and gained most. {caption}. All of them: classes.csv"
    shares = [share_K for k, (_, share_K) in shown.items() if k != kind] + [shown[kind][1]]
    kinds = [k for k in shown if k != kind] + [kind]
    rows = [
        Row(
            head=names[k],
            cells=[
                f"{images_K[k]:,}",
                *(_share(s[k]) for s in shares),
                _sure(shares[-1][k], images_K[k]),
                _change(change_K[k]),
            ],
        )
        for k in order_K.tolist()
    ]
    return Table(caption=caption, head=["class", "pictures", *map(called, kinds), "(95 %)", "change"], rows=rows)


def _share(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.1f}"


def _sure(value: float, images: int) -> str:
    return "–" if np.isnan(value) else f"({wilson(float(value), int(images))})"


def _change(value: float) -> str:
    return "" if np.isnan(value) else f"{100 * value:+.1f}".replace("-", "−")


def _confusions(names: Sequence[str], counts_KK: NDArray[np.int64], students: Sequence[StudentResult]) -> list[Row]:
    return [
        Row(head=names[k], cells=[names[j], f"{often / len(students):.1f}", f"{100 * share:.1f} %"])
        for k, j, often, share in mistaken(counts_KK, CONFUSIONS)
    ]


def calibration(story: Story) -> Part | None:
    """Whether they are as often right as they are sure."""
    found = {kind: bins for kind in story.results.kinds if (bins := reliability(story.results.of(kind)))}
    if not found:
        return None
    rows = []
    for kind, bins in found.items():
        answers = sum(n for *_, n in bins)
        sure, right = (sum(b[at] * b[2] for b in bins) / answers for at in (0, 1))
        error = story.results.spread(kind, lambda s: s.calibration[s.head])
        assert error is not None
        cells = [f"{100 * sure:.1f} %", f"{100 * right:.1f} %", f"{error.mean:.3f}"]
        rows.append(Row(head=called(kind), cells=cells, colour=colour(kind)))
    caption = (
        "Mean confidence beside accuracy; the calibration error is their distance, bin by bin, weighted by pictures"
    )
    return Part("calibration", "As sure as right?", [
        Figures([figures.reliability(found)], "Below the dashed line students are surer than right, above it less."),
        Table(caption=caption, head=["learned from", "sure", "right", "calibration error"], rows=rows),
    ])  # fmt: skip


def trade(story: Story) -> Part | None:
    """Accuracy against speed, and against the bytes of the labels."""
    rate, sizes = "forward_images_per_second", story.label_bytes
    students = [s for kind in story.results.kinds for s in story.results.of(kind)]
    by_rate = [
        (
            s.kind,
            float(s.speed[rate]),
            s.best,
            f"{called(s.kind)}, seed {s.seed}: {100 * s.best:.1f} %, {s.speed[rate]:,.0f} images/s",
        )
        for s in students
        if rate in s.speed
    ]
    teacher = story.results.teacher_accuracy
    if by_rate and story.cost is not None and teacher is not None:
        views = story.cost.teacher_rate
        by_rate.append(("teacher", views, teacher, f"the teacher: {100 * teacher:.1f} %, {views:,.0f} images/s"))
    by_size = [
        (
            s.kind,
            sizes[s.kind],
            s.best,
            f"{called(s.kind)}, seed {s.seed}: {100 * s.best:.1f} %, {sizes[s.kind]:.1f} bytes a view",
        )
        for s in students
        if s.kind in sizes
    ]
    drawn = [figures.trade("by-rate", by_rate, "images a second, forward pass alone")] if by_rate else []
    if len({kind for kind, *_ in by_size}) > 1:
        drawn.append(figures.trade("by-bytes", by_size, "bytes of labels that are read for a view"))
    if not drawn:
        return None
    machines = {str(s.speed["machine"]["processor"]) for s in story.results.students if "machine" in s.speed}
    where = f" Speeds of students were measured on {', '.join(sorted(machines))}." if machines else ""
    return Part("trade", "What accuracy costs", [
        Figures(drawn, f"A dot for each student: what it reached, and what one pays for it.{where}")
    ])  # fmt: skip


def curves(story: Story) -> Part | None:
    """Accuracy and loss over the updates."""
    drawn = [figure for name, title in CURVES.items() if (figure := figures.curve(story.results, name, title))]
    if not drawn:
        return None
    return Part("curves", "How they got there", [
        Figures(
            drawn,
            "Mean over the seeds, with a thin line for each. The losses have different targets: compare shapes, not "
            "levels.",
        )
    ])  # fmt: skip


def views(story: Story) -> Part | None:
    """Pictures as the teacher saw them."""
    if not story.views:
        return None
    return Part("views", "What the teacher saw", [
        Text(
            "The recipe draws a view from the picture’s key and the view’s number alone. The student draws the same "
            "view again, proves it by its checksum, and reads the answer that the teacher gave to it. Below each view: "
            "what it shows (of a mixed view, how much of it is which), and what the teacher said, with how sure it was."
        ),
        Shelves(story.views),
    ])  # fmt: skip


def held_out(story: Story) -> Part | None:
    """Pictures on which the students disagree."""
    if not story.held_out:
        return None
    return Part("held-out", "Where they differ", [
        Text("Held-out pictures, students of one seed. The first ones of each kind: none is picked by hand."),
        Shelves(story.held_out),
    ])  # fmt: skip


def slides(results: Results) -> dict[str, bytes]:
    """The main figures as PNG, by name."""
    drawn = {"accuracy": figures.accuracy(results)}
    drawn |= {name: d for name, title in CURVES.items() if (d := figures.curve(results, name, title))}
    if results.tokens:
        drawn["tokens"] = figures.tokens(results.tokens)
    return {name: drawing.png() for name, drawing in drawn.items()}
