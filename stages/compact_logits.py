"""Make a smaller store from a larger one, without the teacher.

    python -m stages.compact_logits --logits dense.zarr --keep topk:10 --temperatures 1,3 --out small.zarr

Every unit is read, held to its digest, narrowed and committed; then the two stores are compared. The result is, byte
for byte, the store that the teacher's run would have written with that --keep. An interrupted run goes on where it was.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import click

from pipeline.commands.command import command
from pipeline.commands.outputs import beside, require_new_folder, require_writable
from pipeline.commands.places import STORE, OutputStore, ResultFile
from pipeline.durable.file import write_json
from pipeline.durable.objects import open_objects
from pipeline.errors import MismatchError
from pipeline.inspection.fidelity import compare, table
from pipeline.inspection.gauge import Gauge, gauge, gauge_text
from pipeline.inspection.stored_codes import stored_codes
from pipeline.labels.keep import Keep, parse_temperatures
from pipeline.labels.keeps import parse_keep
from pipeline.labels.soft_labels import narrow
from pipeline.progress import Progress
from pipeline.proofs.proof import SKETCH, kept
from pipeline.store.layout import Unit
from pipeline.store.manifest import Manifest
from pipeline.store.reader import StoreReader
from pipeline.store.unit_labels import UnitLabels
from pipeline.store.writer import StoreWriter


@command()
@click.option(
    "--logits",
    type=STORE,
    required=True,
    help="The store to read, dense or topk; may be at s3://.",
)
@click.option("--keep", required=True, help="What to keep of it: topk:K, lowrank:K+R or argmax.")
@click.option(
    "--temperatures",
    metavar="T,T",
    help="Temperatures at which a topk store is exact.  [default: those stored, or 1,3 from dense]",
)
@click.option("--sketch", is_flag=True, help="Keep sketches in place of thumbnails: 4 bytes of proof a view, not 20.")
@click.option("--out", type=OutputStore("store"), required=True, help="The smaller store; may be at s3://.")
@click.option(
    "--recheck", is_flag=True, help="Read all that is finished, and do what is damaged anew.  [default: list it]"
)
@click.option("--report", type=ResultFile(), help="Fidelity JSON.  [default: beside --out]")
def main(
    logits: str, keep: str, temperatures: str | None, sketch: bool, out: str, recheck: bool, report: Path | None
) -> None:
    """Keep less of the teacher's answers, without running it again.

    \b
    Example:
      python -m stages.compact_logits --logits dense.zarr --keep topk:10 --temperatures 1,3 --out small.zarr
    """
    require_new_folder(out)
    if "://" not in out and Path(out).resolve() == Path(logits).resolve():
        raise MismatchError(f"--out {out} is the store that is read. Name another: nothing is compacted in place.")
    report = report or beside(out, ".fidelity.json")
    require_writable(report, "--report")
    source = StoreReader.open(logits)
    at = None if temperatures is None else parse_temperatures(temperatures)
    manifest = _manifest(source, parse_keep(keep), at, sketch)
    with StoreWriter.open(
        out,
        manifest,
        source.index,
        source.layout.views,
        witness=source.witness,
        environment=lambda: source.layout.environment,
        answers=partial(stored_codes, source),
        recheck=recheck,
    ) as smaller:
        have, most = smaller.layout.views, source.layout.views
        if have > most:
            raise MismatchError(
                f"{out} has {have} views, {source.name} has {most}: a store does not shrink. Name another --out."
            )
        _convert(source, smaller)
        measured = _measured(source, smaller)
        figures = compare(source, smaller.finish()) | {"gauge": measured}
    write_json(report, figures)
    click.echo(table(figures))
    for line in gauge_text(measured, figures["after"]["bytes_per_view"]):
        click.echo(line)
    click.echo(f"store: {out} ({source.layout.views} views × {source.manifest.rows} rows); fidelity: {report}")


def _manifest(source: StoreReader, keep: Keep, temperatures: tuple[float, ...] | None, sketch: bool) -> Manifest:
    """The contract of the smaller store: that of the source, but for what is kept."""
    have = source.manifest
    if sketch and not have.luma:
        raise MismatchError(
            f"{source.name} has no thumbnails (--no-luma), --sketch makes sketches of them. Leave it out."
        )
    if temperatures is None:
        temperatures = have.temperatures or (1.0, 3.0)
    wanted = dataclasses.replace(have, keep=keep, temperatures=temperatures, luma=SKETCH if sketch else have.luma)
    if wanted == have or keep.kind == "dense":
        raise MismatchError(
            f"{source.name} keeps {have.keep}, --keep {keep} asks for no less. Give a smaller topk:K, lowrank:K+R, "
            "or argmax."
        )
    have.keep.narrowing(keep, wanted.temperatures, have.temperatures)  # refused before anything is written
    return wanted


def _measured(source: StoreReader, smaller: StoreWriter) -> Gauge | None:
    """What is kept of the teacher's signal, where all of it can be seen."""
    if source.manifest.keep.kind != "dense":
        return None
    return gauge(open_objects(smaller.name), smaller.manifest, partial(stored_codes, source))


def _convert(source: StoreReader, smaller: StoreWriter) -> None:
    missing = smaller.missing()
    manifest = smaller.manifest
    total = len(smaller.layout.units())
    with Progress("compact", total, "units", done=total - len(missing)) as progress:
        for unit in missing:
            smaller.write(unit, _narrowed(source, unit, manifest))
            progress.advance()


def _narrowed(source: StoreReader, unit: Unit, manifest: Manifest) -> UnitLabels:
    whole = source.read(unit.view, unit.run)
    have = source.manifest
    labels = narrow(whole.labels, have.keep, manifest.keep, manifest.temperatures, stored=have.temperatures)
    crc_B, luma_B16 = whole.crc_B, whole.luma_B16
    if manifest.luma == SKETCH and luma_B16 is not None:
        crc_B, luma_B16 = kept(SKETCH, crc_B, luma_B16)
    return UnitLabels(labels=labels, crc_B=crc_B, luma_B16=luma_B16)


if __name__ == "__main__":
    main()
