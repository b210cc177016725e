"""Where does the time of a view go, stage by stage? Ours beside timm's, as a table and a plot (docs/speed_profile.png).

The stages of our renderer are timed where they are called, inside the real renderer: each function that `STAGES` names
is wrapped with a clock while the profile runs, and what no clock saw is "rest". timm's transform is taken apart into
its own steps. Writing is what a dense label of a view costs: encoded, compressed, made durable with its unit.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import Bench, one_core
from benchmarks.labels_at_hand import manifest_of, noise
from benchmarks.peers import opened, transform
from benchmarks.race import race
from benchmarks.render import WINDOW, our_turns
from benchmarks.report import Table, grid
from pipeline.labelling.environment import describe_environment
from pipeline.labels.soft_labels import encode
from pipeline.rendering import decoded
from pipeline.rendering import renderer as render
from pipeline.rendering.drift import draw_witnesses
from pipeline.rendering.loader import CACHE_BYTES
from pipeline.shards.index import SampleIndex
from pipeline.store.unit_labels import UnitLabels
from pipeline.store.writer import StoreWriter

PLOT = Path(__file__).parents[1] / "docs/speed_profile.png"
STAGES: Mapping[str, tuple[tuple[object, str], ...]] = {
    "plan": ((render, "plan_views"),),
    "read": ((decoded, "payload_of"),),
    "decode": ((decoded, "decode_part"),),
    "crop, resize": ((render, "_cut"),),
    "RandAugment": ((render, "apply"),),
    "erase": ((render, "erase"),),
    "mix": ((render, "_mix"),),
    "proof": ((render, "checksum"), (render, "samples"), (render, "thumbnails")),
}
THEIRS = {
    "RandomResizedCropAndInterpolation": "crop, resize",
    "RandAugment": "RandAugment",
    "RandomErasing": "erase",
}
ORDER = (*STAGES, "to float", "copy", "rest", "write")
Costs = dict[str, float]


def measure(bench: Bench) -> Table:
    """Profile the three, write, and draw."""
    index = bench.photographs.indexed(bench.scratch("profile"), bench.rows(256))
    with one_core():
        profiles = {
            "timm, float tensor": timm_costs(bench),
            "ours, 1 view a decode": our_costs(bench, index, views=1, cache_bytes=0),
            "ours, 8 views a decode": our_costs(bench, index, views=2 if bench.tiny else 8, cache_bytes=CACHE_BYTES),
        }
        write = write_cost(bench, index)
    for name, costs in profiles.items():
        if name.startswith("ours"):
            costs["write"] = write
    plot(profiles, bench.folder / "profile.png" if bench.tiny else PLOT)
    stages = [stage for stage in ORDER if any(stage in costs for costs in profiles.values())]
    rows = [
        [stage, *(f"{1e6 * costs[stage]:,.1f}" if stage in costs else "" for costs in profiles.values())]
        for stage in stages
    ]
    rows.append(["sum", *(f"{1e6 * sum(costs.values()):,.1f}" for costs in profiles.values())])
    return Table(
        name="profile",
        title="Where the time of a view goes (µs, one core)",
        columns=("stage", *profiles),
        rows=grid(rows),
        figures={f"{name}, {stage}": cost for name, costs in profiles.items() for stage, cost in costs.items()},
        notes=("Means over the run; clocks add about 1 µs a call. Ours writes only in the teacher stage.",),
    )


def our_costs(bench: Bench, index: SampleIndex, *, views: int, cache_bytes: int) -> Costs:
    """Seconds a view of each stage."""
    turn = our_turns(index, views=views, cache_bytes=cache_bytes)
    turn()
    with clocks() as spent:
        begun, done = time.perf_counter(), 0
        while not done or time.perf_counter() - begun < bench.seconds / 4:
            done += turn()
        total = time.perf_counter() - begun
    costs = {stage: spent[stage] / done for stage in STAGES}
    return {**costs, "rest": total / done - sum(costs.values())}


@contextmanager
def clocks() -> Iterator[defaultdict[str, float]]:
    """Time the stages while this lasts."""
    spent: defaultdict[str, float] = defaultdict(float)
    originals = [(owner, name, getattr(owner, name)) for calls in STAGES.values() for owner, name in calls]
    stage_of = {(id(owner), name): stage for stage, calls in STAGES.items() for owner, name in calls}
    try:
        for owner, name, function in originals:
            setattr(owner, name, _timed(function, spent, stage_of[id(owner), name]))
        yield spent
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)


def _timed(function: Callable[..., Any], spent: defaultdict[str, float], stage: str) -> Callable[..., Any]:
    def with_clock(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[stage] += time.perf_counter() - begun

    return with_clock


def timm_costs(bench: Bench) -> Costs:
    """Seconds a view of each step of its transform."""
    steps = transform(to_uint8=False).transforms  # type: ignore[attr-defined]
    source, spent, done = itertools.cycle(bench.photographs.payloads), defaultdict[str, float](float), 0
    batch, begun = np.empty((WINDOW, 3, 224, 224), np.float32), time.perf_counter()
    while done < 8 or time.perf_counter() - begun < bench.seconds / 4:
        clock = time.perf_counter()
        view: Any = opened(next(source))
        clock = _lap(spent, "decode", clock)
        for step in steps:
            view = step(view)
            clock = _lap(spent, THEIRS.get(type(step).__name__, "to float"), clock)
        batch[done % WINDOW] = view
        _lap(spent, "copy", clock)
        done += 1
    return {stage: seconds / done for stage, seconds in spent.items()}


def _lap(spent: defaultdict[str, float], stage: str, begun: float) -> float:
    now = time.perf_counter()
    spent[stage] += now - begun
    return now


def write_cost(bench: Bench, index: SampleIndex) -> float:
    """Seconds a view to encode, compress and commit its dense label."""
    unit_rows = 16 if bench.tiny else 256
    manifest, numbers = manifest_of(index, "dense", unit_rows=unit_rows), itertools.count()
    witness, row_B = draw_witnesses(manifest.recipe, index, 1), np.arange(min(unit_rows, len(index)))
    logits_BC, folder = noise(row_B, np.empty(0, np.uint8)), bench.scratch("profile-stores")
    crc_B, luma_B16 = np.zeros(len(row_B), np.uint32), np.zeros((len(row_B), 16), np.uint8)
    views = 64
    with StoreWriter.open(
        folder / "s.zarr", manifest, index, views, witness=lambda: witness, environment=describe_environment
    ) as store:
        units = iter(store.missing())

        def turn() -> int:
            next(numbers)
            labels = encode(logits_BC, manifest.keep, manifest.temperatures)
            store.write(next(units), UnitLabels(labels=labels, crc_B=crc_B, luma_B16=luma_B16))
            return len(row_B)

        result = race({"write": turn}, seconds=0, fewest=2 if bench.tiny else 9)
    return result.cost("write").median


def plot(profiles: Mapping[str, Costs], path: Path) -> None:
    """A bar a profile, a colour a stage."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.9), layout="constrained")
    axes = figure.add_subplot()
    names, left = list(profiles)[::-1], np.zeros(len(profiles))
    colours = (
        "#8a8f98",
        "#b9c0c9",
        "#3b6fb6",
        "#69a3d9",
        "#e08a3c",
        "#c05a5a",
        "#9a6fb0",
        "#3f9c6d",
        "#d9b44a",
        "#caa0a0",
        "#dddddd",
        "#5f5f5f",
    )
    for stage, colour in zip(ORDER, colours, strict=True):
        widths = np.array([1000 * profiles[name].get(stage, 0.0) for name in names])
        if widths.any():
            axes.barh(names, widths, left=left, color=colour, label=stage, height=0.6)
            left += widths
    for place, end in enumerate(left.tolist()):
        axes.text(end, place, f" {end:.2f} ms", va="center")
    axes.set_xlim(0, 1.12 * left.max())
    axes.set_xlabel("milliseconds a view, one core")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=6, fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.45, 1.32))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
