"""What does the report say behind its results? The labels, the tokens, the costs, and what it all rests on."""

from __future__ import annotations

import json
import statistics
from html import escape

from pipeline.labelling.cost import Cost
from pipeline.progress import duration
from stages.reporting.figures import Axis, Series, chart, legend, table
from stages.reporting.page import figure, paragraph, section
from stages.reporting.report_data import Story, called, colour
from stages.reporting.results import Results


def teacher(story: Story) -> str:
    """How good the stored labels are, view by view and by share of the picture."""
    results, labels = story.results, story.results.labels
    if not labels:
        return ""
    per_view = [(float(view), value) for view, value in story.per_view]
    drawn = []
    if len(per_view) > 1:
        line = Series(name="teacher", colour="teacher", points=per_view, dots=True)
        y = Axis.around([v for _, v in per_view], percent=True, least=0.2)
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
    if not own:
        return ""  # no row has a label
    held_out = story.results.teacher_accuracy
    learned = ", which this teacher was fitted on," if story.results.teacher else ""
    share = 100 * statistics.fmean(own)
    said = f"On the rows with a label{learned} it names the true class in {share:.1f} % of the views"
    return f"{said}." if held_out is None else f"{said}; on held-out pictures, in {100 * held_out:.1f} %."


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
    y = Axis.around([v for s in series for _, v in s.points] + [0.0, 1.0])
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
    views = store.layout.views * store.manifest.rows
    kept = ", ".join(f"{name} {size:.1f}" for name, size in sizes.items())
    rows = [
        ["stored for each view", f"{total:.1f} bytes", escape(kept)],
        ["the whole store", _bytes(total * views), f"{views:,} views, keep {escape(str(store.manifest.keep))}"],
    ]
    rates = [s.rate for s in results.students if s.rate is not None]
    waits = [s.wait for s in results.students if s.wait is not None]
    if rates:
        rows.append(["a student learns", f"{statistics.fmean(rates):,.0f} images/s", "no teacher in the step"])
    if waits:
        rows.append(
            ["of its time it waits for views", f"{100 * statistics.fmean(waits):.0f} %", "mean of all students"]
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
    online = sum(len(s.epochs) for s in taught) * story.store.manifest.rows / cost.teacher_rate
    once = story.store.layout.views * story.store.manifest.rows / cost.teacher_rate
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
            "Every view that a student learned from was held to the checksum of the view that the teacher saw; the "
            f"first one that differed would have stopped it.{checked}"
        ),
        table(["contract", "sha256, first 16 digits"], rows),
        f"<details><summary>The recipe of a view</summary><pre>{escape(recipe)}</pre></details>",
        "<details><summary>The same again</summary><pre>dvc repro report\n"
        "dvc exp run -S train.lr=2e-3      # only the students run again\n"
        "dvc metrics diff\ndvc plots show</pre></details>",
    )
