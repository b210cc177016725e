"""Which teacher do the flags describe? Known before it is loaded, which takes the classes of the shards."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from pipeline.commands.class_flags import read_class_list
from pipeline.shards.index import SampleIndex
from pipeline.teacher.class_map import read_class_map
from pipeline.teacher.class_names import BY_NAME
from pipeline.teacher.fitted_recipe import other_views
from pipeline.teacher.loading import load_teacher, require_at_hand
from pipeline.teacher.teacher import Teacher
from pipeline.views.recipe import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherChoice:
    """A teacher as the flags describe it; each field is called as its flag."""

    model: str
    weights: Path | None
    class_map: Path | None
    teacher_classes: Path | None
    mean: str | None
    std: str | None
    teacher_size: str
    precision: str
    batch_size: int
    compiled: bool

    def require_at_hand(self) -> None:
        """Refuse, before the shards are read, a model or weights that are not there."""
        require_at_hand(self.model, self.weights)

    def load(self, recipe: Recipe, index: SampleIndex, device: str) -> Teacher:
        """The teacher, for views of this recipe and the classes of this index."""
        names = self.teacher_classes
        return load_teacher(
            self.model,
            view_size=recipe.image_size,
            weights=self.weights,
            device=device,
            precision=self.precision,
            batch_size=self.batch_size,
            input_size=self.teacher_size,
            mean=_numbers(self.mean, "--mean"),
            std=_numbers(self.std, "--std"),
            class_map=self._class_map(index),
            class_names=index.class_names,
            names=None if names is None else read_class_list(names, "--teacher-classes"),
            compiled=self.compiled,
        )

    def warn_of_other_views(self, recipe: Recipe) -> None:
        """Tell of a teacher that was fitted to other views than it will label."""
        if (told := other_views(self.model, self.weights, recipe)) is not None:
            log.warning("%s", told)

    def _class_map(self, index: SampleIndex) -> Sequence[int] | str | None:
        if self.class_map is None:
            return None
        return BY_NAME if str(self.class_map) == BY_NAME else read_class_map(self.class_map, index.class_names)


def _numbers(text: str | None, flag: str) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{flag} takes numbers with commas between them, not {text!r}") from None
