"""Which pictures is a student judged on, how does it see them, and what does the teacher say about them?

An `EvaluationSet` is a set of shards seen through the evaluation recipe (centre crop, nothing random), whose classes
are the student's. With a label store of the same shards and recipe the teacher's answers come along, each proven by the
checksum of the view that it was given about. Every rank judges its own part of the rows, each row once, and reads the
answers about those alone; sums are added up.

Shapes: B pictures of a batch, R all rows, H W C picture.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import MismatchError, StudentError, ViewError
from pipeline.models.device import autocast
from pipeline.progress import Progress
from pipeline.proofs.proof import Luma
from pipeline.proofs.same_views import Labelled, Seen, compare_views
from pipeline.rendering.loader import Loader, requests_of
from pipeline.rendering.ring import Slot
from pipeline.shards.index import SampleIndex
from pipeline.shards.patterns import expand
from pipeline.shards.same_pictures import moved_to
from pipeline.shards.truth import PLAIN, LabelRule
from pipeline.store.reader import StoreReader
from pipeline.views.recipe import Recipe
from student.checkpoints.trained import Saved
from student.feed.tensors import normalise
from student.judging.classes import require_classes
from student.judging.evaluation_recipe import evaluation_recipe
from student.judging.metrics import Scores, heads_on_cpu
from student.judging.predictions import Predictions
from student.network.model import Heads, Student
from student.ranks.ranks import Ranks
from student.ranks.shared_index import indexed


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Teaching:
    """What a store says about the first view of some rows that follow one another."""

    first: int
    """Row 0 of the arrays"""
    argmax_R: NDArray[np.int64]
    crc_R: NDArray[np.uint32]
    luma: Luma
    """The form of the checksums (`pipeline.proofs.proof`)"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationBatch:
    """Some pictures on the device, with their rows, their true classes and the teacher's answers."""

    row_B: NDArray[np.int64]
    pixels_BHWC: Tensor
    truth_B: Tensor
    """int64; -1 is unlabelled."""
    teacher_B: Tensor | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSet:
    """The rows that a student is judged on, and the recipe that they are seen through."""

    index: SampleIndex
    recipe: Recipe
    teaching: Teaching | None = None

    def batches(
        self, ranks: Ranks, *, batch: int, workers: int, start_method: str | None = None, name: str = "evaluate"
    ) -> Iterator[EvaluationBatch]:
        """This rank's part of the rows, in order, with a progress line on rank 0."""
        first, last = ranks.part(len(self.index))
        requests = requests_of(np.arange(first, last), 0, batch)
        with (
            Loader(self.recipe, self.index, batch=batch, workers=workers, start_method=start_method) as loader,
            Progress(name, last - first, "images", shown=ranks.main) as progress,
        ):
            for slot in loader.render(requests):
                yield self._batch(slot, ranks.device)
                progress.advance(len(slot.row_B))

    def _batch(self, slot: Slot, device: torch.device) -> EvaluationBatch:
        teacher_B = None
        if self.teaching is not None:
            self._require_same_views(slot, self.teaching)
            teacher_B = torch.from_numpy(self.teaching.argmax_R[slot.row_B - self.teaching.first])
        return EvaluationBatch(
            row_B=slot.row_B.copy(),
            pixels_BHWC=torch.from_numpy(slot.pixels_BHWC).to(device),
            truth_B=torch.from_numpy(self.index.classes[slot.row_B].astype(np.int64)),
            teacher_B=teacher_B,
        )

    def _require_same_views(self, slot: Slot, teaching: Teaching) -> None:
        known = Labelled(teaching.luma, teaching.crc_R[slot.row_B - teaching.first])
        found = compare_views(Seen(slot.crc_B, slot.luma_B16), known)
        if found.first is not None:
            at = found.first
            row = int(slot.row_B[at])
            raise ViewError(
                f"Row {row} (key '{self.index.key(row)}') is not the picture that the teacher saw: its pixels have "
                f"checksum {found.crc_B[at]:08x} here, {known.crc_B[at]:08x} in the store. "
                "Label these shards here, or leave --logits out."
            )


def open_evaluation_set(
    shards: Sequence[str],
    saved: Saved,
    ranks: Ranks,
    *,
    crop_pct: float | None = None,
    on_bad_image: str = "refuse",
    logits: str | Path | None = None,
    workers: int = 0,
    rule: LabelRule = PLAIN,
) -> EvaluationSet:
    """The shards as this student is judged on them; refused where classes or the store do not fit it."""
    recipe = evaluation_recipe(saved.spec.image_size, crop_pct, on_bad_image)
    learned: Any = {"known": saved.spec.num_classes, "known_names": saved.class_names}
    if logits is None:
        if rule.names is None:
            rule = LabelRule(key=rule.key, names=saved.class_names, assumed=True)
        index = indexed(shards, ranks, workers=workers, rule=rule)
        require_classes(index.num_classes, index.class_names, **learned, what="The shards")
        return EvaluationSet(index=index, recipe=recipe)
    if rule != PLAIN:
        raise MismatchError(
            f"--label-key and --classes do not go with --logits: {logits} knows the classes of its rows."
        )
    store = StoreReader.open(logits, check_sizes=ranks.main)
    require_classes(store.manifest.num_classes, store.manifest.class_names, **learned, what=str(logits))
    return EvaluationSet(
        index=moved_to(store.index, expand(shards)),
        recipe=_same_recipe(recipe, store.manifest.recipe, logits),
        teaching=_teaching(store, ranks),
    )


def _same_recipe(wanted: Recipe, stored: Recipe, logits: str | Path) -> Recipe:
    """The store's recipe, if it shows what is judged; what decides nothing here (seed, mix window) may differ."""
    idle = {name: getattr(stored, name) for name in ("seed", "mix_window", "on_bad_image", "crop_scale", "crop_ratio")}
    others = dataclasses.replace(wanted, **idle).differences(stored)
    if others:
        raise MismatchError(
            f"{logits} holds answers about other views than those judged here: {'; '.join(others)}. Label these shards "
            f"with 'stages.teacher_logits --recipe none --image-size {wanted.image_size} "
            f"--crop-pct {wanted.crop_pct:g} --views 1', or leave --logits out."
        )
    return stored


def _teaching(store: StoreReader, ranks: Ranks) -> Teaching:
    """What it says about the rows that this rank judges; no other units are read."""
    first, last = ranks.part(store.manifest.rows)
    unit_rows = store.manifest.unit_rows
    runs = range(first // unit_rows, -(-last // unit_rows)) if first < last else range(1)
    units = [store.read_arrays(0, run, ("argmax", "crc")) for run in runs]
    return Teaching(
        first=runs.start * unit_rows,
        argmax_R=np.concatenate([unit["argmax"] for unit in units]).astype(np.int64),
        crc_R=np.concatenate([unit["crc"] for unit in units]),
        luma=store.manifest.luma,
    )


class Judge:
    """Students on one device, each answering the same pictures; adds up their scores and their time."""

    def __init__(self, students: Mapping[str, Student], saved: Saved, ranks: Ranks, precision: str = "fp32") -> None:
        self.ranks, self.precision = ranks, precision
        self.students = {
            name: student.to(ranks.device).to(memory_format=torch.channels_last).eval()
            for name, student in students.items()
        }
        self._mean, self._std = (torch.tensor(values, device=ranks.device) for values in (saved.mean, saved.std))
        self._seconds = self._forward_seconds = 0.0
        self._answered = 0

    def score(
        self,
        batches: Iterator[EvaluationBatch],
        *,
        num_classes: int,
        teacher: bool,
        predictions: Predictions | None = None,
    ) -> dict[str, Scores]:
        """Scores of every student, over all ranks; what the first one names for each picture goes to `predictions`."""
        begun = time.perf_counter()
        scores = {
            name: Scores(num_classes, two_heads=student.two_heads, teacher=teacher)
            for name, student in self.students.items()
        }
        for batch in batches:
            answers = self.answers(batch.pixels_BHWC)
            for name, heads in answers.items():
                scores[name].add(heads, batch.truth_B, batch.teacher_B)
            if predictions is not None:
                predictions.add(next(iter(answers.values())), batch.row_B, batch.truth_B, batch.teacher_B)
        for score in scores.values():
            score.reduce()
        self._seconds += time.perf_counter() - begun
        return scores

    def speed(self) -> dict[str, float]:
        """Pictures a second over all ranks (as this one saw it): of everything, and of one forward pass alone."""
        pictures = self._answered / len(self.students) * self.ranks.world
        return {
            "images_per_second": round(pictures / max(self._seconds, 1e-9), 1),
            "forward_images_per_second": round(pictures * len(self.students) / max(self._forward_seconds, 1e-9), 1),
        }

    def answers(self, pixels_BHWC: Tensor) -> dict[str, Heads]:
        """What each student says about these pictures: float32 logits on the CPU, once they are there."""
        begun = time.perf_counter()
        x_BCHW = self.prepare(pixels_BHWC)
        found = {}
        for name, student in self.students.items():
            with torch.inference_mode(), autocast(self.ranks.device, self.precision):
                heads: Heads = student(x_BCHW)
            found[name] = _finite(heads_on_cpu(heads), name, self.precision)
            self._answered += len(x_BCHW)
        self._forward_seconds += time.perf_counter() - begun
        return found

    def prepare(self, pixels_BHWC: Tensor) -> Tensor:
        """Pictures as uint8 made into the input that the students expect."""
        return normalise(pixels_BHWC, self._mean, self._std)


def _finite(heads: Heads, name: str, precision: str) -> Heads:
    if not all(bool(torch.isfinite(logits).all()) for logits in heads if logits is not None):
        raise StudentError(
            f"The answers of {name} are not finite numbers in {precision}. Use --precision fp32, or another checkpoint."
        )
    return heads
