"""What runs can a table ask for? Shards, teachers, stores and students of one set of pictures, at one scale.

Each method gives a `Step` and runs nothing. What all students share is the scale's; what a table varies are flags that
come later on the line and so win.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from timm.data.imagenet_info import ImageNetInfo

from benchmarks.evidence.pictures import Pictures
from benchmarks.evidence.steps import Step
from pipeline.durable.file import write_text
from pipeline.errors import UserError

Flags = tuple[str, ...]

RECIPE: Flags = ("--recipe", "deit")
STRONG: Flags = (
    *("--crop-scale", "0.5,1", "--randaugment", "rand-m5-n1-mstd0.5-inc1", "--erase", "0.1", "--mix-prob", "0.5"),
)
"""All parts of the recipe, as strong as pictures of 32 pixels bear: at ImageNet's strength the teacher recognises a
third of the views, with these three quarters of those that are not mixed."""
TOKENS, PLAIN = "deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224"
HEADS = ("class", "distillation", "fused_logits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large a table's runs are."""

    labelled: int
    """Rows that most tables learn from, all with a label."""
    efficiency: tuple[int, int, int]
    """Labelled rows of the table on data efficiency; the last is all that there are."""
    side: int
    """Of a view, in pixels."""
    smaller_side: int
    """Of the views that the table on resolution begins with."""
    patch: int
    width: int
    depth: int
    heads: int
    batch: int
    lr: float
    epochs: int
    """Passes over `labelled` rows; other numbers of rows get as many updates."""
    warmup: int
    views: int
    view_counts: tuple[int, ...]
    """Of the table on how many are enough; the epochs are the last."""
    fit_rows: int
    """Labelled rows that teachers are fitted on, where they are fitted here."""
    fit_epochs: int
    strong: Flags = STRONG
    """What is changed in the DeiT recipe."""
    tuned: bool = False
    """Whether the teacher of most tables goes on learning under the students' recipe first, as the paper's learned."""


SCALES = {
    "tiny": Scale(
        labelled=64, efficiency=(32, 64, 128), side=32, smaller_side=24, patch=8, width=32, depth=2, heads=2, batch=32,
        lr=0.008, epochs=4, warmup=1, views=4, view_counts=(1, 4), fit_rows=64, fit_epochs=1,
    ),
    "small": Scale(
        labelled=5000, efficiency=(1000, 5000, 30000), side=32, smaller_side=24, patch=8, width=96, depth=4, heads=3,
        batch=128, lr=0.006, epochs=20, warmup=2, views=10, view_counts=(1, 2, 5, 10, 20), fit_rows=10000, fit_epochs=8,
    ),
    "longer": Scale(
        labelled=5000, efficiency=(1000, 5000, 30000), side=32, smaller_side=24, patch=8, width=96, depth=4, heads=3,
        batch=128, lr=0.006, epochs=60, warmup=3, views=30, view_counts=(1, 5, 10, 20, 30, 60), fit_rows=10000,
        fit_epochs=8, tuned=True,
    ),
    "photographs": Scale(
        labelled=2000, efficiency=(250, 500, 2000), side=128, smaller_side=96, patch=16, width=128, depth=4, heads=4,
        batch=128, lr=0.004, epochs=80, warmup=5, views=10, view_counts=(1, 10), fit_rows=2000, fit_epochs=30,
        strong=("--crop-scale", "0.08,1", "--mix-prob", "0.5"),
    ),
    "large": Scale(
        labelled=30000, efficiency=(1000, 5000, 30000), side=32, smaller_side=24, patch=4, width=192, depth=9, heads=3,
        batch=512, lr=0.001, epochs=200, warmup=10, views=50, view_counts=(1, 2, 5, 10, 25, 50, 200), fit_rows=30000,
        fit_epochs=60, tuned=True,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """How `teacher_logits` is told of a teacher, and what must be there first."""

    name: str
    flags: Flags
    needs: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """The pictures, the scale and the seeds of all tables."""

    pictures: Pictures
    work: Path
    scale: Scale
    seeds: tuple[int, ...]
    weights: Path | None
    """Folder of resnet20.safetensors and resnet56.safetensors; without it teachers are fitted here."""

    # -- data

    def judged(self) -> Step:
        """Shards of the held-out pictures."""
        return Step("stages.pack", "val", ("--images", str(self.pictures.val)))

    def shards(self, labelled: int, unlabelled: int = 0, *, max_side: int | None = None) -> Step:
        """Shards of so many pictures with a label and so many without; their longest side bounded, if need be."""
        listed = self.pictures.subset(labelled, unlabelled)
        digest = hashlib.blake2b(listed.encode(), digest_size=5).hexdigest()
        table = self.work / "subsets" / f"{labelled}-{unlabelled}-{digest}.csv"
        if not table.exists():
            write_text(table, listed)
        judged = self.judged()
        flags = (
            *("--images", str(self.pictures.train), "--csv", f"subsets/{table.name}"),
            *("--classes", f"{judged.path}/classes.json"),
            *(("--max-side", str(max_side)) if max_side else ()),
        )
        return Step("stages.pack", f"{labelled}-{unlabelled}", flags, (judged,))

    # -- teachers

    def teacher(self) -> Teacher:
        """The one that most tables learn from."""
        return self.tuned(20) if self.scale.tuned else self.given(20)

    def given(self, depth: int) -> Teacher:
        """A convnet with published weights, or, where there are none, a small RegNetY that is fitted here."""
        if self.weights is None:
            shape = small_regnety(depth=6 if depth < 50 else 8, width=32, group=16)
            fitted = self.fitted(f"regnety-{depth}", shape)
            return replace(fitted, name=f"RegNetY for {depth}")
        weights = self.weights / f"resnet{depth}.safetensors"
        model = f"benchmarks.evidence.teachers:resnet{depth}"
        flags = ("--model", model, "--weights", str(weights), "--precision", "bf16")
        return Teacher(name=f"ResNet-{depth}", flags=flags)

    def tuned(self, depth: int) -> Teacher:
        """A given convnet that went on learning under the students' recipe; where none is given, one that only did."""
        recipe = (*RECIPE, *self.scale.strong)
        if self.weights is None:
            return self.fitted(f"regnety-{depth}-tuned", (*small_regnety(depth=6, width=32, group=16), *recipe))
        given = self.given(depth)
        name = given.flags[given.flags.index("--model") + 1]
        fitted = self.fitted(
            f"resnet-{depth}-tuned",
            ("--model", name, "--weights", str(self.weights / f"resnet{depth}.safetensors"), *recipe),
        )
        weights = f"{fitted.needs[0].path}/model.safetensors"
        return replace(
            fitted, name=f"ResNet-{depth}, tuned", flags=("--model", name, "--weights", weights, "--precision", "bf16")
        )

    def of_imagenet(self) -> Teacher:
        """A convnet that knows ImageNet's classes, for pictures in folders that bear their names (wnids); where its
        weights are not at hand, one that is fitted here."""
        name = "tf_efficientnet_lite0"
        weights = None if self.weights is None else self.weights / f"{name}.safetensors"
        if weights is None or not weights.exists():
            return self.fitted("regnety", ("--model", "regnety_002", *RECIPE, *self.scale.strong))
        synsets: list[str] = ImageNetInfo().label_names()  # type: ignore[no-untyped-call]
        folders = sorted(path.name for path in self.pictures.train.iterdir() if path.is_dir())
        class_map = self.work / "subsets" / f"{name}.json"
        if strangers := sorted(set(folders) - set(synsets)):
            raise UserError(
                f"{name} knows the classes of ImageNet, and {self.pictures.train} has a folder {strangers[0]!r}. Name "
                "folders by wnid (n01440764), or leave --teachers out to fit a teacher here."
            )
        write_text(class_map, json.dumps({folder: synsets.index(folder) for folder in folders}))
        flags = (
            "--model",
            name,
            "--weights",
            str(weights),
            "--class-map",
            f"subsets/{class_map.name}",
            "--precision",
            "bf16",
        )
        return Teacher(name=name.removeprefix("tf_"), flags=flags)

    def fitted(self, name: str, flags: Flags, precision: str = "fp32") -> Teacher:
        """A teacher of our own."""
        epochs = str(self.scale.fit_epochs)
        shards = self.shards(self.scale.fit_rows)
        step = Step(
            "stages.fit_teacher",
            name,
            (
                *("--shards", f"{shards.path}/*.tar", "--val-shards", f"{self.judged().path}/*.tar"),
                *("--recipe", "light", "--image-size", str(self.scale.side), "--batch", "128"),
                *("--epochs", epochs, "--val-every", epochs, "--workers", "0", "--if-changed", "restart"),
                *("--precision", precision),
                *flags,
            ),
            (shards, self.judged()),
        )
        return Teacher(name=name, flags=("--model", f"local-dir:{step.path}", "--precision", precision), needs=(step,))

    # -- labels

    def store(
        self, teacher: Teacher, *, shards: Step | None = None, views: int | None = None, side: int | None = None,
        recipe: Flags = (), keep: str = "dense",
    ) -> Step:  # fmt: skip
        """The teacher's answers on augmented views."""
        shards = shards or self.shards(self.scale.labelled)
        return self._labels(
            teacher, shards, views or self.views_of(self.scale.labelled), side or self.scale.side, keep,
            (*RECIPE, *self.scale.strong, *recipe),
        )  # fmt: skip

    def answers(self, teacher: Teacher) -> Step:
        """What the teacher says of the held-out pictures themselves: how good it is."""
        return self._labels(teacher, self.judged(), 1, self.scale.side, "dense", ("--recipe", "none"))

    def compacted(self, store: Step, keep: str, temperature: float) -> Step:
        """Less of a store."""
        flags = ("--logits", store.path, "--keep", keep, "--temperatures", f"{temperature:g}")
        return Step("stages.compact_logits", keep.replace(":", ""), flags, (store,), ".zarr")

    def _labels(self, teacher: Teacher, shards: Step, views: int, side: int, keep: str, recipe: Flags) -> Step:
        title = f"{teacher.name.lower().replace(',', '').replace(' ', '-')}-{shards.title}"
        flags = (
            *teacher.flags,
            *("--shards", f"{shards.path}/*.tar", "--views", str(views), "--keep", keep, "--image-size", str(side)),
            *recipe,
            *("--workers", "0"),
        )
        return Step("stages.teacher_logits", title, flags, (shards, *teacher.needs), ".zarr")

    def views_of(self, rows: int) -> int:
        """As many labels whatever the number of rows, but at least four views where there are so many epochs."""
        return min(self.epochs_of(rows), max(4, round(self.scale.views * self.scale.labelled / rows)))

    def epochs_of(self, rows: int) -> int:
        """As many updates whatever the number of rows."""
        return max(1, round(self.scale.epochs * self.scale.labelled / rows))

    # -- students

    def students(self, title: str, store: Step, *flags: str, rows: int | None = None) -> tuple[Step, ...]:
        """The same student for every seed; as many updates whatever the number of rows."""
        return tuple(self.student(title, store, seed, *flags, rows=rows) for seed in self.seeds)

    def student(
        self, title: str, store: Step, seed: int, *flags: str, rows: int | None = None, needs: Sequence[Step] = (),
        module: str = "student.train",
    ) -> Step:  # fmt: skip
        """One student."""
        scale = self.scale
        epochs = self.epochs_of(rows or scale.labelled)
        own = (
            *("--model", TOKENS, "--patch-size", scale.patch, "--width", scale.width, "--depth", scale.depth),
            *("--heads", scale.heads, "--batch", scale.batch, "--lr", scale.lr, "--precision", "bf16"),
            *("--epochs", epochs, "--warmup-epochs", f"{scale.warmup * epochs / scale.epochs:g}", "--drop-path", 0),
            *("--seed", seed, "--workers", 0, "--no-dvclive", "--if-changed", "restart"),
        )
        line = ("--logits", store.path, *map(str, own), *flags)
        return Step(module, f"{title}-{seed}", line, (store, *needs))

    def scores(self, students: Sequence[Step], *flags: str) -> tuple[Step, ...]:
        """Each head of each student on the held-out pictures."""
        return tuple(self._looked_at("student.evaluate", student, *flags) for student in students)

    def tokens(self, students: Sequence[Step]) -> tuple[Step, ...]:
        """How alike the tokens are, block by block."""
        return tuple(self._looked_at("student.tokens", student) for student in students)

    def _looked_at(self, module: str, student: Step, *flags: str) -> Step:
        judged = self.judged()
        line = ("--checkpoint", student.path, "--shards", f"{judged.path}/*.tar", "--workers", "0", *flags)
        return Step(module, student.title, line, (student, judged), ".json")


def small_regnety(*, depth: int, width: int, group: int) -> Flags:
    """RegNetY-200MF with fewer and narrower blocks, and half its strides, for small pictures."""
    shape = (f"depth={depth}", f"w0={width}", f"wa={width}", "wm=2.0", f"group_size={group}", "output_stride=8")
    return ("--model", "regnety_002", *(part for field in shape for part in ("--model-arg", field)))
