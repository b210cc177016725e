"""The statistic of the evidence, and the verdicts that follow from published runs alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks import gain
from benchmarks.evidence.claims import CLAIMS, END, START, Claim, judged, table, write_verdicts
from benchmarks.evidence.statistic import Effect, distribution, more, paired, quantile, same
from pipeline.errors import UserError


@pytest.mark.parametrize(("freedom", "known"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216)])
def test_the_point_of_students_distribution_is_the_tables(freedom: int, known: float) -> None:
    assert quantile(0.975, freedom) == pytest.approx(known, abs=1e-4)
    assert distribution(known, freedom) == pytest.approx(0.975, abs=1e-6)
    assert distribution(-known, freedom) == pytest.approx(0.025, abs=1e-6)


def test_an_interval_is_the_mean_and_t_standard_errors_of_the_differences() -> None:
    effect = paired([50.0, 52.0, 55.0], [49.0, 50.0, 52.0])  # differences 1, 2, 3: mean 2, deviation 1
    assert effect.mean == 2 and effect.half == pytest.approx(4.30265 / math.sqrt(3), abs=1e-4)
    assert effect.text() == "+2.0 [-0.5, +4.5]"
    assert paired([3.0], [1.0]).text() == "+2.0" and more(paired([3.0], [1.0])) == "undecided"


@pytest.mark.parametrize(
    ("mean", "half", "gained", "kept"),
    [
        (2.0, 1.0, "reproduced", "reproduced"),
        (0.5, 1.0, "undecided", "reproduced"),
        (-0.5, 1.0, "undecided", "undecided"),
        (-2.0, 1.5, "opposite", "undecided"),
        (-3.0, 1.0, "opposite", "opposite"),
    ],
)
def test_a_verdict_is_where_the_interval_lies(mean: float, half: float, gained: str, kept: str) -> None:
    effect = Effect(mean, half, 3)
    assert (more(effect), same(effect)) == (gained, kept)


def figures(**rows: tuple[float, ...]) -> dict[str, float]:
    return {f"{row}, seed {seed}": value for row, values in rows.items() for seed, value in enumerate(values)}


def test_a_claim_is_judged_from_the_seeds_that_both_rows_have() -> None:
    found = figures(none=(0.40, 0.41, 0.42), soft=(0.45, 0.455))
    effect = Claim("", "soft", "none").effect(found)
    assert effect is not None and effect.seeds == 2 and effect.mean == pytest.approx(4.75)
    assert Claim("", "soft", "hard").effect(found) is None


def test_a_larger_gain_is_a_difference_of_differences() -> None:
    found = figures(a=(0.50, 0.52), b=(0.40, 0.40), c=(0.60, 0.60), d=(0.55, 0.57))
    effect = Claim("", "a", "b", ("c", "d")).effect(found)
    assert effect is not None and effect.mean == pytest.approx(((10 - 5) + (12 - 3)) / 2)


def test_few_labels_and_lengths_are_claims_of_whatever_numbers_there_are() -> None:
    rows = ("5 labels, no teacher", "5 labels, soft", "5 labels and 9 pictures without, soft", "14 labels, no teacher")
    found = {f"{row}, seed {seed}": 0.1 for row in (*rows, "14 labels, soft") for seed in (0, 1)}
    texts = [claim.text for claim, _, _ in judged("efficiency", found)]
    assert texts == [
        "5 labels: soft labels help",
        "5 labels: with the pictures without a label, too",
        "5 labels: the pictures without a label help",
        "14 labels: soft labels help",
        "soft labels gain more with 5 labels than with 14 labels",
    ]


def test_fewer_views_are_to_lose_nothing_against_the_most() -> None:
    found = {f"soft, {count} views, seed {seed}": 0.4 for count in (10, 100, 3) for seed in (0, 1)}
    assert [(claim.text, verdict) for claim, _, verdict in judged("views", found)] == [
        ("nothing is lost with 3 in place of 100 views", "reproduced"),
        ("nothing is lost with 10 in place of 100 views", "reproduced"),
    ]


def test_the_teachers_weight_is_judged_apart_from_pictures_without_a_label() -> None:
    rows = {
        "5 labels, weight 0.5": 0.3,
        "5 labels, weight 0.9": 0.3,
        "5 labels and 9 pictures without, weight 0.9": 0.4,
    }
    rows |= {"14 labels, weight 0.5": 0.4, "14 labels, weight 0.9": 0.5}
    found = {f"{row}, seed {seed}": value + seed / 1000 for row, value in rows.items() for seed in (0, 1)}
    assert [(claim.text, verdict) for claim, _, verdict in judged("weight", found)] == [
        ("5 labels: a weight of 0.9 teaches better than 0.5", "undecided"),
        ("5 labels, weight 0.9: the pictures without a label help", "reproduced"),
        ("5 labels and 9 pictures without, weight 0.9: nothing is lost against 14 labels", "opposite"),
        ("14 labels: a weight of 0.9 teaches better than 0.5", "reproduced"),
    ]


def test_photographs_packed_smaller_are_judged_against_those_as_they_are() -> None:
    accuracies = {"as they are": 0.50, "longest side 1.34 views": 0.501, "longest side 0.86 views": 0.45}
    found = {f"{row}, seed {seed}": value + seed / 500 for row, value in accuracies.items() for seed in (0, 1, 2)}
    assert [(claim.mine, claim.other, verdict) for claim, _, verdict in judged("packing", found)] == [
        ("longest side 0.86 views", "as they are", "opposite"),
        ("longest side 1.34 views", "as they are", "reproduced"),
    ]


def test_temperatures_are_judged_for_whatever_teacher_there_is() -> None:
    found = {f"some net, τ = {tau}, seed {seed}": 0.3 + tau / 10 for tau in (1, 2) for seed in (0, 1)}
    assert [(claim.text, verdict) for claim, _, verdict in judged("temperature", found)] == [
        ("some net: τ = 2 teaches better than τ = 1", "reproduced")
    ]


def test_verdicts_are_written_between_the_marks_of_a_page(tmp_path: Path) -> None:
    none, hard = ("no distillation", "hard, without token")
    found = {f"{row}, seed {seed}": value + seed / 1000 for row, value in ((none, 0.4), (hard, 0.5)) for seed in (0, 1)}
    results = tmp_path / "results"
    (results / "epochs").mkdir(parents=True)
    (results / "epochs/distillation.json").write_text(json.dumps({"title": "How to distil", "figures": found}))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    write_verdicts(page, results)
    text = page.read_text()
    assert "| hard labels help a student without one | +10.0 [+10.0, +10.0] | reproduced |" in text
    assert (
        "`--scale epochs`" in text
        and "2 seeds" in text
        and "old" not in text
        and text.startswith("before\n")
        and text.endswith(f"{END}\nafter\n")
    )
    write_verdicts(page, results)
    assert page.read_text() == text
    assert table("distillation", {}) == [] and len(CLAIMS["distillation"]) == 10


def test_a_preset_is_judged_seed_by_seed(tmp_path: Path) -> None:
    (tmp_path / "students").mkdir()
    for name, share in (("none-0", 0.40), ("none-1", 0.50), ("soft-0", 0.50), ("soft-1", 0.61), ("soft-0.speed", 0.9)):
        answers = {"student": {"fused_logits": {"top1": share}, "class": {"top1": 0.1}}}
        (tmp_path / "students" / f"{name}.json").write_text(json.dumps(answers))
    (tmp_path / "teacher.json").write_text('{"val_top1": 0.96}')
    found = gain.table("t", "T", gain.read(tmp_path), gain.teacher(tmp_path), ("so",))
    assert found.rows == (("none", "45.0 ± 7.1", "", ""), ("soft", "55.5 ± 7.8", "+10.5 [+4.1, +16.9]", "reproduced"))
    assert found.figures["soft, seed 1"] == 0.61 and found.notes[1:] == ("The teacher's own top-1: 96.0 %.", "so")
    (tmp_path / "labels-train.json").write_text('{"views": 4, "rows": 2000, "entropy": 1.5, "unmixed": {"top1": 0.75}}')
    (line,) = gain.labels(tmp_path)
    assert line.endswith(
        "4 views of 2,000 pictures, entropy of the answers 1.50 nats, top-1 on those that are not mixed 75.0 %."
    )
    (tmp_path / "labels-train.json").write_text('{"views": 4, "rows": 9, "entropy": null, "unmixed": {"top1": null}}')
    assert next(iter(gain.labels(tmp_path))).endswith("4 views of 9 pictures.")
    alone = gain.table("t", "T", {"none": {0: 0.4}, "soft": {1: 0.5}}, None, ())
    assert alone.rows[1] == ("soft", "50.0", "no seed in common", "")
    with pytest.raises(UserError, match="Run `dvc repro` first"):
        gain.read(tmp_path / "students")
