"""Which runs do the claims about time, tokens, what is inherited, and other pictures stand on?

Length of training, the two tokens over its course and when they part, what a student has from its teacher beyond the
truth, and what its weights are worth on pictures of other classes.
"""

from __future__ import annotations

from benchmarks.evidence.experiments import HARD, NONE, SOFT, WITHOUT_TOKEN, Experiment, Row
from benchmarks.evidence.lab import Lab, small_regnety
from benchmarks.evidence.scales import Flags, Scale
from benchmarks.evidence.steps import Step

PARTS = 10
"""Checkpoints of a training at which its tokens are looked at."""
DIGITS = 100
"""Labelled pictures of the classes that a student is transferred to."""


def length(lab: Lab) -> Experiment:
    """What a teacher is worth in short and in long trainings."""
    store, scale, rows = lab.store(lab.teacher()), lab.scale, []
    for epochs in scale.lengths:
        longer = _of_length(scale, epochs)
        none = lab.scores(lab.students("none-plain", store, *NONE, *WITHOUT_TOKEN, *longer))
        rows.append(Row(name=f"{epochs} epochs, no teacher", scores=none, head="class", base=True))
        for name, flags in (("hard", HARD), ("soft", SOFT)):
            taught = lab.scores(lab.students(name, store, *flags, *longer))
            rows.append(Row(name=f"{epochs} epochs, {name}", scores=taught))
    return Experiment(
        title="How long to train",
        rows=tuple(rows),
        notes=(
            f"The same {scale.labelled} pictures and the same {scale.views} stored views in every row, more often. "
            "Students with a teacher have the token and both heads fused, those without have neither.",
        ),
    )


def _of_length(scale: Scale, epochs: int) -> Flags:
    """The flags of a student that is trained for so many epochs, if these are not the usual ones."""
    if epochs == scale.epochs:
        return ()
    return ("--epochs", str(epochs), "--warmup-epochs", f"{scale.warmup * epochs / scale.epochs:g}")


def parting(lab: Lab) -> Experiment:
    """At which length, rate, depth or size of patches two tokens part that learn the class and the teacher's choice."""
    scale, store = lab.scale, lab.store(lab.teacher())
    length = next((epochs for epochs in scale.lengths if epochs > scale.epochs), 2 * scale.epochs)
    cases: tuple[tuple[str, Flags], ...] = (
        ("as in every table", ()),
        (f"{length} epochs", _of_length(scale, length)),
        ("three times the rate", ("--lr", f"{3 * scale.lr:g}")),
        ("a third of the rate", ("--lr", f"{scale.lr / 3:g}")),
        (f"{2 * scale.depth} blocks", ("--depth", str(2 * scale.depth))),
        (f"patches of {scale.patch // 2}", ("--patch-size", str(scale.patch // 2))),
    )
    rows = []
    for name, flags in cases:
        runs = lab.students("hard", store, *HARD, *flags)
        rows.append(Row(name=name, scores=lab.scores(runs), about=lab.tokens(runs)))
    return Experiment(title="When the two tokens part", rows=tuple(rows), kind="parting")


def course(lab: Lab) -> Experiment:
    """How alike the two tokens are at every tenth of a training."""
    store, rows = lab.store(lab.teacher()), []
    for name, flags in (("hard", HARD), ("soft", SOFT), ("two class tokens", NONE)):
        parts = [_parts(lab, name.replace(" ", "-"), store, seed, flags) for seed in lab.seeds]
        for part in range(PARTS):
            runs = tuple(of_seed[part] for of_seed in parts)
            title = f"{name}, {(part + 1) * 100 // PARTS} % of the training"
            rows.append(Row(name=title, scores=lab.scores(runs), about=lab.tokens(runs), base=part == 0))
    return Experiment(
        title="The two tokens over the course of training",
        rows=tuple(rows),
        kind="course",
        notes=("One training, stopped at every tenth with its schedule unchanged, and gone on from there.",),
    )


def _parts(lab: Lab, title: str, store: Step, seed: int, flags: Flags) -> list[Step]:
    """The same training up to every tenth, each part going on from the one before."""
    scale, parts = lab.scale, list[Step]()
    updates = scale.epochs * -(-scale.labelled // scale.batch)
    for part in range(1, PARTS + 1):
        more: Flags = ("--max-steps", str(max(1, updates * part // PARTS)))
        if parts:
            more += ("--resume", f"{parts[-1].path}/last.pt")
        parts.append(lab.student(f"{title}-{part}", store, seed, *flags, *more, needs=parts[-1:]))
    return parts


def inherit(lab: Lab) -> Experiment:
    """What a student has from its teacher beyond the truth: its mistakes, and how far it looks."""
    convnet, transformer = lab.alike()
    told, rows = lab.answers(convnet), []
    for name, teacher, flags in (
        ("no teacher", convnet, NONE),
        ("taught by a convnet", convnet, HARD),
        ("taught by a transformer", transformer, HARD),
    ):
        runs = lab.students(flags[1], lab.store(teacher), *flags)
        rows.append(
            Row(
                name=name,
                scores=lab.scores(runs),
                about=lab.inherited(runs, told),
                base=teacher is convnet and not rows,
            )
        )
    return Experiment(
        title="What a student inherits",
        rows=tuple(rows),
        kind="inherited",
        notes=(
            f"Agreement is with {convnet.name}, on held-out pictures that it gets wrong: the share of them that the "
            "student gets wrong in the same way. Distances are in pixels, means over heads and pictures of where a "
            "patch looks, weighted by attention.",
        ),
    )


def transfer(lab: Lab) -> Experiment:
    """What a student's weights are worth on pictures of other classes: handwritten digits, few with a label."""
    store = lab.store(lab.teacher())
    other, judged = _digits(lab)
    rows = [Row(name="from nothing", scores=_moved(lab, "nothing", other, judged, None), base=True)]
    for name, title, flags in (
        ("from an undistilled student", "none-plain", (*NONE, *WITHOUT_TOKEN)),
        ("from a distilled student", "hard-plain", (*HARD, *WITHOUT_TOKEN)),
        ("from a distilled student (soft labels)", "soft-plain", (*SOFT, *WITHOUT_TOKEN)),
    ):
        runs = lab.students(title, store, *flags)
        rows.append(Row(name=name, scores=_moved(lab, title, other, judged, runs)))
    return Experiment(
        title="Transfer to other classes",
        rows=tuple(rows),
        notes=(f"{DIGITS} labelled pictures of handwritten digits; all weights learn, the head is new.",),
    )


def _moved(
    lab: Lab, title: str, store: Step, judged: Step, runs: tuple[Step, ...] | None
) -> tuple[Step, ...]:  # fmt: skip
    """Students of the digits, one for each of `runs`, or from nothing; their scores."""
    students = []
    for number, seed in enumerate(lab.seeds):
        start = () if runs is None else ("--init", runs[number].path, "--new-heads")
        needs = () if runs is None else (runs[number],)
        flags = (*NONE, *WITHOUT_TOKEN, *start)
        students.append(lab.student(f"digits-{title}", store, seed, *flags, rows=DIGITS, needs=needs))
    return lab.scores(students, judged=judged)


def _digits(lab: Lab) -> tuple[Step, Step]:
    """Views of few labelled digits (with the answers of some teacher, which nobody reads), and pictures to judge by."""
    side = str(lab.scale.side)
    drawn = Step(
        "stages.demo_images",
        "digits",
        ("--labelled", str(DIGITS), "--unlabelled", "0", "--val", "1000", "--side", side),
    )
    train = Step("stages.pack", "digits", ("--images", f"{drawn.path}/train"), (drawn,))
    classes = ("--classes", f"{train.path}/classes.json")
    val = Step("stages.pack", "digits-val", ("--images", f"{drawn.path}/val", *classes), (drawn, train))
    shards = ("--shards", f"{train.path}/*.tar", "--image-size", side, "--workers", "0")
    light = ("--recipe", "light", "--flip", "0", "--crop-scale", "0.7,1")
    model = small_regnety(depth=6, width=24, group=8)
    teacher = Step("stages.fit_teacher", "digits", (*shards, *model, *light, "--epochs", "1"), (train,))
    views = ("--model", f"local-dir:{teacher.path}", "--views", str(lab.scale.views), *light)
    return Step("stages.teacher_logits", "digits", (*shards, *views), (train, teacher), ".zarr"), val
