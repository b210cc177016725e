"""The pictures of the embedded default: the same bytes each time, parts that share nothing, and no one else's files."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.durable.folder import claimed
from pipeline.durable.local import LocalObjects
from stages import demo_images
from stages.demo import price_chart
from stages.demo.digit_scene import SceneStyle, paint
from stages.demo_images import DemoOptions, Digits, deal, load_digits, main, picture
from tests.faults import in_child, wait_for

FEW = ("--labelled", 20, "--unlabelled", 10, "--val", 10, "--side", 32)
CHARTS = ("--kind", "charts")


def make(out: Path, *more: object, expect: int = 0) -> str:
    result = CliRunner().invoke(main, [str(a) for a in ("--out", out, *FEW, "--log-level", "error", *more)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == expect, result.output
    return result.output


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "images"
    make(out)
    return out


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def test_there_is_a_folder_for_each_class_of_labelled_pictures(made):
    assert sorted(p.name for p in (made / "train").iterdir()) == [str(n) for n in range(10)]
    assert [len(list((made / "train" / str(n)).glob("*.jpg"))) for n in range(10)] == [2] * 10
    assert [len(list((made / "val" / str(n)).glob("*.jpg"))) for n in range(10)] == [1] * 10
    assert len(list((made / "unlabelled").glob("*.jpg"))) == 10
    assert cv2.imread(str(next((made / "unlabelled").glob("*.jpg")))).shape == (32, 32, 3)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(made, tmp_path):
    make(tmp_path / "again")
    assert tree(tmp_path / "again") == tree(made)
    make(tmp_path / "other", "--seed", 1)
    same = tree(made).items() & tree(tmp_path / "other").items()
    assert not {name for name, _ in same if name.endswith(".jpg")}


def test_made_before_is_not_made_again(made):
    before = {p: p.stat().st_mtime_ns for p in made.rglob("*.jpg")}
    assert "made before" in make(made)
    assert {p: p.stat().st_mtime_ns for p in made.rglob("*.jpg")} == before


def test_other_options_leave_nothing_of_the_earlier_pictures(tmp_path):
    make(tmp_path / "images")
    before = tree(tmp_path / "images")
    make(tmp_path / "images", "--labelled", 10)
    assert tree(tmp_path / "images.previous") == before, "they are set aside"
    assert len(list((tmp_path / "images" / "train").rglob("*.jpg"))) == 10
    assert json.loads((tmp_path / "images" / "demo.json").read_text())["labelled"] == 10


def test_an_interrupted_run_is_made_whole_by_the_next(made, tmp_path):
    make(tmp_path / "images")
    (tmp_path / "images" / "demo.json").write_text('{"unfinished": true}')
    for path in list((tmp_path / "images" / "val").rglob("*.jpg")):
        path.unlink()
    (tmp_path / "images" / "train" / "0" / "stray.jpg").write_bytes(b"half")
    make(tmp_path / "images")
    assert tree(tmp_path / "images") == tree(made)


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_that_was_killed_before_its_record_stood_is_no_one_elses(made, tmp_path, begun):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / ".tmp-0123456789abcdef").write_bytes(b'{"unf')
    if begun:
        few = {"labelled": 20, "unlabelled": 10, "val": 10, "side": 32, "pieces": 2, "strokes": 1, "seed": 0}
        (tmp_path / "images" / "demo.json").write_bytes(DemoOptions(kind="digits", **few).unfinished())
    make(tmp_path / "images")
    assert tree(tmp_path / "images") == tree(made)


def test_while_one_run_makes_pictures_another_is_refused_and_removes_nothing(tmp_path, monkeypatch):
    out, put = tmp_path / "images", LocalObjects.put
    temporary = out / ".tmp-0123456789abcdef"

    def another():
        told = make(out, *CHARTS, "--seed", 1, expect=1)
        assert told == f"error: {out} is being written by another process. Wait for it, or choose another --out.\n"

    def after_another(objects, key, data):
        monkeypatch.undo()
        out.mkdir()
        temporary.write_bytes(data)
        assert wait_for(in_child(another)) == 0
        temporary.unlink()
        put(objects, key, data)

    monkeypatch.setattr(LocalObjects, "put", after_another)
    make(out, *CHARTS)
    make(tmp_path / "alone", *CHARTS)
    assert tree(out) == tree(tmp_path / "alone")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "images"]


def test_of_two_runs_at_once_the_later_finds_what_the_other_made(tmp_path, monkeypatch):
    def after_another(target):
        monkeypatch.undo()
        assert "made before" not in make(tmp_path / "images", *CHARTS)
        return claimed(target)

    monkeypatch.setattr(demo_images, "claimed", after_another)
    assert "made before" in make(tmp_path / "images", *CHARTS)


def test_a_folder_of_someone_else_is_refused_and_left_alone(tmp_path):
    photos = tmp_path / "photos"
    (photos / "train").mkdir(parents=True)
    (photos / "train" / "holiday.jpg").write_bytes(b"mine")
    output = make(photos, expect=1)
    assert output == f"error: {photos} holds files that were not made here. Name a new or empty folder by --out.\n"
    assert tree(photos) == {"train/holiday.jpg": b"mine"}


def test_more_pictures_than_digits_are_refused(tmp_path):
    output = make(tmp_path / "images", "--unlabelled", 4990, expect=1)
    assert output == (
        "error: --labelled 20, --unlabelled 4990 and --val 10 make 5,020 pictures; the package has 5,000 digits, and "
        "each is used once. Ask for fewer.\n"
    )
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize("seed", [0, 7])
def test_no_digit_is_in_two_parts_and_every_class_has_its_share(digits, seed):
    parts = deal(digits, seed=seed, labelled=100, unlabelled=300, val=200)
    assert [part.name for part in parts] == ["val", "train", "unlabelled"]
    for part, count in zip(parts, (20, 10, 30), strict=True):
        assert np.bincount(part.digits.class_N).tolist() == [count] * 10
    seen = [{hashlib.sha256(g.tobytes()).digest() for g in part.digits.glyph_NHW} for part in parts]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_a_picture_depends_on_its_own_number_alone(digits):
    few = deal(digits, seed=3, labelled=20, unlabelled=0, val=20)[1]
    style = SceneStyle(side=32, pieces=(0, 0))
    alone = type(few)(name=few.name, digits=Digits(few.digits.glyph_NHW[:5], few.digits.class_N[:5]), labelled=True)
    assert (picture(few, 4, style, 3) == picture(alone, 4, style, 3)).all()


def test_charts_have_as_many_of_each_pattern_and_need_no_package(tmp_path, monkeypatch):
    monkeypatch.setattr("stages.demo_images.load_digits", lambda: 1 / 0)
    charts = ("--kind", "charts", "--labelled", 16, "--unlabelled", 8, "--val", 16)
    make(tmp_path / "charts", *charts)
    assert sorted(p.name for p in (tmp_path / "charts" / "train").iterdir()) == list(price_chart.CLASSES)
    assert {len(list(p.iterdir())) for p in (tmp_path / "charts" / "train").iterdir()} == {2}
    assert len(list((tmp_path / "charts" / "unlabelled").glob("*.jpg"))) == 8
    make(tmp_path / "again", *charts)
    assert tree(tmp_path / "again") == tree(tmp_path / "charts")
    make(tmp_path / "more", *charts, "--labelled", 24)
    both = tree(tmp_path / "charts").keys() & tree(tmp_path / "more").keys() - {"demo.json"}
    assert len(both) == 40 and all(tree(tmp_path / "more")[name] == tree(tmp_path / "charts")[name] for name in both)
    assert json.loads((tmp_path / "charts" / "demo.json").read_text())["kind"] == "charts"


@pytest.mark.parametrize("pattern", price_chart.CLASSES)
def test_a_pattern_keeps_its_turning_points_through_noise(pattern):
    """The mean of many series, put on one axis of time, turns where the pattern does."""
    style = price_chart.ChartStyle(around=1e-9)
    axis = np.linspace(0, 1, 201)
    drawn = [price_chart.series(style, pattern, np.random.default_rng(seed)) for seed in range(200)]
    mean = np.mean([np.interp(axis, np.linspace(0, 1, len(one)), one) for one in drawn], 0)
    for (_, before), (when, height), (_, after) in zip(
        *(price_chart.PATTERNS[pattern][i:] for i in range(3)), strict=False
    ):
        around = mean[[round(200 * place) for place in (when - 0.1, when, when + 0.1)]]
        if height > max(before, after):
            assert around[1] > around[0] and around[1] > around[2]
        if height < min(before, after):
            assert around[1] < around[0] and around[1] < around[2]


def test_the_chart_lies_inside_what_is_judged():
    style = price_chart.ChartStyle(side=64)
    for seed in range(30):
        price = price_chart.series(style, "double_top", np.random.default_rng(seed))
        place = price_chart._place(price, 64, np.random.default_rng(seed))
        drawn = np.concatenate([place.x(len(price)), place.y(price)])
        assert drawn.min() >= 4 - 1e-9 and drawn.max() <= 60 + 1e-9


def test_the_digit_lies_inside_what_is_judged(digits):
    style = SceneStyle(side=64, pieces=(0, 0), strokes=(0, 0))
    blank = np.zeros_like(digits.glyph_NHW[0])
    for number in range(40):
        with_digit = paint(style, digits.glyph_NHW[number * 7], [], np.random.default_rng(number)).astype(int)
        without = paint(style, blank, [], np.random.default_rng(number)).astype(int)
        rows, columns = np.nonzero(np.abs(with_digit - without).max(2) > 60)
        assert len(rows) and min(rows.min(), columns.min()) >= 2 and max(rows.max(), columns.max()) <= 61


def test_the_record_beside_the_pictures_is_as_it_was_of_old(made):
    assert (made / "demo.json").read_text() == (
        '{\n  "format": 1,\n  "labelled": 20,\n  "pieces": 2,\n  "seed": 0,\n  "side": 32,\n  "strokes": 1,\n'
        '  "unlabelled": 10,\n  "val": 10\n}\n'
    )
    charts = DemoOptions(kind="charts", labelled=10, unlabelled=0, val=10, side=16, pieces=2, strokes=1, seed=7)
    assert json.loads(charts.unfinished())["unfinished"] == charts.record()
    assert charts.record()["kind"] == "charts"
