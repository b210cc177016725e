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
from benchmarks.evidence.scales import Flags, Scale
from benchmarks.evidence.steps import Step
from benchmarks.evidence.teachers import CIFAR_CLASSES
from pipeline.durable.file import write_text
from pipeline.errors import UserError

RECIPE: Flags = ("--recipe", "deit")
TOKENS, PLAIN = "deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224"
CHOOSING = 5000
"""Pictures that settings are chosen by: the last of those to learn from (or a quarter, where they are few)."""
IMAGENET = "tf_efficientnet_lite0"
"""The teacher of photographs"""
HEADS = ("class", "distillation", "fused_logits")


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
    choosing: bool = False
    """Judge on pictures that nobody learns from, but not on those that the tables are of: settings are chosen so."""

    # -- data

    def held_out(self) -> Step:
        """Shards of the held-out pictures."""
        return Step("stages.pack", "val", ("--images", str(self.pictures.val)))

    def judged(self) -> Step:
        """Shards of the pictures that students are scored on."""
        return self._packed("choosing", self.pictures.last(CHOOSING)) if self.choosing else self.held_out()

    def shards(self, labelled: int, unlabelled: int = 0, *, max_side: int | None = None) -> Step:
        """Shards of so many pictures with a label and so many without; their longest side bounded, if need be."""
        listed = self.pictures.subset(labelled, unlabelled)
        if self.choosing and _share_pictures(listed, self.pictures.last(CHOOSING)):
            raise UserError(
                f"--choosing judges on a part of {self.pictures.train}, and {labelled + unlabelled} pictures are to be "
                "learned from: some would be in both. Choose a smaller --scale, or give more pictures."
            )
        return self._packed(f"{labelled}-{unlabelled}", listed, max_side)

    def _packed(self, name: str, listed: str, max_side: int | None = None) -> Step:
        digest = hashlib.blake2b(listed.encode(), digest_size=5).hexdigest()
        table = self.work / "subsets" / f"{name}-{digest}.csv"
        if not table.exists():
            write_text(table, listed)
        val = self.held_out()
        flags = (
            *("--images", str(self.pictures.train), "--csv", f"subsets/{table.name}"),
            *("--classes", f"{val.path}/classes.json"),
            *(("--max-side", str(max_side)) if max_side else ()),
        )
        return Step("stages.pack", name, flags, (val,))

    # -- teachers

    def teacher(self) -> Teacher:
        """The one that most tables learn from."""
        if self.scale.imagenet:
            return self.of_imagenet()
        if self.scale.teacher == "fitted":
            return self.alike()[0]
        return self.tuned(20) if self.scale.teacher == "tuned" else self.given(20)

    def given(self, depth: int) -> Teacher:
        """A convnet with published weights, or, where there are none, a small RegNetY that is fitted here."""
        if self.weights is None:
            shape = small_regnety(depth=6 if depth < 50 else 8, width=32, group=16)
            fitted = self.fitted(f"regnety-{depth}", shape)
            return replace(fitted, name=f"RegNetY for {depth}")
        if self._classes() != list(CIFAR_CLASSES):
            raise UserError(
                f"The ResNets of --teachers know the ten classes of CIFAR-10, and {self.pictures.train} has the "
                f"folders {', '.join(self._classes()[:3])}, … Leave --teachers out to fit teachers here."
            )
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

    def alike(self) -> tuple[Teacher, Teacher]:
        """A small convnet and a small transformer, fitted under the students' recipe alone for `fit_alike` epochs."""
        flags = (*small_transformer_flags(self.scale.side), *RECIPE, *self.scale.strong)
        transformer = self.fitted("vit-recipe", flags, precision="bf16", epochs=self.scale.fit_alike[1])
        return self._convnet("regnety-recipe"), transformer

    def of_others(self) -> tuple[Teacher, ...]:
        """The same convnet, fitted likewise to as many other pictures: it has never seen those that students learn.
        Empty where there are too few for that, or they are those that choose settings."""
        others = self.pictures.last(self.scale.fit_rows)
        if self.choosing or abs(others.count("\n") - 1 - self.scale.fit_rows) > 0.01 * self.scale.fit_rows:
            return ()
        if _share_pictures(others, self.pictures.subset(self.scale.labelled)):
            return ()
        return (self._convnet("regnety-others", self._packed("others", others)),)

    def of_the_same(self) -> tuple[Teacher, ...]:
        """The same convnet, fitted to the students' own pictures and labels alone, in as many views: it knows no more
        than they are told without it. Empty where the others learn no more pictures."""
        longer = self.scale.fit_rows // self.scale.labelled
        return (self._convnet("regnety-same", self.shards(self.scale.labelled), longer),) if longer > 1 else ()

    def _convnet(self, name: str, shards: Step | None = None, longer: int = 1) -> Teacher:
        flags = (*small_convnet_flags(), *RECIPE, *self.scale.strong)
        epochs = longer * (self.scale.fit_alike[0] or self.scale.fit_epochs)
        return self.fitted(name, flags, shards=shards, epochs=epochs)

    def of_imagenet(self) -> Teacher:
        """A convnet that knows ImageNet's classes, for pictures in folders that bear their names (wnids); where its
        weights are not at hand, one that is fitted here."""
        weights = self._imagenet_weights()
        if weights is None:
            return self.from_nothing()
        synsets: list[str] = ImageNetInfo().label_names()  # type: ignore[no-untyped-call]
        folders = self._classes()
        if unknown := sorted(set(folders) - set(synsets)):
            raise UserError(
                f"{IMAGENET} knows the classes of ImageNet, and {self.pictures.train} has a folder {unknown[0]!r}. "
                "Name folders by wnid (n01440764), or leave --teachers out to fit a teacher here."
            )
        class_map = self.work / "subsets" / f"{IMAGENET}.json"
        write_text(class_map, json.dumps({folder: synsets.index(folder) for folder in folders}))
        mapped = ("--class-map", f"subsets/{class_map.name}")
        flags = ("--model", IMAGENET, "--weights", str(weights), *mapped, "--precision", "bf16")
        return Teacher(name=IMAGENET.removeprefix("tf_"), flags=flags)

    def of_photographs(self) -> tuple[Teacher, ...]:
        """That one, as published and fitted to these classes under the students' recipe for six epochs, as
        params.folder.yaml does; and one that began from nothing."""
        weights = self._imagenet_weights()
        if weights is None:
            return (self.from_nothing(),)
        flags = ("--model", IMAGENET, "--weights", str(weights), "--lr", "0.0005", *RECIPE, *self.scale.strong)
        published = self.of_imagenet()
        tuned = self.fitted(f"{published.name}-tuned", flags, precision="bf16", epochs=6)
        return published, replace(tuned, name=f"{published.name}, tuned"), self.from_nothing()

    def from_nothing(self) -> Teacher:
        """A RegNetY-200MF that learned these photographs under the students' recipe and nothing else."""
        return self.fitted("regnety", ("--model", "regnety_002", *RECIPE, *self.scale.strong))

    def _classes(self) -> list[str]:
        return sorted(path.name for path in self.pictures.train.iterdir() if path.is_dir())

    def _imagenet_weights(self) -> Path | None:
        weights = None if self.weights is None else self.weights / f"{IMAGENET}.safetensors"
        return weights if weights is not None and weights.exists() else None

    def fitted(
        self, name: str, flags: Flags, precision: str | None = None, *, rows: int | None = None,
        shards: Step | None = None, epochs: int | None = None,
    ) -> Teacher:  # fmt: skip
        """A teacher of our own, fitted on so many labelled pictures (or on these shards), for so many epochs."""
        precision = precision or self.scale.fit_precision
        passes = str(epochs or self.scale.fit_epochs)
        shards = shards or self.shards(rows or self.scale.fit_rows)
        step = Step(
            "stages.fit_teacher",
            name,
            (
                *("--shards", f"{shards.path}/*.tar", "--val-shards", f"{self.held_out().path}/*.tar"),
                *("--recipe", "light", "--image-size", str(self.scale.side), "--batch", "128"),
                *("--epochs", passes, "--val-every", passes, *self.scale.speed, "--if-changed", "restart"),
                *("--precision", precision),
                *flags,
            ),
            (shards, self.held_out()),
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
            *self.scale.speed,
            *self.scale.kept,
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
        kept = scale.kept if module == "student.train" else ()
        own = (
            *("--model", TOKENS, "--patch-size", scale.patch, "--width", scale.width, "--depth", scale.depth),
            *("--heads", scale.heads, "--batch", scale.batch, "--lr", scale.lr, "--precision", scale.precision),
            *("--epochs", epochs, "--warmup-epochs", f"{scale.warmup * epochs / scale.epochs:g}", "--drop-path", 0),
            *("--seed", seed, *scale.speed, *kept, "--no-dvclive", "--if-changed", "restart"),
        )
        line = ("--logits", store.path, *map(str, own), *flags)
        return Step(module, f"{title}-{seed}", line, (store, *needs))

    def scores(self, students: Sequence[Step], *, judged: Step | None = None) -> tuple[Step, ...]:
        """Each head of each student on the held-out pictures, or on others."""
        return tuple(self._looked_at("student.evaluate", student, judged=judged) for student in students)

    def tokens(self, students: Sequence[Step]) -> tuple[Step, ...]:
        """How alike the tokens are, block by block."""
        return tuple(self._looked_at("student.tokens", student) for student in students)

    def inherited(self, students: Sequence[Step], told: Step) -> tuple[Step, ...]:
        """What each student shares with a teacher whose answers about the held-out pictures these are."""
        flags = ("--logits", told.path)
        return tuple(self._looked_at("benchmarks.evidence.inherited", one, *flags, needs=(told,)) for one in students)

    def _looked_at(
        self, module: str, student: Step, *flags: str, judged: Step | None = None, needs: Sequence[Step] = ()
    ) -> Step:  # fmt: skip
        judged = judged or self.judged()
        line = ("--checkpoint", student.path, "--shards", f"{judged.path}/*.tar", "--workers", "0", *flags)
        return Step(module, student.title, line, (student, judged, *needs), ".json")


def _share_pictures(one: str, other: str) -> bool:
    """Whether two tables of path,class name a picture in common."""
    first, second = ({line.partition(",")[0] for line in text.splitlines()[1:]} for text in (one, other))
    return not first.isdisjoint(second)


def small_regnety(*, depth: int, width: int, group: int) -> Flags:
    """RegNetY-200MF with fewer and narrower blocks, and half its strides, for small pictures."""
    shape = (f"depth={depth}", f"w0={width}", f"wa={width}", "wm=2.0", f"group_size={group}", "output_stride=8")
    return ("--model", "regnety_002", *(part for field in shape for part in ("--model-arg", field)))


def small_convnet_flags() -> Flags:
    """A RegNetY of six narrow blocks, and its learning rate."""
    return (*small_regnety(depth=6, width=24, group=8), "--lr", "0.002")


def small_transformer_flags(side: int) -> Flags:
    """A ViT of six blocks on patches of four pixels, and its learning rate."""
    shape = (f"img_size={side}", "patch_size=4", "embed_dim=128", "depth=6", "num_heads=4")
    return ("--model", PLAIN, *(part for field in shape for part in ("--model-arg", field)), "--lr", "0.001")
