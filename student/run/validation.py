"""How good is the student in the middle of its training?

Every rank scores its own part of the validation rows (no row twice, none padded), the student and its moving average on
the same pixels, which are drawn once (`kept_views`); the counts are then added up. A request to stop ends it early on
all ranks, without a result.

Shapes: B views.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from pipeline.rendering.loader import Loader, requests_of
from pipeline.shards.index import SampleIndex
from student.judging.evaluation_recipe import evaluation_recipe
from student.judging.metrics import Scores
from student.learning.engine import Engine
from student.network.model import Heads, Student
from student.ranks.ranks import Ranks, Stop
from student.run.kept_views import KeptViews

BATCH = {"cpu": 64}
LARGE_BATCH = 256
"""Of other devices, which are idle while the host launches the next"""
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
        folder: Path,
        start_method: str | None = None,
    ) -> None:
        """The views are kept in `folder` once they have been drawn."""
        self.index, self.num_classes, self.ranks = index, num_classes, ranks
        recipe = evaluation_recipe(image_size)
        batch = BATCH.get(ranks.device.type, LARGE_BATCH)
        self.loader = Loader(recipe, index, batch=batch, workers=workers, start_method=start_method)
        requests = list(requests_of(np.arange(*ranks.part(len(index))), 0, batch))
        self.kept = KeptViews(requests, image_size, folder)

    def __enter__(self) -> Validation:
        return self

    def __exit__(self, *_: object) -> None:
        self.loader.close()
        self.kept.close()

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
        with contextlib.closing(self.kept.batches(self.loader.render)) as batches:
            for row_B, drawn_BHWC in batches:
                if stop.signal:
                    return
                pixels_BHWC = torch.from_numpy(drawn_BHWC).to(self.ranks.device)
                truth_B = torch.from_numpy(self.index.classes[row_B].astype(np.int64))
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
