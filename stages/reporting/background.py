"""What does the report say behind its results? The labels, the tokens, the costs, and what it all rests on."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence

from pipeline.inspection.doctor import doctor_text
from pipeline.inspection.gauge import gauge_text
from pipeline.labelling.cost import Cost
from pipeline.progress import duration
from stages.reporting import figures
from stages.reporting.page import Block, Downloads, Figures, Fold, Part, Row, Table, Text
from stages.reporting.report_data import Story, called, colour, files
from stages.reporting.results import BEST_HEAD, KINDS, Line, StudentResult

SETTINGS = (
    *(
        "model",
        "patch_size",
        "width",
        "depth",
        "heads",
        "init",
        "distill",
        "alpha",
        "tau",
        "smoothing",
        "epochs",
        "batch",
    ),
    *("lr", "warmup_epochs", "opt", "weight_decay", "drop_path", "repeats", "ema", "precision", "views", "keep"),
)
"""What of a student's flags is told, in this order; all of them are in students.csv"""
AGAIN = """dvc repro report
dvc exp run -S train.lr=2e-3      # only the students run again
dvc metrics diff
dvc plots show"""


def teacher(story: Story) -> Part | None:
    """How good the stored labels are, view by view and by share of the picture."""
    labels = story.results.labels
    if not labels:
        return None
    per_view = [(float(view), value) for view, value in story.per_view]
    fitted = [(line["epoch"], line["loss"]) for line in story.results.teacher_curve]
    shares = _by_share(labels)
    drawn, told = [], []
    if len(shares) > 1:
        drawn.append(figures.by_share(shares))
        told.append("How often the labels name the main picture of a view, by how much of the view it is.")
    if len(per_view) > 1:
        title = "labels that name the true class"
        drawn.append(figures.line("by-view", per_view, x="view", title=title, percent=True, who="labels"))
        told.append("How often the labels name the true class, view by view.")
    if len(fitted) > 1:
        title = "the teacher’s training loss"
        drawn.append(figures.line("fit", fitted, x="epoch", title=title, percent=False, who=title))
        told.append("How the teacher itself was fitted.")
    agreement = labels.get("view_agreement")
    said = [
        f"The store holds {labels['views']} answers about each of {labels['rows']:,} rows.",
        ""
        if agreement is None
        else f"Two views of one row get the same answer in {100 * agreement:.1f} % of the cases.",
        _worth(story),
    ]
    blocks: list[Block] = [Text(" ".join(filter(None, said)))]
    if measured := _measured(labels):
        blocks.append(Text(measured))
    if drawn:
        blocks.append(Figures(drawn, " ".join(told)))
    if len(shares) > 1:
        rows = [Row(head=name, cells=[f"{views:,}", f"{100 * top1:.1f} %"]) for name, views, top1 in shares]
        caption = "The labels by the share of the view that its main picture is (λ)"
        blocks.append(Table(caption=caption, head=["main picture", "views", "named"], rows=rows))
    return Part("labels", "The teacher’s labels", blocks)


def _measured(labels: Line) -> str:
    """The doctor's and the gauge's figures; what follows from them stands among the findings."""
    lines = [*doctor_text(labels.get("doctor")), *gauge_text(labels.get("gauge"), labels.get("bytes_per_view", {}))]
    told = [line.rstrip(".") for line in lines if not line.startswith(("ADVICE: ", "WARNING: "))]
    return " ".join(f"{line[0].upper()}{line[1:]}." for line in told)


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


def _by_share(labels: Line) -> list[tuple[str, int, float]]:
    """(share of the main picture, views, top-1), where views are mixed."""
    unmixed, shares = labels.get("unmixed"), labels.get("by_lambda")
    parts = {"unmixed": unmixed} if isinstance(unmixed, dict) and unmixed.get("views") else {}
    parts |= {f"{share} of the view": found for share, found in (shares if isinstance(shares, dict) else {}).items()}
    return [
        (name, int(part["views"]), float(part["top1"]))
        for name, part in parts.items()
        if isinstance(part, dict) and part.get("top1") is not None
    ]


def tokens(story: Story) -> Part | None:
    """How alike the two tokens are, layer by layer."""
    found = story.results.tokens
    if not found:
        return None
    found = {kind: found[kind] for kind in [k for k in story.results.kinds if k in found] or sorted(found)}
    rows = [
        Row(
            head=called(kind),
            cells=[
                *(f"{record['input']['tokens']:.2f}", f"{record['blocks'][-1]['mean']:.2f}"),
                *(f"{record['weight_rows']['mean']:.2f}", f"{100 * record['heads_agree']:.1f} %"),
            ],
            colour=colour(kind),
        )
        for kind, record in found.items()
    ]
    head = ["learned from", "as learned", "after the last block", "rows of the two heads", "heads agree"]
    return Part("tokens", "Two tokens, two opinions?", [
        Text(
            "The class token and the distillation token go through the same blocks. If the distillation token learned "
            "nothing of its own, the two would become one vector: cosine 1, as two tokens with equal targets do."
        ),
        Figures([figures.tokens(found)], "Cosine of the two tokens after each block, mean over held-out pictures."),
        Table(caption="Cosine similarity of tokens and of the heads’ weights", head=head, rows=rows),
    ])  # fmt: skip


def costs(story: Story) -> Part:
    """What it took, and what the same students would have taken with the teacher beside them."""
    results, store = story.results, story.store
    sizes = store.bytes_per_view()
    total = sum(sizes.values())
    views = store.layout.views * store.manifest.rows
    kept = ", ".join(f"{name} {size:.1f}" for name, size in sizes.items())
    rows = [
        ["stored for each view", f"{total:.1f} bytes", kept],
        ["the whole store", _bytes(total * views), f"{views:,} views, keep {store.manifest.keep}"],
    ]
    rates = [s.rate for s in results.students if s.rate is not None]
    waits = [s.wait for s in results.students if s.wait is not None]
    if rates:
        rows.append(["a student learns", f"{statistics.fmean(rates):,.0f} images/s", "no teacher in the step"])
    if waits:
        wait = f"{100 * statistics.fmean(waits):.0f} %"
        rows.append(["of its time it waits for views", wait, "mean of all students"])
    if story.cost is not None:
        rows += _forwards(story, story.cost)
    return Part("costs", "What it cost", [
        Text(
            "An online distiller asks the teacher in every training step of every student; here it was asked once for "
            "each stored view. What is compared is the teacher’s work alone: drawing the views and training the "
            "students cost the same either way, and are not in it."
        ),
        Table(
            caption="Bytes, rates and the teacher’s work",
            head=["what", "how much", "that is"],
            rows=[Row(head=name, cells=cells) for name, *cells in rows],
            words=True,
        ),
    ])  # fmt: skip


def _forwards(story: Story, cost: Cost) -> list[list[str]]:
    """The teacher's forward passes, once and online."""
    taught = [s for s in story.results.students if s.kind != "none" and s.epochs]
    online = sum(len(s.epochs) for s in taught) * story.store.manifest.rows / cost.teacher_rate
    once = story.store.layout.views * story.store.manifest.rows / cost.teacher_rate
    rows = [["the teacher answers", f"{cost.teacher_rate:,.0f} views/s", "measured for this page, on this machine"]]
    rows.append(["asked once for all views", duration(once), "its forward passes alone"])
    if taught:
        share = f"{online / once:.1f} times as many forward passes"
        rows.append([f"asked by {len(taught)} students, online", duration(online), share])
    return rows


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def earlier(story: Story) -> Part | None:
    """What became of a change."""
    if not story.earlier:
        return None
    now = {"date": story.made.date, "commit": story.made.commit, "found": story.found()}
    lines = [("this report", now), *((line["date"], line) for line in reversed(story.earlier))]
    known = {
        name
        for _, line in lines
        for name, value in line["found"].items()
        if name not in ("gain", "labels", "teacher") and value
    }
    kinds = [kind for kind in KINDS if kind in known] + sorted(known - set(KINDS))
    rows = []
    for name, line in lines:
        found = line["found"]
        labels = found.get("labels", {})
        gains = found.get("gain", {})
        best = f"{100 * max(gains.values()):+.1f}".replace("-", "−") if gains else "–"
        cells = [
            line["commit"] or "–",
            *(_top1(found.get(kind)) for kind in kinds),
            best,
            _percent(found.get("teacher")),
        ]
        kept = [f"{labels[name]}" for name in ("rows", "views", "keep", "bytes_per_view") if name in labels]
        rows.append(Row(head=name, cells=[*cells, " · ".join(kept) or "–"]))
    head = ["date", "commit", *map(called, kinds), "best gain", "teacher", "rows · views · keep · bytes a view"]
    caption = "Held-out top-1 in %, mean over the seeds, of this report and of earlier ones with other results"
    return Part("earlier", "Beside earlier runs", [Table(caption=caption, head=head, rows=rows)])


def _top1(heads: Mapping[str, float] | None) -> str:
    return _percent(None if not heads else heads.get(BEST_HEAD, heads.get("class")))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def proof(story: Story) -> Part:
    """What the figures rest on: settings, machine, contract, and the data itself."""
    manifest = story.store.manifest
    recipe = json.dumps(manifest.recipe.to_json(), indent=2, sort_keys=True)
    contract = [
        ("recipe", manifest.recipe.fingerprint()),
        ("rows", manifest.index_digest),
        ("teacher’s weights", manifest.teacher.weights_sha256),
        ("contract of the store", manifest.fingerprint()),
    ]
    again = story.results.verified.get("sample") or {}
    matched = again.get("views", 0) - again.get("changed", 0)
    checked = f" {matched:,} of {again['views']:,} views drawn again for verification matched." if again else ""
    blocks: list[Block] = [
        Text(
            "Every view that a student learned from was held to the checksum of the view that the teacher saw; the "
            f"first one that differed would have stopped it.{checked}"
        ),
        Text(
            f"{story.made} The labels were made with "
            + ", ".join(f"{name} {value}" for name, value in story.store.layout.environment.items() if value != "none")
            + "."
        ),
    ]
    if settings := _settings([s for kind in story.results.kinds for s in story.results.of(kind)]):
        blocks.append(
            Table(caption="What the students were trained with", head=["flag", "value"], rows=settings, words=True)
        )
    blocks += [
        Table(
            caption="What the labels were made under: sha256, first 16 digits",
            head=["contract", "digest"],
            rows=[Row(head=name, cells=[digest[:16]]) for name, digest in contract],
            words=True,
        ),
        Text("The figures of this page as tables, which it carries inside:"),
        Downloads(files(story)),
        Fold("The recipe of a view", recipe),
        Fold("The same again", AGAIN),
    ]
    return Part("rests-on", "What it rests on", blocks)


def _settings(students: Sequence[StudentResult]) -> list[Row]:
    """A line a flag: its value where all share it, or each kind's."""
    known = [s for s in students if s.settings]
    parameters = {s.parameters for s in students if s.parameters}
    rows = [Row(head="parameters", cells=[f"{parameters.pop():,}"])] if len(parameters) == 1 else []
    for name in SETTINGS:
        by_kind: dict[str, list[str]] = {}
        for student in known:
            value = student.settings.get(name)
            text = "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
            by_kind[student.kind] = list(dict.fromkeys([*by_kind.get(student.kind, []), text]))
        told = [" or ".join(texts) for texts in by_kind.values()]
        if len(set(told)) == 1 and told[0] != "–":
            rows.append(Row(head=f"--{name.replace('_', '-')}", cells=[told[0]]))
        elif len(set(told)) > 1:
            each = "; ".join(f"{called(kind)} {text}" for kind, text in zip(by_kind, told, strict=True))
            rows.append(Row(head=f"--{name.replace('_', '-')}", cells=[each]))
    return rows
