"""lowrank:K+R against a plain reader, against ten lines of documentation, and against what it promises."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from pipeline.labels import lowrank_codec
from pipeline.labels.components import REACH, Components, mean_of, principal
from pipeline.labels.keep import Parts
from pipeline.labels.lowrank_codec import encode, fit, targets
from pipeline.labels.one_thread import one_thread
from tests.made_logits import CLASSES, KEPT, RANK, answers, softmax


@pytest.fixture(scope="module")
def components() -> Components:
    return fit(answers(0, 2000), KEPT, RANK)


def divergence(codes_BC: NDArray[np.uint16], told_BC: NDArray[np.floating], temperature: float) -> float:
    true_BC = softmax(codes_BC.astype(np.float64) / 256 / temperature)
    return float((true_BC * (np.log(true_BC) - np.log(told_BC))).sum(axis=1).mean())


def read(
    record: Parts, argmax_B: NDArray[np.integer], components: Components, temperature: float
) -> NDArray[np.float64]:
    """As store-format.md tells a stranger to read it, a row at a time."""
    found = []
    for row in range(len(argmax_B)):
        coded = [int(value) for value in record["tail"][row]]
        steps = [value - 128 for value in coded[: components.wide]]
        for value in coded[components.wide :]:
            steps += [value % 16 - 8, value // 16 - 8]
        steps = steps[: len(components.step_RC)]
        logit = (components.mean_C + np.array(steps) @ components.step_RC.astype(int)) / 1024
        score = logit / temperature + components.spread_C / (2 * temperature**2)
        highs = "".join(f"{value:08b}"[::-1] for value in record["next_high"][row])
        classes = [int(argmax_B[row])]
        for at, low in enumerate(record["next_low"][row]):  # 300 classes: one bit each
            classes.append(int(low) + 256 * int(highs[at]))
        down = np.concatenate([[0], np.cumsum(record["head"][row, 1:], dtype=int)])
        level = (
            (int(record["head"][row, 0]) - np.append(down, down[-1]) - np.arange(KEPT + 1) / 16) * 3 / 8 / temperature
        )
        score = np.minimum(score, level[-1])
        score[classes] = level[:-1]
        found.append(score)
    return softmax(np.array(found))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0, 20.0])
def test_a_stranger_reads_the_same_targets(components: Components, temperature: float) -> None:
    codes_BC = answers(1, 40)
    argmax_B = codes_BC.argmax(axis=1)
    record = encode(codes_BC, argmax_B, KEPT, components)
    told_BC = targets(record | {"argmax": argmax_B}, components, temperature)
    assert told_BC.dtype == np.float32
    np.testing.assert_allclose(told_BC, read(record, argmax_B, components, temperature), rtol=2e-4, atol=1e-7)


def test_it_says_far_more_than_the_mean_and_than_the_kept_classes_alone(components: Components) -> None:
    codes_BC = answers(2, 400)
    argmax_B = codes_BC.argmax(axis=1)
    told = targets(encode(codes_BC, argmax_B, KEPT, components) | {"argmax": argmax_B}, components, 3.0)
    expected = softmax(np.tile(components.mean_C / 1024 / 3, (len(codes_BC), 1)))
    top_BK = np.argsort(-codes_BC.astype(int), axis=1)[:, :KEPT]
    alone = softmax(codes_BC / 256 / 3)
    kept_BK = np.take_along_axis(alone, top_BK, axis=1)
    alone[:] = (1 - kept_BK.sum(axis=1, keepdims=True)) / (CLASSES - KEPT)
    np.put_along_axis(alone, top_BK, kept_BK, axis=1)
    here = divergence(codes_BC, told, 3.0)
    assert here < divergence(codes_BC, expected, 3.0) / 5 and here < divergence(codes_BC, alone, 3.0) / 5


def test_the_kept_classes_are_the_largest_and_within_half_a_step(components: Components) -> None:
    codes_BC = answers(3, 200)
    argmax_B = codes_BC.argmax(axis=1)
    record = encode(codes_BC, argmax_B, KEPT, components)
    high_BK = np.unpackbits(record["next_high"], axis=1, bitorder="little")[:, : KEPT - 1].astype(int)
    index_BK = np.concatenate([argmax_B[:, None], record["next_low"] + 256 * high_BK], axis=1)
    np.testing.assert_array_equal(index_BK, np.argsort(-codes_BC.astype(int), axis=1, kind="stable")[:, :KEPT])
    down_BK = np.cumsum(record["head"].astype(int) * np.array([1] + [-1] * (KEPT - 1)), axis=1)
    true_BK = (np.take_along_axis(codes_BC.astype(int), index_BK, axis=1) - mean_of(codes_BC)[:, None]) / 96
    assert np.abs(down_BK - true_BK).max() <= 0.5


def test_the_argmax_is_the_one_given_even_where_codes_are_equal(components: Components) -> None:
    codes_BC = answers(4, 3)
    codes_BC[:, [5, 290]] = codes_BC.max() + 100
    record = encode(codes_BC, np.array([290, 5, 290], np.uint16), KEPT, components)
    assert record["next_low"][:, 0].tolist() == [5, 290 - 256, 5]


@given(cuts=st.lists(st.integers(1, 199), max_size=5, unique=True))
@settings(max_examples=20, deadline=None)
def test_a_row_is_encoded_alike_in_any_company(components: Components, cuts: list[int]) -> None:
    codes_BC = answers(5, 200)
    argmax_B = codes_BC.argmax(axis=1)
    whole = encode(codes_BC, argmax_B, KEPT, components)
    edges = [0, *sorted(cuts), 200]
    for start, stop in itertools.pairwise(edges):
        part = encode(codes_BC[start:stop], argmax_B[start:stop], KEPT, components)
        for name in ("next_low", "next_high", "head", "tail"):
            np.testing.assert_array_equal(part[name], whole[name][start:stop])
        told = targets(part | {"argmax": argmax_B[start:stop]}, components, 3.0)
        np.testing.assert_array_equal(told, targets(whole | {"argmax": argmax_B}, components, 3.0)[start:stop])


def test_sums_are_what_exact_integers_give(components: Components) -> None:
    """Python's own integers in place of floating point: the sums are exact, so the order of additions is nobody's."""
    generator = np.random.default_rng(6)
    value_BC = generator.integers(-REACH, REACH + 1, (5, CLASSES)).astype(np.float32)
    value_BC[0] = REACH * np.sign(components.step_RC[0])  # the largest sum that there can be
    coarse_CR, along_BR = components._coarse_CR, components.along(value_BC, 1)
    steps_BR, plus_B = generator.integers(-8, 8, (5, RANK)).astype(np.int16), np.array([0, -97_920, 65_535, 1, 2])
    rebuilt_BC = np.empty((5, CLASSES), np.float32)
    components.add_up(components.terms(steps_BR, plus_B), rebuilt_BC)
    assert coarse_CR.dtype == components.sum_type == np.float32
    for row in range(5):
        for rank, step in enumerate(components.step_RC.astype(int).tolist()):
            coarse = [int(value) for value in coarse_CR[:, rank]]
            exact = sum(int(v) * c for v, c in zip(value_BC[row], coarse, strict=True))
            assert along_BR[row, rank] == exact * (1 / sum(c * s for c, s in zip(coarse, step, strict=True)))
        for cls in range(CLASSES):
            terms = zip(steps_BR[row].tolist(), components.step_RC[:, cls].tolist(), strict=True)
            exact = sum(n * s for n, s in terms) + int(components.mean_C[cls]) + 4 * int(plus_B[row])
            assert rebuilt_BC[row, cls] == exact / 4


def test_steps_are_near_those_of_least_squares(components: Components) -> None:
    codes_BC = answers(6, 300)
    mean_B = mean_of(codes_BC)
    above_BC = (codes_BC - mean_B[:, None]) * 4.0 - components.mean_C
    step_RC = components.step_RC.astype(np.float64)
    exact_BR = above_BC @ step_RC.T / (step_RC**2).sum(axis=1)
    inside = np.abs(exact_BR) < 7
    near_BR = components.nearest((codes_BC - mean_B[:, None]).astype(np.float32), np.empty(codes_BC.shape, np.float32))
    assert np.abs(near_BR - exact_BR)[inside].max() < 0.6 and inside.mean() > 0.8


def test_the_fit_does_not_depend_on_the_order_of_views_or_on_a_constant_in_a_row() -> None:
    codes_NC = answers(8, 700)
    fitted = fit(codes_NC, KEPT, RANK).arrays()
    moved = fit((codes_NC + np.uint16(999))[::-1], KEPT, RANK).arrays()
    for name in ("mean", "step"):
        np.testing.assert_array_equal(fitted[name], moved[name])
    np.testing.assert_allclose(fitted["spread"], moved["spread"], rtol=1e-5)


def test_many_classes_have_the_components_that_their_covariance_has(monkeypatch: pytest.MonkeyPatch) -> None:
    codes_NC = answers(8, 250)
    plain_C, plain_RC, wide = principal(codes_NC, RANK)
    monkeypatch.setattr("pipeline.labels.components.MOST_ACROSS", CLASSES - 1)
    mean_C, step_RC, as_wide = principal(codes_NC, RANK)
    assert (mean_C == plain_C).all() and as_wide == wide
    assert np.abs(step_RC.astype(int) - plain_RC).max() <= 1  # in 1/1024 of a logit


def test_tens_of_thousands_of_classes_are_fitted_in_seconds() -> None:
    codes_NC = answers(8, 300, 21_843, factors=6)
    found = fit(codes_NC, KEPT, RANK)
    held_BC = answers(9, 40, 21_843, factors=6)
    argmax_B = held_BC.argmax(axis=1)
    told_BC = targets(encode(held_BC, argmax_B, KEPT, found) | {"argmax": argmax_B}, found, 1.0)
    assert divergence(held_BC, told_BC, 1.0) < 0.1


@pytest.mark.parametrize("rank", [1, 2, 7, 8])
def test_steps_survive_their_bytes(rank: int) -> None:
    mean_C, step_RC, fitted = principal(answers(0, 500), rank)
    for wide in {0, fitted, rank}:
        some = Components(mean_C=mean_C, step_RC=step_RC, spread_C=np.ones(CLASSES, np.float32), wide=wide)
        far_BR = np.random.default_rng(0).normal(0, 90, (50, rank))
        steps_BR = some.limited(far_BR)
        assert steps_BR[:, :wide].max(initial=0) <= 127 and steps_BR[:, wide:].max(initial=0) <= 7
        assert some.pack(steps_BR).shape == (50, some.wide + -(-(len(some) - some.wide) // 2))
        np.testing.assert_array_equal(some.unpack(some.pack(steps_BR)), steps_BR)


@pytest.mark.parametrize("classes", [2, 200, 256, 257, 1000, 5000, 21843])
def test_any_number_of_classes(classes: int) -> None:
    codes_BC = answers(9, 30, classes, factors=2)
    argmax_B = codes_BC.argmax(axis=1)
    kept = min(6, classes)
    bare = np.zeros((1, classes), np.int16)
    flat = Components(mean_C=np.zeros(classes, np.int32), step_RC=bare, spread_C=np.zeros(classes, np.float32), wide=1)
    told = targets(encode(codes_BC, argmax_B, kept, flat) | {"argmax": argmax_B}, flat, 1.0)
    order = np.argsort(-codes_BC.astype(int), axis=1, kind="stable")[:, :kept]
    kept_BK = np.take_along_axis(told, order, axis=1)
    assert np.abs(told.sum(axis=1) - 1).max() < 1e-4
    assert (np.diff(kept_BK, axis=1) < 0).all() and (told.argmax(axis=1) == argmax_B).all()
    true_BK = np.take_along_axis(codes_BC.astype(int), order, axis=1) / 256
    np.testing.assert_allclose(np.log(kept_BK[:, :1] / kept_BK), true_BK[:, :1] - true_BK, atol=0.376 + 6 / 42)


def test_a_class_counts_by_how_far_it_is_below_the_kept_ones() -> None:
    left_BC = np.array([[40_000, 39_744, 37_440, 34_880, 0, lowrank_codec._TAKEN]], np.float32)
    weight_BC = np.empty_like(left_BC)
    lowrank_codec._weigh(left_BC, np.array([[40_000]], np.float32), weight_BC)
    assert weight_BC.tolist() == [[255, round(255 * (19 / 20) ** 4), round(255 / 2**4), 0, 0, 0]]


def test_the_largest_are_taken_out() -> None:
    left_BC = np.array([[5, 9, 9, 1], [7, 7, 7, 7]], np.float32)
    index_BK, code_BK = lowrank_codec._taken(left_BC, np.array([2, 1]), 3)
    assert index_BK.tolist() == [[2, 1, 0], [1, 0, 2]] and code_BK.tolist() == [[9, 9, 5], [7, 7, 7]]
    assert (left_BC == lowrank_codec._TAKEN).sum(axis=1).tolist() == [3, 3] and left_BC[0, 3] == 1


def test_products_are_kept_to_one_thread_of_numpys_own_library() -> None:
    with threadpool_limits(2):
        before = {lib["filepath"]: lib["num_threads"] for lib in threadpool_info()}
        with one_thread():
            now = {lib["filepath"]: lib["num_threads"] for lib in threadpool_info()}
        assert {lib["filepath"]: lib["num_threads"] for lib in threadpool_info()} == before
    changed = [path for path in before if now[path] != before[path]]
    assert len(changed) == 1 and "numpy" in changed[0] and now[changed[0]] == 1


@pytest.mark.parametrize(
    ("classes", "digest"), [(12, "5a7e745266f8dc27"), (1000, "33ae47fe63e42e89"), (1300, "626298d6915be1e5")]
)
def test_the_bytes_are_those_that_were_always_stored(classes: int, digest: str) -> None:
    """Whole numbers in, whole numbers out: stores hold these bytes, and those of another release are added to them."""
    generator = np.random.Generator(np.random.Philox(classes))
    some = Components(
        mean_C=generator.integers(-4000, 4000, classes).astype(np.int32),
        step_RC=generator.integers(-900, 901, (7, classes)).astype(np.int16),
        spread_C=np.zeros(classes, np.float32),
        wide=2,
    )
    codes_BC = generator.integers(32_000, 34_000, (300, classes)).astype(np.uint16)
    codes_BC[:, 3] = codes_BC[:, 7]
    codes_BC[200:] = codes_BC[200:] // 512 * 512  # many are equal
    codes_BC[299] = 32_768  # all are
    found = encode(codes_BC, codes_BC.argmax(axis=1), 5, some)
    data = b"".join(found[name].tobytes() for name in sorted(found))
    assert hashlib.sha256(data).hexdigest()[:16] == digest


def test_numpy_is_left_as_it_was(components: Components) -> None:
    codes_BC, before = answers(4, 3), np.getbufsize()
    argmax_B = codes_BC.argmax(axis=1)
    record = encode(codes_BC, argmax_B, KEPT, components) | {"argmax": argmax_B}
    assert np.getbufsize() == before
    targets(record, components, 3.0)
    assert np.getbufsize() == before
    with pytest.raises(IndexError):  # a class that there is not is no class of the next row
        targets(record | {"argmax": argmax_B + CLASSES}, components, 3.0)
    assert np.getbufsize() == before
