"""Is this teacher fit to label these views, and are its labels worth training on?

A sample of rows is looked at twice: as they are labelled (view 0), and plain (the whole picture, nothing drawn at
random). Of labelled views that are *clear* (one picture fills at least `CLEAR` of them) the teacher should say about
what it says of the plain picture. How often it is right on labelled views is known of many more of them, from the
summary of the store. From that follow a few figures, and advice in plain words:

    out of its depth    on clear labelled views it is right far less often than on plain ones
    overconfident       on plain pictures it is much surer than it is right
    hard labels         at a temperature nearly everything lies on one class: soft targets teach no more than hard ones
    ignorant            on plain pictures it is right no more often than one answer to everything would be; or its
                        answers are even, or all the same
    nothing to add      every row has a label, the teacher says the same, and nothing beside it

Where no row has a label, "right" is what it says of the plain picture itself. None of this is part of the store.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.codes import Answers, softmax_of
from pipeline.shards.index import SampleIndex
from pipeline.spread import firsts
from pipeline.views.mixing import plan_mixing
from pipeline.views.recipe import Recipe

CLEAR = 0.8
FEWEST = 20
"""Clear views, below which nothing is concluded"""
DEPTH = 0.7
"""Of its top-1 on plain views: below it a teacher is out of its depth"""
SURER = 0.15
"""Mean probability of its answer, above its top-1, from which it is overconfident"""
HARD = 0.9
"""Mean probability of the largest class from which targets are hard ones"""
RIGHT = 0.98
"""Top-1 on clear views from which a teacher says what the labels say"""
EVEN = 0.99
"""Of the entropy that there can be: from it on an answer says nothing"""
VARIED = 0.8
"""Share of the commonest class from which pictures are too much alike to tell whether anything is known of them"""
TEMPERATURES = (1.0, 3.0)
SAMPLE, SMALLEST, SHARE = 256, 48, 50
"""Rows, at most; at least; and one in so many of the views that are stored"""


def plain_recipe(recipe: Recipe) -> Recipe | None:
    """How the same pictures are drawn plainly; None where they are labelled so."""
    if recipe.crop == "center" and not recipe.mixes:
        return None
    return Recipe.preset(
        "none", image_size=recipe.image_size, seed=recipe.seed, decoder=recipe.decoder, on_bad_image=recipe.on_bad_image
    )


def sample_rows(rows: int, views: int) -> NDArray[np.int64]:
    """Rows from all over the data; few of them where little was labelled."""
    return firsts(rows, min(SAMPLE, max(SMALLEST, rows * views // SHARE)))


def examine(
    recipe: Recipe, index: SampleIndex, row_N: NDArray[np.int64], labelled: Answers, plain: Answers,
    summary: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The figures, as plain values, and the advice that follows from them; `summary` is of the store (`quality`)."""
    seen_NC, plain_NC = labelled(row_N), plain(row_N)
    mixing = plan_mixing(recipe, len(index), row_N, np.zeros(len(row_N), np.int64))
    own_N = mixing.lam_B >= 0.5
    share_N = np.where(own_N, mixing.lam_B, 1 - mixing.lam_B)
    main_N = np.where(own_N, row_N, mixing.partner_B)
    truth_N, said_N = index.classes[main_N], _said_of(plain_NC, row_N, main_N, plain)
    against = "truth" if (truth_N >= 0).any() else "plain"
    right_N, known_N = (truth_N, truth_N >= 0) if against == "truth" else (said_N, np.ones(len(row_N), np.bool_))
    found = {
        "views": len(row_N),
        "against": against,
        "all_labelled": bool((index.classes >= 0).all()),
        "plain": _plain(plain_NC, index.classes[row_N], against),
        "clear": _right(seen_NC, right_N, known_N & (share_N >= CLEAR)),
        "mixed": _right(seen_NC, right_N, known_N & (share_N < CLEAR)),
        "view_agreement": summary["view_agreement"],
        "temperatures": {f"{t:g}": _sharpness(seen_NC[share_N >= CLEAR], t) for t in TEMPERATURES},
    }
    if against == "truth":
        found |= _of_store(summary)
    return found | {"advice": advice(found)}


def advice(found: Mapping[str, Any]) -> list[str]:
    """What a person should do, or know, before training on these labels."""
    plain, clear = found["plain"], found["clear"]
    said = _ignorance(plain, found["against"]) if plain["views"] >= FEWEST else []
    if said or clear["views"] < FEWEST:
        return said
    deep = clear["top1"] < DEPTH * plain["top1"]
    if deep:
        agree = found["view_agreement"]
        others = "" if agree is None else f", and two views of a picture agree on {_percent(agree)}"
        truth = found["against"] == "truth"
        right = "it is right on" if truth else "it says what it says of the plain picture on"
        beside = f"; on plain pictures {_percent(plain['top1'])}" if truth else ""
        said.append(
            f"This teacher is out of its depth: {right} {_percent(clear['top1'])} of the clear views that it "
            f"labels{others}{beside}. Fit it under the recipe of the labels "
            "(fit_teacher --recipe …), or label with lighter crops (--recipe light)."
        )
    surer = plain["confidence"] - plain["top1"]
    if found["against"] == "truth" and surer >= SURER:
        said.append(
            f"This teacher is overconfident: it is {_percent(plain['confidence'])} sure of its answers on plain "
            f"pictures, and right on {_percent(plain['top1'])}. A higher temperature (--tau) softens what it says."
        )
    hard = [t for t, at in found["temperatures"].items() if at["largest"] >= HARD]
    if hard:
        most = hard[-1]
        largest = found["temperatures"][most]["largest"]
        said.append(
            f"At T = {most} its labels are hard ones: {_percent(largest)} of a clear view's target lies on one class. "
            "Soft distillation there teaches hardly more than --distill hard; a higher temperature does."
        )
    if found["against"] == "truth" and found["all_labelled"] and clear["top1"] >= RIGHT and hard[-1:] == ["3"]:
        said.append(
            "These labels can add little: every row has a label, and the teacher says the same and nothing beside it. "
            "A teacher that knows other pictures, or rows without a label, would."
        )
    return said


def _ignorance(plain: Mapping[str, Any], against: str) -> list[str]:
    """What to say of a teacher that knows nothing of these pictures: nothing is wrong in any other figure."""
    chance = plain["commonest"]
    lucky = chance + 2 * math.sqrt(chance * (1 - chance) / plain["views"])
    if plain["entropy"] >= EVEN * plain["even"]:
        return [
            "This teacher says next to nothing: its answers to plain pictures are nearly even over all classes "
            f"(entropy {plain['entropy']:.2f} of {plain['even']:.2f} nats). Check its weights."
        ]
    if against == "truth" and chance < VARIED and plain["top1"] <= lucky:
        return [
            f"This teacher knows next to nothing of these pictures: it is right on {_percent(plain['top1'])} of plain "
            f"ones, and one answer to everything would be on {_percent(chance)}. Check its weights, which class is "
            "which (--class-map), or fit it (fit_teacher)."
        ]
    if against == "plain" and plain["same"] == 1:
        return ["This teacher gives one and the same answer to every plain picture. Check its weights."]
    return []


def doctor_text(found: Mapping[str, Any] | None) -> list[str]:
    """Lines that tell a person what `doctor` found, its advice last; none where nothing was looked at."""
    if found is None:
        return []
    plain, clear, mixed = (found[name] for name in ("plain", "clear", "mixed"))
    right = "right on" if found["against"] == "truth" else "says the same on"
    told = [f"{_percent(plain['top1'])} of plain views" if found["against"] == "truth" else ""]
    told += [
        f"{_percent(p['top1'])} of {n} ones ({p['views']})"
        for n, p in (("clear", clear), ("mixed", mixed))
        if p["views"]
    ]
    sharp = ", ".join(f"{at['largest']:.2f} at T = {t}" for t, at in found["temperatures"].items() if at["views"])
    lines = [f"teacher {right} {', '.join(filter(None, told))}; its largest probability on clear views: {sharp}"]
    return lines + [f"ADVICE: {text}" for text in found["advice"]]


def _said_of(
    plain_NC: NDArray[np.uint16], row_N: NDArray[np.int64], main_N: NDArray[np.int64], plain: Answers
) -> NDArray[np.intp]:
    """What the teacher says of the main picture of each view, plainly; that is not always the row's own."""
    said_N: NDArray[np.intp] = plain_NC.argmax(axis=1)
    other_N = main_N != row_N
    if other_N.any():
        said_N[other_N] = plain(main_N[other_N]).argmax(axis=1)
    return said_N


def _plain(codes_NC: NDArray[np.uint16], class_N: NDArray[Any], against: str) -> dict[str, Any]:
    """Top-1 and mean probability of the answer; where nothing is labelled, it is right about itself."""
    known_N = class_N >= 0 if against == "truth" else np.ones(len(class_N), np.bool_)
    said_N, p_NC = codes_NC.argmax(axis=1)[known_N], softmax_of(codes_NC[known_N], 1.0)
    figures = {
        "top1": (said_N == class_N[known_N]).mean() if against == "truth" and known_N.any() else 1.0,
        "confidence": p_NC.max(axis=1).mean() if known_N.any() else 0.0,
        "entropy": _entropy(p_NC),
        "even": math.log(codes_NC.shape[1]),
        "commonest": _commonest(class_N[known_N]),
        "same": _commonest(said_N),
    }
    return {"views": int(known_N.sum())} | {name: round(float(value), 4) for name, value in figures.items()}


def _commonest(class_N: NDArray[Any]) -> float:
    """Share of the class that is met most often."""
    return float(np.unique(class_N, return_counts=True)[1].max() / len(class_N)) if len(class_N) else 0.0


def _entropy(p_NC: NDArray[np.float64]) -> float:
    """Mean, in nats."""
    logs_NC = np.log(np.maximum(p_NC, np.finfo(np.float64).tiny))
    return float(-(p_NC * logs_NC).sum(axis=1).mean()) if len(p_NC) else 0.0


def _right(codes_NC: NDArray[np.uint16], class_N: NDArray[Any], chosen_N: NDArray[np.bool_]) -> dict[str, Any]:
    hits_N = (codes_NC.argmax(axis=1) == class_N)[chosen_N]
    return {"views": len(hits_N), "top1": round(float(hits_N.mean()), 4) if len(hits_N) else None}


def _of_store(summary: Mapping[str, Any]) -> dict[str, Any]:
    """How often it is right on the clear and on the mixed ones of all views that were summed up."""
    parts = {1.0: summary["unmixed"]} | {float(name.split("-")[0]): part for name, part in summary["by_lambda"].items()}
    found = {}
    for name, chosen in (("clear", [p for low, p in parts.items() if low >= CLEAR]),
                         ("mixed", [p for low, p in parts.items() if low < CLEAR])):  # fmt: skip
        views = sum(part["views"] for part in chosen)
        hits = sum(part["views"] * part["top1"] for part in chosen if part["views"])
        found[name] = {"views": views, "top1": round(hits / views, 4) if views else None}
    return found


def _sharpness(codes_NC: NDArray[np.uint16], temperature: float) -> dict[str, Any]:
    """Mean of the largest probability, and entropy in nats."""
    if not len(codes_NC):
        return {"views": 0, "largest": 0.0, "entropy": 0.0}
    p_NC = softmax_of(codes_NC, temperature)
    largest = p_NC.max(axis=1).mean()
    return {"views": len(codes_NC), "largest": round(float(largest), 4), "entropy": round(_entropy(p_NC), 4)}


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
