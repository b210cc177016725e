"""The formats of labels that race: each gives back what its description says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import codecs
from benchmarks.bench import Bench
from benchmarks.codec_formats import Codec, DistillKit, MlDr, Ours, Sampling, TinyViT, softmax
from benchmarks.photographs import Photographs
from pipeline.errors import UserError
from pipeline.labels.topk import TopK
from tests.pictures import jpeg

CLASSES = 300
LOGITS = np.random.default_rng(0).normal(0, 3, (200, CLASSES)).astype(np.float32)


def bench(folder: Path, *logits: Path) -> Bench:
    return Bench(
        photographs=Photographs(payloads=(jpeg(0, 90, 70),), source="a small scene"),
        folder=folder,
        logits=logits,
        tiny=True,
    )


@pytest.mark.parametrize("codec", [TinyViT(10, CLASSES), MlDr(10, CLASSES), Ours(TopK(10), CLASSES)])
def test_the_kept_classes_are_told_and_the_rest_is_even(codec: Codec) -> None:
    told_BC = -np.sort(-codec.told(codec.encode(LOGITS), 1.0), axis=1)
    np.testing.assert_allclose(told_BC[:, :10], -np.sort(-softmax(LOGITS), axis=1)[:, :10], rtol=0.01)
    rest_B1 = (1 - told_BC[:, :10].sum(axis=1, keepdims=True)) / (CLASSES - 10)
    np.testing.assert_allclose(told_BC[:, 10:], np.repeat(rest_B1, CLASSES - 10, axis=1), rtol=1e-6)


def test_a_curve_over_the_ranks_gives_the_order_and_nearly_the_values() -> None:
    codec = DistillKit(10, CLASSES)
    stored = codec.encode(LOGITS)
    assert sum(array.nbytes for array in stored.values()) == 200 * (12 + 2 + 12)  # 10 × 9 bits, bfloat16, 3 terms
    order_BK = np.argsort(-LOGITS, axis=1)[:, :10]
    told, true = (np.take_along_axis(v, order_BK, axis=1) for v in (codec.told(stored, 1.0), softmax(LOGITS)))
    np.testing.assert_allclose(told[:, 0], true[:, 0], rtol=0.02)
    assert np.abs(np.log(told) - np.log(true)).mean() < 0.15


def test_draws_are_unbiased() -> None:
    logits_BC = np.tile(LOGITS[:1], (20_000, 1))
    for temperature in (1.0, 3.0):
        told_BC = Sampling(4, CLASSES).told(Sampling(4, CLASSES).encode(logits_BC), temperature)
        np.testing.assert_allclose(told_BC.sum(axis=1), 1)
        assert np.abs(told_BC.mean(axis=0) - softmax(LOGITS[:1], temperature)[0]).max() < 0.01


def test_others_are_measured_on_views_of_other_rows(tmp_path: Path) -> None:
    path = tmp_path / "logits.npy"
    np.save(path, LOGITS)
    fitted, held, source = codecs.logits_to_race(bench(tmp_path, path))
    np.testing.assert_array_equal(np.concatenate([fitted, held]), LOGITS)
    assert len(fitted) == len(held) == 100 and source == "logits.npy"
    table = codecs.measure(bench(tmp_path, path))
    assert {"ours, lowrank:5+35", "DistillKit, top 50", "sampling, 128 draws"} <= {row[0] for row in table.rows}
    assert table.picture is not None and table.picture.startswith(b"\x89PNG")


def test_one_row_cannot_be_halved(tmp_path: Path) -> None:
    path = tmp_path / "logits.npy"
    np.save(path, LOGITS[:1])
    with pytest.raises(UserError, match="has 1 rows, which are mixed in windows of 1: no half of them stands alone"):
        codecs.logits_to_race(bench(tmp_path, path))
