"""Which tables are there? By the names that the command takes."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.evidence import courses, experiments, frontier
from benchmarks.evidence.experiments import Experiment
from benchmarks.evidence.lab import Lab

EXPERIMENTS: dict[str, Callable[[Lab], Experiment]] = {
    "distillation": experiments.distillation,
    "efficiency": experiments.efficiency,
    "alpha": experiments.alpha,
    "weight": experiments.weight,
    "recipe": experiments.recipe,
    "length": courses.length,
    "views": experiments.views,
    "course": courses.course,
    "parting": courses.parting,
    "teachers": experiments.teachers,
    "temperature": experiments.temperature,
    "smoothing": experiments.smoothing,
    "inherit": courses.inherit,
    "storage": experiments.storage,
    "resolution": experiments.resolution,
    "transfer": courses.transfer,
    "frontier": frontier.frontier,
    "tokens": experiments.tokens,
    "online": experiments.online,
}
"""In the order in which they are run where none is named."""
ALONE: dict[str, Callable[[Lab], Experiment]] = {"packing": experiments.packing}
"""Of photographs, so not among those that are run by default."""
