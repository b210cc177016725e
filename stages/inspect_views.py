"""Show what a recipe does: print the plan of some views, and draw them on a contact sheet.

    python -m stages.inspect_views --shards 'data/train/*.tar' --rows 0:8 --views 4 --out views.png

With a store, recipe and rows are the store's own, each view is held to the checksum that was stored with its label, and
what the teacher answered is written beside it:

    python -m stages.inspect_views --logits store.zarr --rows 12,40,41

Shapes: B views, all views of the first row first; C classes, K kept ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from click.core import ParameterSource
from numpy.typing import NDArray
from PIL import Image

from pipeline.commands.cache_flags import cache_options
from pipeline.commands.class_flags import label_options
from pipeline.commands.command import command
from pipeline.commands.gather import gather
from pipeline.commands.places import SHARDS, STORE, ResultFile
from pipeline.commands.recipe_flags import RECIPE_FLAGS, recipe_options
from pipeline.durable.file import write_with
from pipeline.errors import RecipeError, ViewError, require_packages
from pipeline.proofs.same_views import Labelled, Seen, compare_views
from pipeline.rendering.renderer import Renderer
from pipeline.shards.index import SampleIndex, scan
from pipeline.shards.patterns import expand
from pipeline.shards.same_pictures import moved_to
from pipeline.shards.truth import LabelRule
from pipeline.store.reader import StoreReader
from pipeline.views.mixing import Kind
from pipeline.views.plan import ViewPlan, aligned, plan_views
from pipeline.views.recipe import Recipe
from stages.reporting.contact_sheet import BAD, GOOD, INK, OTHER, OWN, PALE, Caption, Cell, contact_sheet
from stages.reporting.gallery import Answer, original, stored

MOST_VIEWS = 1000
DEFAULT_ROWS = "0:8"
OF_THE_STORE = {"preset", "label_key", "classes", *RECIPE_FLAGS}
"""Flags of what a store brings itself"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which views are asked for; each field is called as its flag."""

    shards: tuple[str, ...]
    logits: str | None
    rows: str
    views: int
    rule: LabelRule
    recipe: Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is shown: some views of rows, how they are drawn, and the store that they are of, if any."""

    recipe: Recipe
    index: SampleIndex
    store: StoreReader | None
    plan: ViewPlan
    views: int
    """Of each row."""
    columns: dict[str, list[str]]
    """The plan in words."""

    def label(self, number: int) -> str:
        """What a class is called; of several names the first."""
        names = self.store.manifest.class_names if self.store else None
        names = names or self.index.class_names
        return "unlabelled" if number < 0 else names[number].split(",")[0] if names else f"class {number}"


@command()
@click.option(
    "--shards",
    type=SHARDS,
    multiple=True,
    help="WebDataset tars; with --logits: where they are now.",
)
@click.option("--logits", type=STORE, help="A finished store, whose recipe and answers are shown.")
@click.option("--rows", default=DEFAULT_ROWS, help="Rows to show: 'FIRST:END', or numbers with commas, or both.")
@click.option("--views", type=click.IntRange(1, MOST_VIEWS), default=4, help="Views of each row, from view 0.")
@click.option("--out", type=ResultFile(".png"), default=Path("views.png"), help="The contact sheet.")
@label_options
@recipe_options
@cache_options
@gather("asked", Asked)
@click.pass_context
def main(context: click.Context, /, out: Path, asked: Asked) -> None:
    """Print the plan of some views, and draw them on a contact sheet.

    \b
    Example:
      python -m stages.inspect_views --shards 'data/train/*.tar' --rows 0:8 --views 4 --out views.png
    """
    require_packages("the contact sheet", "matplotlib", extra="report")
    subject = _subject(context, asked)
    plan, side = subject.plan, subject.recipe.image_size
    pixels_BHWC = np.empty((len(plan), side, side, 3), np.uint8)
    renderer = Renderer(subject.recipe, subject.index, subject.index.files())
    drawn = renderer.render(plan.row_B, plan.view_B, pixels_BHWC)
    labels, stored_B = _answers(subject)
    click.echo(_table(subject, labels))
    sheet = _sheet(subject, pixels_BHWC, labels)
    write_with(out, lambda path: sheet.save(path, "PNG"))
    if subject.store is not None and stored_B is not None:
        labelled = Labelled(subject.store.manifest.luma, stored_B)
        _require_equal(subject, Seen(drawn.crc_B, drawn.luma_B16), labelled, out)
        click.echo(f"all {len(plan)} views have the checksum that is stored with their label")
    click.echo(f"contact sheet: {out} ({len(plan) // subject.views} rows × {subject.views} views)")


def _subject(context: click.Context, asked: Asked) -> Subject:
    recipe, rows, views = asked.recipe, asked.rows, asked.views
    if asked.logits is None:
        if not asked.shards:
            raise click.UsageError("give --shards PATTERN, or --logits STORE")
        store, index = None, scan(expand(asked.shards), rule=asked.rule)
    else:
        _require_no_recipe(context)
        store = StoreReader.open(asked.logits)
        recipe, views = store.manifest.recipe, min(views, store.layout.views)
        index = moved_to(store.index, expand(asked.shards)) if asked.shards else store.index
    if context.get_parameter_source("rows") is ParameterSource.DEFAULT:
        rows = f"0:{min(8, len(index))}"
    chosen = _rows(rows, len(index))
    if len(chosen) * views > MOST_VIEWS:
        raise click.UsageError(f"{len(chosen)} rows × {views} views are over {MOST_VIEWS}, more than one sheet shows")
    row_B, view_B = np.repeat(chosen, views), np.tile(np.arange(views), len(chosen))
    plan = plan_views(recipe, index, row_B, view_B)
    return Subject(recipe=recipe, index=index, store=store, plan=plan, views=views, columns=plan.columns())


def _require_no_recipe(context: click.Context) -> None:
    for name in context.params:
        if name in OF_THE_STORE and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flag = name.replace("preset", "recipe").replace("_", "-")
            raise click.UsageError(f"--{flag} has no place beside --logits, which brings the recipe of the store")


def _rows(text: str, count: int) -> NDArray[np.int64]:
    """'0:4,9' as rows 0, 1, 2, 3 and 9."""
    rows: list[int] = []
    for part in text.split(","):
        first, colon, end = part.partition(":")
        try:
            rows += range(int(first or 0), min(int(end or count), count + 1)) if colon else [int(first)]
        except ValueError:
            raise click.BadParameter(f"{part!r} is neither a number nor 'FIRST:END'", param_hint="--rows") from None
    if wrong := [row for row in rows if not 0 <= row < count]:
        raise RecipeError(f"--rows names row {wrong[0]}, there are rows 0 to {count - 1}: choose among them.")
    if not rows:
        raise click.BadParameter(f"{text!r} names no row", param_hint="--rows")
    return np.array(rows, np.int64)


def _answers(subject: Subject) -> tuple[list[list[Answer]], NDArray[np.uint32] | None]:
    """The teacher's two likeliest classes for each view, and the stored checksums."""
    store, plan = subject.store, subject.plan
    if store is None:
        return [[] for _ in range(len(plan))], None
    return stored(store, plan.row_B, plan.view_B)


def _spoken(subject: Subject, answers: list[Answer]) -> str:
    return ", ".join(subject.label(c) + ("" if share is None else f" {share:.2f}") for c, share in answers)


def _table(subject: Subject, answers: list[list[Answer]]) -> str:
    plan, index = subject.plan, subject.index
    rows = plan.row_B.tolist()
    return aligned(
        {
            "row": rows,
            "view": plan.view_B.tolist(),
            "key": [index.key(row) for row in rows],
            "class": [subject.label(int(index.classes[row])) for row in rows],
            **subject.columns,
            "teacher": [_spoken(subject, answer) for answer in answers],
        }
    )


def _sheet(subject: Subject, pixels_BHWC: NDArray[np.uint8], answers: list[list[Answer]]) -> Image.Image:
    recipe, store = subject.recipe, subject.store
    title = "Views" if store is None else f"Views and answers of {store.name}"
    words = [f"recipe {recipe.fingerprint()[:12]}", f"seed {recipe.seed}", f"{recipe.image_size} pixels"]
    legend = [Caption("the view itself", OWN), Caption("its partner", OTHER)] if recipe.mixes else []
    if store is not None:
        words += [f"teacher {store.manifest.teacher.name}", f"{store.manifest.keep} logits"]
        legend += [Caption("class of the row or its partner", GOOD), Caption("another class", BAD)]
    return contact_sheet(title, ", ".join(words), legend, _cells(subject, pixels_BHWC, answers))


def _cells(subject: Subject, pixels_BHWC: NDArray[np.uint8], answers: list[list[Answer]]) -> list[list[Cell]]:
    rows = []
    for start in range(0, len(subject.plan), subject.views):
        views = [_view_cell(subject, i, pixels_BHWC[i], answers[i]) for i in range(start, start + subject.views)]
        rows.append([_picture_cell(subject, int(subject.plan.row_B[start])), *views])
    return rows


def _picture_cell(subject: Subject, row: int) -> Cell:
    index = subject.index
    pixels_HWC, decoded = original(index, row)
    size = f"{pixels_HWC.shape[1]} × {pixels_HWC.shape[0]} pixels" if decoded else "cannot be decoded"
    label = subject.label(int(index.classes[row]))
    captions = [Caption(label, INK), Caption(f"row {row}: {index.key(row)}"), Caption(size)]
    return Cell(pixels_HWC=pixels_HWC, captions=captions)


def _view_cell(subject: Subject, i: int, pixels_HWC: NDArray[np.uint8], answers: list[Answer]) -> Cell:
    plan, words = subject.plan, {name: texts[i] for name, texts in subject.columns.items()}
    own, partner = int(plan.row_B[i]), int(plan.mixing.partner_B[i])
    done = [words["operations"], "erased" * bool(words["erased"]), "flipped" * words["crop"].endswith("flipped")]
    captions = [Caption(f"{plan.view_B[i]}: {', '.join(filter(None, done)) or 'cropped'}", INK)]
    known = {int(subject.index.classes[row]) for row in (own, partner)} - {-1}
    kind = Kind(int(plan.mixing.kind_B[i]))
    if kind is not Kind.NONE:
        share, label = 1 - plan.mixing.lam_B[i], subject.label(int(subject.index.classes[partner]))
        captions.append(Caption(f"{kind.name.lower()} {share:.2f} of row {partner}: {label}"))
    elif subject.recipe.mixes:
        captions.append(Caption("not mixed"))
    if answers:
        right = GOOD if answers[0][0] in known else BAD
        captions.append(Caption(_spoken(subject, answers), right if known else PALE))
    return Cell(
        pixels_HWC=pixels_HWC, captions=captions, own=float(plan.mixing.lam_B[i]) if subject.recipe.mixes else None
    )


def _require_equal(subject: Subject, drawn: Seen, labelled: Labelled, out: Path) -> None:
    found = compare_views(drawn, labelled)
    if found.first is None:
        return
    first, plan, other = found.first, subject.plan, int(found.other_B.sum())
    raise ViewError(
        f"{other} of {len(plan)} views are not those that the teacher saw; the first is row {plan.row_B[first]}, "
        f"view {plan.view_B[first]}: checksum {found.crc_B[first]:08x}, stored is {labelled.crc_B[first]:08x}. "
        f"{out} shows them as drawn here. 'python -m stages.verify_logits' says how far they drifted."
    )


if __name__ == "__main__":
    main()
