"""How must a picture be prepared for a student, in training's validation, in evaluation and after export?

One answer for all: resize the short side to the floor of image size / crop_pct (antialiased bicubic), cut the central
square, scale to 0…1, subtract the mean, divide by the standard deviation.
"""

from __future__ import annotations

from student.checkpoints.trained import Saved
from student.judging.evaluation_recipe import evaluation_recipe


def description(saved: Saved, crop_pct: float | None = None) -> dict[str, object]:
    """How pictures are prepared for this student, as values for a file beside the export."""
    recipe = evaluation_recipe(saved.spec.image_size, crop_pct)
    return {
        "color": "RGB",
        "resize_short_side": int(recipe.image_size / recipe.crop_pct),
        "crop_pct": recipe.crop_pct,
        "center_crop": recipe.image_size,
        "interpolation": recipe.interpolation,
        "antialias": True,
        "scale": 1 / 255,
        "mean": list(saved.mean),
        "std": list(saved.std),
        "layout": "NCHW",
        "class_names": None if saved.class_names is None else list(saved.class_names),
    }
