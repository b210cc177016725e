from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipeline.errors import MismatchError, RecipeError, TeacherError
from pipeline.labels.argmax import Argmax
from pipeline.labels.codes import MAX_CODE, class_dtype, logits_of, softmax_of
from pipeline.labels.dense import Dense
from pipeline.labels.keep import parse_temperatures
from pipeline.labels.keeps import ARRAYS, parse_keep
from pipeline.labels.soft_labels import SoftLabels, encode, from_codes, narrow
from pipeline.labels.topk import TopK
from tests.stores import same_labels

quick = settings(max_examples=40, deadline=None)
logits = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.floats(-128, 127.984375, width=32) | st.sampled_from([0.0, 1.0, 1.0009765625, -128.0]),
)


def softmax(logits_BC: np.ndarray, temperature: float) -> np.ndarray:
    z = logits_BC.astype(np.float64) / temperature
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("text", ["dense", "argmax", "topk:1", "topk:10"])
def test_a_keep_is_read_as_it_is_written(text: str) -> None:
    assert str(parse_keep(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "topk",
        "topk:",
        "topk:x",
        "topk:-1",
        "topk:٣",
        "dense:3",
        "Dense",
        "top10",
        "lowrank",
        "lowrank:5",
        "lowrank:5+",
        "lowrank:5+x",
        "lowrank:5+٣",
        "lowrank:-1+3",
    ],
)
def test_an_unknown_keep_names_the_known_ones(text: str) -> None:
    with pytest.raises(RecipeError) as error:
        parse_keep(text)
    assert str(error.value) == (
        f"keep '{text}' is not understood. Give dense, topk:K (for example topk:10), lowrank:K+R (for example "
        "lowrank:5+35) or argmax."
    )


def test_a_keep_must_fit_the_classes() -> None:
    with pytest.raises(RecipeError, match="keep 'topk:0' keeps no class"):
        parse_keep("topk:0")
    with pytest.raises(RecipeError) as error:
        encode(np.zeros((1, 10), np.float32), TopK(11), (1.0,))
    assert str(error.value) == "keep 'topk:11' wants 11 of 10 classes. Give a smaller K, or dense."


def test_temperatures_are_distinct_positive_numbers() -> None:
    assert parse_temperatures("3,1") == (1.0, 3.0)
    for text in ("", "0", "-1", "1,1", "nan", "inf", "warm"):
        with pytest.raises(RecipeError, match="is not a list of distinct numbers from"):
            parse_temperatures(text)


@pytest.mark.parametrize(
    ("classes", "dtype"), [(1, "u1"), (255, "u1"), (256, "u2"), (1000, "u2"), (65535, "u2"), (65536, "u4")]
)
def test_the_highest_value_of_a_class_type_is_no_class(classes: int, dtype: str) -> None:
    assert class_dtype(classes) == np.dtype(dtype)
    assert classes - 1 < np.iinfo(class_dtype(classes)).max


@quick
@given(logits)
def test_a_code_is_the_nearest_step(logits_BC: np.ndarray) -> None:
    labels = encode(logits_BC, Dense())
    decoded = logits_of(labels.parts["logits"])
    assert decoded.dtype == np.float32
    assert np.abs(decoded.astype(np.float64) - logits_BC).max() <= 1 / 512
    assert np.array_equal(labels.argmax_B, logits_BC.argmax(1))
    assert encode(decoded, Dense()).parts["logits"].tobytes() == labels.parts["logits"].tobytes()


@quick
@given(logits, st.integers(1, 9))
def test_top_k_is_in_total_order_and_a_prefix_of_a_larger_one(logits_BC: np.ndarray, k: int) -> None:
    k = min(k, logits_BC.shape[1])
    dense = encode(logits_BC, Dense())
    labels = encode(logits_BC, TopK(k), (1.0, 3.0))
    for row, codes in enumerate(dense.parts["logits"].tolist()):
        expected = sorted(range(len(codes)), key=lambda c: (-codes[c], c))[:k]
        assert labels.parts["topk_index"][row].tolist() == expected
        assert labels.parts["topk_logit"][row].tolist() == [codes[c] for c in expected]


def test_top_k_of_more_classes_than_16_bits_hold() -> None:
    generator = np.random.default_rng(0)
    codes_BC = generator.integers(0, 4, (3, 70_000)).astype(np.uint16)
    labels = from_codes(codes_BC.argmax(1).astype(np.uint32), codes_BC, TopK(5), (1.0,))
    expected = np.stack([np.lexsort((np.arange(70_000), -row.astype(int)))[:5] for row in codes_BC])
    assert np.array_equal(labels.parts["topk_index"], expected)


def test_argmax_is_of_the_logits_and_not_of_the_codes() -> None:
    close = np.array([[1.0, 1.0009, 0.0], [2.0, 2.0, 1.0]], np.float32)
    labels = encode(close, TopK(2), (1.0,))
    assert labels.argmax_B.tolist() == [1, 0]
    assert labels.parts["topk_index"].tolist() == [[0, 1], [0, 1]]


@quick
@given(logits, st.sampled_from([1.0, 3.0]))
def test_targets_of_top_k_are_those_of_dense_on_the_kept_classes(logits_BC: np.ndarray, temperature: float) -> None:
    dense = encode(logits_BC, Dense())
    oracle = softmax(logits_of(dense.parts["logits"]), temperature)
    assert np.allclose(softmax_of(dense.parts["logits"], temperature), oracle, rtol=1e-12)
    k = 1 + logits_BC.shape[1] // 2
    labels = encode(logits_BC, TopK(min(k, logits_BC.shape[1])), (1.0, 3.0))
    targets = TopK(min(k, logits_BC.shape[1])).events(labels.parts, temperature, (1.0, 3.0))
    assert np.allclose(targets.prob_BK, np.take_along_axis(oracle, targets.index_BK.astype(int), 1), rtol=2e-5)
    assert np.allclose(targets.prob_BK.sum(1) + targets.rest_B, 1, atol=2e-5)


@quick
@given(logits)
def test_all_classes_kept_leave_no_mass_to_the_rest(logits_BC: np.ndarray) -> None:
    labels = encode(logits_BC, TopK(logits_BC.shape[1]), (1.0,))
    assert TopK(logits_BC.shape[1]).events(labels.parts, 1.0, (1.0,)).rest_B.max() < 1e-5


def test_what_is_not_finite_is_refused_with_its_place() -> None:
    logits_BC = np.zeros((3, 4), np.float32)
    logits_BC[1, 2], logits_BC[2, 0] = np.nan, np.inf
    for keep in ("dense", "topk:2", "argmax"):
        with pytest.raises(TeacherError) as error:
            encode(logits_BC, parse_keep(keep), (1.0,), name=lambda at: f"row {70 + at}")
        assert str(error.value) == (
            "the teacher's logit nan (row 71, class 2) is not finite (2 such values in this batch). "
            "Run the teacher in fp32 or bf16 (fp16 overflows at 65,504), or check its weights."
        )


def test_of_many_answers_the_first_that_is_not_finite_is_told_wherever_it_is() -> None:
    logits_BC = np.zeros((700, 1000), np.float32)  # far more than are worked on at once
    logits_BC[3, 1], logits_BC[600, 7] = 1e5, np.nan
    with pytest.raises(TeacherError, match=r"^the teacher's logit nan \(row 600, class 7\) is not finite \(1 such"):
        encode(logits_BC, Dense())
    logits_BC[600, 7] = -1e5
    with pytest.raises(TeacherError, match=r"^the teacher's logit 100000 \(row 3, class 1\) is outside .* \(2 such"):
        encode(logits_BC, Dense())
    logits_BC[3, 1], logits_BC[600, 7] = 5, 6
    codes_BC = encode(logits_BC, Dense()).parts["logits"]
    assert codes_BC[[3, 600, 0], [1, 7, 0]].tolist() == [133 * 256, 134 * 256, 128 * 256]


def test_what_no_code_can_hold_is_refused_but_has_an_argmax() -> None:
    logits_BC = np.array([[0.0, 127.9921875, -128.0], [0.0, 128.0, 0.0]], np.float32)
    fits = encode(logits_BC[:1], Dense()).parts["logits"]
    assert fits.tolist() == [[32768, MAX_CODE, 0]]
    with pytest.raises(TeacherError) as error:
        encode(logits_BC, Dense())
    assert str(error.value) == (
        "the teacher's logit 128 (row 1, class 1) is outside -128 to 127.992, the range of the store's 16-bit codes "
        "(1 such values in this batch). Check that the head was trained; or keep argmax; or wrap the teacher in a "
        "function that scales its logits."
    )
    assert encode(logits_BC, Argmax()).argmax_B.tolist() == [1, 1]


@quick
@given(logits, st.data())
def test_narrowing_equals_encoding_in_the_smaller_keep(logits_BC: np.ndarray, data: st.DataObject) -> None:
    classes = logits_BC.shape[1]
    large, small = sorted(data.draw(st.tuples(st.integers(1, classes), st.integers(1, classes))), reverse=True)
    dense = encode(logits_BC, Dense())
    wide = encode(logits_BC, TopK(large), (1.0, 2.0, 3.0))
    direct = encode(logits_BC, TopK(small), (3.0,))
    assert same_labels(narrow(dense, Dense(), TopK(small), (3.0,)), direct)
    assert same_labels(narrow(wide, TopK(large), TopK(small), (3.0,), stored=(1.0, 2.0, 3.0)), direct)
    argmax = encode(logits_BC, Argmax())
    assert same_labels(narrow(dense, Dense(), Argmax()), argmax)
    assert same_labels(narrow(wide, TopK(large), Argmax()), argmax)


def test_narrowing_does_not_invent_what_was_not_kept() -> None:
    logits_BC = np.zeros((2, 5), np.float32)
    few = encode(logits_BC, TopK(2), (1.0,))
    with pytest.raises(MismatchError, match=r"labels kept as topk:2 cannot become dense. Start from a dense store."):
        narrow(few, TopK(2), Dense())
    with pytest.raises(MismatchError, match=r"cannot become topk:3. Give a K of at most that many."):
        narrow(few, TopK(2), TopK(3), (1.0,), stored=(1.0,))
    with pytest.raises(MismatchError, match=r"temperature 3 is not stored, the labels hold the log-sum-exp at 1. "):
        narrow(few, TopK(2), TopK(1), (3.0,), stored=(1.0,))
    with pytest.raises(MismatchError, match=r"temperature 2 is not stored"):
        TopK(2).events(few.parts, 2.0, (1.0,))
    with pytest.raises(MismatchError, match="labels kept as argmax cannot become topk:1"):
        narrow(encode(logits_BC, Argmax()), Argmax(), TopK(1), (1.0,))


@pytest.mark.parametrize("keep", ["dense", "topk:3", "argmax"])
def test_labels_can_be_cut_and_joined(keep: str) -> None:
    logits_BC = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
    whole = encode(logits_BC, parse_keep(keep), (1.0,))
    assert len(whole) == 10
    assert same_labels(SoftLabels.concatenate([whole.slice(0, 3), whole.slice(3, 10)]), whole)
    assert same_labels(whole.take(np.array([4, 1])), SoftLabels.concatenate([whole.slice(4, 5), whole.slice(1, 2)]))
    assert same_labels(SoftLabels.from_arrays(whole.arrays()), whole)
    assert not same_labels(whole, whole.take(np.arange(10)[::-1]))


def test_labels_whose_parts_do_not_fit_are_a_mistake() -> None:
    argmax_B = np.zeros(3, np.uint8)
    with pytest.raises(AssertionError, match="crc is no array of answers"):
        SoftLabels(argmax_B=argmax_B, parts={"crc": np.zeros((3, 2), np.uint8)})
    with pytest.raises(AssertionError, match="logits has 2 rows"):
        SoftLabels(argmax_B=argmax_B, parts={"logits": np.zeros((2, 5), np.uint16)})
    with pytest.raises(AssertionError, match="logits has 1 axes"):
        SoftLabels(argmax_B=argmax_B, parts={"logits": np.zeros(3, np.uint16)})


@pytest.mark.parametrize("keep", ["dense", "topk:3", "argmax"])
def test_a_keep_fills_the_arrays_that_it_lays_out(keep: str) -> None:
    logits_BC = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
    parts = encode(logits_BC, parse_keep(keep), (1.0, 3.0)).parts
    forms = parse_keep(keep).forms(6, (1.0, 3.0))
    assert {name: (a.dtype, a.shape[1:]) for name, a in parts.items()} == {
        name: (form.dtype, (form.width,)) for name, form in forms.items()
    }
    assert set(forms) < set(ARRAYS)
    assert not any(bad.any() for _, bad in parse_keep(keep).flaws(parts, 6, (1.0, 3.0)))
