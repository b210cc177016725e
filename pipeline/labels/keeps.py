"""Which keeps are there, and which one did a user write?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipeline.errors import RecipeError
from pipeline.labels import argmax, dense, lowrank, topk
from pipeline.labels.keep import Keep

KEEPS: Mapping[str, Callable[[str | None], Keep | None]] = {
    "dense": dense.read,
    "topk": topk.read,
    "lowrank": lowrank.read,
    "argmax": argmax.read,
}
"""By the word before the colon: the keep that was asked for with this text behind it, None where that is not one"""

ARRAYS = ("argmax", "logits", "topk_index", "topk_logit", "lse", "next_low", "next_high", "head", "tail")
"""The names of all arrays that hold answers, of any keep"""

FITTED_ARRAYS = ("mean", "step", "spread")
"""The names of all arrays that hold what a keep was fitted to"""


def parse_keep(text: str) -> Keep:
    """The keep that a user wrote on the command line, such as ``topk:10``."""
    kind, colon, argument = text.strip().partition(":")
    read = KEEPS.get(kind)
    found = None if read is None else read(argument if colon else None)
    if found is not None:
        return found
    raise RecipeError(
        f"keep '{text}' is not understood. Give dense, topk:K (for example topk:10), lowrank:K+R (for example "
        "lowrank:5+35) or argmax."
    )
