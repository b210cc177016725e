"""The gauge against a computation of its own, and what it says where too little is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.durable.objects import open_objects
from pipeline.inspection.audit import audit
from pipeline.inspection.gauge import gauge, gauge_rows, gauge_text, measure, shares, stored_gauge
from pipeline.labels.keeps import parse_keep
from pipeline.store.layout import GAUGE_KEY
from pipeline.store.reader import StoreReader
from tests.made_logits import answers, softmax
from tests.stores import codes_of, fill, finished, index_of, manifest_of, open_writing

INDEX = index_of(400)
CODES = answers(3, 400)


def said(row_N: np.ndarray) -> np.ndarray:
    return CODES[row_N]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("k", [1, 10, 299, 300])
def test_the_share_of_the_signal_is_that_over_the_kept_classes_and_one_event(k: int, temperature: float) -> None:
    found = shares(parse_keep(f"topk:{k}"), CODES, temperature)
    p_BC = softmax(CODES / 256 / temperature)
    top_BK = np.argsort(-CODES.astype(int), axis=1, kind="stable")[:, :k]
    p_BK = np.take_along_axis(p_BC, top_BK, axis=1)
    events = np.append(p_BK, 1 - p_BK.sum(axis=1, keepdims=True), axis=1) if k < 300 else p_BK
    even = np.append(np.full(k, 1 / 300), 1 - k / 300) if k < 300 else np.full(k, 1 / 300)
    kept = (events * np.log(np.maximum(events, 1e-300) / even)).sum(axis=1).mean()
    whole = (p_BC * np.log(p_BC * 300)).sum(axis=1).mean()
    assert found["signal"] == pytest.approx(kept / whole, abs=2e-4)
    assert found["kl"] == pytest.approx(whole - kept, abs=2e-4)


def test_lowrank_is_measured_by_what_it_gives_back() -> None:
    keep = parse_keep("lowrank:4+9")
    assert keep.fitting is not None
    keep = keep.fitting.fit(answers(0, 2000))
    found, p_BC = shares(keep, CODES, 3.0), softmax(CODES / 256 / 3)
    parts = {"argmax": CODES.argmax(axis=1), **keep.encode(CODES, CODES.argmax(axis=1), ())}
    lost = (p_BC * np.log(p_BC / keep.events(parts, 3.0, ()).prob_BK)).sum(axis=1).mean()
    assert found["kl"] == pytest.approx(lost, abs=2e-5)
    assert shares(parse_keep("topk:4"), CODES, 3.0)["signal"] + 0.3 < found["signal"] < 1


def test_rows_are_from_windows_that_no_component_has_seen() -> None:
    row_N = gauge_rows(100_000, 64)
    assert len(row_N) == 512 and (row_N // 64 % 2 == 1).all() and row_N[-1] > 99_000
    keep = parse_keep("lowrank:5+35")
    assert keep.fitting is not None
    assert not np.intersect1d(row_N // 64, keep.fitting.rows(100_000, 64) // 64).size
    assert gauge_rows(50, 64).tolist() == list(range(50))


def test_a_keep_that_loses_too_much_is_told_with_the_cheapest_that_would_do() -> None:
    found = measure(manifest_of(INDEX, "topk:2", num_classes=300), said)
    low = found["temperatures"]["3"]
    assert low["signal"] < 0.8 and low["instead"]["keep"].startswith("lowrank") and low["instead"]["signal"] >= 0.8
    lines = gauge_text(found, {"argmax": 1.5, "crc": 4.0}, only=3.0)
    assert lines == [
        f"topk:2 keeps of the teacher's signal: {100 * low['signal']:.0f} % at T = 3 (KL {low['kl']:.3f}); "
        "1.5 bytes of labels a view",
        f"WARNING: topk:2 loses {100 * (1 - low['signal']):.0f} % of the signal at T = 3. --keep "
        f"{low['instead']['keep']} would keep {100 * low['instead']['signal']:.0f} % in about "
        f"{low['instead']['bytes']:.0f} bytes of labels a view.",
    ]
    good = measure(manifest_of(INDEX, "topk:299", num_classes=300), said)
    assert len(gauge_text(good, {})) == 1 and "instead" not in good["temperatures"]["3"]


def test_it_is_measured_once_and_kept_by_the_store(tmp_path: Path) -> None:
    asked = []

    def answers_(row_N: np.ndarray) -> np.ndarray:
        asked.append(row_N)
        return codes_of(manifest, row_N)

    manifest = manifest_of(INDEX, "topk:3")
    for views in (1, 2):
        with open_writing(tmp_path / "s.zarr", manifest, INDEX, views) as store:
            fill(store)
            first = gauge(open_objects(store.name), store.manifest, answers_)
            store.finish()
    assert 0 < len(asked) <= 2  # the sample, and what others were fitted to
    store = StoreReader.open(tmp_path / "s.zarr")
    assert stored_gauge(open_objects(store.name), store.manifest) == first and audit(tmp_path / "s.zarr") == []
    other = manifest_of(INDEX, "topk:4")
    assert stored_gauge(open_objects(store.name), other) is None, "of another contract"
    data = (tmp_path / "s.zarr" / GAUGE_KEY).read_bytes()
    (tmp_path / "s.zarr" / GAUGE_KEY).write_bytes(data.replace(b"0.", b"1.", 1))
    assert [f.where for f in audit(tmp_path / "s.zarr")] == [f"{tmp_path}/s.zarr/{GAUGE_KEY}"]
    assert stored_gauge(open_objects(store.name), store.manifest) is None


@pytest.mark.parametrize("keep", ["dense", "argmax"])
def test_what_loses_nothing_or_is_no_soft_target_is_not_measured(tmp_path: Path, keep: str) -> None:
    store = finished(tmp_path / "s.zarr", manifest_of(INDEX, keep), INDEX)
    assert gauge(open_objects(store.name), store.manifest, said) is None
    assert gauge_text(None, {}) == []


def measured(keep: str, codes_NC: np.ndarray) -> dict[str, Any]:
    """Of a keep that is fitted to the same answers."""
    chosen = parse_keep(keep)
    chosen = chosen if chosen.fitting is None else chosen.fitting.fit(codes_NC)
    manifest = replace(manifest_of(INDEX, keep, num_classes=codes_NC.shape[1]), keep=chosen)
    return dict(measure(manifest, lambda row_N: codes_NC[row_N]))


@pytest.mark.parametrize(("keep", "classes"), [("topk:1", 10), ("lowrank:2+2", 3), ("lowrank:5+9", 10)])
def test_a_teacher_that_says_next_to_nothing_is_told_and_no_keep_is_blamed(keep: str, classes: int) -> None:
    found = measured(keep, (32_768 + np.random.default_rng(0).normal(0, 3, (400, classes))).astype(np.uint16))
    line, warned = gauge_text(found, {})
    assert "-" not in line.split("signal:")[1]  # no share below nothing
    assert warned == (
        "WARNING: the teacher says next to nothing at T = 3: 0.0000 nats beyond an even answer, whatever is kept of "
        "it. Check its weights, or train at a lower temperature (--tau)."
    )
    assert not [at for at in found["temperatures"].values() if "instead" in at]


def test_a_loss_at_the_lower_temperature_alone_is_told() -> None:
    random, row_N = np.random.default_rng(0), np.arange(400)
    logits_NC = random.normal(-100, 1, (400, 10))
    for _ in range(2):  # two answers at once, far above all others
        logits_NC[row_N, random.integers(0, 10, 400)] = 5
    found = measured("lowrank:2+2", np.rint((logits_NC + 128) * 256).astype(np.uint16))
    assert found["temperatures"]["1"]["signal"] < 0.8 <= found["temperatures"]["3"]["signal"]
    assert "% of the signal at T = " in gauge_text(found, {})[1] and "at T = 3" not in gauge_text(found, {})[1]


@pytest.mark.parametrize("classes", [2, 3, 10, 300])
@pytest.mark.parametrize("kind", ["constant", "one answer", "peaked", "extreme"])
def test_strange_teachers_are_given_back_whole(kind: str, classes: int) -> None:
    random = np.random.default_rng(0)
    logits_NC = {
        "constant": np.full((400, classes), 1.25),
        "one answer": np.tile(random.normal(0, 3, classes), (400, 1)),
        "peaked": random.normal(0, 1, (400, classes)),
        "extreme": np.full((400, classes), -128.0),
    }[kind]
    if kind in ("peaked", "extreme"):
        logits_NC[np.arange(400), random.integers(0, classes, 400)] = 127.9
    codes_NC = np.rint((logits_NC + 128) * 256).astype(np.uint16)
    for at in measured("lowrank:1+1", codes_NC)["temperatures"].values():
        assert at["signal"] > 0.99 and at["kl"] < 0.01
