"""Which flags say how views are drawn, and which recipe do they make?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from pipeline.commands.command import options
from pipeline.commands.gather import gather
from pipeline.errors import RecipeError
from pipeline.views.recipe import Recipe


def _pair(name: str) -> Callable[[click.Context, click.Parameter, str | None], tuple[float, float] | None]:
    """A callback that reads 'LOW,HIGH'."""

    def read(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[float, float] | None:
        if value is None:
            return None
        try:
            low, high = (float(part) for part in value.split(","))
        except ValueError:
            raise click.BadParameter(f"{name} takes two numbers with a comma between them, not {value!r}") from None
        return low, high

    return read


_RECIPE_OPTIONS: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
    click.option(
        "--recipe",
        "preset",
        type=click.Choice(["deit", "light", "three", "none"]),
        default="deit",
        show_default=True,
        help="The values that the recipe flags below start from: DeiT's, light crops and flips, DeiT III's 3-Augment, "
        "or the plain centre crop.",
    ),
    click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True, help="Seed of every draw."),
    click.option(
        "--image-size", type=click.IntRange(min=8), help="Side of a view in pixels.  [default: 224]", default=None
    ),
    click.option("--crop", type=click.Choice(["random", "center", "simple"]), help="How a view is cut out."),
    click.option(
        "--crop-scale", callback=_pair("--crop-scale"), help="Share of the area that a crop may take, as 'LOW,HIGH'."
    ),
    click.option("--crop-ratio", callback=_pair("--crop-ratio"), help="Aspect ratios of a crop, as 'LOW,HIGH'."),
    click.option("--crop-pct", type=float, help="Share of the short side that a centre crop keeps."),
    click.option("--flip", type=float, help="Probability of a horizontal flip."),
    click.option(
        "--randaugment", help="RandAugment in timm's words, 'rand-m9-mstd0.5-inc1' for example; '' turns it off."
    ),
    click.option(
        "--three-augment/--no-three-augment", default=None, help="One of greyscale, solarise and blur (DeiT III)."
    ),
    click.option("--color-jitter", type=float, help="Colour jitter, where RandAugment is off; 0 turns it off."),
    click.option("--erase", type=float, help="Probability of random erasing (pixel noise)."),
    click.option("--mixup", type=float, help="Mixup alpha; 0 turns it off."),
    click.option("--cutmix", type=float, help="CutMix alpha; 0 turns it off."),
    click.option("--mix-prob", type=float, help="Probability that a pair of rows is mixed at all."),
    click.option("--mix-switch", type=float, help="Probability of CutMix where both are on."),
    click.option("--mix-window", type=click.IntRange(min=2), help="Consecutive rows among which partners are drawn."),
    click.option("--interpolation", type=click.Choice(["bicubic", "bilinear", "random"]), help="Filter of the resize."),
    click.option(
        "--on-bad-image",
        type=click.Choice(["refuse", "grey"]),
        help="What an image that cannot be decoded does: stop with its key, or count as a plain grey picture.",
    ),
)


def _recipe(preset: str, seed: int, **asked: Any) -> Recipe:
    """The preset, with the flags that were given."""
    given = {name: value for name, value in asked.items() if value is not None}
    try:
        return Recipe.preset(preset, seed=seed, **given)
    except RecipeError as error:
        raise RecipeError(f"--recipe {preset} with these flags: {error}") from error


RECIPE_FLAGS = {field.name for field in fields(Recipe)} - {"decoder", "version"}

recipe_options = options(*_RECIPE_OPTIONS, gather("recipe", _recipe, "preset", *RECIPE_FLAGS))
"""All that decides pixels, which arrives as `recipe`."""
