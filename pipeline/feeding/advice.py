"""What would help a device that waits for views? Numbers computed from what was measured in this very run.

A view costs a worker P / k + R seconds: P to read and decode its picture, which serves k views, and R for the rest.
Each remedy changes one of these:

    --workers         as many times as fast as there are more of them, while cores are idle
    --repeats 3       three views of a picture in one step: P / 3
    pack --tiled      decoding costs the share of the picture that its views look at, a little more, and the assembly
    --max-side M      decoding costs as much less as there are fewer pixels
    --picture-cache   in place of P: an open, and a copy and a checksum of the rows that a crop lies in
    --view-cache      in place of all of it, where views are used again: an open, a copy and two checksums of a view,
                      and its thumbnail

What is said is an estimate; `python -m benchmarks advice` holds the estimates to what the remedies really give.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.rendering.effort import Effort

TELLING, WORTH = 0.10, 1.10
"""The waiting share from which something is said, and by how many times a remedy must help"""
TILED_S, TILED_BASE, TILED_SHARE = 60e-6, 0.08, 1.13
"""Of a tiled picture: seconds to assemble a part, and what that costs to decode, of the whole (base + share · part)"""
OPEN_S = 30e-6
"""Of a decoded picture in the node's cache: to find and open it, without its pixels"""
FIND_S = 50e-6
"""Of a view that was drawn before: to find and open it, and its thumbnail, without its pixels"""
REPEATS = 3
SLOW_READING = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one process saw of its own run: how long, how many views, and what drawing them took."""

    seconds: float
    """Of training or labelling, without validation and the like."""
    working: float
    """Of those, the seconds in which the device worked."""
    views: int
    """That it took in that time."""
    effort: Effort
    """Of the workers, in that time."""
    workers: int
    """That draw for this process; 0 is the process itself."""
    cores: int
    """That this process and its workers may use."""
    repeats: int | None
    """Views of a picture in one step of a student; None for a teacher."""
    cached: bool
    """Whether decoded pictures are kept on the node."""
    drawn_once: bool
    """Whether drawn views are kept on the node."""
    fills: bool
    """Whether there is room for more of them."""
    uses: float
    """How often the run still uses each view on this node; 1 for a teacher."""
    view_bytes: int
    max_side: int
    """The longest side that photographs need for views of this size."""
    smaller: float
    """What packing them at that side would leave of their pixels, 0 to 1."""
    byte_s: float
    """To copy a byte and take it into a checksum, here."""

    @property
    def waiting(self) -> float:
        """The share of the time in which the device had nothing to do."""
        return 1.0 - self.working / self.seconds if self.seconds > self.working else 0.0

    @property
    def takes(self) -> float:
        """Views a second that the device would take if it never waited."""
        return self.views / self.working if self.working else 0.0

    @property
    def draws(self) -> float:
        """Views a second that the workers draw when they need not wait."""
        return self._drawn(self._picture_s)

    @property
    def _picture_s(self) -> float:
        """Seconds to get a picture, as it is."""
        spent = self.effort
        return (spent.reading + spent.decoding + spent.looking + spent.keeping) / max(spent.opened, 1)

    @property
    def _each(self) -> float:
        """Views that a picture serves."""
        return self.effort.views / max(self.effort.opened, 1)

    def _drawn(self, picture_s: float, each: float | None = None) -> float:
        """Views a second, if a picture cost so much and served so many views."""
        spent = self.effort
        rest = spent.seconds - spent.reading - spent.decoding - spent.looking - spent.keeping
        view_s = rest / spent.views + picture_s / (each or self._each)
        return max(self.workers, 1) / view_s

    @property
    def _decode_s(self) -> float:
        """Seconds to decode a picture."""
        return self.effort.decoding / max(self.effort.decoded, 1)

    @property
    def _looked_at(self) -> float:
        """The share of a picture that its views look at."""
        return self.effort.box_pixels / max(self.effort.pixels, 1)

    def _decoded(self, decode_s: float, each: float | None = None) -> float:
        """Views a second, if decoding a picture cost so much."""
        return self._drawn(self.effort.reading / max(self.effort.decoded, 1) + decode_s, each)

    def remedies(self) -> dict[str, float]:
        """What a user could do that is not done yet, by flag, with the views a second that would then be drawn."""
        spent, found = self.effort, {}
        cores = max(self.cores, 1)
        if self.workers < cores:
            found[f"--workers {cores}"] = self.draws * cores / max(self.workers, 1)
        if spent.found >= 0.95 * spent.views:
            return found
        again = self.uses >= 2
        if not (again and self.fills):
            found |= self._decoding_less()
        if again and self.fills:
            found["the view cache, once all views are in it,"] = self.draws_kept
        elif again:
            found["a larger --view-cache-size" if self.drawn_once else "--view-cache"] = self.draws_kept
        return found

    def _decoding_less(self) -> dict[str, float]:
        """What makes pictures cheaper."""
        spent, found = self.effort, {}
        if self.cached:
            filling = spent.decoded > 0.05 * spent.opened
            return {"the picture cache, once all pictures are in it,": self.draws_cached} if filling else {}
        decodes_each_time = self._each < 2 and spent.decoded > 0
        if self.repeats == 1 and decodes_each_time:
            whole_s = (self._decode_s - TILED_S) / tiled(self._looked_at) if spent.parts else self._decode_s
            found[f"--repeats {REPEATS}"] = self._decoded(whole_s, REPEATS * self._each)
        if decodes_each_time and not spent.parts:
            found["pack --tiled"] = self._decoded(TILED_S + tiled(self._looked_at) * self._decode_s)
        if self.smaller < 0.9:
            anew = "" if self.repeats is None else " (and labels anew)"
            found[f"pack --max-side {self.max_side}{anew}"] = self._decoded(self.smaller * self._decode_s)
        found["--picture-cache"] = self.draws_cached
        return found

    @property
    def draws_cached(self) -> float:
        """Views a second that the workers would draw of pictures that were decoded before: they read a crop's rows."""
        return self._drawn(OPEN_S + 3 * self.effort.row_pixels / max(self.effort.opened, 1) * self.byte_s)

    @property
    def draws_kept(self) -> float:
        """Views a second that the workers would bring of views that were drawn before."""
        return max(self.workers, 1) / (FIND_S + 2 * self.view_bytes * self.byte_s)


def tiled(share: float) -> float:
    """What decoding a tiled picture costs, as a share of decoding the whole, where `share` of it is looked at."""
    return min(1.0, TILED_BASE + TILED_SHARE * share)


def advice(found: Measurement) -> str | None:
    """The line to print for a run that was measured; None where the device is fed, or nothing can be said."""
    if found.waiting < TELLING or not found.effort.views or not found.effort.seconds:
        return None
    who = f"{found.workers} workers draw" if found.workers else "this process draws"
    begun = (
        f"waiting {100 * found.waiting:.0f} %: {who} {found.draws:,.0f} views/s, the device takes {found.takes:,.0f}"
    )
    better = {name: rate for name, rate in found.remedies().items() if rate >= WORTH * found.draws}
    said = [
        f"{name} {'would draw about ' if not at else ''}{rate:,.0f}" for at, (name, rate) in enumerate(better.items())
    ]
    reading = found.effort.reading / found.effort.seconds
    slow = (
        f" Reading the shards takes {100 * reading:.0f} % of it: a faster disk would help."
        if reading > SLOW_READING
        else ""
    )
    return f"{begun}; {', '.join(said)}.{slow}" if said else f"{begun}; only more cores would help.{slow}"
