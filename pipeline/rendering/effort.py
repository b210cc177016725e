"""What did drawing cost, and what was it spent on? Counted by whoever draws, and handed back with each batch.

A few readings of the clock for each picture: nothing beside decoding one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(slots=True, kw_only=True)
class Effort:
    """Sums over views that were drawn, and over pictures that were opened for them; all seconds are one worker's."""

    views: int = 0
    seconds: float = 0.0
    """Of drawing, all of the following included."""
    reading: float = 0.0
    """Seconds of reading payloads from shards, and proving them."""
    decoding: float = 0.0
    looking: float = 0.0
    """Seconds of reading pictures that the node has decoded before (`pipeline.picture_cache`)."""
    keeping: float = 0.0
    """Seconds of writing them there."""
    decoded: int = 0
    """Pictures, or parts of pictures."""
    parts: int = 0
    """Of those: parts of tiled pictures."""
    looked_up: int = 0
    """Pictures that had been decoded before."""
    found: int = 0
    """Of all views: those that had been drawn before (`pipeline.rendering.view_cache`)."""
    finding: float = 0.0
    """Seconds of reading these."""
    saving: float = 0.0
    """Seconds of keeping others for the next time."""
    pixels: int = 0
    """Of all pictures that were opened."""
    box_pixels: int = 0
    """Of these, in the boxes that the views lie in."""
    row_pixels: int = 0
    """Of these, in the rows of those boxes."""

    @property
    def opened(self) -> int:
        """How many pictures were decoded, or found decoded on the node."""
        return self.decoded + self.looked_up

    def add(self, other: Effort) -> None:
        """Add the counts and seconds of another process to these."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def since(self, earlier: Effort) -> Effort:
        """What has been added since `earlier`, which is a copy of these counts as they were then."""
        names = [field.name for field in fields(self)]
        return Effort(**{name: getattr(self, name) - getattr(earlier, name) for name in names})
