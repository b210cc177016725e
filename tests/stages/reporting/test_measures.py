"""Intervals against SciPy and against resampling; counts of classes against their definitions."""

import numpy as np
import pytest
from scipy import stats

from stages.reporting.measures import (
    Interval,
    confusion,
    gain_interval,
    mistaken,
    paired,
    recall,
    reliability,
    wilson,
)  # fmt: skip
from stages.reporting.results import Results, StudentResult, read_answers

CLASSES = 4


def student(kind, seed, truth, named, bins=()):
    answers = {"row": np.arange(len(truth)), "truth": np.array(truth), "named": np.array(named)}
    return StudentResult(
        kind=kind, seed=seed, images=len(truth), accuracy={"class": 0.5}, loss=1.0,
        calibration=0.1, as_teacher=None, epochs=(), steps=(), answers=answers, bins=tuple(bins),
    )  # fmt: skip


@pytest.mark.parametrize(("right", "images"), [(0, 10), (10, 10), (3, 10), (503, 1000), (1, 3)])
def test_an_accuracy_has_wilson_s_interval(right, images):
    expected = stats.binomtest(right, images).proportion_ci(method="wilson")
    found = wilson(right / images, images)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_of_no_pictures_nothing_is_known():
    assert wilson(0.0, 0) == Interval(0.0, 1.0)
    assert paired(np.zeros(0)).low < -0.9 and paired(np.zeros(0)).high > 0.9


def test_a_gain_has_the_interval_that_resampling_the_pictures_gives():
    rng = np.random.default_rng(0)
    difference_N = rng.choice([-1.0, 0.0, 1.0], size=800, p=[0.1, 0.6, 0.3])
    means = difference_N[rng.integers(0, 800, (4000, 800))].mean(1)
    found = paired(difference_N)
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.005)


def test_pictures_that_both_name_alike_are_no_proof_of_equality():
    found = paired(np.zeros(20))
    assert found.low == pytest.approx(-found.high) and 0.05 < found.high < 0.2
    assert found.signed == f"−{100 * found.high:.1f} to +{100 * found.high:.1f}"


def test_the_interval_of_a_gain_pairs_seeds_and_is_none_where_answers_are_absent():
    truth = [0, 1, 2, 3, 0, 1]
    plain, taught = [0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 1, 0]
    students = [student("none", s, truth, plain) for s in (0, 1)] + [student("soft", s, truth, taught) for s in (0, 1)]
    expected = paired(np.array([0.0, 1, 1, 1, -1, 0]))
    assert gain_interval(Results(students=tuple(students)), "soft") == expected
    assert gain_interval(Results(students=tuple(students[1:])), "soft") == expected  # seed 1 alone has a partner
    assert gain_interval(Results(students=tuple(students[2:])), "soft") is None
    shorter = [*students[:3], student("soft", 1, truth[:3], taught[:3])]
    assert gain_interval(Results(students=tuple(shorter)), "soft") is None


def test_classes_are_counted_over_the_students():
    truth = [0, 0, 1, 1, 2]
    students = [student("soft", 0, truth, [0, 1, 1, 1, 3]), student("soft", 1, truth, [0, 0, 0, 1, 3])]
    images_K, share_K = recall(students, CLASSES)
    assert images_K.tolist() == [2, 2, 1, 0]
    assert share_K[:3].tolist() == [0.75, 0.75, 0.0] and np.isnan(share_K[3])
    counts_KK = confusion(students, CLASSES)
    assert counts_KK.tolist() == [[3, 1, 0, 0], [1, 3, 0, 0], [0, 0, 0, 2], [0, 0, 0, 0]]
    assert mistaken(counts_KK, 2) == [(2, 3, 2, 1.0), (0, 1, 1, 0.25)]
    assert len(mistaken(counts_KK, 50)) == 3
    assert confusion(students, 10**6) is None and recall([], 3) is None


def test_answers_about_rows_without_a_label_are_left_out(tmp_path):
    path = tmp_path / "soft-0.npz"
    assert read_answers(path, "class") is None
    np.savez(path, row=[4, 5, 6], truth=[1, -1, 2], **{"class": [1, 0, 3]})
    found = read_answers(path, "class")
    assert {name: column.tolist() for name, column in found.items()} == {
        "row": [4, 6],
        "truth": [1, 2],
        "named": [1, 3],
    }
    assert read_answers(path, "fused_logits") is None


def test_bins_are_added_up_and_empty_ones_left_out():
    bins = [(10, 5, 0.6), (0, 0, 0.0), (2, 2, 0.9)]
    students = [student("soft", s, [0], [0], bins) for s in (0, 1)]
    assert reliability(students) == [(pytest.approx(0.6), 0.5, 20), (pytest.approx(0.9), 1.0, 4)]
    assert reliability([*students, student("soft", 2, [0], [0])]) == []
