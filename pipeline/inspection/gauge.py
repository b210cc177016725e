"""How much of what a teacher says does a keep give back?

*Signal* is what a soft target says beyond "any class": KL(target ‖ even), the mean over views. What a keep loses is
KL(target ‖ what it gives back), so the share that is kept is

    signal = 1 − Σ KL(target ‖ given back) / Σ KL(target ‖ even)

With topk, what is not kept is one event to the student: given back evenly, which makes the share exactly that of the
signal over K classes and one event. It is measured on answers in full about view 0 of some rows, mixed as all views
are, in those mix windows of which a fitted keep has seen nothing. They are asked for once, when a store is filled or
compacted; what came out is put into the store (``gauge.json``: sealed, for people and for the start of a training; it
decides nothing, and a store without it is as good).

Below `ENOUGH` the cheapest of some keeps that would do is named. Where the teacher itself says next to nothing, that is
told instead: no keep is to blame.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.durable import canonical
from pipeline.durable.canonical import NotCanonicalError
from pipeline.durable.objects import Objects
from pipeline.errors import RecipeError
from pipeline.inspection.fidelity import divergence
from pipeline.labels.codes import Answers, class_dtype, softmax_of
from pipeline.labels.keep import Keep
from pipeline.labels.keeps import parse_keep
from pipeline.labels.soft_labels import SoftLabels, from_codes
from pipeline.spread import firsts
from pipeline.store.contents import get_record
from pipeline.store.layout import GAUGE_KEY
from pipeline.store.manifest import Manifest
from pipeline.store.unit_labels import UnitLabels, encoded_sizes

ENOUGH = 0.8
"""Share of the signal below which there is a warning"""
LITTLE = 0.005
"""Nats of signal below which there is next to nothing to keep, and the share that is kept means nothing"""
HOTTEST_WARNED = 3.0
"""Warned of where it is not known which temperature will be trained at: DeiT's"""
MEASURED, FITTED = 512, 2048
"""Rows that are measured on, and rows that other keeps are fitted to, at most"""
TEMPERATURES = (1.0, 2.0, 3.0, 4.0)
"""Measured beside those that are stored"""
OTHERS = (
    "topk:5", "topk:10", "topk:20", "topk:50", "lowrank:3+6", "lowrank:4+16", "lowrank:5+24", "lowrank:5+35",
    "lowrank:8+64", "lowrank:8+92", "lowrank:12+128", "dense",
)  # fmt: skip
PROOF = ("crc", "luma")
"""Arrays that are beside the labels of a view"""

MOST_CLASSES_FITTED = 4096
"""Beyond these no other keep is fitted only to say what it would do: each would take half a minute"""

Gauge = Mapping[str, Any]


def gauge(objects: Objects, manifest: Manifest, answers: Answers) -> Gauge | None:
    """What is in the store, or is measured and put there; None where a keep gives no soft target, or loses nothing."""
    if manifest.keep.kind in ("argmax", "dense"):
        return None
    found = stored_gauge(objects, manifest)
    if found is None:
        found = measure(manifest, answers)
        objects.put(GAUGE_KEY, canonical.seal({"manifest": manifest.fingerprint(), **found}))
    return found


def stored_gauge(objects: Objects, manifest: Manifest) -> Gauge | None:
    """What was measured of the keep when the store was filled; None where nothing was."""
    data = get_record(objects, GAUGE_KEY)
    try:
        record = canonical.unseal(data or b"")
    except NotCanonicalError:
        return None
    return record if record.pop("manifest", None) == manifest.fingerprint() else None


def measure(manifest: Manifest, answers: Answers) -> Gauge:
    """What the keep of a manifest gives back at each temperature, and where that is little, which keep would do."""
    codes_NC = answers(gauge_rows(manifest.rows, manifest.recipe.mix_window))
    at = {t: shares(manifest.keep, codes_NC, t) for t in _temperatures(manifest)}
    low = [t for t, found in at.items() if found["signal"] < ENOUGH and "said" not in found]
    would_do = _would_do(manifest, codes_NC, answers, low) if low else {}
    return {
        "keep": str(manifest.keep),
        "views": len(codes_NC),
        "temperatures": {f"{t:g}": found | would_do.get(t, {}) for t, found in at.items()},
    }


def shares(keep: Keep, codes_NC: NDArray[np.uint16], temperature: float) -> dict[str, Any]:
    """How much of what these answers say at a temperature a keep gives back: the KL, and the share of the signal."""
    labels = _labels(keep, codes_NC, (temperature,))
    true_NC = softmax_of(codes_NC, temperature)
    told_NC = keep.events(labels.arrays(), temperature, (temperature,)).spread(true_NC.shape[1])
    lost = float(divergence(true_NC, told_NC).mean())
    said = float(divergence(true_NC, np.full_like(true_NC, 1 / true_NC.shape[1])).mean())
    found = {"kl": round(lost, 5), "signal": round(1 - lost / said, 4) if said > 0 else 1.0}
    return found | ({"said": round(said, 6)} if said < LITTLE else {})


def gauge_rows(rows: int, window: int) -> NDArray[np.int64]:
    """Rows from all over, in every other mix window; in any where there are too few."""
    row_R = np.arange(rows, dtype=np.int64)
    unseen_N = row_R[row_R // window % 2 == 1]
    chosen_N = unseen_N if len(unseen_N) else row_R
    return chosen_N[firsts(len(chosen_N), MEASURED)]


def gauge_text(found: Gauge | None, size: Mapping[str, float], *, only: float | None = None) -> list[str]:
    """Lines as a person reads them; at one temperature (the nearest that was measured), or at all."""
    if found is None:
        return []
    at = found["temperatures"]
    chosen = at if only is None else {name: at[name] for name in [min(at, key=lambda t: abs(float(t) - only))]}
    told = ", ".join(f"{_percent(f['signal'])} at T = {t} (KL {f['kl']:.3f})" for t, f in chosen.items())
    candidates = [t for t in chosen if only is not None or float(t) <= HOTTEST_WARNED]
    warned = [t for t in candidates if warning(found, t) is not None][-1:]
    label = sum(bytes_ for name, bytes_ in size.items() if name not in PROOF)
    lines = [f"{found['keep']} keeps of the teacher's signal: {told}; {label:.1f} bytes of labels a view"]
    return lines + [text for t in warned if (text := warning(found, t)) is not None]


def _percent(share: float) -> str:
    return f"{max(0, 100 * share):.0f} %"


def warning(found: Gauge, temperature: str) -> str | None:
    """What to say where too little is kept at a temperature that was measured."""
    at = found["temperatures"][temperature]
    if "said" in at:
        return (
            f"WARNING: the teacher says next to nothing at T = {temperature}: {at['said']:.4f} nats beyond an even "
            "answer, whatever is kept of it. Check its weights, or train at a lower temperature (--tau)."
        )
    if at["signal"] >= ENOUGH:
        return None
    instead = at.get("instead")
    lost = f"WARNING: {found['keep']} loses {_percent(min(1, 1 - at['signal']))} of the signal at T = {temperature}."
    if instead is None:
        return lost
    signal, size = 100 * instead["signal"], instead["bytes"]
    return f"{lost} --keep {instead['keep']} would keep {signal:.0f} % in about {size:.0f} bytes of labels a view."


def _would_do(
    manifest: Manifest, codes_NC: NDArray[np.uint16], answers: Answers, low: list[float]
) -> dict[float, dict[str, Any]]:
    """For each of these temperatures the cheapest keep that gives back enough."""
    found: dict[float, dict[str, Any]] = {}
    for size, keep in sorted(_others(manifest, codes_NC, answers), key=lambda pair: pair[0]):
        for temperature in low:
            if temperature not in found and (at := shares(keep, codes_NC, temperature))["signal"] >= ENOUGH:
                found[temperature] = {"instead": {"keep": str(keep), "bytes": round(size, 1), "signal": at["signal"]}}
    return found


def _others(manifest: Manifest, codes_NC: NDArray[np.uint16], answers: Answers) -> Iterator[tuple[float, Keep]]:
    """Other keeps that there can be of this teacher, fitted, with the bytes of a view's label."""
    fit_NC: NDArray[np.uint16] | None = None
    for keep in map(parse_keep, OTHERS):
        with suppress(RecipeError):
            keep.require_fit(manifest.num_classes)
            if (fitting := keep.fitting) is not None:
                if manifest.num_classes > MOST_CLASSES_FITTED:
                    continue
                if fit_NC is None:
                    row_N = fitting.rows(manifest.rows, manifest.recipe.mix_window)
                    fit_NC = answers(row_N[firsts(len(row_N), FITTED)])
                if len(fit_NC) < fitting.least:
                    continue
                keep = fitting.fit(fit_NC)
            yield _size(replace(manifest, keep=keep, temperatures=_stored(manifest)), codes_NC), keep


def _size(manifest: Manifest, codes_NC: NDArray[np.uint16]) -> float:
    """Bytes of a view's label, argmax included."""
    manifest = replace(manifest, luma=False, unit_rows=min(manifest.unit_rows, MEASURED))
    labels = _labels(manifest.keep, codes_NC, manifest.temperatures)
    sample = UnitLabels(labels=labels, crc_B=np.zeros(len(codes_NC), np.uint32), luma_B16=None)
    return sum(size for name, size in encoded_sizes(manifest, sample).items() if name not in PROOF)


def _labels(keep: Keep, codes_NC: NDArray[np.uint16], temperatures: tuple[float, ...]) -> SoftLabels:
    return from_codes(codes_NC.argmax(axis=1).astype(class_dtype(codes_NC.shape[1])), codes_NC, keep, temperatures)


def _stored(manifest: Manifest) -> tuple[float, ...]:
    return manifest.temperatures or (1.0, 3.0)


def _temperatures(manifest: Manifest) -> list[float]:
    """Those that a student can train at: the stored ones, or any where the keep does not depend on them."""
    return list(manifest.temperatures) if manifest.keep.uses_temperatures else list(TEMPERATURES)
