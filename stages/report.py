"""Tell what was gained: one page that opens anywhere, with its figures, and the few numbers that experiments go by.

    python -m stages.report --results reports --runs runs --logits stores/train.zarr --out reports/page

Read what the other stages wrote (`stages.reporting.results` says what and where), draw some views and held-out pictures
again, measure the teacher once more for the costs, and write ``index.html`` (self-contained: styles, figures and
pictures are inside), some figures as PNG, the curves as CSV for plots, and a summary in JSON. With ``--earlier`` each
report leaves a line in a file, and shows what earlier ones found.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import click

from pipeline.commands.command import command
from pipeline.commands.outputs import beside
from pipeline.commands.places import SHARDS, STORE, InputPath, OutputFolder, RecordFile, ResultFile
from pipeline.commands.speed_flags import Speed, speed_options
from pipeline.durable.file import write_json
from pipeline.durable.local import LocalObjects
from pipeline.errors import UserError, require_packages
from pipeline.inspection.view_quality import accuracy_per_view
from pipeline.labelling.cost import teacher_rate
from pipeline.rendering.loader import Loader, requests_of
from pipeline.shards.index import SampleIndex
from pipeline.shards.patterns import expand
from pipeline.shards.same_pictures import moved_to
from pipeline.spread import firsts
from pipeline.store.reader import StoreReader
from pipeline.teacher.stored import load_stored_teacher
from stages.reporting.gallery import contact_sheet_of, held_out_shelves, view_shelves
from stages.reporting.made import made_here, read_history, remember
from stages.reporting.report_data import Story, curve_table, remembered
from stages.reporting.results import read_results

log = logging.getLogger(__name__)
FOLDER = InputPath()


@command()
@click.option("--results", type=FOLDER, default=Path("reports"), help="Folder of the other stages' figures.")
@click.option("--runs", type=FOLDER, default=Path("runs"), help="Folder of the students' runs, KIND-SEED.")
@click.option("--logits", type=STORE, required=True, help="The store that the students learned from.")
@click.option(
    "--shards",
    type=SHARDS,
    multiple=True,
    help="Where its shards are now.  [default: where they were]",
)
@click.option("--val-logits", type=STORE, help="A store of the held-out pictures, for the gallery.")
@click.option("--val-shards", type=SHARDS, multiple=True, help="Where the held-out shards are now.")
@click.option("--out", type=OutputFolder(), default=Path("reports/page"), help="Folder for the page and its figures.")
@click.option("--summary", type=ResultFile(), help="JSON file for the few numbers.  [default: none]")
@click.option(
    "--earlier", type=RecordFile(), help="File of what earlier reports found; this one adds a line.  [default: none]"
)
@click.option(
    "--measure/--no-measure", "measured", default=True, help="Time the teacher again, for the table of costs."
)
@click.option("--weights", type=InputPath(), help="The teacher's weights, where it is not found by its name.")
@click.option("--rows", type=click.IntRange(0, 20), default=4, help="Rows whose views are shown.")
@click.option("--views", type=click.IntRange(1, 20), default=7, help="Views of each that are shown.")
@click.option("--examples", type=click.IntRange(0, 40), default=6, help="Held-out pictures of each kind.")
@speed_options
def main(
    results: Path, runs: Path, logits: str, shards: tuple[str, ...], val_logits: str | None,
    val_shards: tuple[str, ...], out: Path, summary: Path | None, earlier: Path | None, measured: bool,
    weights: Path | None, rows: int, views: int, examples: int, speed: Speed,
) -> None:  # fmt: skip
    """Write one self-contained page about what the students gained from the teacher's labels.

    \b
    Example:
      python -m stages.report --logits stores/train.zarr --val-logits stores/val.zarr --out reports/page
    """
    require_packages("the report", "matplotlib", "jinja2", extra="report")
    before = read_history(earlier)
    found = read_results(results, runs, beside(logits, ".summary.json"))
    store, index = _opened(logits, shards)
    story = Story(
        results=found,
        store=store,
        index=index,
        architecture=_architecture(store.manifest.teacher.name),
        teacher_rate=_teacher_rate(store, index, weights, speed) if measured else None,
        per_view=accuracy_per_view(store, index),
        views=view_shelves(store, index, rows=rows, views=views) if rows else [],
        held_out=held_out_shelves(found, *_opened(val_logits, val_shards), most=examples)
        if val_logits and examples
        else [],
        made=made_here(),
        earlier=before,
    )
    write(story, out)
    if earlier is not None:
        remember(earlier, before, story.made, remembered(story))
    numbers = found.summary()
    if summary is not None:
        write_json(summary, numbers)
    gains = ", ".join(f"{kind} {100 * gain:+.1f} points" for kind, gain in numbers["gain"].items())
    click.echo(f"report: {out / 'index.html'} ({gains or 'nothing to compare'})")


def _opened(logits: str, shards: tuple[str, ...]) -> tuple[StoreReader, SampleIndex]:
    store = StoreReader.open(logits)
    return store, moved_to(store.index, expand(shards)) if shards else store.index


def _architecture(name: str) -> str | None:
    """Of a teacher in a folder: what timm wrote beside its weights."""
    if not name.startswith("local-dir:"):
        return None
    try:
        config = json.loads((Path(name.removeprefix("local-dir:")) / "config.json").read_text(encoding="utf-8"))
        return str(config["architecture"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _teacher_rate(store: StoreReader, index: SampleIndex, weights: Path | None, speed: Speed) -> float | None:
    """The teacher's speed, measured now on one batch; left out where the teacher is not at hand any more."""
    try:
        teacher = load_stored_teacher(store, weights=weights, device=speed.device)
        batch = min(teacher.card.batch_size, len(index))
        row_B = firsts(len(index), batch)
        with Loader(
            store.manifest.recipe, index, batch=batch, workers=speed.workers, start_method=speed.start_method
        ) as loader:
            pixels = [slot.pixels_BHWC.copy() for slot in loader.render(requests_of(row_B, 0, batch))]
        return teacher_rate(teacher, pixels)
    except UserError as error:
        log.warning("costs are told without the teacher's speed: %s", error)
        return None


def write(story: Story, out: Path) -> None:
    """The page last, so that it is there only with its figures."""
    from stages.reporting.page import render  # only now: it brings matplotlib, which is an extra

    page, slides = render(story)
    objects = LocalObjects(out)
    for name, figure in slides.items():
        objects.put(f"{name}.png", figure)
    if story.views:
        objects.put("views.png", contact_sheet_of(story.views))
    for name in ("top1", "loss"):
        objects.put(f"{name}.csv", curve_table(story.results, name))
    objects.put("index.html", page.encode())


if __name__ == "__main__":
    main()
