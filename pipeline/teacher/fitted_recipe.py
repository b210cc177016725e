"""Was a teacher fitted to such views as it is to label?

`stages.fit_teacher` writes the recipe that it fitted under into ``fit.json``, beside the weights. A teacher that has
only seen light crops is often wrong about heavily augmented ones, and its students learn that, so it is told.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import RecipeError
from pipeline.views.recipe import Recipe

RECORD = "fit.json"
LARGEST_RECORD = 1 << 28
LOCAL = "local-dir:"


def other_views(model: str, weights: Path | None, recipe: Recipe) -> str | None:
    """What differs between the views of the fit and those of `recipe`, and what helps; None where nothing matters.

    Plain centre crops are asked for to see what the teacher is worth, not to be learned from: any fit suits them.
    """
    folder = weights.parent if weights is not None else Path(model.removeprefix(LOCAL))
    known = weights is not None or model.startswith(LOCAL)
    fitted = _recipe_of(folder / RECORD) if known and recipe.crop != "center" else None
    differences = [] if fitted is None else _seen(fitted).differences(_seen(recipe))
    if not differences:
        return None
    return (
        f"the teacher in {folder} was fitted to other views than those that it is to label: {'; '.join(differences)} "
        "(the fit against the labels). What it says of views that it never saw is worth less, and students learn it. "
        "Fit it under the recipe of the labels (stages.fit_teacher with the recipe flags that are given here), or "
        "label under the recipe of the fit."
    )


def _recipe_of(record: Path) -> Recipe | None:
    """The recipe of a fit that learned something; None where there is no such record, or one that cannot be read."""
    try:
        if record.stat().st_size > LARGEST_RECORD:
            return None
        contract: Any = json.loads(record.read_bytes())["contract"]
        return Recipe.from_json(contract["recipe"]) if contract["settings"]["epochs"] else None
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError, RecipeError):
        return None


def _seen(recipe: Recipe) -> Recipe:
    """The recipe with nothing but what shows in a view."""
    same = Recipe()
    kept = {
        name: getattr(same, name) for name in ("seed", "mix_window", "decoder", "on_bad_image", "version", "crop_pct")
    }
    if not recipe.jitters:
        kept["color_jitter"] = 0.0
    if not recipe.mixes:
        kept |= {"mixup": 0.0, "cutmix": 0.0, "mix_prob": same.mix_prob, "mix_switch": same.mix_switch}
    return replace(recipe, **kept)
