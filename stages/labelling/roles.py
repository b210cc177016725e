"""What does each process of a labelling do: the one that leads, those that follow, and one that only estimates?"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from typing import Any

import click

from pipeline.durable.file import write_json
from pipeline.durable.objects import open_objects
from pipeline.errors import TeacherError
from pipeline.inspection.doctor import doctor_text, examine, plain_recipe, sample_rows
from pipeline.inspection.gauge import gauge, gauge_text
from pipeline.inspection.quality import summarise, summary_text
from pipeline.labelling import generations
from pipeline.labelling.cost import estimate
from pipeline.labelling.fill import label_missing
from pipeline.labelling.first_answers import answers_of
from pipeline.labelling.store_status import standing
from pipeline.labelling.tasks import Handout, Task
from pipeline.labelling.writers import Telling, following_writer, index_at, leading_seat, leading_writer
from pipeline.labels.codes import Answers
from pipeline.models.out_of_memory import within_memory
from pipeline.shards.index import SampleIndex
from pipeline.store.reader import StoreReader
from pipeline.store.writer import StoreWriter
from pipeline.teacher.teacher import Teacher
from pipeline.views.recipe import Recipe
from stages.labelling.plan import LabellingPlan

log = logging.getLogger(__name__)

SMALLER = "Give a smaller --batch-size: it is part of the contract, so a store that was begun keeps its own."


def tell_cost(plan: LabellingPlan) -> None:
    """Say what the labelling would cost, from a short measured sample."""
    index = plan.index()
    teacher = plan.load_teacher(index)
    plan.teacher.warn_of_other_views(plan.recipe)
    manifest = plan.manifest(index, index.digest(), teacher)
    with within_memory(teacher.device, SMALLER):
        cost = estimate(
            manifest, index, teacher, views=plan.views, workers=plan.speed.workers, start_method=plan.speed.start_method
        )
        click.echo(cost.text())
    if found := standing(plan.out, manifest, plan.views):
        click.echo(f"{plan.out} is there: {found}")


def lead(plan: LabellingPlan, handout: Handout) -> None:
    """Open the store, hand out what is missing of this slice, take part, and finish."""
    objects, place = open_objects(plan.out), plan.place
    with leading_seat(objects, place, plan.timeout) as seat:
        index = plan.index()
        teacher = plan.load_teacher(index)
        plan.teacher.warn_of_other_views(plan.recipe)
        manifest = plan.manifest(index, index.digest(), teacher)
        answers = _answers(plan, teacher, plan.recipe, index)
        with leading_writer(objects, place, seat, partial(plan.open, manifest, index, answers)) as store:
            plan.require_same(store, manifest)
            _label_all(plan, store, teacher, index, handout, Telling(seat, place))
            if left := len(store.missing()):
                click.echo(
                    f"slice {place.slice + 1} of {place.slices} is done; {left} units of other slices are missing"
                )
                return
            measured = gauge(objects, store.manifest, answers)
            labels = store.finish()
            generations.keep_one(plan.out)
            summary = summarise(labels) | {"gauge": measured}
            summary["doctor"] = _examined(plan, labels, teacher, index, answers, summary)
            _report(plan, labels, summary)


def follow(plan: LabellingPlan, handout: Handout) -> None:
    """Label what the leading process hands out, until nothing is left."""
    todo = handout.listen()
    with following_writer(open_objects(plan.out), plan.timeout) as (store, seat):
        index = index_at(store.index, plan.urls)
        teacher = plan.load_teacher(index)
        plan.require_same(store, plan.manifest(index, store.manifest.index_digest, teacher))
        _label(plan, store, teacher, todo, index, handout, Telling(seat, plan.place), shown=False)


def _label_all(
    plan: LabellingPlan, store: StoreWriter, teacher: Teacher, index: SampleIndex, handout: Handout, telling: Telling
) -> None:
    """Hand out what is missing of this slice, and do what lost ranks had in hand."""
    tasks = plan.missing(store)
    todo = handout.announce(tasks)
    lost = _label(plan, store, teacher, todo, index, handout, telling) if tasks else handout.settle(lambda _: None)
    if lost:
        log.warning("ranks %s were lost; what they had in hand is done here", ", ".join(map(str, lost)))
    _refresh(plan, store)
    if rest := plan.missing(store):
        _label(plan, store, teacher, rest, index, Handout(), telling)
        _refresh(plan, store)  # meanwhile the other slices may have ended, and left the finish to this one


def _refresh(plan: LabellingPlan, store: StoreWriter) -> None:
    if not plan.place.alone:
        store.refresh()


def _label(
    plan: LabellingPlan, store: StoreWriter, teacher: Teacher, tasks: Iterable[Task], index: SampleIndex,
    handout: Handout, telling: Telling, shown: bool = True,
) -> list[int]:  # fmt: skip
    with within_memory(teacher.device, SMALLER):
        return label_missing(
            store,
            teacher,
            workers=plan.speed.workers,
            start_method=plan.speed.start_method,
            views_together=plan.views_together,
            tasks=tasks,
            index=index,
            handout=handout,
            shown=shown,
            tell=telling,
            pictures=plan.caches.pictures(index),
            view_cache=plan.drawn_once(index),
        )


def _answers(plan: LabellingPlan, teacher: Teacher, recipe: Recipe, index: SampleIndex) -> Answers:
    return answers_of(teacher, recipe, index, workers=plan.speed.workers, start_method=plan.speed.start_method)


def _examined(
    plan: LabellingPlan, store: StoreReader, teacher: Teacher, index: SampleIndex, answers: Answers,
    summary: dict[str, Any],
) -> dict[str, Any] | None:  # fmt: skip
    """What is found of the teacher beside its labels; None where its views are plain, or logits beyond all codes."""
    plain = plain_recipe(store.manifest.recipe)
    if plain is None:
        return None
    rows = sample_rows(store.manifest.rows, store.layout.views)
    asked = _answers(plan, teacher, plain, index)
    try:
        return examine(store.manifest.recipe, index, rows, answers, asked, summary)
    except TeacherError as error:
        log.warning("the teacher was not examined: %s", error)
        return None


def _report(plan: LabellingPlan, store: StoreReader, summary: dict[str, Any]) -> None:
    """Write and show the summary."""
    write_json(plan.summary, summary)
    click.echo(summary_text(summary))
    for line in (*gauge_text(summary["gauge"], summary["bytes_per_view"]), *doctor_text(summary["doctor"])):
        click.echo(f"  {line}")
    click.echo(f"store: {plan.out} ({store.layout.views} views × {store.manifest.rows} rows); summary: {plan.summary}")
