from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipeline.errors import MismatchError, RecipeError, TeacherError
from pipeline.labels.keep import MAX_CODE, Keep, class_dtype, parse_temperatures
from pipeline.labels.soft_labels import (
    SoftLabels,
    decode_dense,
    dense_targets,
    encode,
    from_codes,
    narrow,
    topk_targets,
)

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
    assert str(Keep.parse(text)) == text


@pytest.mark.parametrize("text", ["", "topk", "topk:", "topk:x", "topk:-1", "topk:٣", "dense:3", "Dense", "top10"])
def test_an_unknown_keep_names_the_known_ones(text: str) -> None:
    with pytest.raises(RecipeError) as error:
        Keep.parse(text)
    assert str(error.value) == (f"keep '{text}' is not understood. Give dense, topk:K (for example topk:10) or argmax.")


def test_a_keep_must_fit_the_classes() -> None:
    with pytest.raises(RecipeError, match="keep 'topk:0' keeps no class"):
        Keep.parse("topk:0")
    with pytest.raises(RecipeError) as error:
        encode(np.zeros((1, 10), np.float32), Keep("topk", 11), (1.0,))
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
    labels = encode(logits_BC, Keep("dense"))
    assert labels.logits_BC is not None
    decoded = decode_dense(labels.logits_BC)
    assert decoded.dtype == np.float32
    assert np.abs(decoded.astype(np.float64) - logits_BC).max() <= 1 / 512
    assert np.array_equal(labels.argmax_B, logits_BC.argmax(1))
    assert encode(decoded, Keep("dense")).logits_BC.tobytes() == labels.logits_BC.tobytes()  # type: ignore[union-attr]


@quick
@given(logits, st.integers(1, 9))
def test_top_k_is_in_total_order_and_a_prefix_of_a_larger_one(logits_BC: np.ndarray, k: int) -> None:
    k = min(k, logits_BC.shape[1])
    dense = encode(logits_BC, Keep("dense"))
    labels = encode(logits_BC, Keep("topk", k), (1.0, 3.0))
    assert dense.logits_BC is not None
    for row, codes in enumerate(dense.logits_BC.tolist()):
        expected = sorted(range(len(codes)), key=lambda c: (-codes[c], c))[:k]
        assert labels.topk_index_BK[row].tolist() == expected  # type: ignore[index]
        assert labels.topk_logit_BK[row].tolist() == [codes[c] for c in expected]  # type: ignore[index]


def test_top_k_of_more_classes_than_16_bits_hold() -> None:
    generator = np.random.default_rng(0)
    codes_BC = generator.integers(0, 4, (3, 70_000)).astype(np.uint16)
    labels = from_codes(codes_BC.argmax(1).astype(np.uint32), codes_BC, Keep("topk", 5), (1.0,))
    expected = np.stack([np.lexsort((np.arange(70_000), -row.astype(int)))[:5] for row in codes_BC])
    assert np.array_equal(labels.topk_index_BK, expected)  # type: ignore[arg-type]


def test_argmax_is_of_the_logits_and_not_of_the_codes() -> None:
    close = np.array([[1.0, 1.0009, 0.0], [2.0, 2.0, 1.0]], np.float32)
    labels = encode(close, Keep("topk", 2), (1.0,))
    assert labels.argmax_B.tolist() == [1, 0]
    assert labels.topk_index_BK.tolist() == [[0, 1], [0, 1]]  # type: ignore[union-attr]


@quick
@given(logits, st.sampled_from([1.0, 3.0]))
def test_targets_of_top_k_are_those_of_dense_on_the_kept_classes(logits_BC: np.ndarray, temperature: float) -> None:
    dense = encode(logits_BC, Keep("dense"))
    assert dense.logits_BC is not None
    oracle = softmax(decode_dense(dense.logits_BC), temperature)
    assert np.allclose(dense_targets(dense.logits_BC, temperature), oracle, rtol=1e-12)
    k = 1 + logits_BC.shape[1] // 2
    labels = encode(logits_BC, Keep("topk", min(k, logits_BC.shape[1])), (1.0, 3.0))
    targets = topk_targets(labels, temperature, stored=(1.0, 3.0))
    assert np.allclose(targets.prob_BK, np.take_along_axis(oracle, targets.index_BK.astype(int), 1), rtol=2e-5)
    assert np.allclose(targets.prob_BK.sum(1) + targets.rest_B, 1, atol=2e-5)


@quick
@given(logits)
def test_all_classes_kept_leave_no_mass_to_the_rest(logits_BC: np.ndarray) -> None:
    labels = encode(logits_BC, Keep("topk", logits_BC.shape[1]), (1.0,))
    assert topk_targets(labels, 1.0, stored=(1.0,)).rest_B.max() < 1e-5


def test_what_is_not_finite_is_refused_with_its_place() -> None:
    logits_BC = np.zeros((3, 4), np.float32)
    logits_BC[1, 2], logits_BC[2, 0] = np.nan, np.inf
    for keep in ("dense", "topk:2", "argmax"):
        with pytest.raises(TeacherError) as error:
            encode(logits_BC, Keep.parse(keep), (1.0,), name=lambda at: f"row {70 + at}")
        assert str(error.value) == (
            "the teacher's logit nan (row 71, class 2) is not finite (2 such values in this batch). "
            "Run the teacher in fp32 or bf16 (fp16 overflows at 65,504), or check its weights."
        )


def test_what_no_code_can_hold_is_refused_but_has_an_argmax() -> None:
    logits_BC = np.array([[0.0, 127.9921875, -128.0], [0.0, 128.0, 0.0]], np.float32)
    fits = encode(logits_BC[:1], Keep("dense")).logits_BC
    assert fits is not None and fits.tolist() == [[32768, MAX_CODE, 0]]
    with pytest.raises(TeacherError) as error:
        encode(logits_BC, Keep("dense"))
    assert str(error.value) == (
        "the teacher's logit 128 (row 1, class 1) is outside -128 to 127.992, the range of the store's 16-bit codes "
        "(1 such values in this batch). Check that the head was trained; or keep argmax; or wrap the teacher in a "
        "function that scales its logits."
    )
    assert encode(logits_BC, Keep("argmax")).argmax_B.tolist() == [1, 1]


@quick
@given(logits, st.data())
def test_narrowing_equals_encoding_in_the_smaller_keep(logits_BC: np.ndarray, data: st.DataObject) -> None:
    classes = logits_BC.shape[1]
    large, small = sorted(data.draw(st.tuples(st.integers(1, classes), st.integers(1, classes))), reverse=True)
    dense = encode(logits_BC, Keep("dense"))
    wide = encode(logits_BC, Keep("topk", large), (1.0, 2.0, 3.0))
    direct = encode(logits_BC, Keep("topk", small), (3.0,))
    assert narrow(dense, Keep("topk", small), (3.0,)).same_as(direct)
    assert narrow(wide, Keep("topk", small), (3.0,), stored=(1.0, 2.0, 3.0)).same_as(direct)
    argmax = encode(logits_BC, Keep("argmax"))
    assert narrow(dense, Keep("argmax")).same_as(argmax)
    assert narrow(wide, Keep("argmax")).same_as(argmax)


def test_narrowing_does_not_invent_what_was_not_kept() -> None:
    logits_BC = np.zeros((2, 5), np.float32)
    few = encode(logits_BC, Keep("topk", 2), (1.0,))
    with pytest.raises(MismatchError, match=r"labels kept as topk:2 cannot become dense. Start from a dense store."):
        narrow(few, Keep("dense"))
    with pytest.raises(MismatchError, match=r"cannot become topk:3. Give a K of at most that many."):
        narrow(few, Keep("topk", 3), (1.0,), stored=(1.0,))
    with pytest.raises(MismatchError, match=r"temperature 3 is not stored, the labels hold the log-sum-exp at 1. "):
        narrow(few, Keep("topk", 1), (3.0,), stored=(1.0,))
    with pytest.raises(MismatchError, match=r"temperature 2 is not stored"):
        topk_targets(few, 2.0, stored=(1.0,))
    with pytest.raises(MismatchError, match="labels kept as argmax cannot become topk:1"):
        narrow(encode(logits_BC, Keep("argmax")), Keep("topk", 1), (1.0,))


@pytest.mark.parametrize("keep", ["dense", "topk:3", "argmax"])
def test_labels_can_be_cut_and_joined(keep: str) -> None:
    logits_BC = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
    whole = encode(logits_BC, Keep.parse(keep), (1.0,))
    assert str(whole.keep) == keep and len(whole) == 10
    assert SoftLabels.concatenate([whole.slice(0, 3), whole.slice(3, 10)]).same_as(whole)
    assert whole.take(np.array([4, 1])).same_as(SoftLabels.concatenate([whole.slice(4, 5), whole.slice(1, 2)]))
    assert SoftLabels.from_arrays(whole.arrays()).same_as(whole)
    assert not whole.same_as(whole.take(np.arange(10)[::-1]))


def test_labels_whose_parts_do_not_fit_are_a_mistake() -> None:
    argmax_B = np.zeros(3, np.uint8)
    with pytest.raises(AssertionError, match="come together"):
        SoftLabels(argmax_B=argmax_B, topk_index_BK=np.zeros((3, 2), np.uint8))
    with pytest.raises(AssertionError, match="logits has 2 rows"):
        SoftLabels(argmax_B=argmax_B, logits_BC=np.zeros((2, 5), np.uint16))
    with pytest.raises(AssertionError, match="codes are uint16"):
        SoftLabels(argmax_B=argmax_B, logits_BC=np.zeros((3, 5), np.float16))  # type: ignore[arg-type]
