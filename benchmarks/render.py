"""How long does one core need for a view, against timm's transform on the same photographs?

Ours is the whole way: payload read and held to its checksum, decoded, cut and resized with antialiasing, RandAugment,
erased, mixed with its partner, checksum and thumbnail taken. timm's is decode and transform, from payloads in memory;
its uint8 form neither erases nor normalises, and nothing of timm's here mixes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.bench import Bench, one_core
from benchmarks.peers import SIDE, opened, transform
from benchmarks.race import Contestant, Race, race
from benchmarks.report import Table, grid
from pipeline.picture_cache.kept import PictureCache
from pipeline.rendering.loader import CACHE_BYTES
from pipeline.rendering.renderer import Renderer
from pipeline.shards.index import SampleIndex
from pipeline.views.recipe import Recipe

WINDOW = 64
PEER_UINT8, PEER_FLOAT = "timm transform, to uint8", "timm transform, to float tensor"
ONE, MANY = "ours, 1 view a decode", "ours, 8 views a decode"


def measure(bench: Bench) -> Table:
    """Race ours and timm's."""
    photographs = bench.photographs.whole_windows(WINDOW)
    index = photographs.indexed(bench.scratch("render"), len(photographs))
    with one_core():
        result = race(contestants(bench, photographs.payloads, index), seconds=bench.seconds, fewest=bench.fewest)
    return table(result)


def contestants(bench: Bench, payloads: tuple[bytes, ...], index: SampleIndex) -> dict[str, Contestant]:
    """Each goes through the same few dozen photographs in a round, and through the next ones in the next."""
    some = 16 if bench.tiny else WINDOW
    return {
        PEER_UINT8: timm_turns(payloads, some, to_uint8=True),
        PEER_FLOAT: timm_turns(payloads, some, to_uint8=False),
        ONE: our_turns(index, views=1, cache_bytes=0),
        MANY: our_turns(index, views=2 if bench.tiny else 8, cache_bytes=CACHE_BYTES),
    }


def our_turns(
    index: SampleIndex, *, views: int, cache_bytes: int, recipe: Recipe | None = None,
    pictures: PictureCache | None = None,
) -> Contestant:  # fmt: skip
    """A mix window in `views` new views a turn, as a rendering worker is asked for them; a turn begins with no picture
    decoded but those of the picture cache."""
    files = index.files()
    pixels = np.empty((WINDOW, SIDE, SIDE, 3), np.uint8)
    windows = itertools.cycle(range(max(1, len(index) // WINDOW)))
    first = itertools.count(0, views)

    def turn() -> int:
        row_B = np.arange(WINDOW) + next(windows) * WINDOW
        row_B = row_B[row_B < len(index)]
        start = next(first)
        renderer = Renderer(recipe or Recipe(), index, files, cache_bytes=cache_bytes, pictures=pictures)
        for view in range(start, start + views):
            renderer.render(row_B, np.full(len(row_B), view), pixels[: len(row_B)])
        return views * len(row_B)

    return turn


def timm_turns(payloads: tuple[bytes, ...], count: int, *, to_uint8: bool) -> Contestant:
    """So many payloads through timm's transform, into a batch."""
    apply, source = transform(to_uint8=to_uint8), itertools.cycle(payloads)
    store = _into_uint8() if to_uint8 else _into_float()

    def turn() -> int:
        for payload in itertools.islice(source, count):
            store(apply(opened(payload)))
        return count

    return turn


def _into_uint8() -> Callable[[Any], None]:
    batch, slots = np.empty((WINDOW, 3, SIDE, SIDE), np.uint8), _slots()

    def put(view: Any) -> None:
        batch[next(slots)] = view

    return put


def _into_float() -> Callable[[Any], None]:
    batch, slots = torch.empty((WINDOW, 3, SIDE, SIDE)), _slots()

    def put(view: Any) -> None:
        batch[next(slots)] = view

    return put


def _slots() -> Iterator[int]:
    return itertools.cycle(range(WINDOW))


def table(result: Race) -> Table:
    """Milliseconds a view, and how many times as fast as timm."""
    rows = [
        [
            name,
            f"{1000 * result.cost(name).median:.3f}",
            f"{result.rate(name).median:,.0f}",
            result.ratio(name, PEER_UINT8).text(),
            result.ratio(name, PEER_FLOAT).text(),
            result.ratio(name, PEER_UINT8, busy=True).text(),
        ]
        for name in result.turns
    ]
    figures = {
        f"{short} against {peer} ({clock})": result.ratio(name, base, busy=clock == "processor").median
        for short, name in (("1 view", ONE), ("8 views", MANY))
        for peer, base in (("timm uint8", PEER_UINT8), ("timm float", PEER_FLOAT))
        for clock in ("wall", "processor")
    }
    columns = ("one core", "ms a view", "views/s", "× timm uint8", "× timm float", "× timm uint8, processor time")
    return Table(
        name="render",
        title="Rendering a view on one core: DeiT's recipe at 224",
        columns=columns,
        rows=grid(rows),
        figures=figures,
        notes=(
            f"{result.rounds} rounds in turn; ratios are medians (smallest–largest) of those within a round.",
            "Ours includes reading, erasing, mixing, checksum and thumbnail; timm's uint8 form none of these, its "
            "float form erasing.",
        ),
    )
