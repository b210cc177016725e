"""Colours that can be read in both schemes, and figures that follow the page and bring nothing along."""

import re

import numpy as np
import pytest

from stages.reporting import figures
from stages.reporting.drawing import PALETTE
from stages.reporting.page import HERE
from stages.reporting.results import Results, StudentResult

STYLE = (HERE / "page.css").read_text(encoding="utf-8")
BARE = {
    "seed": 0, "images": 1, "accuracy": {}, "loss": 0.0, "calibration": 0.0, "as_teacher": None, "steps": (),
    "answers": None,
}  # fmt: skip
OWN = {kind: kind for kind in ("none", "hard", "soft")}
COLOURS = {name: pair for name, *pair in re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", STYLE)}


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["paper", "card"])
def test_all_that_is_written_has_enough_contrast(scheme, ground):
    for name in set(COLOURS) - {"paper", "card", "line"}:
        one, other = sorted(luminance(COLOURS[at][scheme]) for at in (name, ground))
        assert (other + 0.05) / (one + 0.05) >= 4.5, (name, ground)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_the_figure_in_a_cell_can_be_read_on_its_colour(scheme):
    ink, paper = COLOURS["ink"][scheme], COLOURS["paper"][scheme]
    for kind in {*OWN, *(name for name in PALETTE if name.startswith("other"))}:
        full, none = (np.array([int(c[at : at + 2], 16) for at in (1, 3, 5)]) for c in (COLOURS[kind][scheme], paper))
        mixed = figures.FULLEST * full + (1 - figures.FULLEST) * none
        cell = "#{:02x}{:02x}{:02x}".format(*mixed.round().astype(int))
        one, other = sorted(luminance(colour) for colour in (ink, cell))
        assert (other + 0.05) / (one + 0.05) >= 4.5, kind


def test_a_long_training_has_few_marks_and_the_last_of_them():
    epochs = tuple({"update": k, "loss": 1 / (k + 1)} for k in range(300))
    student = StudentResult(kind="soft", epochs=epochs, **BARE)
    drawn = figures.curve(Results(students=(student,)), "loss", "training loss").svg()
    assert 30 <= drawn.count("<title>") <= 40 and "after 299 updates" in drawn and len(drawn) < 40_000


def test_every_colour_of_a_figure_is_one_of_the_page():
    assert set(PALETTE) <= set(COLOURS) and len(set(PALETTE.values())) == len(PALETTE)


def test_kinds_are_told_apart_by_colour_or_else_by_mark_and_line():
    kinds = ["none", "soft", *(f"soft-t{k}" for k in range(6))]
    students = tuple(StudentResult(kind=k, epochs=(), **BARE) for k in kinds)
    colours = Results(students=students).colours
    assert set(colours.values()) <= set(PALETTE) and len({colours[k] for k in kinds[:6]}) == 6
    axes = figures.trade("rate", {k: [(1.0, 0.5, "a")] for k in kinds}, "x", colours).axes
    looks = {(mark.get_color(), mark.get_marker()) for mark in axes.lines if mark.get_label() in kinds[2:]}
    assert len(looks) == 6
    axes = figures.trade("rate", {k: [(1.0, 0.5, "a")] for k in OWN}, "x", OWN).axes
    named = [mark for mark in axes.lines if mark.get_label() in ("no teacher", "hard labels", "soft labels")]
    assert len({mark.get_marker() for mark in named}) == 3  # not by colour alone
    many = {k: np.linspace(0, 1, 100) for k in kinds}
    axes = figures.classes([str(k) for k in range(100)], many, colours).axes
    assert len({(mark.get_color(), mark.get_linestyle()) for mark in axes.lines if mark.get_label() in kinds[2:]}) == 6
    axes = figures.reliability({k: [(0.1, 0.5, 3)] for k in kinds}, colours).axes
    assert len({(mark.get_color(), mark.get_linestyle()) for mark in axes.lines if mark.get_label() in kinds[2:]}) == 6


def test_a_figure_has_no_colour_address_or_identity_of_its_own():
    bins = {"none": [(0.3, 0.2, 10), (0.7, 0.8, 4)], "soft": [(0.5, 0.5, 14)]}
    first, second = figures.reliability(bins, OWN).svg(), figures.reliability(bins, OWN).svg()
    assert first == second
    assert "var(--soft)" in first and not any(value in first for value in PALETTE.values())
    assert "http" not in first and "<metadata" not in first and "<!--" not in first
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', first)) == set(re.findall(r' id="([^"]+)"', first))
    assert not set(re.findall(r' id="([^"]+)"', first)) & set(
        re.findall(r' id="([^"]+)"', figures.trade("other", {"soft": [(1.0, 0.5, "a")]}, "x", OWN).svg())
    )


def test_marks_say_their_figures_and_figures_say_what_they_show():
    names = ["<ant>", "bee"]
    drawn = figures.confusion(names, np.array([[3, 1], [0, 4]]), "soft", OWN).svg()
    assert "<title>&lt;ant&gt; taken for bee: 25.0 %</title>" in drawn and "<ant>" not in drawn
    shown = figures.classes([str(k) for k in range(100)], {"none": np.linspace(0, 1, 100)}, OWN)
    many = shown.svg()
    assert many.count("<title>") == len(shown.tips) <= 40 and "no teacher: 100.0 % of 99" in many and len(many) < 40_000


def test_an_axis_of_percentages_does_not_make_a_trend_of_chance():
    shown = figures.line("by-view", [(0, 0.99, "a"), (1, 1.0, "b")], "t", percent="y")
    shown.svg()
    low, high = shown.axes.get_ylim()
    assert high - low == pytest.approx(0.1) and high == pytest.approx(1)


def test_accuracy_has_the_interval_of_its_pictures_for_one_seed_too():
    student = StudentResult(kind="soft", epochs=(), **BARE | {"images": 100, "accuracy": {"class": 0.5}})
    shown = figures.accuracy(Results(students=(student,)))
    assert "soft labels, class head: 50.0 %; other pictures would say 40.4 to 59.6 (95 %)" in shown.tips
    (line,) = [mark for mark in shown.axes.lines if len(mark.get_xdata()) == 2]
    assert line.get_xdata() == pytest.approx([0.404, 0.596], abs=1e-3)
