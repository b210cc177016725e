"""What is asked of a labelling: which views of which rows, by which teacher, kept how and where?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from pipeline.commands.outputs import beside
from pipeline.commands.speed_flags import Speed
from pipeline.errors import ContractError, MismatchError
from pipeline.labelling import generations
from pipeline.labelling.tasks import Task, slice_of, tasks_of
from pipeline.labelling.writers import luma_for, open_to_label
from pipeline.labels.codes import Answers
from pipeline.labels.keep import Keep, parse_temperatures
from pipeline.labels.keeps import parse_keep
from pipeline.processes.world import Place
from pipeline.rendering.node_caches import NodeCaches
from pipeline.rendering.view_cache import ViewCache
from pipeline.shards.index import SampleIndex, scan
from pipeline.shards.patterns import expand
from pipeline.shards.rows import require_unchanged
from pipeline.shards.same_pictures import moved_to
from pipeline.shards.truth import LabelRule
from pipeline.store.manifest import Manifest, unit_rows_for
from pipeline.store.reader import stored_index
from pipeline.store.writer import StoreWriter
from pipeline.teacher.teacher import Teacher
from pipeline.views.recipe import Recipe
from stages.labelling.teacher_choice import TeacherChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class LabellingPlan:
    """All that one process was asked to do, and where it stands among the others."""

    place: Place
    urls: tuple[str, ...]
    rule: LabelRule
    recipe: Recipe
    teacher: TeacherChoice
    speed: Speed
    out: str
    given_summary: Path | None
    views: int
    keep: Keep
    temperatures: tuple[float, ...]
    unit_rows: int | None
    luma: bool | None
    """Whether thumbnails are kept; None leaves it to the store"""
    views_together: int
    timeout: float
    caches: NodeCaches
    rebuild: bool
    """Whether a store that was made otherwise is set aside"""
    recheck: bool

    @classmethod
    def of(
        cls, shards: tuple[str, ...], rule: LabelRule, recipe: Recipe, teacher: TeacherChoice, speed: Speed, out: str,
        summary: Path | None, views: int, keep: str, temperatures: str, unit_rows: int | None, luma: bool | None,
        views_together: int, timeout: float, caches: NodeCaches, if_changed: str, recheck: bool,
    ) -> LabellingPlan:  # fmt: skip
        """What the flags ask for; each parameter is called as its flag."""
        place = Place.from_environment()
        return cls(
            place=place,
            urls=expand(shards),
            rule=rule,
            recipe=recipe,
            teacher=teacher,
            speed=speed.shared_by(place.local_world),
            out=out,
            given_summary=summary,
            views=views,
            keep=parse_keep(keep),
            temperatures=parse_temperatures(temperatures),
            unit_rows=unit_rows,
            luma=luma,
            views_together=views_together,
            timeout=timeout,
            caches=caches,
            rebuild=if_changed == "rebuild",
            recheck=recheck,
        )

    @property
    def summary(self) -> Path:
        """Where the summary is written: as asked for, or beside the store."""
        return self.given_summary or beside(self.out, ".summary.json")

    def index(self) -> SampleIndex:
        """The store's own index where it has one (images are held to it as they are read), else one scan."""
        stored, rule = None if self.rebuild else stored_index(self.out), self.rule
        if stored is None or rule.key not in (None, stored.label_key) or rule.names not in (None, stored.class_names):
            return scan(self.urls, workers=self.speed.workers, progress=True, rule=rule)
        index = stored if stored.urls == self.urls else moved_to(stored, self.urls)
        require_unchanged(index)
        return index

    def load_teacher(self, index: SampleIndex) -> Teacher:
        """Build the teacher that the flags describe, on this process's device."""
        return self.teacher.load(self.recipe, index, self.place.device(self.speed.device, torch.cuda.device_count()))

    def manifest(self, index: SampleIndex, digest: str, teacher: Teacher) -> Manifest:
        """The contract of the store; data whose classes are not the teacher's are refused."""
        teacher.require_classes_of(index)
        return Manifest(
            recipe=self.recipe,
            index_digest=digest,
            rows=len(index),
            teacher=teacher.card,
            keep=self.keep,
            temperatures=self.temperatures,
            num_classes=teacher.num_classes,
            class_names=index.class_names,
            class_map=teacher.class_map,
            unit_rows=self.unit_rows or unit_rows_for(len(index), self.recipe.mix_window),
            luma=luma_for(self.out, self.luma),
        )

    def open(self, manifest: Manifest, index: SampleIndex, answers: Answers) -> StoreWriter:
        """The store to fill; one that was made otherwise is refused, or set aside where --if-changed allows it."""
        open_it = partial(open_to_label, self.out, manifest, index, self.views, answers=answers, recheck=self.recheck)
        if self.rebuild:  # what a killed run had set aside, or an earlier value of a flag, may be the very one
            generations.bring_back(self.out, manifest)
        try:
            return open_it()
        except ContractError as changed:
            if not self.rebuild:
                raise
            generations.set_aside(self.out, str(changed))
        generations.bring_back(self.out, manifest)
        return open_it()

    def require_same(self, store: StoreWriter, manifest: Manifest) -> None:
        """Refuse a store that another process opened for other labels: all must label alike."""
        store.manifest.require_same(manifest, where=store.name)
        if store.layout.views < self.views:
            raise MismatchError(
                f"{store.name} is opened with {store.layout.views} views, this process asks for {self.views}. Give one "
                "number."
            )

    def drawn_once(self, index: SampleIndex) -> ViewCache | None:
        """The cache that the flags ask for, for views to be left in: what is labelled was drawn now, never read."""
        return self.caches.drawn(self.recipe, index, self.views, reads=False)

    def missing(self, store: StoreWriter) -> list[Task]:
        """The tasks that are left in the part of the store that is this process's slice."""
        return tasks_of(slice_of(store.missing(), self.views_together, self.place), self.views_together)
