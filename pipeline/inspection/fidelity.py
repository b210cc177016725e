"""What is lost when fewer of the teacher's logits are kept?

Both stores are made into distributions over all classes at a temperature: dense labels by a softmax; top-K labels
exactly on the kept classes, with the one mass of all others spread evenly over them. Reported are the mean mass of the
kept classes, the mean and largest divergence KL(before ‖ after), how often the class of the largest stored logit is the
stored argmax, and bytes a view, over units that are spread evenly over the store.

Shapes: B rows, C classes, K kept classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.keep import Keep
from pipeline.labels.soft_labels import SoftLabels
from pipeline.store.manifest import Manifest
from pipeline.store.reader import StoreReader

LIMIT = 20_000
"""Views that are compared, at most about"""

_AT_ONCE = 512


def compare(before: StoreReader, after: StoreReader) -> dict[str, Any]:
    """How far the labels of `after`, which was made from `before`, differ: agreement, kept mass, KL, bytes a view."""
    unit_rows = min(before.manifest.unit_rows, before.manifest.rows)
    units = before.layout.units()
    chosen = units[:: max(1, len(units) * unit_rows // LIMIT)]
    parts = [_parts(before, after, unit.view, unit.run) for unit in chosen]
    figures: dict[str, Any] = {
        "views_compared": sum(len(part["same"]) for part in parts),
        "argmax_agreement": _mean([part["same"] for part in parts]),
        "top1_of_kept_logits": _mean([part["top"] for part in parts]),
        "before": {"keep": str(before.manifest.keep), "bytes_per_view": before.bytes_per_view()},
        "after": {"keep": str(after.manifest.keep), "bytes_per_view": after.bytes_per_view()},
        "temperatures": {},
    }
    for temperature in _temperatures(before, after):
        name = f"{temperature:g}"
        lost_B = np.concatenate([part[f"kl {name}"] for part in parts])
        figures["temperatures"][name] = {
            "kept_mass": _mean([part[f"mass {name}"] for part in parts]),
            "kl_mean": float(lost_B.mean()),
            "kl_max": float(lost_B.max()),
        }
    return figures


def table(figures: dict[str, Any]) -> str:
    """The figures of `compare` as a table for the terminal."""
    before, after = figures["before"], figures["after"]
    lines = [f"{before['keep']} → {after['keep']}, compared on {figures['views_compared']:,} views"]
    lines.append(f"  argmax is the same in {100 * figures['argmax_agreement']:.2f} %")
    if figures["top1_of_kept_logits"] is not None:
        lines.append(f"  the largest kept logit is the argmax in {100 * figures['top1_of_kept_logits']:.2f} %")
    if figures["temperatures"]:
        lines.append("  temperature   kept mass      KL mean       KL max")
    for name, at in figures["temperatures"].items():
        lines.append(f"  {name:>11}   {at['kept_mass']:9.4f}   {at['kl_mean']:10.3e}   {at['kl_max']:10.3e}")
    lines.append("  bytes a view       before        after")
    sizes = (before["bytes_per_view"], after["bytes_per_view"])
    names = dict.fromkeys([*sizes[0], *sizes[1]])
    lines += [f"  {name:<12} {_bytes(sizes[0].get(name))} {_bytes(sizes[1].get(name))}" for name in names]
    lines.append(f"  {'all':<12} {_bytes(sum(sizes[0].values()))} {_bytes(sum(sizes[1].values()))}")
    return "\n".join(lines)


def _bytes(value: float | None) -> str:
    return f"{'–':>12}" if value is None else f"{value:12.2f}"


def _mean(parts: Sequence[NDArray[Any] | None]) -> float | None:
    present = [part for part in parts if part is not None]
    return float(np.concatenate(present).mean()) if present else None


def _temperatures(before: StoreReader, after: StoreReader) -> tuple[float, ...]:
    """Those at which both can be made into distributions."""
    if after.manifest.keep.kind == "argmax" or before.manifest.keep.kind == "argmax":
        return ()
    return after.manifest.temperatures or before.manifest.temperatures or (1.0, 3.0)


def _parts(before: StoreReader, after: StoreReader, view: int, run: int) -> dict[str, Any]:
    old, new = (store.read(view, run, luma=False).labels for store in (before, after))
    found: dict[str, Any] = {"same": old.argmax_B == new.argmax_B, "top": _top(after.manifest.keep, new)}
    for temperature in _temperatures(before, after):
        mass, lost = [], []
        for start in range(0, len(old), _AT_ONCE):
            stop = start + _AT_ONCE
            p_BC, _ = _distribution(before.manifest, old.slice(start, stop), temperature)
            q_BC, kept_B = _distribution(after.manifest, new.slice(start, stop), temperature)
            mass.append(kept_B)
            lost.append(divergence(p_BC, q_BC))
        found[f"mass {temperature:g}"] = np.concatenate(mass)
        found[f"kl {temperature:g}"] = np.concatenate(lost)
    return found


def _top(keep: Keep, labels: SoftLabels) -> NDArray[np.bool_] | None:
    """Whether the largest stored logit is that of the argmax, where only some logits are stored."""
    first_B1 = keep.likeliest(labels.arrays(), 1) if keep.ranks else None
    return None if first_B1 is None else first_B1[:, 0] == labels.argmax_B


def _distribution(
    manifest: Manifest, labels: SoftLabels, temperature: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities [B, C], and the mass [B] of the classes that were kept."""
    events = manifest.keep.events(labels.arrays(), temperature, manifest.temperatures)
    return events.spread(manifest.num_classes), 1 - events.rest_B


def divergence(p_BC: NDArray[np.float64], q_BC: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(p ‖ q) in nats, where the rounding of q to nothing counts as the smallest number there is."""
    tiny = np.finfo(np.float64).tiny
    result: NDArray[np.float64] = (p_BC * (np.log(np.maximum(p_BC, tiny)) - np.log(np.maximum(q_BC, tiny)))).sum(axis=1)
    return result
