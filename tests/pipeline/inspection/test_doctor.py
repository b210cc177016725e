"""What is said of teachers that are fine, out of their depth, too sure, or superfluous."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.inspection.doctor import doctor_text, examine, plain_recipe, sample_rows
from pipeline.labels.codes import Answers, quantise
from pipeline.shards.index import SampleIndex
from pipeline.views.mixing import plan_mixing
from pipeline.views.recipe import Recipe
from tests.stores import index_of

RECIPE = Recipe(seed=3, image_size=32)
INDEX = index_of(600)
ROWS = np.arange(256) * 600 // 256


def teacher(index: SampleIndex, right: float, lead: float, *, mixed: bool) -> Answers:
    """One that is right about so many main pictures, by a lead of so many logits."""

    def answers(row_N: np.ndarray) -> np.ndarray:
        main_N = row_N
        if mixed:
            mixing = plan_mixing(RECIPE, len(index), row_N, np.zeros(len(row_N), np.int64))
            main_N = np.where(mixing.lam_B >= 0.5, row_N, mixing.partner_B)
        logits_NC = np.zeros((len(row_N), 12), np.float32)
        wrong_N = (main_N * 7919 % 1000) / 1000 >= right
        logits_NC[np.arange(len(row_N)), main_N % 5 + 5 * wrong_N] = lead
        return quantise(logits_NC, str)

    return answers


def examined(
    *, stored: float = 0.9, plain: float = 0.9, lead: float = 4.0, index: SampleIndex = INDEX
) -> dict[str, Any]:
    answers = (teacher(index, share, lead, mixed=mixed) for share, mixed in ((stored, True), (plain, False)))
    return examine(RECIPE, index, ROWS, *answers, summary(stored))  # type: ignore[misc]


def summary(stored: float) -> dict[str, Any]:
    """Of a store whose views are answered rightly so often where they are clear, and half as often where not."""
    shares = {"0.5-0.6": 0.5, "0.7-0.8": 0.5, "0.8-0.9": 1.0, "0.9-1.0": 1.0}
    parts = {name: {"views": 400, "top1": stored * share} for name, share in shares.items()}
    return {"view_agreement": 0.18, "unmixed": {"views": 0, "top1": None}, "by_lambda": parts}


def test_a_good_teacher_gets_no_advice_and_its_figures_are_told() -> None:
    found = examined()
    assert found["advice"] == []
    assert found["plain"]["views"] == 256 and abs(found["plain"]["top1"] - 0.9) < 0.05
    assert found["clear"] == {"views": 800, "top1": 0.9} and found["mixed"] == {"views": 800, "top1": 0.45}
    largest = np.exp(4) / (np.exp(4) + 11)
    assert found["temperatures"]["1"]["largest"] == pytest.approx(largest, abs=1e-3)
    assert found["plain"]["confidence"] == pytest.approx(largest, abs=1e-3)
    (line,) = doctor_text(found)
    assert line.startswith(f"teacher right on {100 * found['plain']['top1']:.0f} % of plain views, ")
    assert f"{100 * found['clear']['top1']:.0f} % of clear ones ({found['clear']['views']})" in line


def test_a_teacher_out_of_its_depth() -> None:
    found = examined(stored=0.32)
    (said,) = found["advice"]
    assert said == (
        f"This teacher is out of its depth: it is right on {100 * found['clear']['top1']:.0f} % of the clear views "
        "that it labels, and two views of a picture agree on 18 %; on plain pictures "
        f"{100 * found['plain']['top1']:.0f} %. "
        "Fit it under the recipe of the labels (fit_teacher --recipe …), or label with lighter crops (--recipe light)."
    )
    assert doctor_text(found)[1] == f"ADVICE: {said}"


def test_without_any_label_it_is_held_to_what_it_says_of_the_plain_picture() -> None:
    bare = replace(INDEX, classes=np.full(600, -1, np.int32))
    assert examined(index=bare)["against"] == "plain" and examined(index=bare)["clear"]["top1"] == 1.0
    (said,) = examined(stored=0.1, index=bare)["advice"]
    assert said.startswith("This teacher is out of its depth: it says what it says of the plain picture on ")


def test_a_teacher_that_is_too_sure_and_labels_that_are_hard() -> None:
    sure, hard = examined(stored=0.7, plain=0.7, lead=20.0)["advice"]
    assert sure.startswith(
        "This teacher is overconfident: it is 100 % sure of its answers on plain pictures, and right"
    )
    assert hard.startswith("At T = 3 its labels are hard ones: 99 % of a clear view's target lies on one class.")
    (hard,) = examined(lead=6.0)["advice"]
    assert hard.startswith("At T = 1 its labels are hard ones")


def test_labels_that_add_nothing() -> None:
    *_, nothing = examined(stored=1.0, plain=1.0, lead=20.0)["advice"]
    assert nothing.startswith("These labels can add little: every row has a label")
    some = replace(INDEX, classes=np.where(np.arange(600) % 3, INDEX.classes, -1).astype(np.int32))
    assert "can add little" not in "".join(examined(stored=1.0, plain=1.0, lead=20.0, index=some)["advice"])


def test_plain_views_need_no_second_look_and_little_work_little_of_one() -> None:
    assert plain_recipe(Recipe.preset("none")) is None
    plain = plain_recipe(RECIPE)
    assert plain is not None and plain.crop == "center" and not plain.mixes and plain.image_size == 32
    assert len(sample_rows(1_000_000, 10)) == 256 and len(sample_rows(600, 2)) == 48 and len(sample_rows(9, 1)) == 9


def told(logits_NC: np.ndarray, index: SampleIndex = INDEX) -> list[str]:
    """Of a teacher that says this of the plain pictures, and of the views too."""
    found = examine(RECIPE, index, ROWS, *[lambda row_N: quantise(logits_NC[: len(row_N)], str)] * 2, summary(0.2))  # type: ignore[arg-type]
    return list(found["advice"])


@pytest.mark.parametrize("classes", [2, 5, 12, 1000])
def test_a_teacher_whose_answers_are_even(classes: int) -> None:
    random = np.random.default_rng(0)
    for spread in (0.0, 0.01):
        (said,) = told(random.normal(1, spread, (256, classes)).astype(np.float32))
        assert said == (
            "This teacher says next to nothing: its answers to plain pictures are nearly even over all classes "
            f"(entropy {np.log(classes):.2f} of {np.log(classes):.2f} nats). Check its weights."
        )


def test_a_teacher_that_knows_nothing_is_told_however_sure_it_is() -> None:
    random = np.random.default_rng(0)
    for lead in (1.0, 30.0):
        logits_NC = lead * random.normal(0, 1, (256, 12)).astype(np.float32)
        first = told(logits_NC)[0]
        assert first.startswith("This teacher knows next to nothing of these pictures: it is right on ")
        assert first.endswith("Check its weights, which class is which (--class-map), or fit it (fit_teacher).")
    one_class = replace(INDEX, classes=np.zeros(600, np.int32))  # where all pictures are alike, none can tell
    assert not [said for said in told(np.eye(12, dtype=np.float32)[[0] * 256] * 2, one_class) if "next to" in said]
    bare = replace(INDEX, classes=np.full(600, -1, np.int32))
    same = told(np.eye(12, dtype=np.float32)[[3] * 256] * 2, bare)
    assert same == ["This teacher gives one and the same answer to every plain picture. Check its weights."]
