"""The page of real, tiny results in a real browser: at three widths, in two colour schemes, and by keyboard alone.

Skipped where there is no Chromium or Chrome.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from stages.report import main as report
from stages.teacher_logits import main as teacher_logits
from student.evaluate import main as evaluate
from student.tokens import main as tokens
from tests import browser
from tests import small_students as small
from tests.command_line import run
from tests.pictures import tiny_shards

pytestmark = pytest.mark.skipif(browser.found() is None, reason="no Chromium or Chrome here")
WIDTHS, SCHEMES = (375, 768, 1280), ("light", "dark")
NAMES = ["ant", "bee", "<cat>", "dog, of a breed with a very long name", "emu"]
HERE = ("--workers", 0, "--device", "cpu")

CONTRAST = """
const channels = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255)
  .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
  .reduce((sum, c, at) => sum + c * [.2126, .7152, .0722][at], 0);
const ground = node => {
  for (; node; node = node.parentElement) {
    const [r, g, b, a = 1] = channels(getComputedStyle(node).backgroundColor);
    if (a > 0) return [r, g, b];
  }
};
const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode.data.trim(), node = walker.currentNode.parentElement;
  if (!text || !node.getClientRects().length || node.closest("style, title")) continue;
  const style = getComputedStyle(node), colour = node.closest("svg") ? style.fill : style.color;
  const pair = [luminance(channels(colour)), luminance(ground(node))].sort((a, b) => a - b);
  found.push([(pair[1] + .05) / (pair[0] + .05), text]);
}
return found.sort((a, b) => a[0] - b[0]);
"""
CUT = """
return [...document.querySelectorAll(".scroll")].filter(s => s.scrollWidth > s.clientWidth + 2).map(s => {
  const box = s.getBoundingClientRect();
  return {x: box.right - 12, y: box.bottom + scrollY - 20, width: 12, height: 8,
          named: s.role == "group" && s.tabIndex == 0 && !!s.ariaLabel};
});
"""
HOVER = """
return [...document.querySelectorAll("figure")].map(figure => {
  const texts = where => [...figure.querySelectorAll(where)].map(node => node.textContent);
  return [texts("svg title"), texts("details li")];
});
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, labels, a student without and one with them, all by the commands."""
    folder = tmp_path_factory.mktemp("page")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", num_classes=len(NAMES)).state_dict(), folder / "teacher.pt")
    teacher = ("--model", "test_resnet", "--weights", folder / "teacher.pt", "--teacher-size", "view", *HERE)
    for part, recipe in (("train", "deit"), ("val", "none")):
        shards = tiny_shards(folder / part, rows=68, shards=1, classes=len(NAMES), class_names=NAMES)
        view = ("--recipe", recipe, "--views", 2 if part == "train" else 1, "--image-size", 32, "--mix-window", 8)
        run(teacher_logits, "--shards", *shards, "--out", folder / f"{part}.zarr", *teacher, *view)
    runs, reports = folder / "runs", folder / "reports"
    (reports / "students").mkdir(parents=True)
    judged = ("--shards", folder / "val" / "*.tar", *HERE)
    for kind in ("none", "soft"):
        line = small.arguments(folder / "train.zarr", runs / f"{kind}-0", "--distill", kind)
        status, said = small.train([*line, "--val-shards", str(folder / "val" / "*.tar")], folder / "train.log")
        assert status == 0, said
        out = reports / "students" / f"{kind}-0.json"
        of_it = ("--checkpoint", runs / f"{kind}-0", *judged)
        run(evaluate, *of_it, "--logits", folder / "val.zarr", "--out", out, "--predictions", out.with_suffix(".npz"))
        run(tokens, *of_it, "--out", reports / "students" / f"{kind}-0.tokens.json")
    stores = ("--logits", folder / "train.zarr", "--val-logits", folder / "val.zarr", "--no-measure", *HERE)
    run(report, "--results", reports, "--runs", runs, *stores, "--out", folder / "page", "--rows", 1, "--examples", 1)
    return folder / "page" / "index.html"


@pytest.fixture(scope="module")
def shown(page: Path) -> Iterator[browser.Tab]:
    with browser.tab(str(browser.found())) as tab:
        tab.open(page)
        yield tab


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_and_can_be_read_at_every_width_in_both_schemes(shown: browser.Tab, width: int) -> None:
    grounds = set()
    for scheme in SCHEMES:
        shown.look(width=width, scheme=scheme)
        assert shown.run("return document.documentElement.scrollWidth - innerWidth") <= 0
        grounds.add(shown.run("return getComputedStyle(document.body).backgroundColor"))
        contrasts = shown.run(CONTRAST)
        assert len(contrasts) > 200 and contrasts[0][0] >= 4.5, contrasts[:3]
        assert any(text == "taken for" for _, text in contrasts)  # words of figures are among them
    assert len(grounds) == 2


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_table_that_is_cut_says_so_and_scrolls_by_keyboard(shown: browser.Tab, scheme: str) -> None:
    shown.look(width=375, scheme=scheme)
    cut = shown.run(CUT)
    assert len(cut) >= 2
    for box in cut:
        assert box.pop("named")
        pixels = shown.picture(box).astype(int).sum(2)
        assert np.ptp(pixels.mean(0)) > 60, box  # a shadow lies on its edge
    shown.run("[...document.querySelectorAll('.scroll')].find(s => s.scrollWidth > s.clientWidth + 2).focus()")
    shown.press("ArrowRight", 39)
    moved = "return document.activeElement.scrollLeft"
    assert any(shown.run(moved) > 0 for _ in range(100))


def test_what_marks_say_when_pointed_at_is_reached_by_keyboard(shown: browser.Tab) -> None:
    shown.look(width=1280)
    figures = shown.run(HOVER)
    assert len(figures) >= 6 and sum(len(pointed) for pointed, _ in figures) > 60
    assert all(set(pointed) == set(listed) for pointed, listed in figures)
    shown.run("document.activeElement.blur(); scrollTo(0, 0)")
    for _ in range(40):
        shown.press("Tab", 9)
        if shown.run("return document.activeElement.matches('figure summary')"):
            break
    seen = (
        "return document.activeElement.parentElement.querySelector('li').checkVisibility({contentVisibilityAuto: true})"
    )
    assert not shown.run("return document.activeElement.parentElement.open")
    shown.press("Enter", 13, "\r")
    assert shown.run("return document.activeElement.parentElement.open") and shown.run(seen)


def test_no_name_is_told_twice(shown: browser.Tab) -> None:
    nodes = shown.ask("Accessibility.getFullAXTree")["nodes"]
    names = [(n["role"]["value"], n["name"]["value"]) for n in nodes if not n["ignored"] and "name" in n]
    assert not [name for role, name in names if role == "group" and "%" in name]  # what a mark says is in its list
    once = [name for role, name in names if role in ("image", "table", "region") and name not in ("right", "wrong")]
    assert len(once) > 25 and len(once) == len(set(once))


def test_contents_lead_to_their_parts(shown: browser.Tab) -> None:
    shown.look(width=768)
    tops = shown.run(
        "return [...document.querySelectorAll('nav a')].map(a => {"
        "  a.click(); return document.querySelector(location.hash + ' h2').getBoundingClientRect().top; })"
    )
    assert len(tops) >= 10 and all(0 <= top < 900 for top in tops)


def test_nothing_is_asked_of_a_network_and_nothing_goes_wrong(shown: browser.Tab, page: Path) -> None:
    shown.run("return 1")  # all that was said before is here by now
    asked = [e["params"]["request"]["url"] for e in shown.events if e.get("method") == "Network.requestWillBeSent"]
    assert asked[0] == page.resolve().as_uri() and all(url.startswith("data:") for url in asked[1:])
    said = [e for e in shown.events if e.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled")]
    assert said + [e for e in shown.events if e.get("method") == "Log.entryAdded"] == []
