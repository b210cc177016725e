"""Is a finished store whole, and does it still fit its shards and its teacher?

    python -m stages.verify_logits --logits store.zarr --sample 1000
    python -m stages.verify_logits --logits store.zarr --teacher --weights teacher.safetensors

Five questions, each asked as far as the ones before allow: is every byte what was written, and does it mean what it
must; has every row of the shards still its class; are the witness views drawn alike here; do some more views, all over
the store, have their checksums; and, with --teacher, does the teacher still answer as stored? Exit status 1 if anything
is off, with what and where.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pipeline.commands.command import Finite, command
from pipeline.commands.gather import gather
from pipeline.commands.places import SHARDS, STORE, InputPath, ResultFile
from pipeline.commands.speed_flags import Speed, speed_options
from pipeline.durable.file import write_json
from pipeline.durable.objects import open_objects
from pipeline.errors import StoreError, UserError
from pipeline.inspection.audit import Finding, audit
from pipeline.inspection.gauge import gauge_text, stored_gauge
from pipeline.inspection.recheck import Recheck, recheck, spread, spread_batches
from pipeline.progress import Progress
from pipeline.rendering.drift import Drift, check_witnesses
from pipeline.rendering.renderer import Renderer
from pipeline.shards.index import SampleIndex
from pipeline.shards.patterns import expand
from pipeline.shards.rows import changed_rows, require_names
from pipeline.shards.same_pictures import moved_to
from pipeline.store.reader import StoreReader
from pipeline.teacher.stored import load_stored_teacher

SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What is checked, and how strictly; each field is called as its flag."""

    logits: str
    shards: tuple[str, ...]
    sample: int
    digests_only: bool
    accept_drift: bool
    teacher: bool
    model: str | None
    weights: Path | None
    tolerance: float
    speed: Speed


@command()
@click.option(
    "--logits",
    type=STORE,
    required=True,
    help="The store to check: a directory, or s3://bucket/name.zarr.",
)
@click.option(
    "--shards",
    type=SHARDS,
    multiple=True,
    help="Where the shards are now.  [default: where they were]",
)
@click.option("--sample", type=click.IntRange(min=0), default=1000, help="Views to draw again, beside the witnesses.")
@click.option("--digests-only", is_flag=True, help="Draw nothing: check the store's bytes alone, without the shards.")
@click.option("--accept-drift", is_flag=True, help="Hold views to how they looked, not to their checksums.")
@click.option("--teacher", is_flag=True, help="Ask the teacher again about the sample, in whole batches of its run.")
@click.option("--model", help="The teacher, where it has another name now.  [default: the stored name]")
@click.option("--weights", type=InputPath(), help="The teacher's weights.  [default: timm's own]")
@click.option(
    "--tolerance", type=Finite(min=0), default=0.05, help="How far a logit of the teacher may be off, in logits."
)
@speed_options
@click.option("--out", type=ResultFile(), help="Also write the result here, as JSON.")
@gather("check", Check)
def main(check: Check, out: Path | None) -> None:
    """Check a finished store: its bytes, its views, and its teacher.

    \b
    Example:
      python -m stages.verify_logits --logits store.zarr --sample 1000
    """
    if check.digests_only and (check.teacher or check.shards):
        raise click.UsageError(
            "--digests-only draws nothing, so --teacher and --shards have no part in it. Leave one out."
        )
    findings = _check_bytes(check.logits)
    result: dict[str, Any] = {"store": check.logits, "witness": None, "sample": None, "gauge": None}
    try:
        _check_further(check, findings, result)
    except UserError as error:
        said = str(error)
        told = any(said.startswith((finding.where, finding.what)) for finding in findings)
        findings += [] if told else [Finding("not checked further", said)]
    result["findings"] = [dataclasses.asdict(finding) for finding in findings]
    if out is not None:
        write_json(out, result)
    _tell(check.logits, findings)


def _tell(logits: str, findings: list[Finding]) -> None:
    """Show what was found; an error if that is anything."""
    for finding in findings[:SHOWN]:
        click.echo(f"  {finding}")
    if findings:
        more = f", the first {SHOWN} are above" if len(findings) > SHOWN else ", listed above"
        damaged = any("/c." in finding.where or "/receipts/" in finding.where for finding in findings)
        remedy = " Damaged units: run teacher_logits --recheck." if damaged else ""
        raise StoreError(f"{logits}: {len(findings)} things are off{more}.{remedy}")
    click.echo(f"{logits} is in order")


def _check_further(check: Check, findings: list[Finding], result: dict[str, Any]) -> None:
    """All but the bytes, added to what was found; ends with the first thing that keeps from asking on."""
    store = StoreReader.open(check.logits)
    if not check.digests_only:
        index = moved_to(store.index, expand(check.shards)) if check.shards else store.index
        findings += _check_classes(index)
        found, drift = _check_witness(store, index, check.accept_drift)
        again = _check_sample(store, index, check)
        findings += [*found, *again.findings]
        result |= {"witness": dataclasses.asdict(drift) | {"kind": drift.kind}, "sample": again.figures()}
    result["gauge"] = measured = stored_gauge(open_objects(check.logits), store.manifest)
    for line in gauge_text(measured, store.bytes_per_view()):
        click.echo(f"signal     {line}")


def _check_bytes(logits: str) -> list[Finding]:
    with Progress("read", 0, "units") as progress:

        def count(read: int, units: int) -> None:
            progress.total = units
            progress.advance(read - progress.count)

        findings = audit(logits, count)
    told = "all as written" if not findings else f"{len(findings)} findings"
    click.echo(f"bytes      {progress.count} units read: {told}")
    return findings


def _check_classes(index: SampleIndex) -> list[Finding]:
    require_names(index)
    findings = [Finding("shards", str(error)) for error in changed_rows(index)]
    if findings:
        click.echo(f"classes    {len(findings)} rows have another than they had when they were indexed")
    return findings


def _check_witness(store: StoreReader, index: SampleIndex, accept_drift: bool) -> tuple[list[Finding], Drift]:
    drift = check_witnesses(store.witness(), Renderer(store.manifest.recipe, index, index.files()))
    click.echo(f"witnesses  {drift}")
    if drift.kind == "identical" or (drift.kind == "drifted" and accept_drift):
        return [], drift
    versions = ", ".join(f"{name} {version}" for name, version in sorted(store.layout.environment.items()))
    return [Finding(f"{store.name}/witness", f"{drift} (drawn under {versions})")], drift


def _check_sample(store: StoreReader, index: SampleIndex, check: Check) -> Recheck:
    teacher = None
    if check.teacher:
        teacher = load_stored_teacher(store, name=check.model, weights=check.weights, device=check.speed.device)
    requests = (spread_batches if teacher else spread)(store, check.sample)
    with Progress("verify", sum(len(request.row_B) for request in requests), "views") as progress:
        again = recheck(
            store,
            index,
            requests,
            workers=check.speed.workers,
            start_method=check.speed.start_method,
            accept_drift=check.accept_drift,
            ask=teacher,
            progress=progress.advance,
        )
    looks = f", {again.other_looks} look otherwise" if again.changed and store.manifest.luma else ""
    click.echo(f"sample     {again.views} views drawn again: {again.changed} have another checksum{looks}")
    if teacher:
        click.echo(
            f"teacher    asked about {again.asked} views: logits deviate by at most {again.largest_deviation:.4f}, "
            f"log-sum-exp by {again.largest_lse_deviation:.2g}; {again.argmax_changes} other argmax"
        )
        if max(again.largest_deviation, again.largest_lse_deviation) > check.tolerance:
            again.findings.append(_too_far(store, again, check.tolerance))
    return again


def _too_far(store: StoreReader, again: Recheck, tolerance: float) -> Finding:
    furthest = max(again.largest_deviation, again.largest_lse_deviation)
    return Finding(
        f"{store.name}: teacher {store.manifest.teacher.name}",
        f"its answers deviate by up to {furthest:.4f}, {tolerance:g} is tolerated (--tolerance); "
        f"{again.argmax_changes} of {again.asked} views have another argmax",
    )


if __name__ == "__main__":
    main()
