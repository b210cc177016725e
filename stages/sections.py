"""What does the report say? Each section is a function from what was measured to HTML, and says no more than that.

A section whose figures are absent is left out. The narrative counts: it says "gained" only of what did, and names every
seed's worst case.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from pipeline.cost import Cost
from pipeline.index import SampleIndex
from pipeline.progress import duration
from pipeline.store import LabelStore
from stages.figures import Axis, Series, Strip, chart, legend, strips, table
from stages.gallery import Shelf, Tile, data_uri
from stages.page import figure, paragraph, section
from stages.results import BEST_HEAD, HEADS, KINDS, Results, Spread, StudentResult, mean_curve

CALLED = {"none": "no teacher", "hard": "hard labels", "soft": "soft labels"}
LEARNED_FROM = {
    "none": "from the true labels alone",
    "hard": "also from the teacher’s choices (hard labels)",
    "soft": "also from its probabilities (soft labels)",
}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
SMALL = 100
"""Pictures of fewer pixels a side are shown as the pixels that they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All that the page is about."""

    results: Results
    store: LabelStore
    index: SampleIndex
    architecture: str | None
    """The teacher's, where its name does not say it"""
    cost: Cost | None
    per_view: Sequence[tuple[int, float]]
    views: Sequence[Shelf]
    held_out: Sequence[Shelf]

    @property
    def labelled(self) -> int:
        """Rows with a label."""
        return int((self.index.classes >= 0).sum())

    @property
    def best(self) -> tuple[str, Spread] | None:
        """The kind of distillation that gained most, and its gain."""
        gains = self.results.gains()
        return max(gains.items(), key=lambda pair: pair[1].mean) if gains else None


def called(kind: str) -> str:
    """A kind of student in words."""
    return CALLED.get(kind, kind)


def colour(kind: str) -> str:
    """The page's colour of a kind."""
    return kind if kind in KINDS else "accent"


def points(spread: Spread) -> str:
    """A gain in percentage points, with its sign."""
    text = f"{100 * spread.mean:+.1f}".replace("-", "−")
    return f"{text} ± {100 * spread.deviation:.1f}" if len(spread.values) > 1 else text


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
    rows, labelled = len(story.index), story.labelled
    data = f"{rows:,} pictures" + (f", of which {labelled:,} have a label" if labelled < rows else "")
    epochs = max((len(s.epochs) for s in results.students), default=0)
    how_long = f", for {epochs} epochs" if epochs else ""
    groups = [f"{_count(len(results.of(kind)))} {LEARNED_FROM.get(kind, escape(kind))}" for kind in results.kinds]
    return (
        f"{_count(len(results.students)).capitalize()} vision transformers of one size learned from the same views of "
        f"{data}{how_long}: {_listed(groups)}. The teacher, {_teacher_name(story)}, had answered {story.store.views} views "
        "of each picture beforehand, once and for all."
    )


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
        rows = []
        for head, name in HEADS.items():
            spread = results.spread(kind, _head(head))
            if spread is None:
                continue
            strong = head == BEST_HEAD or len(results.of(kind)[0].accuracy) == 1
            rows.append(Strip(name=name, colour=colour(kind), values=spread.values, text=str(spread), strong=strong))
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


def _head(head: str) -> Callable[[StudentResult], float | None]:
    return lambda student: student.accuracy.get(head)


def _accuracy_row(results: Results, kind: str) -> list[str]:
    cells = [f'<i style="background:var(--{colour(kind)})"></i>{escape(called(kind))}']
    for head in HEADS:
        spread = results.spread(kind, _head(head))
        cells.append("–" if spread is None else f"<b>{spread}</b>" if head == BEST_HEAD else str(spread))
    loss = results.spread(kind, lambda s: s.loss.get(BEST_HEAD, s.loss["class"]))
    error = results.spread(kind, lambda s: s.calibration.get(BEST_HEAD, s.calibration["class"]))
    same = results.spread(kind, lambda s: s.as_teacher)
    assert loss is not None and error is not None
    return [*cells, f"{loss.mean:.3f}", f"{error.mean:.3f}", "–" if same is None else f"{100 * same.mean:.1f} %"]


def curves(story: Story) -> str:
    """Accuracy and loss over the epochs."""
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
            "Mean over the seeds, with a thin line for each. The losses have different targets: compare shapes, not levels.",
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
    last = max(int(x) for s in series for x, _ in s.points)
    y = Axis.around((v for s in series for _, v in s.points), percent=percent)
    return chart(series, Axis.counting(last), y, x_name="epoch", y_name=title, told=f"{title}: {'; '.join(ends)}")


def teacher(story: Story) -> str:
    """How good the stored labels are, view by view and by share of the picture."""
    results, labels = story.results, story.results.labels
    if not labels:
        return ""
    per_view = [(float(view), value) for view, value in story.per_view]
    drawn = []
    if len(per_view) > 1:
        line = Series(name="teacher", colour="teacher", points=per_view, dots=True)
        y = Axis.around([v for _, v in per_view], percent=True, room=0.5)
        told = f"top-1 of the teacher in each of {len(per_view)} views, {min(v for _, v in per_view):.3f} at least"
        name = "accuracy on labelled rows, by view"
        last = Axis.counting(int(per_view[-1][0]), first=0)
        drawn.append(chart([line], last, y, x_name="view", y_name=name, told=told))
    if len(results.teacher_curve) > 1:
        drawn.append(_fit_curve(results))
    agreement = labels.get("view_agreement")
    said = [
        f"The store holds {labels['views']} answers about each of {labels['rows']:,} rows.",
        ""
        if agreement is None
        else f"Two views of one row get the same answer in {100 * agreement:.1f} % of the cases.",
        _worth(story),
    ]
    body = f'<div class="pair">{"".join(drawn)}</div>'
    caption = "How often the stored answers name the true class, view by view" + (
        "; and how the teacher itself was fitted." if len(drawn) > 1 else "."
    )
    return section(
        "The teacher’s labels",
        paragraph(" ".join(filter(None, said))),
        figure(body, caption) if drawn else "",
        _by_share(labels),
    )


def _worth(story: Story) -> str:
    """What the labels are worth, told apart from what the teacher has learned by heart."""
    own = [value for _, value in story.per_view]
    held_out = story.results.teacher_accuracy
    learned = ", which this teacher was fitted on," if story.results.teacher else ""
    said = f"On the rows with a label{learned} it names the true class in {100 * sum(own) / len(own):.1f} % of the views"
    if held_out is None:
        return f"{said}." if own else ""
    return f"{said}; on held-out pictures, in {100 * held_out:.1f} %." if own else ""


def _fit_curve(results: Results) -> str:
    curve = results.teacher_curve
    loss = Series(name="loss", colour="teacher", points=[(line["epoch"], line["loss"]) for line in curve])
    y = Axis.around(v for _, v in loss.points)
    told = f"training loss of the teacher, at the end {curve[-1]['loss']:.3f}"
    last = Axis.counting(int(curve[-1]["epoch"]))
    return chart([loss], last, y, x_name="epoch", y_name="the teacher’s training loss", told=told)


def _by_share(labels: dict[str, object]) -> str:
    unmixed = labels.get("unmixed")
    parts = {"unmixed": unmixed} if isinstance(unmixed, dict) and unmixed.get("views") else {}
    shares = labels.get("by_lambda")
    for share, found in (shares if isinstance(shares, dict) else {}).items():
        parts[f"main picture {share} of the view"] = found
    mixed = [part for part in parts if part != "unmixed"]
    if not mixed:
        return ""
    rows = [
        [escape(name), f"{part['views']:,}", f"{100 * part['top1']:.1f} %"]
        for name, part in parts.items()
        if isinstance(part, dict) and part.get("top1") is not None
    ]
    return table(["share of the labelled picture", "views", "top-1"], rows)


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


def tokens(story: Story) -> str:
    """How alike the two tokens are, layer by layer."""
    found = story.results.tokens
    if not found:
        return ""
    kinds = [kind for kind in story.results.kinds if kind in found] or sorted(found)
    series, rows = [], []
    for kind in kinds:
        record = found[kind]
        line = [(0.0, record["input"]["tokens"])] + [(n, b["mean"]) for n, b in enumerate(record["blocks"], 1)]
        series.append(Series(name=kind, colour=colour(kind), points=line, dots=True))
        cells = [f"{record['input']['tokens']:.2f}", f"{record['blocks'][-1]['mean']:.2f}"]
        cells += [f"{record['weight_rows']['mean']:.2f}", f"{100 * record['heads_agree']:.1f} %"]
        rows.append([f'<i style="background:var(--{colour(kind)})"></i>{escape(called(kind))}', *cells])
    last = max(int(x) for s in series for x, _ in s.points)
    y = Axis.around([v for s in series for _, v in s.points] + [0.0, 1.0], room=0.02)
    told = "; ".join(
        f"{called(k)}: {s.points[-1][1]:.2f} after the last block" for k, s in zip(kinds, series, strict=True)
    )
    drawn = chart(
        series, Axis.counting(last, first=0), y, x_name="after block (0: as learned)", y_name="cosine", told=told
    )
    return section(
        "Two tokens, two opinions?",
        paragraph(
            "The class token and the distillation token go through the same blocks. If the distillation token learned "
            "nothing of its own, the two would become one vector: cosine 1, as two tokens with equal targets do."
        ),
        legend([(called(kind), colour(kind)) for kind in kinds]),
        figure(drawn, "Cosine similarity of the two tokens after each block, mean over held-out pictures."),
        table(["learned from", "as learned", "after the last block", "rows of the two heads", "heads agree"], rows),
    )


def costs(story: Story) -> str:
    """What it took, and what the same students would have taken with the teacher beside them."""
    results, store = story.results, story.store
    sizes = store.bytes_per_view()
    total = sum(sizes.values())
    views = store.views * store.rows
    kept = ", ".join(f"{name} {size:.1f}" for name, size in sizes.items())
    rows = [
        ["stored for each view", f"{total:.1f} bytes", escape(kept)],
        ["the whole store", _bytes(total * views), f"{views:,} views, keep {escape(str(store.manifest.keep))}"],
    ]
    rates = results.spread("none", lambda s: s.rate) or results.spread(results.kinds[-1], lambda s: s.rate)
    waits = [s.wait for s in results.students if s.wait is not None]
    if rates is not None:
        rows.append(["a student learns", f"{rates.mean:,.0f} images/s", "median interval, no teacher in the step"])
    if waits:
        rows.append(
            ["of its time it waits for views", f"{100 * sum(waits) / len(waits):.0f} %", "mean of all students"]
        )
    if story.cost is not None:
        rows += _saving(story, story.cost)
    return section(
        "What it cost",
        paragraph(
            "An online distiller asks the teacher in every training step of every student; here it was asked once for "
            "each stored view. Rates were measured on this machine."
        ),
        table(["", "", ""], rows),
    )


def _saving(story: Story, cost: Cost) -> list[list[str]]:
    """The teacher's time, once and online."""
    taught = [s for s in story.results.students if s.kind != "none" and s.epochs]
    online = sum(len(s.epochs) for s in taught) * story.store.rows / cost.teacher_rate
    once = story.store.views * story.store.rows / cost.teacher_rate
    rows = [["the teacher answers", f"{cost.teacher_rate:,.0f} views/s", "measured again for this page"]]
    rows.append(["asked once for all views", duration(once), "forward passes alone; rendering overlaps"])
    if taught:
        rows.append(
            [f"asked by {len(taught)} students, online", duration(online), "every step of every distilled student"]
        )
        change = online - once
        said = "saved" if change >= 0 else "spent more"
        rows.append(
            [f"<b>{said}</b>", f"<b>{duration(abs(change))}</b>", f"{online / once:.1f} times the teacher’s work"]
        )
    return rows


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def proof(story: Story) -> str:
    """What the figures rest on."""
    manifest = story.store.manifest
    recipe = json.dumps(manifest.recipe.to_json(), indent=2, sort_keys=True)
    rows = [
        ["recipe", f"<code>{manifest.recipe.fingerprint()[:16]}</code>"],
        ["rows", f"<code>{manifest.index_digest[:16]}</code>"],
        ["teacher’s weights", f"<code>{manifest.teacher.weights_sha256[:16]}</code>"],
        ["contract of the store", f"<code>{manifest.fingerprint()[:16]}</code>"],
    ]
    again = story.results.verified.get("sample") or {}
    matched = again.get("views", 0) - again.get("changed", 0)
    checked = f" {matched:,} of {again['views']:,} views drawn again for verification matched." if again else ""
    return section(
        "What it rests on",
        paragraph(
            "Every view that a student learned from was held to the checksum of the view that the teacher saw; the first "
            f"one that differed would have stopped it.{checked}"
        ),
        table(["contract", "sha256, first 16 digits"], rows),
        f"<details><summary>The recipe of a view</summary><pre>{escape(recipe)}</pre></details>",
        "<details><summary>The same again</summary><pre>dvc repro report\n"
        "dvc exp run -S train.lr=2e-3      # only the students run again\n"
        "dvc metrics diff\ndvc plots show</pre></details>",
    )
