"""How many bytes does a view take in the store, with the logits of a trained convnet?

Compressed size depends on what is compressed, so the logits are real ones wherever weights are at hand: 2,048 views of
the photographs, augmented and mixed by the recipe, 1,024 rows a run, through the same writer as any store. What a view
is proven by (checksum and sketch, as it is by default) is counted apart.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import timm
from numpy.typing import NDArray

from benchmarks.bench import Bench
from benchmarks.labels_at_hand import manifest_of, random_teacher
from benchmarks.report import Table, grid
from pipeline.labelling.environment import describe_environment
from pipeline.labels.codes import quantise
from pipeline.labels.soft_labels import encode
from pipeline.proofs.proof import SKETCH, kept
from pipeline.rendering.drift import draw_witnesses
from pipeline.rendering.renderer import Rendered, Renderer
from pipeline.shards.index import SampleIndex
from pipeline.store.unit_labels import UnitLabels
from pipeline.store.writer import StoreWriter
from pipeline.teacher.loading import load_teacher
from pipeline.teacher.teacher import Teacher
from pipeline.views.recipe import Recipe

MODEL = "tf_efficientnet_lite0"
WEIGHTS = Path(__file__).parents[2] / f"shared/data/weights/{MODEL}.safetensors"
KEEPS = {"dense": "fp16: 2,000", "topk:10": "TinyViT: 44", "lowrank:5+35": "", "argmax": "16 bit: 2"}
PROOF = "crc"
RUN_ROWS, BATCH = 1024, 64


def measure(bench: Bench) -> Table:
    """Write the three stores and weigh them."""
    index = bench.photographs.indexed(bench.scratch("sizes"), bench.rows(2 * RUN_ROWS))
    teacher, real = teacher_of(bench)
    answers, logits_BC = answers_of(teacher, index)
    witness, rows, figures = draw_witnesses(Recipe(), index), [], {}

    def codes_of(row_N: NDArray[np.int64]) -> NDArray[np.uint16]:
        return quantise(logits_BC[row_N], "row {}".format)

    for keep, theirs in KEEPS.items():
        manifest = replace(
            manifest_of(index, keep, unit_rows=min(RUN_ROWS, len(index)), card=teacher.card), luma=SKETCH
        )
        fitting = manifest.keep.fitting
        if fitting is not None and len(fitting.rows(len(index), manifest.recipe.mix_window)) < fitting.least:
            continue  # too few views have been drawn to fit it to
        path = bench.scratch(f"sizes-{keep[:4]}") / "store.zarr"
        with StoreWriter.open(
            path, manifest, index, 1, witness=lambda: witness, environment=describe_environment, answers=codes_of
        ) as store:
            for unit in store.missing():
                part = slice(*store.layout.rows_of(unit))
                labels = encode(logits_BC[part], store.layout.manifest.keep, manifest.temperatures)
                crc_B, luma_B16 = kept(manifest.luma, answers.crc_B[part], answers.luma_B16[part])
                store.write(unit, UnitLabels(labels=labels, crc_B=crc_B, luma_B16=luma_B16))
            sizes = store.finish().bytes_per_view()
        own = sum(size for name, size in sizes.items() if name != PROOF)
        parts = ", ".join(f"{name} {size:.2f}" for name, size in sizes.items() if name != PROOF)
        rows.append([keep, f"{own:,.2f}", parts, f"{sizes[PROOF]:.2f}", theirs])
        figures[f"{keep}, bytes a view"] = own
    source = "trained weights" if real else "RANDOM WEIGHTS, for want of trained ones (--weights): not to be quoted"
    return Table(
        name="sizes",
        title="Bytes a view in the store",
        columns=("keep", "labels", "of which", "checksum + sketch", "others"),
        rows=grid(rows),
        figures=figures,
        notes=(
            f"{len(index):,} views of 1,000 classes, {min(RUN_ROWS, len(index)):,} rows a run; {teacher.card.name} "
            f"with {source}. Log-sum-exp at two temperatures is part of topk; "
            "the components of lowrank, once a store, are not.",
        ),
    )


def teacher_of(bench: Bench) -> tuple[Teacher, bool]:
    """A convnet, and whether it was trained."""
    weights = bench.weights or (WEIGHTS if WEIGHTS.exists() else None)
    if bench.tiny or weights is None:
        name = "test_efficientnet" if bench.tiny else MODEL
        return random_teacher(name, precision="fp32", batch=BATCH), False
    assert timm.is_model(MODEL)
    return load_teacher(MODEL, view_size=224, weights=weights, device="cpu", batch_size=BATCH), True


def answers_of(teacher: Teacher, index: SampleIndex) -> tuple[Rendered, NDArray[np.float32]]:
    """One view of every row, as the teacher sees it."""
    renderer = Renderer(Recipe(), index, index.files())
    logits, crcs, lumas = [], [], []
    for start in range(0, len(index), BATCH):
        row_B = np.arange(start, min(start + BATCH, len(index)))
        pixels_BHWC = np.empty((len(row_B), 224, 224, 3), np.uint8)
        drawn = renderer.render(row_B, np.zeros_like(row_B), pixels_BHWC)
        logits.append(teacher(pixels_BHWC))
        crcs.append(drawn.crc_B)
        lumas.append(drawn.luma_B16)
    return Rendered(np.concatenate(crcs), np.concatenate(lumas)), np.concatenate(logits)
