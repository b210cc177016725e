"""How do several flags reach a command as one value?

    @command()
    @recipe_options                        # image_size, crop, flip, … arrive as recipe: Recipe
    @click.option("--sample", …)
    @gather("check", Check)                # what is called as the fields of Check arrives as check: Check
    def main(recipe: Recipe, check: Check): ...

From top to bottom: each `gather` takes what the ones above it made, too. What it makes may refuse, as a command does.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


def gather(name: str, make: Callable[..., object], *flags: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Hand a command, as its argument `name`, what `make` makes of these flags, or of those named as its parameters."""
    taken = flags or tuple(inspect.signature(make).parameters)

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def gathered(*args: Any, **given: Any) -> Any:
            value = make(**{flag: given.pop(flag) for flag in taken})
            return function(*args, **{name: value}, **given)

        return gathered

    return wrap
