"""Run the teacher once over augmented views of the shards, and store what it says.

    python -m stages.teacher_logits --shards 'data/train/{000000..000003}.tar' --model regnety_160 --views 10

Index the shards, load the teacher, open (or create, or extend) the store, do what is missing, mark it complete, and
write a summary from which a wrong class order or normalisation can be seen at once.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import click

from pipeline import cli
from pipeline.classmap import read_class_map
from pipeline.cost import estimate
from pipeline.errors import MismatchError
from pipeline.index import SampleIndex, scan
from pipeline.labelling import label_missing
from pipeline.labels import Keep
from pipeline.manifest import Manifest, unit_rows_for
from pipeline.quality import summarise, summary_text
from pipeline.recipe import Recipe
from pipeline.shards import expand
from pipeline.store import LabelStore
from pipeline.teacher import Teacher, load_teacher

log = logging.getLogger(__name__)


@cli.command()
@cli.shards_option
@click.option("--out", type=click.Path(path_type=Path), default=Path("store.zarr"), help="The store to fill.")
@click.option("--model", default="regnety_160", help="A timm model, local-dir:FOLDER, or module:function of yours.")
@click.option("--weights", type=click.Path(path_type=Path), help="safetensors or checkpoint.  [default: timm's own]")
@click.option("--views", type=click.IntRange(min=1), default=10, help="Augmented views of every row.")
@click.option("--keep", default="dense", help="What of the logits: dense, topk:K, or argmax (which is always kept).")
@click.option("--temperatures", default="1,3", help="Temperatures at which a topk store is exact.")
@click.option("--class-map", type=click.Path(path_type=Path), help="Which teacher class each data class is (JSON).")
@click.option("--mean", help="The teacher's input mean, as 'R,G,B' in 0 to 1.  [default: the model's own]")
@click.option("--std", help="The teacher's input standard deviation, likewise.  [default: the model's own]")
@click.option("--teacher-size", default="auto", help="Side at which the teacher looks: auto, view, or pixels.")
@click.option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", help="auto: bf16 on cuda."
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=128, help="Views a forward pass; part of the contract."
)
@click.option("--unit-rows", type=click.IntRange(min=1), help="Rows finished at once.  [default: by the data's size]")
@click.option("--luma/--no-luma", default=True, help="Keep 16-byte thumbnails, which --accept-drift needs.")
@cli.recipe_options
@cli.speed_options
@click.option("--compile", "compiled", is_flag=True, help="torch.compile the teacher.")
@click.option(
    "--views-together", type=click.IntRange(min=1), default=8, help="Views that share one decode. Speed only."
)
@click.option("--summary", type=click.Path(path_type=Path), help="Summary JSON.  [default: beside the store]")
@click.option(
    "--if-changed",
    type=click.Choice(["refuse", "rebuild"]),
    default="refuse",
    help="A store made otherwise (recipe, shards, teacher, …) is refused with what differs, or removed and made anew.",
)
@click.option("--dry-run", is_flag=True, help="Say what it would cost, from a short measured sample; write nothing.")
def main(**flags: Any) -> None:
    """Run the teacher once over augmented views of the shards and store its answers.

    \b
    Example:
      python -m stages.teacher_logits --shards 'data/train/*.tar' --model regnety_160 --views 10 --out store.zarr
    """
    recipe = cli.take_recipe(flags)
    urls = expand(flags["shards"])
    index = _index(flags, urls)
    teacher = _teacher(flags, recipe, index)
    manifest = _manifest(flags, recipe, index, teacher)
    if flags["dry_run"]:
        click.echo(estimate(manifest, index, teacher, views=flags["views"], workers=flags["workers"]).text())
        return
    with _open(flags, manifest, index) as store:
        if store.missing():
            label_missing(
                store,
                teacher,
                workers=flags["workers"],
                start_method=flags["start_method"],
                views_together=flags["views_together"],
            )
        store.finish()
        summary = summarise(store)
    path = flags["summary"] or flags["out"].with_suffix(".summary.json")
    path.write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    click.echo(summary_text(summary))
    click.echo(f"store: {flags['out']} ({store.views} views × {len(index)} rows); summary: {path}")


def _index(flags: dict[str, Any], urls: tuple[str, ...]) -> SampleIndex:
    """The store's own index where it has one (its shards are checked as they are read), else one scan."""
    stored = LabelStore.stored_index(flags["out"]) if flags["if_changed"] == "refuse" else None
    return scan(urls, workers=flags["workers"], progress=True) if stored is None else stored.moved_to(urls)


def _open(flags: dict[str, Any], manifest: Manifest, index: SampleIndex) -> LabelStore:
    """The store to fill; one that was made otherwise is refused, or removed where --if-changed allows it."""
    try:
        return LabelStore.open_writing(flags["out"], manifest, index, views=flags["views"])
    except MismatchError as changed:
        if flags["if_changed"] == "refuse":
            raise
        log.warning("%s It is removed and made anew, as --if-changed rebuild says.", changed)
    LabelStore.discard(flags["out"])
    return LabelStore.open_writing(flags["out"], manifest, index, views=flags["views"])


def _teacher(flags: dict[str, Any], recipe: Recipe, index: SampleIndex) -> Teacher:
    class_map = flags["class_map"]
    return load_teacher(
        flags["model"],
        view_size=recipe.image_size,
        weights=flags["weights"],
        device=flags["device"],
        precision=flags["precision"],
        batch_size=flags["batch_size"],
        input_size=flags["teacher_size"],
        mean=_numbers(flags["mean"], "--mean"),
        std=_numbers(flags["std"], "--std"),
        class_map=None if class_map is None else read_class_map(class_map, index.class_names),
        compiled=flags["compiled"],
    )


def _manifest(flags: dict[str, Any], recipe: Recipe, index: SampleIndex, teacher: Teacher) -> Manifest:
    teacher.require_classes_of(index)
    return Manifest(
        recipe=recipe,
        index_digest=index.digest(),
        rows=len(index),
        teacher=teacher.card,
        keep=Keep.parse(flags["keep"]),
        temperatures=tuple(_numbers(flags["temperatures"], "--temperatures") or ()),
        num_classes=teacher.num_classes,
        class_names=index.class_names,
        class_map=teacher.class_map,
        unit_rows=flags["unit_rows"] or unit_rows_for(len(index), recipe.mix_window),
        luma=flags["luma"],
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
