"""Can this payload be made one whose parts are decoded alone (`pipeline.pictures.jpeg_tiling`), and if not, why?

The tiled payload is decoded strictly and must show the very pixels of the original; whatever does not stays whole. The
reason is one of a few words that can be counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.errors import ImageError
from pipeline.pictures.formats import JPEG
from pipeline.pictures.images import decode, format_of
from pipeline.pictures.jpeg_tiling import NotPlainError, tile

MOST_BYTES = 4 << 20
"""Of a payload that is tiled; the transcoder needs about 200 times as many for a while"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiled:
    """The bytes of a picture after the attempt to tile it, and why it failed, if it did."""

    payload: bytes
    whole: str | None = None
    """Why it is as it was."""


def tiled_text(images: int, whole: Mapping[str, int]) -> str:
    """How many pictures were tiled, and why the others were not."""
    text = f"{images - sum(whole.values()):,} tiled"
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(whole.items()))
    return f"{text}, whole: {reasons}" if whole else text


def tiled(payload: bytes) -> Tiled:
    """The same picture in bytes that are cheap to decode in part; as it was, with the reason, where that cannot be."""
    try:
        return Tiled(payload=_tiled(payload))
    except NotPlainError as error:
        return Tiled(payload=payload, whole=error.reason)


def _tiled(payload: bytes) -> bytes:
    try:
        known = format_of(payload)
        if known is not JPEG:
            raise NotPlainError(known.kind)
        if len(payload) > MOST_BYTES:
            raise NotPlainError("large")
        found = tile(payload)
        same = np.array_equal(decode(found), decode(payload))
    except ImageError:
        raise NotPlainError("cannot be decoded") from None
    except MemoryError:
        raise NotPlainError("large") from None
    if not same:
        raise NotPlainError("other pixels")
    return found
