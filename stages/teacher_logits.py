"""Run the teacher once over augmented views of the shards, and store what it says.

    python -m stages.teacher_logits --shards 'data/train/{000000..000003}.tar' --model regnety_160 --views 10
    torchrun --nproc-per-node 8 -m stages.teacher_logits --shards … --out store.zarr       # srun, sbatch --array

Index the shards, load the teacher, open (or create, or extend) the store, do what is missing, mark it complete, and
write a summary from which a wrong class order or normalisation can be seen at once. With several ranks, rank 0 does all
that, and units are handed to whoever is free (`pipeline.labelling.tasks`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from pipeline.commands.cache_flags import picture_cache_options
from pipeline.commands.class_flags import label_options, read_class_list, take_rule
from pipeline.commands.command import Finite, command
from pipeline.commands.outputs import beside, require_new_folder, require_writable
from pipeline.commands.recipe_flags import recipe_options, take_recipe
from pipeline.commands.speed_flags import shards_option, share_workers, speed_options
from pipeline.durable.file import write_json
from pipeline.durable.objects import open_objects
from pipeline.errors import ContractError, MismatchError, TeacherError
from pipeline.inspection.doctor import doctor_text, examine, plain_recipe, sample_rows
from pipeline.inspection.gauge import gauge, gauge_text
from pipeline.inspection.quality import summarise, summary_text
from pipeline.labelling import generations
from pipeline.labelling.cost import estimate
from pipeline.labelling.fill import label_missing
from pipeline.labelling.first_answers import Answers, answers_of
from pipeline.labelling.tasks import Handout, Task, handout_of, slice_of, tasks_of
from pipeline.labelling.writers import (
    following_writer,
    index_at,
    leading_seat,
    leading_writer,
    luma_for,
    open_to_label,
)
from pipeline.labels.keep import parse_temperatures
from pipeline.labels.keeps import parse_keep
from pipeline.models.out_of_memory import within_memory
from pipeline.picture_cache.kept import PictureCache
from pipeline.picture_cache.of_index import pictures_in
from pipeline.processes.start import settle_start_method
from pipeline.processes.world import Place
from pipeline.shards.index import SampleIndex, scan
from pipeline.shards.patterns import expand
from pipeline.shards.truth import LabelRule
from pipeline.store.manifest import Manifest, unit_rows_for
from pipeline.store.reader import StoreReader, stored_index
from pipeline.store.unchanged import require_unchanged
from pipeline.store.writer import StoreWriter
from pipeline.teacher.class_map import read_class_map
from pipeline.teacher.class_names import BY_NAME
from pipeline.teacher.fitted_recipe import other_views
from pipeline.teacher.loading import load_teacher, require_at_hand
from pipeline.teacher.teacher import Teacher
from pipeline.views.recipe import Recipe

log = logging.getLogger(__name__)

SMALLER = "Give a smaller --batch-size: it is part of the contract, so a store that was begun keeps its own."


@command()
@shards_option
@label_options
@click.option("--out", default="store.zarr", help="The store to fill: a directory, or s3://bucket/name.zarr.")
@click.option("--model", default="regnety_160", help="A timm model, local-dir:FOLDER, or module:function of yours.")
@click.option("--weights", type=click.Path(path_type=Path), help="safetensors or checkpoint.  [default: timm's own]")
@click.option("--views", type=click.IntRange(1, 1_000_000), default=10, help="Augmented views of every row.")
@click.option("--keep", default="dense", help="What of the logits: dense, topk:K, lowrank:K+R, or argmax.")
@click.option("--temperatures", default="1,3", help="Temperatures at which a topk store is exact.")
@click.option(
    "--class-map", type=click.Path(path_type=Path), help="Which teacher class each data class is: JSON, or by-name."
)
@click.option(
    "--teacher-classes", type=click.Path(path_type=Path), help="Names of the teacher's classes.  [default: its own]"
)
@click.option("--mean", help="The teacher's input mean, as 'R,G,B' in 0 to 1.  [default: the model's own]")
@click.option("--std", help="The teacher's input standard deviation, likewise.  [default: the model's own]")
@click.option("--teacher-size", default="auto", help="Side at which the teacher looks: auto, view, or pixels.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    help="auto: bf16 on cuda, fp16 where cuda emulates it.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=128, help="Views a forward pass; part of the contract."
)
@click.option(
    "--unit-rows",
    type=click.IntRange(min=1),
    help="Rows finished at once, a power of two.  [default: by the data's size]",
)
@click.option(
    "--luma/--no-luma",
    default=None,
    help="Keep 16-byte thumbnails for --accept-drift, or nothing.  [default: 2 bytes, within the checksum's 4]",
)
@recipe_options
@speed_options
@picture_cache_options
@click.option(
    "--timeout",
    type=Finite(min=1),
    default=600.0,
    envvar="DISTILL_TIMEOUT",
    help="Seconds after which a rank that cannot be reached counts as lost.",
)
@click.option("--compile", "compiled", is_flag=True, help="torch.compile the teacher; part of the contract.")
@click.option(
    "--views-together", type=click.IntRange(min=1), default=8, help="Views that share one decode. Speed only."
)
@click.option("--summary", type=click.Path(path_type=Path), help="Summary JSON.  [default: beside the store]")
@click.option(
    "--if-changed",
    type=click.Choice(["refuse", "rebuild"]),
    default="refuse",
    help="A store made otherwise (recipe, shards, teacher, …) is refused with what differs; or set aside, and made.",
)
@click.option(
    "--recheck", is_flag=True, help="Read all that is finished, and do what is damaged anew.  [default: list it]"
)
@click.option("--dry-run", is_flag=True, help="Say what it would cost, from a short measured sample; write nothing.")
def main(**flags: Any) -> None:
    """Run the teacher once over augmented views of the shards and store its answers.

    \b
    Example:
      python -m stages.teacher_logits --shards 'data/train/*.tar' --model regnety_160 --views 10 --out store.zarr
    """
    place, recipe, urls = Place.from_environment(), take_recipe(flags), expand(flags["shards"])
    flags["rule"] = take_rule(flags)
    _settle_processes(flags, place, urls)
    if place.leads:
        require_at_hand(flags["model"], flags["weights"])
    if flags["dry_run"]:
        _estimate(flags, place, recipe, urls)
        return
    require_new_folder(flags["out"])
    if place.leads:
        flags["summary"] = flags["summary"] or beside(flags["out"], ".summary.json")
        require_writable(flags["summary"], "--summary")
    with handout_of(place, timeout_s=flags["timeout"]) as handout:
        if place.leads:
            _lead(flags, place, recipe, urls, handout)
        else:
            _follow(flags, place, recipe, urls, handout)


def _settle_processes(flags: dict[str, Any], place: Place, urls: tuple[str, ...]) -> None:
    """How this process starts others, how many, and how much it says."""
    settle_start_method((*urls, flags["out"]), flags["start_method"])
    flags["workers"] = share_workers(flags["workers"], place.local_world)
    if not place.leads:
        logging.getLogger().setLevel(logging.WARNING)


def _estimate(flags: dict[str, Any], place: Place, recipe: Recipe, urls: tuple[str, ...]) -> None:
    if place.leads and place.slice == 0:
        index = _index(flags, urls)
        teacher = _teacher(flags, place, recipe, index)
        _warn_of_other_views(flags, recipe)
        manifest = _manifest(flags, recipe, index, index.digest(), teacher)
        speed = {name: flags[name] for name in ("views", "workers", "start_method")}
        with within_memory(teacher.device, SMALLER):
            click.echo(estimate(manifest, index, teacher, **speed).text())


def _lead(flags: dict[str, Any], place: Place, recipe: Recipe, urls: tuple[str, ...], handout: Handout) -> None:
    """Open the store, hand out what is missing of this slice, take part, and finish."""
    objects = open_objects(flags["out"])
    with leading_seat(objects, place, flags["timeout"]) as seat:
        index = _index(flags, urls)
        teacher = _teacher(flags, place, recipe, index)
        _warn_of_other_views(flags, recipe)
        manifest = _manifest(flags, recipe, index, index.digest(), teacher)
        answers = answers_of(teacher, recipe, index, workers=flags["workers"], start_method=flags["start_method"])
        with leading_writer(objects, place, seat, partial(_open, flags, manifest, index, answers)) as store:
            _require_same(store, manifest, flags["views"])
            tasks = _missing(store, place, flags)
            todo = handout.announce(tasks)
            lost = _label(store, teacher, todo, index, flags, handout) if tasks else handout.settle(lambda _: None)
            if lost:
                log.warning("ranks %s were lost; what they had in hand is done here", ", ".join(map(str, lost)))
            _refresh(store, place)
            if rest := _missing(store, place, flags):
                _label(store, teacher, rest, index, flags, Handout())
                _refresh(store, place)  # meanwhile the other slices may have ended, and left the finish to this one
            if left := len(store.missing()):
                click.echo(
                    f"slice {place.slice + 1} of {place.slices} is done; {left} units of other slices are missing"
                )
                return
            measured = gauge(objects, store.manifest, answers)
            labels = store.finish()
            generations.keep_one(flags["out"])
            summary = summarise(labels) | {"gauge": measured}
            summary["doctor"] = _examined(labels, teacher, index, answers, summary["view_agreement"], flags)
            _report(labels, summary, flags)


def _follow(flags: dict[str, Any], place: Place, recipe: Recipe, urls: tuple[str, ...], handout: Handout) -> None:
    """Do what is handed out."""
    todo = handout.listen()
    with following_writer(open_objects(flags["out"]), flags["timeout"]) as store:
        index = index_at(store.index, urls)
        teacher = _teacher(flags, place, recipe, index)
        _require_same(store, _manifest(flags, recipe, index, store.manifest.index_digest, teacher), flags["views"])
        _label(store, teacher, todo, index, flags, handout, shown=False)


def _refresh(store: StoreWriter, place: Place) -> None:
    if not place.alone:
        store.refresh()


def _missing(store: StoreWriter, place: Place, flags: dict[str, Any]) -> list[Task]:
    """The tasks of this slice that are left."""
    together = flags["views_together"]
    return tasks_of(slice_of(store.missing(), together, place), together)


def _label(
    store: StoreWriter,
    teacher: Teacher,
    tasks: Iterable[Task],
    index: SampleIndex,
    flags: dict[str, Any],
    handout: Handout,
    shown: bool = True,
) -> list[int]:
    with within_memory(teacher.device, SMALLER):
        return label_missing(
            store,
            teacher,
            workers=flags["workers"],
            start_method=flags["start_method"],
            views_together=flags["views_together"],
            tasks=tasks,
            index=index,
            handout=handout,
            shown=shown,
            pictures=_pictures(flags, index),
        )


def _pictures(flags: dict[str, Any], index: SampleIndex) -> PictureCache | None:
    """The decoded pictures that this node keeps."""
    folder = flags["picture_cache"]
    return None if folder is None else pictures_in(folder, flags["picture_cache_size"], index)


def _require_same(store: StoreWriter, manifest: Manifest, views: int) -> None:
    """All processes must label alike."""
    store.manifest.require_same(manifest, where=store.name)
    if store.layout.views < views:
        raise MismatchError(
            f"{store.name} is opened with {store.layout.views} views, this process asks for {views}. Give one number."
        )


def _examined(
    store: StoreReader, teacher: Teacher, index: SampleIndex, answers: Answers, agreement: float | None,
    flags: dict[str, Any],
) -> dict[str, Any] | None:  # fmt: skip
    """What is found of the teacher beside its labels; None where its views are plain, or logits beyond all codes."""
    plain = plain_recipe(store.manifest.recipe)
    if plain is None:
        return None
    asked = answers_of(teacher, plain, index, workers=flags["workers"], start_method=flags["start_method"])
    rows = sample_rows(store.manifest.rows, store.layout.views)
    try:
        return examine(store.manifest.recipe, index, rows, answers, asked, agreement)
    except TeacherError as error:
        log.warning("the teacher was not examined: %s", error)
        return None


def _report(store: StoreReader, summary: dict[str, Any], flags: dict[str, Any]) -> None:
    """Write and show the summary."""
    out, path = flags["out"], flags["summary"]
    write_json(path, summary)
    click.echo(summary_text(summary))
    for line in (*gauge_text(summary["gauge"], summary["bytes_per_view"]), *doctor_text(summary["doctor"])):
        click.echo(f"  {line}")
    click.echo(f"store: {out} ({store.layout.views} views × {store.manifest.rows} rows); summary: {path}")


def _index(flags: dict[str, Any], urls: tuple[str, ...]) -> SampleIndex:
    """The store's own index where it has one (images are held to it as they are read), else one scan."""
    stored = stored_index(flags["out"]) if flags["if_changed"] == "refuse" else None
    rule: LabelRule = flags["rule"]
    if stored is None or rule.key not in (None, stored.label_key) or rule.names not in (None, stored.class_names):
        return scan(urls, workers=flags["workers"], progress=True, rule=rule)
    index = stored if stored.urls == urls else stored.moved_to(urls)
    require_unchanged(index)
    return index


def _open(flags: dict[str, Any], manifest: Manifest, index: SampleIndex, answers: Answers) -> StoreWriter:
    """The store to fill; one that was made otherwise is refused, or set aside where --if-changed allows it."""
    rebuild = flags["if_changed"] == "rebuild"
    open_it = partial(
        open_to_label, flags["out"], manifest, index, flags["views"], answers=answers, recheck=flags["recheck"]
    )
    if rebuild:  # what a killed run had set aside, or an earlier value of a flag, may be the very one
        generations.bring_back(flags["out"], manifest)
    try:
        return open_it()
    except ContractError as changed:
        if not rebuild:
            raise
        generations.set_aside(flags["out"], str(changed))
    generations.bring_back(flags["out"], manifest)
    return open_it()


def _teacher(flags: dict[str, Any], place: Place, recipe: Recipe, index: SampleIndex) -> Teacher:
    class_map, names = flags["class_map"], flags["teacher_classes"]
    if class_map is not None:
        class_map = BY_NAME if str(class_map) == BY_NAME else read_class_map(class_map, index.class_names)
    return load_teacher(
        flags["model"],
        view_size=recipe.image_size,
        weights=flags["weights"],
        device=place.device(flags["device"], torch.cuda.device_count()),
        precision=flags["precision"],
        batch_size=flags["batch_size"],
        input_size=flags["teacher_size"],
        mean=_numbers(flags["mean"], "--mean"),
        std=_numbers(flags["std"], "--std"),
        class_map=class_map,
        class_names=index.class_names,
        names=None if names is None else read_class_list(names, "--teacher-classes"),
        compiled=flags["compiled"],
    )


def _warn_of_other_views(flags: dict[str, Any], recipe: Recipe) -> None:
    if (told := other_views(flags["model"], flags["weights"], recipe)) is not None:
        log.warning("%s", told)


def _manifest(flags: dict[str, Any], recipe: Recipe, index: SampleIndex, digest: str, teacher: Teacher) -> Manifest:
    teacher.require_classes_of(index)
    return Manifest(
        recipe=recipe,
        index_digest=digest,
        rows=len(index),
        teacher=teacher.card,
        keep=parse_keep(flags["keep"]),
        temperatures=parse_temperatures(flags["temperatures"]),
        num_classes=teacher.num_classes,
        class_names=index.class_names,
        class_map=teacher.class_map,
        unit_rows=flags["unit_rows"] or unit_rows_for(len(index), recipe.mix_window),
        luma=luma_for(flags["out"], flags["luma"]),
    )


def _numbers(text: str | None, flag: str) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{flag} takes numbers with commas between them, not {text!r}") from None


if __name__ == "__main__":
    main()
