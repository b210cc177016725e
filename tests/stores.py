"""Small stores whose labels are made up, as a pure function of the unit: the same in every process."""

from __future__ import annotations

import dataclasses
import gzip
import io
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

import google_crc32c
import numpy as np

from pipeline.labels.dense import Dense
from pipeline.labels.keeps import parse_keep
from pipeline.labels.soft_labels import SoftLabels, encode
from pipeline.proofs.checksums import luma
from pipeline.proofs.proof import kept
from pipeline.shards.index import SampleIndex
from pipeline.shards.samples import key_hashes
from pipeline.store.layout import Unit
from pipeline.store.manifest import Manifest, TeacherCard
from pipeline.store.reader import StoreReader
from pipeline.store.unit_labels import UnitLabels
from pipeline.store.witness import Witness, witness_rows
from pipeline.store.writer import StoreWriter
from pipeline.views.recipe import Recipe

SIDE = 8
ENVIRONMENT = {"machine": "made up"}


def index_of(rows: int, *, salt: int = 0) -> SampleIndex:
    """Rows of one shard that is nowhere."""
    keys = [f"sample{salt}-{row:05d}".encode() for row in range(rows)]
    row_R = np.arange(rows)
    return SampleIndex(
        urls=("data/train/000000.tar",),
        class_names=None,
        shard_sizes=np.array([512 * (2 * rows + 2)], np.int64),
        shard_starts=np.array([0, rows], np.int64),
        key_bytes=np.frombuffer(b"".join(keys), np.uint8),
        key_starts=np.cumsum([0, *map(len, keys)]).astype(np.int64),
        key_hash=key_hashes(keys),
        classes=(row_R % 5).astype(np.int32),
        offsets=(512 + 1024 * row_R).astype(np.int64),
        lengths=np.full(rows, 300, np.int64),
        payload_crc=(row_R * 7919).astype(np.uint32),
        widths=np.full(rows, 32, np.int32),
        heights=np.full(rows, 24, np.int32),
    )


def same_labels(one: SoftLabels | UnitLabels, other: SoftLabels | UnitLabels) -> bool:
    """Whether both have the same arrays, of the same types, with the same bits."""
    mine, theirs = one.arrays(), other.arrays()
    return mine.keys() == theirs.keys() and all(
        a.dtype == theirs[name].dtype and a.shape == theirs[name].shape and a.tobytes() == theirs[name].tobytes()
        for name, a in mine.items()
    )


def card(**changes: object) -> TeacherCard:
    values = {
        "name": "tiny",
        "weights_sha256": "ab" * 32,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "input_size": SIDE,
        "classes": 12,
        "precision": "fp32",
        "batch_size": 16,
    }
    return TeacherCard(**{**values, **changes})  # type: ignore[arg-type]


def manifest_of(index: SampleIndex, keep: str = "topk:3", **changes: object) -> Manifest:
    """A manifest over these rows, in units of 32."""
    values = {
        "recipe": Recipe(seed=3, image_size=SIDE),
        "index_digest": index.digest(),
        "rows": len(index),
        "teacher": card(),
        "keep": parse_keep(keep),
        "temperatures": (1.0, 3.0),
        "num_classes": 12,
        "class_names": None,
        "class_map": None,
        "unit_rows": 32,
        "luma": True,
    }
    manifest = Manifest(**{**values, **changes})  # type: ignore[arg-type]
    if (fitting := manifest.keep.fitting) is not None:
        rows = fitting.rows(manifest.rows, manifest.recipe.mix_window)
        manifest = dataclasses.replace(manifest, keep=fitting.fit(codes_of(manifest, rows)))
    return manifest


def codes_of(manifest: Manifest, row_N: np.ndarray) -> np.ndarray:
    """What the teacher of `labels_of` said about view 0 of these rows, in full."""
    dense = dataclasses.replace(manifest, keep=Dense())
    units = [labels_of(dense, Unit(0, run)) for run in range(-(-manifest.rows // manifest.unit_rows))]
    return np.concatenate([unit.labels.parts["logits"] for unit in units])[row_N]


def labels_of(manifest: Manifest, unit: Unit, *, salt: int = 0) -> UnitLabels:
    """What a teacher might have said about a unit."""
    start = unit.run * manifest.unit_rows
    count = min(manifest.unit_rows, manifest.rows - start)
    generator = np.random.default_rng([unit.view, unit.run, salt])
    logits_BC = generator.normal(0, 3, (count, manifest.num_classes)).astype(np.float32)
    crc_B = generator.integers(0, 2**32, count, dtype=np.uint32)
    luma_B16 = generator.integers(0, 256, (count, 16), dtype=np.uint8)
    witness = witness_of(manifest)
    for row, pixels_HWC in zip(witness.row_W.tolist(), witness.pixels_WHWC, strict=True):
        if unit.view == 0 and start <= row < start + count:
            crc_B[row - start] = google_crc32c.value(pixels_HWC.tobytes())
            luma_B16[row - start] = luma(pixels_HWC)
    proof = kept(manifest.luma, crc_B, luma_B16)
    labels = encode(logits_BC, manifest.keep, manifest.temperatures)
    return UnitLabels(labels=labels, crc_B=proof[0], luma_B16=proof[1])


def witness_of(manifest: Manifest) -> Witness:
    """Three views in full."""
    row_W = witness_rows(manifest.rows, 3)
    side = manifest.recipe.image_size
    pixels_WHWC = np.random.default_rng(1).integers(0, 256, (len(row_W), side, side, 3), dtype=np.uint8)
    return Witness(row_W=row_W, view_W=np.zeros(len(row_W), np.int64), pixels_WHWC=pixels_WHWC)


def open_writing(
    path: Path, manifest: Manifest, index: SampleIndex, views: int, *, recheck: bool = False
) -> StoreWriter:
    """Without pictures to draw witnesses from."""
    return StoreWriter.open(
        path,
        manifest,
        index,
        views,
        witness=lambda: witness_of(manifest),
        environment=lambda: ENVIRONMENT,
        answers=lambda row_N: codes_of(manifest, row_N),
        recheck=recheck,
    )


def fill(store: StoreWriter, units: Iterable[Unit] | None = None) -> None:
    """Write what is missing, or these units."""
    for unit in store.missing() if units is None else units:
        store.write(unit, labels_of(store.manifest, unit))


def finished(path: Path, manifest: Manifest, index: SampleIndex, views: int = 2) -> StoreReader:
    """A finished store, opened for reading."""
    with open_writing(path, manifest, index, views) as store:
        fill(store)
        store.finish()
    return StoreReader.open(path)


def tree(path: Path) -> dict[str, bytes]:
    """Every file of a directory, and every directory."""
    found = {f"{p.relative_to(path)}/": b"" for p in path.rglob("*") if p.is_dir()}
    return found | {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def golden() -> tuple[Manifest, SampleIndex]:
    """What `tests/golden/store-v1/made_up.tar.gz` is a store of: 2 views of 20 rows."""
    index = index_of(20)
    return manifest_of(index, "topk:2", unit_rows=16, recipe=Recipe(seed=3, image_size=SIDE, version=1)), index


def write_golden(path: Path) -> None:
    """Make ``tests/golden/store_v<VERSION>.tar.gz`` for a new version; those of released versions stay as they are."""
    with tempfile.TemporaryDirectory() as folder, gzip.GzipFile(path, "wb", mtime=0) as packed:
        store = Path(folder, "store.zarr")
        finished(store, *golden())
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for file in sorted(p for p in store.rglob("*") if p.is_file()):
                member = tarfile.TarInfo(str(file.relative_to(store)))
                member.size = file.stat().st_size
                tar.addfile(member, io.BytesIO(file.read_bytes()))
