"""The page stands alone, says what was measured and no more, and leaves out what is not there."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.labelling import cost
from pipeline.rendering.renderer import GREY
from pipeline.store.reader import StoreReader
from stages.report import main
from stages.reporting.figures import Axis
from stages.reporting.gallery import view_shelves
from stages.reporting.page import STYLE
from stages.reporting.results import Spread, read_results
from stages.teacher_logits import main as teacher_logits
from tests.command_line import run
from tests.pictures import jpeg, sample, tiny_shards, write_tar

ROWS, CLASSES = 40, 3
TOP1 = {"none": 0.50, "hard": 0.55, "soft": 0.62}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Labels of a random teacher: what the page says about them is all the same to it."""
    import timm

    folder = tmp_path_factory.mktemp("stores")
    torch.manual_seed(0)
    weights = folder / "teacher.pt"
    torch.save(timm.create_model("test_resnet", num_classes=CLASSES).state_dict(), weights)
    for part, recipe, views in (("train", "deit", 3), ("val", "none", 1)):
        tiny_shards(folder / part, rows=ROWS, shards=1, classes=CLASSES, class_names=["ant", "bee", "<cat>"])
        fixed = ("--model", "test_resnet", "--weights", weights, "--image-size", 32, "--teacher-size", "view")
        fixed += ("--workers", 0, "--device", "cpu", "--recipe", recipe, "--views", views, "--mix-window", 8)
        run(teacher_logits, "--shards", f"{folder / part}/*.tar", "--out", folder / f"{part}.zarr", *fixed)
    return folder


@pytest.fixture
def results(tmp_path, stores):
    """Made-up scores of nine students, in the files that the stages write."""
    reports, runs = tmp_path / "reports", tmp_path / "runs"
    (reports / "students").mkdir(parents=True)
    (reports / "tokens").mkdir()
    truth = StoreReader.open(stores / "val.zarr").index.classes.astype(np.int64)
    for kind, top1 in TOP1.items():
        for seed in range(3):
            write_student(reports, runs, kind, seed, top1 + 0.01 * (seed - 1), truth)
        place = {"mean": 0.8, "deviation": 0.1}
        (reports / "tokens" / f"{kind}-0.json").write_text(
            json.dumps(
                {"input": {"tokens": 0.1}, "blocks": [place, place], "weight_rows": {"mean": 0.3}, "heads_agree": 0.9}
            )
        )
    for part in ("train", "val"):
        (reports / f"labels-{part}.json").write_text((stores / f"{part}.summary.json").read_text())
    (reports / "teacher.json").write_text('{"loss": 0.5, "val_top1": 0.8}')
    (reports / "teacher.csv").write_text("epoch,loss,val_top1\n1,2.0,\n2,1.0,0.8\n")
    (reports / "verify.json").write_text('{"sample": {"views": 120, "changed": 0}}')
    return tmp_path


def write_student(reports, runs, kind, seed, top1, truth):
    heads = {"class": top1 - 0.02, "distillation": top1 + 0.01, "fused_logits": top1}
    scores = {head: {"top1": round(value, 4), "loss": 1.2, "ece": 0.05} for head, value in heads.items()}
    agreement = {"fused_logits/teacher": 0.7}
    (reports / "students" / f"{kind}-{seed}.json").write_text(
        json.dumps({"model": "deit", "student": {"labelled": 40, "agreement": agreement, **scores}})
    )
    (reports / "students" / f"{kind}-{seed}.speed.json").write_text("{}")
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(truth)) > top1
    named = np.where(wrong, (truth + 1) % CLASSES, truth)
    np.savez(
        reports / "students" / f"{kind}-{seed}.npz", row=np.arange(len(truth)), truth=truth, teacher=truth,
        **dict.fromkeys(heads, named),
    )  # fmt: skip
    folder = runs / f"{kind}-{seed}"
    folder.mkdir(parents=True)
    lines = [{"kind": "steps", "epoch": 0, "update": 1, "images_per_second": 1000.0, "wait": 0.25}]
    lines += [
        {"kind": "epoch", "epoch": e, "update": e + 1, "loss": 2.0 - e, "top1": top1 - 0.1 + 0.1 * e} for e in (0, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def report(results: Path, stores: Path, *more: object, expect: int = 0) -> str:
    fixed = ("--results", results / "reports", "--runs", results / "runs", "--logits", stores / "train.zarr")
    fixed += ("--val-logits", stores / "val.zarr", "--out", results / "page", "--workers", 0, "--device", "cpu")
    return run(main, *fixed, "--no-measure", *more, expect=expect)


class Outline(HTMLParser):
    """The page's tags, checked for closing as they were opened, and all that it would load."""

    VOID = ("meta", "img", "polyline")

    def __init__(self, text):
        super().__init__()
        self.open, self.titles, self.links, self.images, self.text = [], [], [], 0, []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                self.links.append(value)
            assert not name.startswith("on")
        self.images += tag == "img" and bool(dict(attrs)["alt"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag if tag not in self.VOID else True

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)


def test_the_page_loads_nothing_and_has_no_script(results, stores):
    report(results, stores)
    text = (results / "page" / "index.html").read_text(encoding="utf-8")
    page = Outline(text)
    assert page.links and all(link.startswith("data:image/webp;base64,") for link in page.links)
    assert page.images == len(page.links)
    assert "script" not in text.lower() and "http" not in text and "@import" not in text and "url(" not in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_every_section_is_there_and_what_is_absent_is_left_out(results, stores):
    report(results, stores)
    titles = Outline((results / "page" / "index.html").read_text()).titles
    assert titles == [
        "Accuracy of each head", "How they got there", "What the teacher saw", "Where they differ",
        "The teacher’s labels", "Two tokens, two opinions?", "What it cost", "What it rests on",
    ]  # fmt: skip
    for name in ("tokens/none-0.json", "tokens/hard-0.json", "tokens/soft-0.json", "labels-train.json"):
        (results / "reports" / name).unlink()
    for path in [*(results / "runs").rglob("metrics.jsonl"), *(results / "reports" / "students").glob("*.npz")]:
        path.unlink()
    report(results, stores)
    titles = Outline((results / "page" / "index.html").read_text()).titles
    assert titles == ["Accuracy of each head", "What the teacher saw", "What it cost", "What it rests on"]


def test_the_numbers_are_the_students(results, stores):
    output = report(results, stores, "--summary", results / "summary.json")
    assert output == f"report: {results / 'page' / 'index.html'} (hard +5.0 points, soft +12.0 points)\n"
    summary = json.loads((results / "summary.json").read_text())
    assert summary["gain"] == {"hard": 0.05, "soft": 0.12}
    assert summary["soft"] == {"class": 0.6, "distillation": 0.63, "fused_logits": 0.62}
    text = " ".join(Outline((results / "page" / "index.html").read_text()).text)
    assert re.search(r"worth\s+\+12.0 points", text)
    assert "50.0 ± 1.0 %" in text and "Soft labels add 12.0 ± 0.0 points, seed by seed +12.0 to +12.0." in text


def lead(results):
    """The first sentence of the page."""
    text = (results / "page" / "index.html").read_text(encoding="utf-8")
    return text.partition('<p class="lead">')[2].partition(". The teacher")[0]


def test_the_first_sentence_says_who_learned_from_which_pictures(results, stores, tmp_path):
    report(results, stores)
    also = "three also from the teacher’s choices (hard labels), and three also from its probabilities (soft labels)"
    assert lead(results) == (
        f"Nine vision transformers of one size learned from the same views of {ROWS} pictures, for 2 updates each: "
        f"three from the true labels alone, {also}"
    )
    (tmp_path / "part").mkdir()
    members = [m for row in range(ROWS) for m in sample(f"u/{row:06d}", jpeg(row), row % 3 if row < 9 else None)]
    store = label([write_tar(tmp_path / "part/some.tar", members)], tmp_path / "p.zarr", stores)
    report(results, stores, "--logits", store)
    assert lead(results) == (
        "Nine vision transformers of one size learned, for 2 updates each: three from the 9 pictures that have a "
        f"label, and six from the same views of all {ROWS}, of them {also}"
    )
    for part in ("hard", "soft"):
        for path in (results / "reports" / "students").glob(f"{part}-?.json"):
            path.unlink()
    report(results, stores, "--logits", store)
    assert lead(results) == (
        "Three vision transformers of one size learned, for 2 updates each: three from the 9 pictures that have a label"
    )


def test_a_loss_is_called_a_loss(results, stores):
    for kind in ("hard", "soft"):
        for path in (results / "reports" / "students").glob(f"{kind}-?.json"):
            record = json.loads(path.read_text())
            record["student"]["fused_logits"]["top1"] = 0.4
            path.write_text(json.dumps(record))
    report(results, stores)
    text = " ".join(Outline((results / "page" / "index.html").read_text()).text)
    assert "did  not help" in text and "worth" not in text.split("Accuracy of each head")[0]
    assert "Soft labels change this by −10.0" in text


def test_names_from_outside_are_text_and_never_markup(results, stores):
    report(results, stores)
    text = (results / "page" / "index.html").read_text()
    assert "<cat>" not in text and "&lt;cat&gt;" in text


def test_curves_for_plots_are_means_over_the_seeds(results, stores):
    report(results, stores)
    with (results / "page" / "top1.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["update"] for line in lines] == ["1", "2"]
    assert {kind: float(lines[1][kind]) for kind in TOP1} == pytest.approx(TOP1)


def test_figures_are_png_files_and_the_same_bytes_each_time(results, stores):
    report(results, stores)
    first = {p.name: p.read_bytes() for p in (results / "page").iterdir()}
    assert {name for name in first if name.endswith(".png")} == {
        "accuracy.png", "curves.png", "tokens.png", "views.png",
    }  # fmt: skip
    assert all(data.startswith(b"\x89PNG") for name, data in first.items() if name.endswith(".png"))
    report(results, stores)
    assert {p.name: p.read_bytes() for p in (results / "page").iterdir()} == first


def test_without_scores_there_is_no_report(tmp_path, stores):
    (tmp_path / "reports").mkdir()
    output = report(tmp_path, stores, expect=1)
    assert output == (
        f"error: {tmp_path / 'reports' / 'students'} holds no scores of students (KIND-SEED.json). Run 'dvc repro "
        "evaluate', or student.evaluate --out there.\n"
    )


def test_a_damaged_file_is_named(results, stores):
    path = results / "reports" / "students" / "soft-1.json"
    path.write_text('{"student": {}}')
    output = report(results, stores, expect=1)
    assert output == f"error: {path} is not understood (KeyError: 'agreement'). Write it again: dvc repro.\n"


def test_gains_are_paired_by_seed(results):
    (results / "reports" / "students" / "none-2.json").unlink()
    found = read_results(results / "reports", results / "runs")
    assert found.gains()["soft"].values == pytest.approx((0.12, 0.12))


@pytest.mark.parametrize(
    ("values", "percent", "ticks"),
    [((0.561, 0.702), True, (0.56, 0.58, 0.6, 0.62, 0.64, 0.66, 0.68, 0.7)), ((1.0, 2.2), False, (1.0, 1.25, 1.5))],
)
def test_marks_are_round_and_inside(values, percent, ticks):
    axis = Axis.around(values, percent=percent)
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks) and 3 <= len(axis.ticks) <= 8
    assert set(axis.ticks) & set(ticks)
    assert all(0 <= axis.at(value) <= 100 for value in values)


def test_a_spread_of_one_seed_has_no_deviation():
    assert str(Spread((0.5,))) == "50.0" and str(Spread((0.5, 0.6))) == "55.0 ± 7.1"


def label(shards, out, stores, *more):
    """A store of these shards by the random teacher."""
    fixed = ("--model", "test_resnet", "--weights", stores / "teacher.pt", "--image-size", 32, "--teacher-size", "view")
    fixed += ("--workers", 0, "--device", "cpu", "--views", 2, "--mix-window", 8)
    run(teacher_logits, *(word for urls in shards for word in ("--shards", urls)), "--out", out, *fixed, *more)
    return out


def test_a_store_without_any_label_has_its_page(results, stores, tmp_path):
    members = [member for row in range(ROWS) for member in sample(f"u/{row:06d}", jpeg(row), None)]
    store = label([write_tar(tmp_path / "unlabelled.tar", members)], tmp_path / "u.zarr", stores)
    (results / "reports" / "labels-train.json").write_text((tmp_path / "u.summary.json").read_text())
    report(results, stores, "--logits", store)
    page = Outline((results / "page" / "index.html").read_text())
    assert "What the teacher saw" in page.titles and "The teacher’s labels" in page.titles
    assert "true class in" not in " ".join(page.text)


def test_a_picture_that_cannot_be_decoded_is_a_grey_tile(results, stores, tmp_path):
    bad = dict.fromkeys(range(10), b"\xff\xd8\xff\xe0 not a picture")
    urls = tiny_shards(tmp_path / "bad", rows=ROWS, shards=1, classes=CLASSES, replace=bad)
    store = label(urls, tmp_path / "b.zarr", stores, "--on-bad-image", "grey")
    report(results, stores, "--logits", store)
    assert "cannot be decoded" in " ".join(Outline((results / "page" / "index.html").read_text()).text)
    opened = StoreReader.open(store)
    first = view_shelves(opened, opened.index, rows=4, views=1)[0].tiles[0]
    assert (first.pixels_HWC == GREY).all() and first.words[0].says == "cannot be decoded"


def test_costs_are_those_of_the_stored_teacher_on_the_shards_where_they_are_now(results, stores, tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "SECONDS", 0.05)
    urls = tiny_shards(tmp_path / "before", rows=ROWS, shards=1, classes=CLASSES)
    store = label(urls, tmp_path / "m.zarr", stores, "--mean", "0.1,0.2,0.3", "--std", "0.4,0.5,0.6")
    (tmp_path / "before").rename(tmp_path / "after")
    asked = []

    def watched(manifest, index, teacher, **more):
        asked.append((teacher.card == manifest.teacher, index.urls, more["start_method"]))
        return cost.estimate(manifest, index, teacher, **more)

    monkeypatch.setattr("stages.report.estimate", watched)
    shards = tmp_path / "after" / "000000.tar"
    more = ("--shards", shards, "--weights", stores / "teacher.pt", "--start-method", "spawn")
    report(results, stores, "--logits", store, *more, "--measure")
    assert asked == [(True, (str(shards),), "spawn")]
    assert "views/s" in " ".join(Outline((results / "page" / "index.html").read_text()).text)


def test_held_out_labels_without_a_figure_leave_it_to_the_fitting(results):
    for unmixed in ({"views": 0, "top1": None}, None):
        (results / "reports" / "labels-val.json").write_text(json.dumps({"unmixed": unmixed}))
        assert read_results(results / "reports", results / "runs").teacher_accuracy == 0.8


def test_no_colour_is_set_twice():
    for block in re.findall(r"{([^{}]*)}", STYLE):
        names = re.findall(r"(--[a-z]+):", block)
        assert len(names) == len(set(names)), names
