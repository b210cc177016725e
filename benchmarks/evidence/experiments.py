"""Which runs does each of the paper's claims stand on, and how is its table read?

An experiment is rows; a row is a name, the scores of one student for every seed, which head counts, and cells of its
own. The first row of a group is what the others are compared with, seed by seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.evidence.claims import AS_THEY_ARE, SMOOTHINGS
from benchmarks.evidence.lab import PLAIN, Lab, Teacher, small_convnet_flags, small_transformer_flags
from benchmarks.evidence.scales import Flags
from benchmarks.evidence.steps import Step

SOFT: Flags = ("--distill", "soft", "--tau", "1")
HEAVY: Flags = (*SOFT, "--alpha", "0.9")
HARD: Flags = ("--distill", "hard")
NONE: Flags = ("--distill", "none")
WITHOUT_TOKEN: Flags = ("--model", PLAIN)
TEMPERATURES = ("1", "2", "4")
PACKED_SIDES = (1.34, 1.14, 0.86)
"""The shorter side of a 4:3 photograph that is packed to 400, 341 or 256 pixels, over that of a view of 224."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table."""

    name: str
    scores: tuple[Step, ...]
    """Of `student.evaluate`, one a seed."""
    head: str = "fused_logits"
    """The answer that counts; a student with one head has only that."""
    about: tuple[Step, ...] = ()
    """What the row's own cells are read from."""
    base: bool = False
    """The rows after this one are compared with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One table."""

    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    kind: str = "accuracy"
    """How its cells are read: a key of `tables.COLUMNS`, or "frontier"."""

    def steps(self) -> list[Step]:
        """All that must be done for it, seed after seed: a table that is cut short has fewer seeds in every row."""
        most = max((len(row.scores) for row in self.rows), default=0)
        turns = [[step for row in self.rows for step in row.scores[seed : seed + 1]] for seed in range(most)]
        return [step for turn in turns for step in turn] + [step for row in self.rows for step in row.about]


def distillation(lab: Lab) -> Experiment:
    """The paper's ablation of how to distil."""
    store = lab.store(lab.teacher())
    plain = lab.scores(lab.students("none-plain", store, *NONE, *WITHOUT_TOKEN))
    usual = lab.scores(lab.students("soft-plain", store, *SOFT, *WITHOUT_TOKEN))
    hard = lab.scores(lab.students("hard-plain", store, *HARD, *WITHOUT_TOKEN))
    two = lab.scores(lab.students("none", store, *NONE))
    token = lab.scores(lab.students("hard", store, *HARD))
    soft = lab.scores(lab.students("soft", store, *SOFT))
    return Experiment(
        title="How to distil",
        rows=(
            Row(name="no distillation", scores=plain, head="class", base=True),
            Row(name="no distillation, two class tokens", scores=two),
            Row(name="usual (soft), without token", scores=usual, head="class"),
            Row(name="hard, without token", scores=hard, head="class"),
            Row(name="hard with token: class head", scores=token, head="class"),
            Row(name="hard with token: distillation head", scores=token, head="distillation"),
            Row(name="hard with token: both fused", scores=token),
            Row(name="soft with token: class head", scores=soft, head="class"),
            Row(name="soft with token: distillation head", scores=soft, head="distillation"),
            Row(name="soft with token: both fused", scores=soft),
        ),
    )


def teachers(lab: Lab) -> Experiment:
    """A convnet against a transformer of about equal accuracy; a better convnet against a worse one; and what it is
    worth to have learned under the students' recipe."""
    first, candidates, note = _of_photographs(lab) if lab.scale.imagenet else _of_small_pictures(lab)
    rows = [Row(name="no teacher", scores=_taught(lab, first, "none", NONE), base=True)]
    for teacher in candidates:
        scores = _taught(lab, teacher, "soft", SOFT)
        rows.append(Row(name=teacher.name, scores=scores, about=(lab.answers(teacher),)))
    return Experiment(title="Which teacher", rows=tuple(rows), kind="teachers", notes=(note,))


def _of_small_pictures(lab: Lab) -> tuple[Teacher, Sequence[Teacher], str]:
    """The teacher whose views the students without one see; all teachers; and how they came to be."""
    given = [lab.given(56), lab.given(20), lab.tuned(20)]
    note = (
        "The RegNetYs and ViTs were fitted here, by `stages.fit_teacher`: `-small` under the recipe `light`, all "
        "others under the students' own; `-others` to pictures that no student learns from, `-same` to the students' "
        "pictures and labels alone, with as many views."
    )
    fitted = (small_convnet(lab), small_transformer(lab), *lab.alike(), *lab.of_others(), *lab.of_the_same())
    return lab.given(20), [*given, *fitted], note


def _of_photographs(lab: Lab) -> tuple[Teacher, Sequence[Teacher], str]:
    """Likewise: with published weights; the same, tuned; and one that began from nothing."""
    note = (
        "The tuned one and the RegNetY were fitted here, by `stages.fit_teacher`, to the students' photographs under "
        "their own recipe: the first from the published weights, the second from nothing."
    )
    candidates = lab.of_photographs()
    return candidates[0], candidates, note


def temperature(lab: Lab) -> Experiment:
    """Soft labels at several temperatures, of a teacher that is sure of its answers, and of ones that are less so."""
    rows = []
    for teacher in (lab.teacher(),) if lab.scale.teacher == "fitted" else (lab.given(20), lab.tuned(20)):
        for tau in TEMPERATURES:
            scores = _taught(lab, teacher, "soft", ("--distill", "soft", "--tau", tau))
            rows.append(Row(name=f"{teacher.name}, τ = {tau}", scores=scores, base=tau == TEMPERATURES[0]))
    return Experiment(
        title="At which temperature",
        rows=tuple(rows),
        notes=("The divergence is multiplied by τ², as in the paper, and has the same weight (α = 0.5) in every row.",),
    )


def smoothing(lab: Lab) -> Experiment:
    """Is a teacher's answer worth more than a target that is merely less sure?"""
    store = lab.store(lab.teacher())
    rows = [Row(name="no teacher", scores=_scored(lab, "none", store, NONE), base=True)]
    for share in SMOOTHINGS:
        scores = _scored(lab, "none", store, (*NONE, "--smoothing", share))
        rows.append(Row(name=f"no teacher, smoothing {share}", scores=scores))
    for kind, flags in (("soft", SOFT), ("hard", HARD)):
        rows.append(Row(name=f"{kind} labels", scores=_scored(lab, kind, store, flags)))
    return Experiment(title="A teacher against label smoothing", rows=tuple(rows))


def alpha(lab: Lab) -> Experiment:
    """How much weight should the teacher have in the loss, and how much the truth?"""
    rows = (
        ("soft, weight 0.5, τ = 1", "soft", SOFT),
        ("soft, weight 0.9, τ = 1", "soft", HEAVY),
        ("soft, weight 0.1, τ = 3", "soft", ("--distill", "soft", "--tau", "3", "--alpha", "0.1")),
        ("hard, weight 0.5", "hard", HARD),
        ("hard, weight 0.9", "hard", (*HARD, "--alpha", "0.9")),
    )
    return Experiment(
        title="The teacher's weight in the loss",
        rows=tuple(
            Row(name=name, scores=_taught(lab, lab.teacher(), kind, flags), base="0.5" in name)
            for name, kind, flags in rows
        ),
        notes=("Weight 0.1 at τ = 3 is what the paper gives for soft labels: its divergence is multiplied by τ².",),
    )


def small_convnet(lab: Lab) -> Teacher:
    """A RegNetY that was fitted as long as the transformer."""
    return lab.fitted("regnety-small", small_convnet_flags())


def small_transformer(lab: Lab) -> Teacher:
    """A ViT of six blocks on patches of four pixels."""
    return lab.fitted("vit-small", small_transformer_flags(lab.scale.side), precision="bf16")


def recipe(lab: Lab) -> Experiment:
    """What each part of the recipe is worth to a distilled student."""
    whole = ("--drop-path", "0.1", "--ema", "--ema-decay", "0.998", "--ema-warmup", "--repeats", "3")
    teacher = lab.teacher()

    def row(name: str, recipe: Flags = (), *students: str, base: bool = False) -> Row:
        flags = (*SOFT, *whole, *students)
        runs = lab.students("recipe", lab.store(teacher, recipe=recipe), *flags)
        return Row(name=name, scores=lab.scores(runs), base=base)

    rows = [
        row("the whole recipe", base=True),
        row("without mixup", ("--mixup", "0")),
        row("without CutMix", ("--cutmix", "0")),
        row("without either", ("--mixup", "0", "--cutmix", "0")),
        row("without erasing", ("--erase", "0")),
        row("without RandAugment", ("--randaugment", "")),
        row("without drop path", (), "--drop-path", "0"),
        row("without label smoothing", (), "--smoothing", "0"),
        row("without repeated augmentation", (), "--repeats", "1"),
        row("SGD in place of AdamW", (), "--opt", "sgd", "--lr", "0.5", "--weight-decay", "1e-4"),
    ]
    rows.insert(1, Row(name="its moving average of weights", scores=rows[0].scores, head="ema/fused_logits"))
    return Experiment(title="What each part of the recipe is worth", rows=tuple(rows))


def efficiency(lab: Lab) -> Experiment:
    """Few labels, with the other pictures absent or there without a label."""
    note = (
        "Every row learns from as many views; with pictures that have no label the teacher's term has 0.9 of the "
        "weight, else 0.5. How many labels the teacher itself has learned from is the scale's."
    )
    rows = _few_labels(lab, {"no teacher": NONE, "soft": SOFT}, "soft")
    return Experiment(title="Few labels", rows=rows, notes=(note,))


def weight(lab: Lab) -> Experiment:
    """What of the gain of few labels is the teacher's weight in the loss, and what the pictures without a label?"""
    note = "Soft labels in every row; every row learns from as many views."
    rows = _few_labels(lab, {"weight 0.5": SOFT, "weight 0.9": HEAVY}, "weight 0.9")
    return Experiment(title="Few labels: the teacher's weight", rows=rows, notes=(note,))


def _few_labels(lab: Lab, kinds: Mapping[str, Flags], rest: str) -> tuple[Row, ...]:
    """For each number of labels students of these kinds, and one that sees the pictures without a label as well."""
    teacher, rows, most = lab.teacher(), [], lab.scale.efficiency[-1]

    def row(name: str, shards: Step, count: int, flags: Flags) -> Row:
        store = lab.store(teacher, shards=shards, views=lab.views_of(count))
        _, distill, *_ = flags
        students = lab.students(distill, store, *flags, rows=count)
        return Row(name=name, scores=lab.scores(students), base=name.endswith(next(iter(kinds))))

    for labelled in lab.scale.efficiency:
        for kind, flags in kinds.items():
            rows.append(row(f"{labelled:,} labels, {kind}", lab.shards(labelled), labelled, flags))
        if labelled < most:
            name = f"{labelled:,} labels and {most - labelled:,} pictures without, {rest}"
            rows.append(row(name, lab.shards(labelled, most - labelled), most, HEAVY))
    return tuple(rows)


def views(lab: Lab) -> Experiment:
    """How many views are enough, with the epochs fixed."""
    counts = lab.scale.view_counts
    rows = []
    for count in counts:
        fewer = () if count == counts[-1] else ("--views", str(count))
        runs = lab.students("soft", _all_views(lab), *SOFT, *fewer)
        rows.append(Row(name=f"soft, {count} views", scores=lab.scores(runs), base=count == counts[0]))
    return Experiment(title="How many views are enough", rows=tuple(rows), kind="views")


def _all_views(lab: Lab) -> Step:
    """A store with a view of its own for every epoch."""
    return lab.store(lab.teacher(), views=lab.scale.view_counts[-1])


def storage(lab: Lab) -> Experiment:
    """How little of the answers must be kept."""
    store = lab.store(lab.teacher())
    kept = {"all logits": store}
    kept |= {f"the {k} largest": lab.compacted(store, f"topk:{k}", 1) for k in (3, 1)}
    kept["the largest and 3 components"] = lab.compacted(store, "lowrank:1+3", 1)
    rows = [
        Row(name=f"soft, {name}", scores=_scored(lab, "soft", place, SOFT), about=(place,), base=place is store)
        for name, place in kept.items()
    ]
    argmax = lab.compacted(store, "argmax", 1)
    rows.append(Row(name="hard, the choice alone", scores=_scored(lab, "hard", argmax, HARD), about=(argmax,)))
    return Experiment(title="How little to store", rows=tuple(rows), kind="bytes")


def online(lab: Lab) -> Experiment:
    """Stored labels against the teacher in the loop."""
    store, teacher = _all_views(lab), lab.teacher()
    watched = ("--val-shards", f"{lab.judged().path}/*.tar", "--val-every", str(max(1, lab.scale.epochs // 8)))
    more = ("--epochs", str(lab.scale.view_counts[-1]), *watched)
    offline = lab.students("soft-offline", store, *SOFT, *more)
    live = tuple(
        lab.student(
            "soft-online", store, seed, *SOFT, *more, *_as_teacher(teacher), needs=teacher.needs,
            module="benchmarks.evidence.online",
        )
        for seed in lab.seeds
    )  # fmt: skip
    rows = (
        Row(name="stored labels", scores=lab.scores(offline), about=offline, base=True),
        Row(name="the teacher in the loop", scores=lab.scores(live), about=live),
    )
    return Experiment(title="Offline equals online", rows=rows, kind="curves")


def _as_teacher(teacher: Teacher) -> Flags:
    """The teacher's flags beside a student's of the same name."""
    renamed = {"--model": "--teacher", "--weights": "--teacher-weights", "--precision": "--teacher-precision"}
    return tuple(renamed.get(flag, flag) for flag in teacher.flags)


def resolution(lab: Lab) -> Experiment:
    """Trained small, fine-tuned larger."""
    teacher, scale = lab.teacher(), lab.scale
    small, large = lab.store(teacher, side=scale.smaller_side), lab.store(teacher)
    before = lab.students("small", small, *SOFT)
    short = ("--epochs", str(max(1, scale.epochs // 4)), "--warmup-epochs", "0", "--lr", f"{scale.lr / 4:g}")

    def tuned(title: str, flags: Flags) -> tuple[Step, ...]:
        return tuple(
            lab.student(title, large, seed, *flags, *short, "--init", run.path, needs=(run,))
            for seed, run in zip(lab.seeds, before, strict=True)
        )

    return Experiment(
        title=f"Trained on {scale.smaller_side} pixels, fine-tuned on {scale.side}",
        rows=(
            Row(name=f"{scale.smaller_side} pixels, soft", scores=lab.scores(before), base=True),
            Row(name=f"then {scale.side} pixels, soft", scores=lab.scores(tuned("tuned-soft", SOFT))),
            Row(name=f"then {scale.side} pixels, no distillation", scores=lab.scores(tuned("tuned-none", NONE))),
            Row(name=f"{scale.side} pixels throughout, soft", scores=_scored(lab, "soft", large, SOFT)),
        ),
    )


def tokens(lab: Lab) -> Experiment:
    """How alike the two tokens are in each block."""
    store = lab.store(lab.teacher())
    rows = []
    for name, title, flags in (
        ("class and distillation token (hard)", "hard", HARD),
        ("class and distillation token (soft)", "soft", SOFT),
        ("two class tokens", "none", NONE),
    ):
        runs = lab.students(title, store, *flags)
        rows.append(Row(name=name, scores=lab.scores(runs), about=lab.tokens(runs)))
    return Experiment(title="How alike the two tokens are", rows=tuple(rows), kind="tokens")


def packing(lab: Lab) -> Experiment:
    """What photographs that were packed smaller cost a student, judged on photographs as they are."""
    teacher, rows = lab.of_imagenet(), []
    for views, shards in [(None, lab.shards(lab.scale.labelled)), *_packed_smaller(lab)]:
        name = AS_THEY_ARE if views is None else f"longest side {views:.2f} views"
        runs = lab.students("soft", lab.store(teacher, shards=shards), *SOFT)
        rows.append(Row(name=name, scores=lab.scores(runs), about=(shards,), base=views is None))
    return Experiment(
        title="Photographs packed smaller (pack --max-side)",
        rows=tuple(rows),
        kind="packed",
        notes=(f"Views of {lab.scale.side} pixels, of 8 to 100 % of a photograph; sides are in units of a view's.",),
    )


def _packed_smaller(lab: Lab) -> Iterator[tuple[float, Step]]:
    for views in PACKED_SIDES:
        yield views, lab.shards(lab.scale.labelled, max_side=round(views * lab.scale.side))


def _taught(lab: Lab, teacher: Teacher, title: str, flags: Sequence[str]) -> tuple[Step, ...]:
    return _scored(lab, title, lab.store(teacher), flags)


def _scored(lab: Lab, title: str, store: Step, flags: Sequence[str]) -> tuple[Step, ...]:
    return lab.scores(lab.students(title, store, *flags))
