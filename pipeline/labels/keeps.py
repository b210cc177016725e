"""Which keeps are there, and which one did a user write?"""

from __future__ import annotations

from pipeline.errors import RecipeError
from pipeline.labels.argmax import Argmax
from pipeline.labels.dense import Dense
from pipeline.labels.keep import Keep
from pipeline.labels.lowrank import LowRank
from pipeline.labels.topk import TopK

KEEPS: tuple[type[Keep], ...] = (Dense, TopK, LowRank, Argmax)
ARRAYS = ("argmax", "logits", "topk_index", "topk_logit", "lse", "next_low", "next_high", "head", "tail")
"""The names of all arrays that hold answers, of any keep"""


def parse_keep(text: str) -> Keep:
    """The keep that a user wrote on the command line, such as ``topk:10``."""
    kind, colon, argument = text.strip().partition(":")
    for keep in KEEPS:
        if keep.kind == kind:
            found = keep.read(argument if colon else None)
            if found is not None:
                return found
    raise RecipeError(
        f"keep '{text}' is not understood. Give dense, topk:K (for example topk:10), lowrank:K+R (for example "
        "lowrank:5+35) or argmax."
    )
