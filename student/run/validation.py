"""How good is the student in the middle of its training?

Every rank scores its own part of the validation rows (no row twice, none padded), the student and its moving average on
the same pixels; the counts are then added up. A request to stop ends it early on all ranks, without a result.

Shapes: B views.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from pipeline.rendering.loader import Loader, requests_of
from pipeline.shards.index import SampleIndex
from student.judging.evaluation_recipe import evaluation_recipe
from student.judging.metrics import Scores
from student.learning.engine import Engine
from student.network.model import Heads, Student
from student.ranks.ranks import Ranks, Stop

BATCH = 64
SHOWN = {"": ("fused_logits", "class"), "_class": ("class",), "_distillation": ("distillation",)}
"""Endings of the names in the log → the answer that they are about (the first that the student has)."""


class Validation:
    """A validation set, rendered as in evaluation: the centre, and nothing random."""

    def __init__(
        self,
        index: SampleIndex,
        *,
        image_size: int,
        num_classes: int,
        ranks: Ranks,
        workers: int,
        start_method: str | None = None,
    ) -> None:
        self.index, self.num_classes, self.ranks = index, num_classes, ranks
        recipe = evaluation_recipe(image_size)
        self.loader = Loader(recipe, index, batch=BATCH, workers=workers, start_method=start_method)
        self.row_R = np.arange(*ranks.part(len(index)))

    def __call__(self, engine: Engine, stop: Stop) -> dict[str, float] | None:
        """Scores by name; those of the moving average begin with ``ema_``. None when a rank was asked to stop."""
        students: dict[str, Student] = {"": engine.student.eval()}
        if engine.ema is not None:
            students["ema_"] = engine.averaged()
        scores = {name: Scores(self.num_classes, two_heads=student.two_heads) for name, student in students.items()}
        for heads, truth_B in self._answers(engine, students, stop):
            for name, score in scores.items():
                score.add(heads[name], truth_B)
        if self.ranks.sum(torch.tensor(float(stop.signal != 0), device=self.ranks.device)) > 0:
            return None
        found: dict[str, float] = {}
        for name, score in scores.items():
            score.reduce()
            found |= {f"{name}{key}": value for key, value in _shown(score).items()}
        return found

    def _answers(
        self, engine: Engine, students: dict[str, Student], stop: Stop
    ) -> Iterator[tuple[dict[str, Heads], torch.Tensor]]:
        for slot in self.loader.render(requests_of(self.row_R, 0, BATCH)):
            if stop.signal:
                return
            pixels_BHWC = torch.from_numpy(slot.pixels_BHWC).to(self.ranks.device)
            truth_B = torch.from_numpy(self.index.classes[slot.row_B].astype(np.int64))
            yield {name: engine.answer(student, pixels_BHWC) for name, student in students.items()}, truth_B


def _shown(score: Scores) -> dict[str, float]:
    summary = {name: tally.summary() for name, tally in score.tallies.items()}
    found: dict[str, float] = {}
    for ending, answers in SHOWN.items():
        answer = next((name for name in answers if name in summary), None)
        if answer is None or (ending == "_class" and len(summary) == 1):
            continue
        measures = ("top1",) if ending else ("top1", "top5", "loss")
        for measure in measures:
            value = summary[answer][measure]
            if value is not None:
                found[f"val_{measure}{ending}" if measure == "loss" else f"{measure}{ending}"] = value
    return found
