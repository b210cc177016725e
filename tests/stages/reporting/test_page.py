"""Colours that can be read in both schemes, and figures that follow the page and bring nothing along."""

import re

import numpy as np
import pytest

from stages.reporting import figures
from stages.reporting.drawing import PALETTE
from stages.reporting.page import HERE
from stages.reporting.report_data import colour

STYLE = (HERE / "page.css").read_text(encoding="utf-8")
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


def test_every_colour_of_a_figure_is_one_of_the_page():
    assert set(PALETTE) <= set(COLOURS) and len(set(PALETTE.values())) == len(PALETTE)
    assert {colour(kind) for kind in ("none", "hard", "soft", "teacher", "soft-t4", "feature")} <= set(PALETTE)


def test_a_figure_has_no_colour_address_or_identity_of_its_own():
    bins = {"none": [(0.3, 0.2, 10), (0.7, 0.8, 4)], "soft": [(0.5, 0.5, 14)]}
    first, second = figures.reliability(bins).svg(), figures.reliability(bins).svg()
    assert first == second
    assert "var(--soft)" in first and not any(value in first for value in PALETTE.values())
    assert "http" not in first and "<metadata" not in first and "<!--" not in first
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', first)) == set(re.findall(r' id="([^"]+)"', first))
    assert not set(re.findall(r' id="([^"]+)"', first)) & set(
        re.findall(r' id="([^"]+)"', figures.trade("other", {"soft": [(1.0, 0.5, "a")]}, "x").svg())
    )


def test_marks_say_their_figures_and_figures_say_what_they_show():
    names = ["<ant>", "bee"]
    drawn = figures.confusion(names, np.array([[3, 1], [0, 4]]), "soft").svg()
    assert "<title>&lt;ant&gt; taken for bee: 25.0 %</title>" in drawn and "<ant>" not in drawn
    assert re.search(r'role="img" aria-label="confusion matrix of soft labels over 2 classes', drawn)
    many = figures.classes([str(k) for k in range(100)], {"none": np.linspace(0, 1, 100)}).svg()
    assert "0 to 100 %" in many and many.count("<title>") == 0 and len(many) < 30_000
