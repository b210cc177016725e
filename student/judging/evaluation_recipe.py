"""How must a picture be prepared to be judged, in training's validation, in evaluation and after export?

One answer for all: resize the short side to the floor of image size / crop_pct (antialiased bicubic), cut the central
square, scale to 0…1, subtract the mean, divide by the standard deviation.
"""

from __future__ import annotations

from pipeline.views.recipe import Recipe


def evaluation_recipe(image_size: int, crop_pct: float | None = None, on_bad_image: str = "refuse") -> Recipe:
    """The recipe of views that are judged: nothing in it is random."""
    chosen = {} if crop_pct is None else {"crop_pct": crop_pct}
    return Recipe.preset("none", image_size=image_size, on_bad_image=on_bad_image, **chosen)
