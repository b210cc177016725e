"""Who keeps most of a teacher's answer in the fewest bytes?

    python -m benchmarks codecs --logits store.zarr                  # a dense store, or an .npy of logits [N, C]
    python -m benchmarks codecs --logits fit.zarr --logits held.zarr # components from the first, figures of the last

The same dense logits go through every format of `benchmarks.codec_formats`. What has to be fitted (our components, the
class prior) sees other pictures than those that are measured: of one store the first half of the rows, cut where no
view is mixed across (rows are mixed within windows). Without ``--logits`` a convnet labels the photographs.

bytes          a view, in chunks of 1,024 rows with checksum and index entry, the smaller of raw and Blosc(zstd): ours
               as in a store, the others with a byte shuffle. What proves pixels is not counted for anyone
KL             nats from the dense answer to what is read back, at T = 1 and 3. Draws give nothing to most classes, so
               theirs is infinite; to compare at all, they are mixed with the class prior, in the share that suits best
signal         1 − KL / KL of the even distribution
gradient       squared error of a target, relative to the squared length of the true one; all bias, or all variance
µs             a view, one thread, from logits to arrays and from arrays to all targets at T = 3
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numcodecs import Blosc
from numpy.typing import NDArray

from benchmarks.bench import Bench, one_core
from benchmarks.codec_formats import (
    TEMPERATURES,
    Arrays,
    Codec,
    DistillKit,
    MlDr,
    Ours,
    OursLowRank,
    Sampling,
    TinyViT,
    softmax,
)
from benchmarks.race import race
from benchmarks.report import Table, grid
from benchmarks.sizes import answers_of, teacher_of
from pipeline.errors import UserError
from pipeline.labels import lowrank_codec
from pipeline.labels.codes import logits_of
from pipeline.labels.dense import Dense
from pipeline.labels.soft_labels import encode as encode_labels
from pipeline.labels.topk import TopK
from pipeline.store.reader import StoreReader

KEPT = (5, 10, 20)
LOWRANK = ((3, 6), (4, 16), (5, 24), (5, 35), (8, 64), (8, 92), (12, 128))
DRAWS = (1, 8, 32, 128)
CHUNK, CHUNK_BYTES = 1024, 20
"""Rows of a chunk; its checksum and its entry in the index"""
TIMED = 1024
FIT, MOST = 8192, 4096
COLOURS = {"ours": "#e8762f", "TinyViT": "#4f8df0", "ml-dr": "#35a572", "DistillKit": "#a05fd0", "sampling": "#8b92a0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a format did."""

    name: str
    size: float
    divergence: tuple[float, float]
    kept: tuple[float, float]
    gradient: tuple[float, float]
    same_top: float
    unbiased: bool


def measure(bench: Bench) -> Table:
    """Encode, weigh, read back and compare."""
    fitted_NC, held_BC, source = logits_to_race(bench)
    codecs = contestants(fitted_NC, held_BC.shape[1])
    prior = {t: softmax(fitted_NC, t).mean(axis=0) for t in TEMPERATURES}
    found = [outcome(codec, held_BC, prior) for codec in codecs]
    speed = speeds(codecs, held_BC, bench)
    rows = [
        [
            done.name,
            f"{done.size:,.1f}",
            *(f"{value:.3f}" if value >= 1e-3 else f"{value:.1e}" for value in done.divergence),
            *(f"{100 * value:.0f} %" for value in done.kept),
            *(f"{100 * value:.2g} %" for value in done.gradient),
            "variance" if done.unbiased else "bias",
            f"{100 * done.same_top:.1f} %",
            *(f"{1e6 * value:.1f}" for value in speed[done.name]),
        ]
        for done in found
    ]
    figures = {f"{done.name}, bytes": done.size for done in found}
    figures |= {f"{d.name}, KL at {t:g}": kl for d in found for t, kl in zip(TEMPERATURES, d.divergence, strict=True)}
    figures |= {
        f"{name}, µs to {what}": 1e6 * t for name, ts in speed.items() for what, t in zip(DIRECTIONS, ts, strict=True)
    }
    at = [f"{t:g}" for t in TEMPERATURES]
    return Table(
        name="codecs",
        title="What a format keeps of a teacher's answer, in how many bytes",
        columns=(
            "format", "bytes", *(f"KL, T = {t}" for t in at), *(f"signal, T = {t}" for t in at),
            *(f"gradient, T = {t}" for t in at), "all of it", "argmax", "µs to encode", "µs to decode",
        ),
        rows=grid(rows),
        figures=figures,
        notes=(
            f"{len(held_BC):,} views of {held_BC.shape[1]:,} classes measured, {len(fitted_NC):,} of other pictures "
            f"fitted on; {source}.",
            "KL of draws: mixed with the class prior in the best share. Their bytes are of one temperature.",
            "µs are processor time of one thread, the median of several rounds.",
        ),
        picture=picture(found),
    )  # fmt: skip


DIRECTIONS = ("encode", "decode")


def logits_to_race(bench: Bench) -> tuple[NDArray[np.float32], NDArray[np.float32], str]:
    """Logits to fit on, those of other pictures to measure on, and where they are from."""
    if not bench.logits:
        teacher, real = teacher_of(bench)
        index = bench.photographs.indexed(bench.scratch("codecs"), bench.rows(2048))
        logits_BC = answers_of(teacher, index)[1]
        half = len(logits_BC) // 2
        weights = "trained weights" if real else "RANDOM WEIGHTS, not to be quoted"
        return logits_BC[:half], logits_BC[half:], f"{teacher.card.name} with {weights}, one view of each row"
    first, last = _read(bench.logits[0]), _read(bench.logits[-1])
    if len(bench.logits) == 1:
        values, window = first
        half = values.shape[1] // 2 // window * window
        if half == 0:
            raise UserError(
                f"{bench.logits[0]} has {values.shape[1]} rows, which are mixed in windows of {window}: no half "
                "of them stands alone. Give two stores, one to fit on and one to measure."
            )
        first, last = (values[:, :half], window), (values[:, half:], window)
    fitted, held = (part[0].reshape(-1, part[0].shape[-1]) for part in (first, last))
    return _thinned(fitted, FIT), _thinned(held, MOST), " and ".join(path.name for path in bench.logits)


def _read(path: Path) -> tuple[NDArray[np.float32], int]:
    """Logits [views, rows, classes], and how many rows are mixed with each other."""
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False).astype(np.float32)[None], 1
    store = StoreReader.open(path)
    if store.manifest.keep.kind != "dense":
        raise UserError(f"{path} keeps {store.manifest.keep}: a race needs dense logits. Label with --keep dense.")
    runs, views = range(store.layout.runs), range(store.layout.views)
    found = [np.concatenate([_dense(store, view, run) for run in runs]) for view in views]
    return np.stack(found), store.manifest.recipe.mix_window


def _dense(store: StoreReader, view: int, run: int) -> NDArray[np.float32]:
    return logits_of(store.read(view, run, luma=False).labels.parts["logits"])


def _thinned(logits_BC: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """At most so many, spread evenly."""
    return logits_BC[:: max(1, -(-len(logits_BC) // most))]


def contestants(fitted_NC: NDArray[np.float32], classes: int) -> list[Codec]:
    """Everybody, as far as there are classes for it."""
    codes_NC = encode_labels(fitted_NC, Dense()).parts["logits"]
    kept = [k for k in KEPT if k < classes]
    ranks = [(k, r) for k, r in LOWRANK if k < classes and r < min(classes, len(codes_NC))]
    return [
        Ours(Dense(), classes),
        *(Ours(TopK(k), classes) for k in kept),
        *(OursLowRank(k, lowrank_codec.fit(codes_NC, k, r)) for k, r in ranks),
        *(TinyViT(k, classes) for k in kept),
        *(MlDr(k, classes) for k in kept),
        *(DistillKit(k, classes) for k in (*kept[1:], 50) if k < classes),
        *(Sampling(n, classes) for n in DRAWS),
    ]


def outcome(codec: Codec, held_BC: NDArray[np.float32], prior: dict[float, NDArray[np.float64]]) -> Outcome:
    """The figures of one format."""
    stored, unbiased = codec.encode(held_BC), isinstance(codec, Sampling)
    divergence, kept, gradient = [], [], []
    for t in TEMPERATURES:
        true_BC, told_BC = softmax(held_BC, t), codec.told(stored, t).astype(np.float64)
        loss = drawn_loss(true_BC, told_BC, prior[t]) if unbiased else kl(true_BC, told_BC)
        even = kl(true_BC, np.full_like(true_BC, 1 / true_BC.shape[1]))
        divergence.append(loss)
        kept.append(1 - loss / even)
        gradient.append(float(((told_BC - true_BC) ** 2).sum() / (true_BC**2).sum()))
    same_top = float((codec.told(stored, 1.0).argmax(axis=1) == held_BC.argmax(axis=1)).mean())
    parts = {name: array for name, array in stored.items() if not unbiased or name == "drawn 1"}
    return Outcome(
        name=codec.name, size=weight(parts, ours=isinstance(codec, OursLowRank)), divergence=_pair(divergence),
        kept=_pair(kept), gradient=_pair(gradient), same_top=same_top, unbiased=unbiased,
    )  # fmt: skip


def _pair(values: Sequence[float]) -> tuple[float, float]:
    first, second = values
    return first, second


def kl(true_BC: NDArray[np.float64], told_BC: NDArray[np.float64]) -> float:
    """Mean KL(true ‖ told) in nats."""
    tiny = np.finfo(np.float64).tiny
    ratio_BC = np.log(np.maximum(true_BC, tiny)) - np.log(np.maximum(told_BC, tiny))
    return float((true_BC * ratio_BC).sum(axis=1).mean())


def drawn_loss(true_BC: NDArray[np.float64], told_BC: NDArray[np.float64], prior_C: NDArray[np.float64]) -> float:
    """The least KL over shares of the prior."""
    return min(kl(true_BC, (1 - share) * told_BC + share * prior_C) for share in np.linspace(0.05, 1, 20))


def weight(stored: Arrays, *, ours: bool) -> float:
    """Bytes a view, of whole chunks where there is one."""
    count = len(next(iter(stored.values())))
    count = count // CHUNK * CHUNK or count
    total = 0.0
    for array in stored.values():
        columns = ours and array.ndim == 2
        for start in range(0, count, CHUNK):
            total += CHUNK_BYTES + packed(array[start : start + CHUNK], columns)
    return total / count


def packed(chunk: NDArray[Any], columns: bool) -> int:
    """Bytes of a chunk: column after column in blocks of four, or with a byte shuffle."""
    if chunk.size == 0:
        return 0
    if columns:
        codec, chunk = Blosc("zstd", 1, Blosc.NOSHUFFLE, 4 * len(chunk)), np.ascontiguousarray(chunk.T)
    else:
        codec = Blosc("zstd", 5, Blosc.SHUFFLE)
    return min(chunk.nbytes, len(codec.encode(np.ascontiguousarray(chunk))))


def speeds(codecs: Sequence[Codec], held_BC: NDArray[np.float32], bench: Bench) -> dict[str, tuple[float, float]]:
    """Seconds a view to encode and to decode, of each."""
    some_BC = held_BC[:TIMED]
    stored = {codec.name: codec.encode(some_BC) for codec in codecs}
    turns: dict[str, Callable[[], int]] = {}
    for codec in codecs:
        turns[f"{codec.name} encode"] = lambda codec=codec: len(codec.encode(some_BC)) and len(some_BC)
        turns[f"{codec.name} decode"] = lambda codec=codec: len(codec.told(stored[codec.name], TEMPERATURES[-1]))
    with one_core():
        took = race(turns, seconds=0, fewest=bench.fewest)
    return {c.name: _pair([took.cost(f"{c.name} {what}", busy=True).median for what in DIRECTIONS]) for c in codecs}


def picture(found: Sequence[Outcome]) -> bytes:
    """KL over bytes, one panel a temperature."""
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "white"}):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        for place, (axes, t) in enumerate(zip(figure.subplots(1, 2), TEMPERATURES, strict=True)):
            for label, chosen in _families(found).items():
                line = sorted((done.size, done.divergence[place]) for done in chosen)
                axes.plot(*zip(*line, strict=True), marker="o", label=label, color=COLOURS[label.split(",")[0]],
                          linestyle="--" if label == "ours, topk" else "-")  # fmt: skip
            axes.set(xscale="log", yscale="log", xlabel="bytes a view", ylabel="KL (nats)", title=f"T = {t:g}")
            axes.set_xlim(right=200)
            axes.set_ylim(bottom=0.01)
            axes.grid(alpha=0.25)
        figure.axes[0].legend(frameon=False)
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=110, metadata={"Software": None})
    return data.getvalue()


def _families(found: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    families: dict[str, list[Outcome]] = {}
    for done in found:
        family, _, form = done.name.partition(", ")
        if family == "ours":
            family = f"ours, {form.partition(':')[0]}"
        if form != "dense":  # far to the right of all others, at nothing
            families.setdefault(family, []).append(done)
    return families
