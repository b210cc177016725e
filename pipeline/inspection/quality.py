"""Is what the store says plausible? A few figures from which a wrong class order or normalisation is seen at once.

The teacher's top-1 and top-5 against the truth: over views of one picture alone, and by λ where two are mixed (the
truth is then the class with the larger share); its mean entropy; how often two views of a row get the same answer;
bytes a view. Over at most `LIMIT` views, spread evenly over the store: seconds, whatever the store's size.

Shapes: B views, C classes, K kept classes, V views of one row.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.keeps import parse_keep
from pipeline.labels.soft_labels import SoftLabels
from pipeline.spread import from_end_to_end
from pipeline.store.layout import Unit
from pipeline.store.reader import StoreReader
from pipeline.views.mixing import plan_mixing

LIMIT = 200_000
ENOUGH = 100
"""Views of one kind from which a share means something."""
LAMBDA_EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def summarise(store: StoreReader) -> dict[str, Any]:
    """How often the teacher was right, how sure it was, and what its labels take up, as plain values for JSON."""
    units = _spread(store)
    tallies = [_tally(store, unit) for unit in units]
    correct = {name: np.concatenate([t[name] for t in tallies]) for name in ("top1", "top5", "share")}
    labelled = correct["share"] > 0
    top1, top5, share = (correct[name][labelled] for name in ("top1", "top5", "share"))
    alone = share == 1.0
    entropies = np.concatenate([t["entropy"] for t in tallies])
    return {
        "teacher": store.manifest.teacher.name,
        "keep": str(store.manifest.keep),
        "views": store.layout.views,
        "rows": len(store.index),
        "measured_views": int(sum(len(t["top1"]) for t in tallies)),
        "labelled_views": int(labelled.sum()),
        "unmixed": _accuracy(top1[alone], top5[alone]),
        "by_lambda": {
            f"{low:.1f}-{high:.1f}": _accuracy(top1[inside], top5[inside])
            for low, high in itertools.pairwise(LAMBDA_EDGES)
            if (inside := (share >= low) & (share < high)).any()
        },
        "chance": 1.0 / store.manifest.num_classes,
        "entropy": None if np.isnan(entropies).all() else round(float(np.nanmean(entropies)), 4),
        "view_agreement": _agreement(store, units),
        "bytes_per_view": store.bytes_per_view(),
    }


def summary_text(summary: dict[str, Any]) -> str:
    """The figures as a person reads them, with a warning where the teacher does no better than chance."""
    lines = [f"teacher {summary['teacher']}: {summary['views']} views × {summary['rows']} rows"]
    parts = {"unmixed views": summary["unmixed"]} | {f"λ {k}": v for k, v in summary["by_lambda"].items()}
    lines += [
        f"  {name:<14} top-1 {_percent(part['top1'])}  top-5 {_percent(part['top5'])}  ({part['views']} views)"
        for name, part in parts.items()
        if part["views"]
    ]
    if summary["entropy"] is not None:
        kept = parse_keep(summary["keep"]).ranks
        among = f" (of the {kept} largest classes and the rest as one)" if kept else ""
        lines.append(f"  mean entropy {summary['entropy']:.3f} nats{among}")
    if summary["view_agreement"] is not None:
        lines.append(f"  two views of a row agree: {_percent(summary['view_agreement'])}")
    sizes = summary["bytes_per_view"]
    lines.append(f"  bytes a view: {sum(sizes.values()):.1f} ({', '.join(f'{k} {v:.1f}' for k, v in sizes.items())})")
    chance = summary["chance"]
    best = max((part["top1"] for part in parts.values() if part["views"] >= ENOUGH), default=1.0)
    if best < chance + 0.1 * (1 - chance):
        lines.append(
            f"  WARNING: top-1 {_percent(best)} is near chance ({_percent(chance)}). Wrong class order "
            "(--class-map), wrong input statistics (--mean, --std), or a head that was never trained?"
        )
    return "\n".join(lines)


def _spread(store: StoreReader) -> list[Unit]:
    """Whole runs (all of their views), evenly spread, within the limit; at least one run."""
    start, stop = store.layout.rows_of(Unit(0, 0))
    most = max(1, LIMIT // max(1, (stop - start) * store.layout.views))
    chosen = from_end_to_end(store.layout.runs, most).tolist()
    views = range(min(store.layout.views, max(1, LIMIT // (stop - start))))
    return [Unit(view, run) for run in chosen for view in views]


def _tally(store: StoreReader, unit: Unit) -> dict[str, NDArray[Any]]:
    """Per view of a unit: was the answer right (top-1, top-5), with which share of the picture, how unsure."""
    start, stop = store.layout.rows_of(unit)
    row_B = np.arange(start, stop)
    classes = store.index.classes
    mixing = plan_mixing(store.manifest.recipe, len(store.index), row_B, np.full(stop - start, unit.view))
    own = mixing.lam_B >= 0.5
    truth_B = np.where(own, classes[row_B], classes[mixing.partner_B])
    share_B = np.where(own, mixing.lam_B, 1 - mixing.lam_B)
    labels = store.read(unit.view, unit.run, luma=False).labels
    ranked_BK = store.manifest.keep.likeliest(labels.arrays(), 5)
    return {
        "top1": labels.argmax_B == truth_B,
        "top5": (ranked_BK == truth_B[:, None]).any(1) if ranked_BK is not None else np.full(stop - start, np.nan),
        "share": np.where(truth_B >= 0, share_B, 0.0),
        "entropy": _entropy(store, labels),
    }


def _entropy(store: StoreReader, labels: SoftLabels) -> NDArray[np.float64]:
    """Entropy at temperature 1; of the kept classes and the rest as one, where only some were kept."""
    keep, temperatures = store.manifest.keep, store.manifest.temperatures
    if keep.lacks(1.0, temperatures) is not None:
        return np.full(len(labels), np.nan)
    events = keep.events(labels.arrays(), 1.0, temperatures)
    return _plogp(np.concatenate([events.prob_BK, events.rest_B[:, None]], axis=1))


def _plogp(p_BC: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = -np.where(p_BC > 0, p_BC * np.log(np.where(p_BC > 0, p_BC, 1)), 0).sum(1)
    return result


def _agreement(store: StoreReader, units: list[Unit]) -> float | None:
    """How often a row's next view gets the same answer."""
    same = pairs = 0.0
    for _, group in itertools.groupby(units, key=lambda unit: unit.run):
        argmax_VB = np.stack([store.read_arrays(unit.view, unit.run, ["argmax"])["argmax"] for unit in group])
        for first, second in itertools.pairwise(argmax_VB):
            same, pairs = same + float((first == second).sum()), pairs + len(first)
    return round(same / pairs, 4) if pairs else None


def _accuracy(top1: NDArray[Any], top5: NDArray[Any]) -> dict[str, Any]:
    if not len(top1):
        return {"views": 0, "top1": None, "top5": None}
    five = None if np.isnan(top5.astype(float)).any() else round(float(top5.mean()), 4)
    return {"views": len(top1), "top1": round(float(top1.mean()), 4), "top5": five}


def _percent(share: float | None) -> str:
    return "    –" if share is None else f"{100 * share:5.1f}"
