"""What does the report say first? The gain, who was compared, how they learned, and what they say about pictures.

Each section is a function from what was measured to HTML, and says no more than that; one whose figures are absent is
left out. The narrative counts: it says "add" only of what was gained, and gives the least and the most of all seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from stages.reporting.figures import Axis, Series, Strip, chart, legend, strips, table
from stages.reporting.gallery import Shelf, Tile, data_uri
from stages.reporting.page import figure, paragraph, section
from stages.reporting.report_data import Story, called, colour, points
from stages.reporting.results import BEST_HEAD, HEADS, Results, Spread, mean_curve

LEARNED_FROM = {
    "none": "from the true labels alone",
    "hard": "also from the teacher’s choices (hard labels)",
    "soft": "also from its probabilities (soft labels)",
}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
SMALL = 100
"""Pictures of fewer pixels a side are shown as the pixels that they are."""


def opening(story: Story) -> str:
    """The headline, what was compared, and the result in three numbers."""
    best = story.best
    if best is None:
        headline = "What the students learned"
    elif best[1].mean <= 0:
        headline = "Here the teacher’s labels did <em>not help</em>"
    else:
        headline = f"The teacher’s stored labels are worth <em>{100 * best[1].mean:+.1f} points</em>"
    return (
        f'<header><p class="kicker">Offline distillation · report</p><h1>{headline}</h1>'
        f"{paragraph(_compared(story), 'lead')}{paragraph(_gained(story))}{_cards(story.results)}</header>"
    )


def _compared(story: Story) -> str:
    results = story.results
    updates = {int(s.epochs[-1]["update"]) for s in results.students if s.epochs}
    how_long = f", for {updates.pop():,} updates each" if len(updates) == 1 else ""
    number = _count(len(results.students)).capitalize()
    return (
        f"{number} vision transformers of one size learned{_from_what(story, how_long)}. The teacher, "
        f"{_teacher_name(story)}, had answered {story.store.layout.views} views of each picture beforehand, once and "
        "for all."
    )


def _from_what(story: Story, how_long: str) -> str:
    """Which students saw which pictures: true labels alone teach nothing about a picture that has none."""
    results, rows, labelled = story.results, len(story.index), story.labelled
    groups = {kind: f"{_count(len(results.of(kind)))} {LEARNED_FROM.get(kind, escape(kind))}" for kind in results.kinds}
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
        parts.append(f"{called(kind).capitalize()} {verb} {points(gain).lstrip('+')} points{each}.")
    if results.teacher_accuracy is not None:
        parts.append(f"The teacher itself names {100 * results.teacher_accuracy:.1f} %.")
    return " ".join(parts)


def _teacher_name(story: Story) -> str:
    name = story.store.manifest.teacher.name
    if story.architecture is None:
        return f"<code>{escape(name)}</code>"
    return f"a <code>{escape(story.architecture)}</code>"


def _count(number: int) -> str:
    return NUMBERS[number] if number < len(NUMBERS) else f"{number:,}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])}, and {names[-1]}"


def _cards(results: Results) -> str:
    gains = results.gains()
    cards = []
    for kind in results.kinds:
        spread = results.spread(kind, lambda s: s.best)
        assert spread is not None
        below = f"<b>{points(gains[kind])}</b> points" if kind in gains else "the baseline"
        cards.append(_card(called(kind), colour(kind), spread, below))
    if results.teacher_accuracy is not None:
        cards.append(_card("the teacher", "teacher", Spread((results.teacher_accuracy,)), "a convnet, for comparison"))
    return f'<dl class="cards">{"".join(cards)}</dl>'


def _card(name: str, colour_name: str, spread: Spread, below: str) -> str:
    around = f"<small>± {100 * spread.deviation:.1f}</small>" if len(spread.values) > 1 else "<small>%</small>"
    return (
        f'<div class="card" style="--c:var(--{colour_name})"><dt>{escape(name)}</dt>'
        f"<dd>{100 * spread.mean:.1f}{around}</dd><div>{below}</div></div>"
    )


def accuracy(story: Story) -> str:
    """Every head of every student."""
    results = story.results
    groups, cells = [], []
    for kind in results.kinds:
        heads = results.heads(kind)
        rows = [
            Strip(
                name=HEADS[head],
                colour=colour(kind),
                values=spread.values,
                text=str(spread),
                strong=head == last(heads),
            )
            for head, spread in heads.items()
        ]
        groups.append((called(kind), rows))
        cells.append(_accuracy_row(results, kind))
    teacher = results.teacher_accuracy
    every = [v for _, rows in groups for row in rows for v in row.values] + ([teacher] if teacher is not None else [])
    told = "; ".join(f"{title}: {', '.join(f'{r.name} {r.text} %' for r in rows)}" for title, rows in groups)
    body = strips(
        groups, Axis.around(every, percent=True), told=told, rule=None if teacher is None else (teacher, "teacher")
    )
    return section(
        "Accuracy of each head",
        paragraph(
            "A student has two heads: the class head learns the labels, the distillation head learns what the teacher "
            "said. Fused, their logits are averaged. (Without a teacher both learn the labels.)"
        ),
        figure(
            body, "Held-out accuracy: a dot for each seed, a bar at their mean; mean ± standard deviation at the right."
        ),
        table(["learned from", *HEADS.values(), "log loss", "calibration error", "agrees with teacher"], cells),
    )


def last(heads: Mapping[str, Spread]) -> str:
    """The head that a user would take: both fused, or the only one."""
    return list(heads)[-1]


def _accuracy_row(results: Results, kind: str) -> list[str]:
    cells = [f'<i style="background:var(--{colour(kind)})"></i>{escape(called(kind))}']
    heads = results.heads(kind)
    for head in HEADS:
        text = str(heads[head]) if head in heads else "–"
        cells.append(f"<b>{text}</b>" if head == last(heads) else text)
    loss = results.spread(kind, lambda s: s.loss.get(BEST_HEAD, s.loss["class"]))
    error = results.spread(kind, lambda s: s.calibration.get(BEST_HEAD, s.calibration["class"]))
    same = results.spread(kind, lambda s: s.as_teacher)
    assert loss is not None and error is not None
    return [*cells, f"{loss.mean:.3f}", f"{error.mean:.3f}", "–" if same is None else f"{100 * same.mean:.1f} %"]


def curves(story: Story) -> str:
    """Accuracy and loss over the updates."""
    results = story.results
    drawn = [_curve(results, "top1", "held-out accuracy", percent=True), _curve(results, "loss", "training loss")]
    if not any(drawn):
        return ""
    entries = [(called(kind), colour(kind)) for kind in results.kinds]
    return section(
        "How they got there",
        legend(entries),
        figure(
            f'<div class="pair">{"".join(drawn)}</div>',
            "Mean over the seeds, with a thin line for each. The losses have different targets: compare shapes, "
            "not levels.",
        ),
    )


def _curve(results: Results, name: str, title: str, *, percent: bool = False) -> str:
    series, ends = [], []
    for kind in results.kinds:
        runs = [student.epochs for student in results.of(kind)]
        alone = [mean_curve([run], name) for run in runs]
        series += [Series(name=kind, colour=colour(kind), points=line, faint=True) for line in alone if line]
        if mean := mean_curve(runs, name):
            series.append(Series(name=kind, colour=colour(kind), points=mean))
            ends.append(f"{called(kind)} ends at {mean[-1][1]:.3f}")
    if not ends:
        return ""
    end = max(int(x) for s in series for x, _ in s.points)
    y = Axis.around((v for s in series for _, v in s.points), percent=percent)
    told = f"{title}: {'; '.join(ends)}"
    return chart(series, Axis.counting(end, first=0), y, x_name="updates", y_name=title, told=told)


def gallery(story: Story) -> str:
    """Pictures, with what everybody says about them."""
    parts = []
    if story.views:
        parts.append(
            section(
                "What the teacher saw",
                paragraph(
                    "The recipe draws a view from the picture’s key and the view’s number alone. The student draws the "
                    "same view again, proves it by its checksum, and reads the answer that the teacher gave to it: "
                    "below each view, how sure it was of which class."
                ),
                *(_shelf(shelf) for shelf in story.views),
            )
        )
    if story.held_out:
        parts.append(
            section(
                "Where they differ",
                paragraph(
                    "Held-out pictures, students of one seed. The first ones of each kind: none is picked by hand."
                ),
                *(_shelf(shelf) for shelf in story.held_out),
            )
        )
    return "".join(parts)


def _shelf(shelf: Shelf) -> str:
    tiles = "".join(_tile(tile) for tile in shelf.tiles)
    return f'<div class="shelf"><h3>{escape(shelf.title)}</h3><div class="tiles">{tiles}</div></div>'


def _tile(tile: Tile) -> str:
    told = ", ".join(f"{word.who}: {word.says}" for word in tile.words)
    small = ' class="small"' if max(tile.pixels_HWC.shape[:2]) < SMALL else ""
    words = "".join(
        f"<dt>{escape(word.who)}</dt><dd{_tone(word.right)}>{escape(word.says)}</dd>" for word in tile.words
    )
    image = f'<img{small} src="{data_uri(tile.pixels_HWC)}" alt="{escape(told, quote=True)}">'
    return f'<div class="tile">{image}<dl>{words}</dl></div>'


def _tone(right: bool | None) -> str:
    return "" if right is None else ' class="good"' if right else ' class="bad"'
