"""The command shows exactly what is rendered, and says what the store says."""

import re

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pipeline.rendering.renderer import Renderer
from pipeline.shards.index import scan
from pipeline.views.recipe import Recipe
from stages import inspect_views
from stages.inspect_views import main
from stages.reporting.contact_sheet import GOOD, PALE, SMALLEST, Caption, Cell, contact_sheet
from tests.class_stores import NAMES, ROWS, SIDE, VIEWS, store_of
from tests.pictures import jpeg, sample, scene, tiny_shards, write_tar


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    return tiny_shards(tmp_path_factory.mktemp("shards"), rows=ROWS, classes=3, class_names=NAMES)


def run(*args, expect=0):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == expect, result.output
    return result.output if expect else result.stdout


def test_the_sheet_shows_the_rendered_pixels(urls, tmp_path):
    out = tmp_path / "new folder" / "sheet.png"
    said = run(
        "--shards", *urls[:1], "--rows", "1,3", "--views", 2, "--out", out, "--image-size", SIDE, "--mix-window", 8
    )
    assert said.splitlines()[-1] == f"contact sheet: {out} (2 rows × 2 views)"
    assert len(said.splitlines()) == 2 * 2 + 2
    index = scan(urls[:1])
    pixels = np.empty((4, SIDE, SIDE, 3), np.uint8)
    recipe = Recipe(image_size=SIDE, mix_window=8)
    Renderer(recipe, index, index.files()).render(np.array([1, 1, 3, 3]), np.array([0, 1, 0, 1]), pixels)
    page = np.asarray(Image.open(out))
    factor = SMALLEST // SIDE
    for view in pixels:
        shown = view.repeat(factor, 0).repeat(factor, 1)
        corners = np.argwhere((page[: -SMALLEST + 1, : -SMALLEST + 1] == shown[0, 0]).all(axis=2))
        assert any(np.array_equal(page[y : y + SMALLEST, x : x + SMALLEST], shown) for y, x in corners)


def test_the_table_names_keys_and_classes(urls, tmp_path):
    said = run("--shards", urls[0], "--shards", urls[1], "--rows", "4:6,19", "--views", 1, "--out", tmp_path / "v.png")
    lines = [re.split(r"  +", line) for line in said.splitlines()[1:-1]]
    assert [line[:4] for line in lines] == [
        ["4", "0", "s0/000004", "bee"],
        ["5", "0", "s0/000005", "cat"],
        ["19", "0", "s0/000019", "bee"],
    ]


@pytest.mark.parametrize(("keep", "words"), [("dense", " 0.90, "), ("topk:2", " 0.90, "), ("argmax", "")])
def test_a_store_brings_recipe_and_answers(urls, tmp_path, keep, words):
    path = store_of(tmp_path / "store.zarr", urls, keep)
    said = run("--logits", path, "--rows", "0:5", "--out", tmp_path / "v.png")
    header, *lines, verdict, last = said.splitlines()
    assert header.endswith("teacher")
    assert len(lines) == 5 * VIEWS
    for number, line in enumerate(lines):
        name = NAMES[number // VIEWS % 3]
        assert line[header.index("teacher") :].startswith(f"{name}{words}")
    assert verdict == "all 10 views have the checksum that is stored with their label"
    assert last == f"contact sheet: {tmp_path / 'v.png'} (5 rows × 2 views)"


def test_an_answer_about_a_row_without_a_label_is_neither_right_nor_wrong(tmp_path, monkeypatch):
    members = [m for row in range(ROWS) for m in sample(f"u/{row:06d}", jpeg(row), None if row < 10 else row % 3)]
    path = store_of(tmp_path / "store.zarr", [str(write_tar(tmp_path / "some.tar", members))], "argmax")
    drawn = []
    monkeypatch.setattr(inspect_views, "contact_sheet", lambda *words: drawn.append(words[-1]) or contact_sheet(*words))
    run("--logits", path, "--rows", "0,19", "--views", 1, "--out", tmp_path / "v.png")
    assert [cells[1].captions[-1].colour for cells in drawn[0]] == [PALE, GOOD]


def test_views_that_the_teacher_did_not_see_are_told(urls, tmp_path):
    path = store_of(tmp_path / "store.zarr", urls, "argmax", wrong=[2])
    said = run("--logits", path, "--rows", "1:4", "--out", tmp_path / "v.png", expect=1)
    error = said.splitlines()[-1]
    assert error.startswith(
        "error: 2 of 6 views are not those that the teacher saw; the first is row 2, view 0: checksum "
    )
    assert error.endswith("'python -m stages.verify_logits' says how far they drifted.")
    assert (tmp_path / "v.png").exists()


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ([], 2, "Error: give --shards PATTERN, or --logits STORE"),
        (
            ["--logits", "x.zarr", "--flip", "0"],
            2,
            "Error: --flip has no place beside --logits, which brings the recipe",
        ),
        (["--logits", "x.zarr", "--recipe", "none"], 2, "Error: --recipe has no place beside --logits"),
        (["SHARDS", "--rows", "0:x"], 2, "Error: Invalid value for --rows: '0:x' is neither a number nor 'FIRST:END'"),
        (["SHARDS", "--rows", "5:5"], 2, "Error: Invalid value for --rows: '5:5' names no row"),
        (["SHARDS", "--rows", "3,10"], 1, "error: --rows names row 10, there are rows 0 to 9: choose among them."),
        (["SHARDS", "--rows", "-1"], 1, "error: --rows names row -1, there are rows 0 to 9"),
        (["SHARDS", "--views", "500"], 2, "Error: 8 rows × 500 views are over 1000, more than one sheet shows"),
    ],
)
def test_what_cannot_be_shown(urls, tmp_path, monkeypatch, flags, status, message):
    monkeypatch.chdir(tmp_path)
    given = ["--shards", urls[0], *flags[1:]] if flags[:1] == ["SHARDS"] else flags
    assert message in run(*given, expect=status)
    assert not list(tmp_path.glob("*.png"))


def test_a_sheet_that_cannot_be_written_is_told(urls, tmp_path):
    (tmp_path / "file").write_text("in the way")
    said = run("--shards", urls[0], "--out", tmp_path / "file/v.png", expect=1).splitlines()[-1]
    assert said.startswith(f"error: cannot write {tmp_path}/file/v.png: ")


def test_a_bad_picture_has_its_cell(urls, tmp_path):
    bad = tiny_shards(tmp_path, rows=4, shards=1, replace={1: b"\xff\xd8\xff\xe0 not a picture"})
    said = run("--shards", *bad, "--on-bad-image", "grey", "--image-size", SIDE, "--out", tmp_path / "v.png")
    assert said.splitlines()[-1].endswith("(4 rows × 4 views)")
    assert "s0/000001" in run("--shards", *bad, "--image-size", SIDE, "--out", tmp_path / "w.png", expect=1)


def test_long_captions_are_wrapped_then_cut_and_large_views_reduced():
    long = Caption("a caption of very many words " * 8)
    cell = Cell(pixels_HWC=scene(1, 500, 400), captions=[long, Caption("x" * 200)], own=0.0)
    page = contact_sheet("t" * 300, "s" * 300, [], [[cell, Cell(pixels_HWC=scene(2, 448, 448), captions=[])]])
    assert page.width < 700
    assert (np.asarray(page)[:, -20:] == np.asarray(page)[0, 0]).all()
