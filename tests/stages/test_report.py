"""The page stands alone, says what was measured and no more, and leaves out what is not there."""

import csv
import json
import re
from base64 import b64decode
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.labelling import cost
from pipeline.rendering.renderer import GREY
from pipeline.store.reader import StoreReader
from stages.report import main
from stages.reporting.findings import findings, gained, headline, lead
from stages.reporting.gallery import held_out_shelves, view_shelves
from stages.reporting.made import Made, commit_of, read_history, remember
from stages.reporting.report_data import Story, remembered
from stages.reporting.results import ReportError, Spread, read_results
from stages.reporting.tables import earlier
from stages.teacher_logits import main as teacher_logits
from tests.command_line import run
from tests.pictures import jpeg, sample, tiny_shards, write_tar

ROWS, CLASSES = 40, 3
TOP1 = {"none": 0.50, "hard": 0.55, "soft": 0.62}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Stores for so many classes, of a random teacher: what the page says about its labels is all the same to it."""
    import timm

    @cache
    def made(classes):
        folder = tmp_path_factory.mktemp("stores")
        torch.manual_seed(0)
        weights = folder / "teacher.pt"
        torch.save(timm.create_model("test_resnet", num_classes=classes).state_dict(), weights)
        names = ["ant", "bee", "<cat>", *(f"n{k:05d}, a class with a long name" for k in range(classes))][:classes]
        for part, recipe, views in (("train", "deit", 3), ("val", "none", 1)):
            tiny_shards(folder / part, rows=max(ROWS, classes), shards=1, classes=classes, class_names=names)
            fixed = ("--model", "test_resnet", "--weights", weights, "--image-size", 32, "--teacher-size", "view")
            fixed += ("--workers", 0, "--device", "cpu", "--recipe", recipe, "--views", views, "--mix-window", 8)
            run(teacher_logits, "--shards", f"{folder / part}/*.tar", "--out", folder / f"{part}.zarr", *fixed)
        return folder

    return made


@pytest.fixture(scope="module")
def stores(labelled):
    return labelled(CLASSES)


@pytest.fixture
def results(tmp_path, stores):
    """Made-up scores of nine students, in the files that the stages write."""
    return write_results(tmp_path, stores, TOP1, seeds=3, classes=CLASSES)


@pytest.fixture(scope="module")
def shown(tmp_path_factory, stores):
    """The page of the nine, for those who only read it."""
    folder = write_results(tmp_path_factory.mktemp("shown"), stores, TOP1, seeds=3, classes=CLASSES)
    said = report(folder, stores, "--summary", folder / "summary.json", "--earlier", folder / "earlier.jsonl")
    return folder, said


def write_results(folder, stores, top1_of, *, seeds, classes):
    reports, runs = folder / "reports", folder / "runs"
    (reports / "students").mkdir(parents=True)
    truth = StoreReader.open(stores / "val.zarr").index.classes.astype(np.int64)
    for kind, top1 in top1_of.items():
        for seed in range(seeds):
            write_student(reports, runs, kind, seed, top1 + 0.01 * (seed - seeds // 2), truth, classes)
        place = {"mean": 0.8, "deviation": 0.1}
        (reports / "students" / f"{kind}-0.tokens.json").write_text(
            json.dumps(
                {"input": {"tokens": 0.1}, "blocks": [place, place], "weight_rows": {"mean": 0.3}, "heads_agree": 0.9}
            )
        )
    (reports / "labels-train.json").write_text((stores / "train.summary.json").read_text())
    (reports / "labels-val.json").write_text('{"unmixed": {"views": 40, "top1": 0.8}}')
    (reports / "teacher.json").write_text('{"loss": 0.5, "val_top1": 0.8}')
    (reports / "teacher.csv").write_text("epoch,loss,val_top1\n1,2.0,\n2,1.0,0.8\n")
    (reports / "verify.json").write_text('{"sample": {"views": 120, "changed": 0}}')
    return folder


def write_student(reports, runs, kind, seed, top1, truth, classes):
    heads = {"class": top1 - 0.02, "distillation": top1 + 0.01, "fused_logits": top1}
    scores = {head: {"top1": round(value, 4), "loss": 1.2, "ece": 0.05} for head, value in heads.items()}
    scores["reliability"] = {"fused_logits": [[10, 2, 0.3], [0, 0, 0.0], [30, 20, 0.8]]}
    agreement = {"fused_logits/teacher": 0.7}
    settings = {"distill": kind, "epochs": 2, "lr": 0.001, "tau": 3.0, "alpha": 0.5, "keep": "dense", "opt": "<i>"}
    (reports / "students" / f"{kind}-{seed}.json").write_text(
        json.dumps(
            {
                "model": "deit", "parameters": 5000, "settings": settings,
                "student": {"labelled": len(truth), "agreement": agreement, **scores},
            }
        )
    )  # fmt: skip
    speed = {"forward_images_per_second": 500.0 + seed, "machine": {"processor": "Some Processor 7"}}
    (reports / "students" / f"{kind}-{seed}.speed.json").write_text(json.dumps(speed))
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(truth)) > top1
    named = np.where(wrong, (truth + 1) % classes, truth)
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

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.titles, self.links, self.images, self.text = [], [], [], 0, []
        self.ids, self.named, self.levels, self.tags = [], set(), [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        found = dict(attrs)
        self.tags.append((tag, found))
        self.ids += [found["id"]] if "id" in found else []
        self.named |= {found["aria-labelledby"]} if "aria-labelledby" in found else set()
        self.levels += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                self.links.append(value)
            assert not name.startswith("on")
        self.images += tag == "img" and bool(found["alt"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag if tag not in self.VOID else True

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)


def outline(results):
    return Outline((results / "page" / "index.html").read_text(encoding="utf-8"))


def said(results):
    return " ".join(" ".join(outline(results).text).split())


def require_sound(text):
    """Nothing is loaded; a reader without eyes or without a mouse finds all of it."""
    page = Outline(text)
    pictures = [link for link in page.links if link.startswith("data:image/webp;base64,")]
    inside = {link[1:] for link in page.links if link.startswith("#")}
    carried = [link for link in page.links if re.match("data:(text/csv|image/png);base64,", link)]
    assert len(pictures) + len(carried) + len([link for link in page.links if link[0] == "#"]) == len(page.links)
    assert page.images == len(pictures)
    assert "<script" not in text.lower() and "http" not in text and "@import" not in text
    assert "url(" not in text.replace("url(#", "") and 'name="viewport"' in text and "light-dark(" in text
    assert len(page.ids) == len(set(page.ids)) and inside | page.named <= set(page.ids)
    assert page.levels[0] == 1 and page.levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(page.levels))
    tags = [tag for tag, _ in page.tags]
    assert [tags.count(tag) for tag in ("main", "nav", "header", "h1")] == [1, 1, 1, 1]
    assert tags.count("caption") == tags.count("table") and ("html", {"lang": "en"}) in page.tags
    assert all(found.get("scope") for tag, found in page.tags if tag == "th")
    assert all(found["aria-hidden"] == "true" for tag, found in page.tags if tag == "svg")
    drawn = [found for tag, found in page.tags if tag == "div" and found.get("role") == "img"]
    assert len(drawn) == tags.count("svg") and all(found["aria-label"] for found in drawn)
    alts = [found["alt"] for tag, found in page.tags if tag == "img"]
    assert len(alts) == len(set(alts)) and max(map(len, alts)) < 30  # what is said of a picture is said beside it
    assert all(found["tabindex"] == "0" for _, found in page.tags if found.get("class") == "scroll")
    assert len(text.encode()) < 2_000_000
    return page


def test_the_page_loads_nothing_and_is_sound(shown):
    page = require_sound((shown[0] / "page" / "index.html").read_text(encoding="utf-8"))
    assert page.images > 4 * (1 + 3)
    assert page.titles == [
        "What stands out, and what to try next", "Accuracy of each head", "Class by class", "As sure as right?",
        "What accuracy costs", "How they got there", "What the teacher saw", "Where they differ",
        "The teacher’s labels", "Two tokens, two opinions?", "What it cost", "What it rests on",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("classes", "seeds", "top1"),
    [
        (2, 1, {"none": 0.6}),
        (2, 5, {"none": 0.6, "soft": 0.6}),
        (100, 1, {"none": 0.2, "hard": 0.25, "soft": 0.7}),
        (100, 2, {"none": 0.2, **{f"kind{k}": 0.2 + 0.05 * k for k in range(8)}}),
        (3, 1, {"soft": 0.5}),
    ],
    ids=["one student", "no gain", "a large gain", "nine kinds", "no baseline"],
)
def test_any_number_of_classes_seeds_and_students_has_its_page(tmp_path, labelled, classes, seeds, top1):
    found = labelled(classes)
    write_results(tmp_path, found, top1, seeds=seeds, classes=classes)
    report(tmp_path, found, "--rows", 1, "--examples", 1)
    page = require_sound((tmp_path / "page" / "index.html").read_text(encoding="utf-8"))
    words = said(tmp_path)
    assert ("There is one seed" in words) == (seeds == 1 and len(top1) > 1)
    assert ("not help" in words) == (len(top1) == 2)
    assert ("No student learned without the teacher, so nothing here" in words) == ("none" not in top1)
    assert ("No student learned from the teacher, so nothing here" in words) == (list(top1) == ["none"])
    assert ("from the same views" in words) == (len(top1) > 1)
    assert ("the most of eight kinds" in words) == (len(top1) == 9)
    assert "Class by class" in page.titles and ("classes that lost" in words) == (classes == 100)


def test_what_is_absent_is_left_out_and_said(results, stores):
    for name in (
        *(f"students/{kind}-0.tokens.json" for kind in TOP1),
        "labels-train.json",
        "verify.json",
        "teacher.csv",
    ):
        (results / "reports" / name).unlink()
    for path in [*(results / "runs").rglob("metrics.jsonl"), *(results / "reports" / "students").glob("*.npz")]:
        path.unlink()
    for path in (results / "reports" / "students").glob("*.json"):  # as an earlier release left them
        older = {k: v for k, v in json.loads(path.read_text()).items() if k in ("model", "student")}
        older.get("student", {}).pop("reliability", None)
        path.write_text(json.dumps(older))
    report(results, stores)
    assert outline(results).titles == [
        "What stands out, and what to try next", "Accuracy of each head", "What the teacher saw",
        "The teacher’s labels",  # the labelling left its word beside the store
        "What it cost", "What it rests on",
    ]  # fmt: skip
    lacking = "settings, reliability, the answers to single pictures, how each student learned"
    words = said(results)
    assert f"Not in the files that this was made from: {lacking}." in words
    assert "The interval above" not in words  # there is none without the answers


def test_the_numbers_are_the_students(shown):
    folder, output = shown
    assert output == f"report: {folder / 'page' / 'index.html'} (hard +5.0 points, soft +12.0 points)\n"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["gain"] == {"hard": 0.05, "soft": 0.12}
    assert summary["soft"] == {"class": 0.6, "distillation": 0.63, "fused_logits": 0.62}
    text = said(folder)
    assert "worth +12.0 points" in text and "50.0 ± 1.0 % correctly (mean ± standard deviation of three seeds)" in text
    assert re.search(r"Soft labels add 12.0 ± 0.0 points, seed by seed \+12.0 to \+12.0; other pictures, as many", text)
    assert re.search(r"Made on \d{4}-\d\d-\d\d, commit \w+", text) and "Python 3." in text
    told = (
        "measured on Some Processor 7. They are of one size: what parts their speeds is what else the machine did.",
        "--tau 3",
        "--distill no teacher none; hard labels hard",
        "parameters 5,000",
    )
    assert [words for words in told if words not in text] == []


def story(results, logits, **more):
    """What a page would be about."""
    store = StoreReader.open(logits)
    made = Made("2026-11-30", "0123456789ab", {"processor": "X", "cores": "2", "python": "3.11", "torch": "2"})
    return Story(
        results=read_results(results / "reports", results / "runs"), store=store, index=store.index, architecture=None,
        teacher_rate=None, per_view=(), views=(), held_out=(), made=made, **more,
    )  # fmt: skip


def first_sentence(results, logits):
    """The first sentence of the page."""
    return lead(story(results, logits)).partition(". The teacher")[0]


def test_the_first_sentence_says_who_learned_from_which_pictures(results, stores, tmp_path):
    also = "three also from the teacher’s choices (hard labels), and three also from the teacher’s probabilities (soft "
    also += "labels)"
    assert first_sentence(results, stores / "train.zarr") == (
        f"Nine vision transformers of one size learned from the same views of {ROWS} pictures, for 2 updates each: "
        f"three from the true labels alone, {also}"
    )
    (tmp_path / "part").mkdir()
    members = [m for row in range(ROWS) for m in sample(f"u/{row:06d}", jpeg(row), row % 3 if row < 9 else None)]
    store = label([write_tar(tmp_path / "part/some.tar", members)], tmp_path / "p.zarr", stores)
    assert first_sentence(results, store) == (
        "Nine vision transformers of one size learned, for 2 updates each: three from the 9 pictures that have a "
        f"label, and six from the same views of all {ROWS}, of them {also}"
    )
    for part in ("hard", "soft"):
        for path in (results / "reports" / "students").glob(f"{part}-?.json"):
            path.unlink()
    assert first_sentence(results, store) == (
        "Three vision transformers of one size learned, for 2 updates each: three from the 9 pictures that have a label"
    )


def test_a_loss_is_called_a_loss(results, stores):
    for kind in ("hard", "soft"):
        for path in (results / "reports" / "students").glob(f"{kind}-?.json"):
            record = json.loads(path.read_text())
            record["student"]["fused_logits"]["top1"] = 0.4
            path.write_text(json.dumps(record))
    told = story(results, stores / "train.zarr")
    assert "".join(headline(told)) == "Here the teacher’s labels did not help"
    assert "Soft labels change this by −10.0" in gained(told) and "worth" not in gained(told)
    assert [f.good for f in findings(told) if "change accuracy" in f.text] == [None]  # the pictures do not say so


def test_a_gain_that_may_be_chance_is_no_headline(tmp_path, stores):
    write_results(tmp_path, stores, {"none": 0.5, "soft": 0.51}, seeds=1, classes=CLASSES)
    told = story(tmp_path, stores / "train.zarr")
    assert headline(told) == ("The teacher’s stored labels gave +1.0 points, ", "which may be chance")
    assert [f.good for f in findings(told) if "That may be chance." in f.text] == [None]


def test_names_from_outside_are_text_and_never_markup(shown):
    text = (shown[0] / "page" / "index.html").read_text()
    for name in ("cat", "i"):  # a class, and a setting
        assert f"<{name}>" not in text and f"&lt;{name}&gt;" in text


def test_curves_for_plots_are_means_over_the_seeds(shown):
    with (shown[0] / "page" / "top1.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["update"] for line in lines] == ["1", "2"]
    assert {kind: float(lines[1][kind]) for kind in TOP1} == pytest.approx(TOP1)


def test_figures_are_png_files_and_the_same_results_leave_the_same_bytes(shown, results, stores):
    first = {p.name: p.read_bytes() for p in (shown[0] / "page").iterdir()}
    pictures = {name for name in first if name.endswith(".png")}
    assert pictures == {f"{name}.png" for name in ("accuracy", "top1", "loss", "tokens", "views")}
    assert all(first[name].startswith(b"\x89PNG") for name in pictures)
    report(results, stores)
    second = {p.name: p.read_bytes() for p in (results / "page").iterdir()}
    commit = rb"commit [0-9a-f]{12}( with changes)?"  # somebody may commit meanwhile
    assert {name: re.sub(commit, b"", data) for name, data in second.items()} == {
        name: re.sub(commit, b"", data) for name, data in first.items()
    }


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


def cut(path):
    """A file of which the end was never written."""
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("runs/hard-0/metrics.jsonl", cut, "JSONDecodeError: "),
        ("runs/hard-0/metrics.jsonl", lambda path: path.write_text('{"epoch": 1}\n'), "KeyError: 'kind'"),
        ("reports/students/hard-0.npz", lambda path: path.write_bytes(b""), "EOFError: "),
        ("reports/students/hard-0.npz", cut, "BadZipFile: "),
        ("reports/teacher.csv", lambda path: path.write_text("epoch,loss\n1,much\n"), "ValueError: "),
    ],
)
def test_the_file_that_is_damaged_is_the_one_that_is_named(results, name, damage, reason):
    damage(results / name)
    with pytest.raises(ReportError) as told:
        read_results(results / "reports", results / "runs")
    assert str(told.value).startswith(f"{results / name} is not understood ({reason}")


def test_held_out_pictures_are_sorted_by_two_students_whatever_a_third_says(results, stores):
    """Each kind is right on the rows that are listed here; the others do not recognise them."""
    right = {"none": [0], "hard": [0, 1, 2], "soft": [1, 2, 3]}
    for kind, rows in right.items():
        path = results / "reports" / "students" / f"{kind}-0.npz"
        answers = dict(np.load(path))
        answers["fused_logits"] = np.where(
            np.isin(answers["row"], rows), answers["truth"], (answers["truth"] + 1) % CLASSES
        )
        np.savez(path, **answers)
    val = StoreReader.open(stores / "val.zarr")
    found = read_results(results / "reports", results / "runs")
    titles = [shelf.title for shelf in held_out_shelves(found, val, val.index, most=1)]
    assert titles[:2] == [
        f"The student of soft labels is right, the plain one is not: 3 of {ROWS}",
        f"The plain student is right, that of soft labels is not: 1 of {ROWS}",
    ]


def test_gains_are_paired_by_seed(results):
    (results / "reports" / "students" / "none-2.json").unlink()
    found = read_results(results / "reports", results / "runs")
    assert found.gains()["soft"].values == pytest.approx((0.12, 0.12))


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


def test_a_picture_that_cannot_be_decoded_is_a_grey_tile(stores, tmp_path):
    bad = dict.fromkeys(range(10), b"\xff\xd8\xff\xe0 not a picture")
    urls = tiny_shards(tmp_path / "bad", rows=ROWS, shards=1, classes=CLASSES, replace=bad)
    store = label(urls, tmp_path / "b.zarr", stores, "--on-bad-image", "grey")
    opened = StoreReader.open(store)
    first = view_shelves(opened, opened.index, rows=4, views=1)[0].tiles[0]
    assert (first.pixels_HWC == GREY).all() and first.words[0].says == "cannot be decoded"


def test_costs_are_those_of_the_stored_teacher_on_the_shards_where_they_are_now(results, stores, tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "SECONDS", 0.05)
    urls = tiny_shards(tmp_path / "before", rows=ROWS, shards=1, classes=CLASSES)
    store = label(urls, tmp_path / "m.zarr", stores, "--mean", "0.1,0.2,0.3", "--std", "0.4,0.5,0.6")
    (tmp_path / "before").rename(tmp_path / "after")
    asked = []

    def watched(teacher, pixels):
        asked.append((teacher.card == StoreReader.open(store).manifest.teacher, [len(part) for part in pixels]))
        return cost.teacher_rate(teacher, pixels)

    monkeypatch.setattr("stages.report.teacher_rate", watched)
    shards = tmp_path / "after" / "000000.tar"
    more = ("--shards", shards, "--weights", stores / "teacher.pt", "--start-method", "spawn")
    report(results, stores, "--logits", store, *more, "--measure")
    assert asked == [(True, [ROWS])]
    assert "views/s" in " ".join(Outline((results / "page" / "index.html").read_text()).text)


def test_held_out_labels_without_a_figure_leave_it_to_the_fitting(results):
    for unmixed in ({"views": 0, "top1": None}, None):
        (results / "reports" / "labels-val.json").write_text(json.dumps({"unmixed": unmixed}))
        assert read_results(results / "reports", results / "runs").teacher_accuracy == 0.8


def test_the_page_carries_its_figures_as_tables(shown):
    found = {
        attrs["download"]: list(csv.DictReader(b64decode(attrs["href"].partition(",")[2]).decode().splitlines()))
        for tag, attrs in outline(shown[0]).tags
        if tag == "a" and "download" in attrs
    }
    assert set(found) == {"students.csv", "top1.csv", "loss.csv", "classes.csv", "reliability.csv"}
    soft = next(line for line in found["students.csv"] if line["student"] == "soft-1")
    assert (soft["fused_logits"], soft["tau"], soft["calibration_error"]) == ("0.62", "3.0", "0.05")
    assert (soft["images_per_second"], soft["forward_images_per_second"]) == ("1000.0", "501.0")
    assert [line["class"] for line in found["classes.csv"]] == ["ant", "bee", "<cat>"]
    assert found["reliability.csv"][0] == {"learned_from": "none", "confidence": "0.3", "right": "0.2", "answers": "30"}


def test_an_earlier_report_stands_beside_this_one(shown, results, stores, tmp_path):
    place = tmp_path / "earlier.jsonl"
    place.write_bytes((shown[0] / "earlier.jsonl").read_bytes())
    (before,) = read_history(place)
    now = story(results, stores / "train.zarr", earlier=[before])
    remember(place, [before], now.made, remembered(now))  # nothing has changed: it is not told twice
    assert read_history(place) == [before]
    for path in (results / "reports" / "students").glob("soft-?.json"):
        record = json.loads(path.read_text())
        record["student"]["fused_logits"]["top1"] = 0.75
        path.write_text(json.dumps(record))
    now = story(results, stores / "train.zarr", earlier=[before])
    first, second = earlier(now).rows
    assert (first.head, first.cells[3:6]) == ("this report", ["75.0", "+25.0", "80.0"])
    assert (second.head, second.cells[3:6]) == (before["date"], ["62.0", "+12.0", "80.0"])
    remember(place, [before], now.made, remembered(now))
    assert [line["date"] for line in read_history(place)] == [before["date"], "2026-11-30"]


def test_no_record_is_kept_in_a_store(results, stores):
    store = stores / "train.zarr"
    output = report(results, stores, "--earlier", store / "earlier.jsonl", expect=1)
    assert output == (
        f"error: --earlier {store / 'earlier.jsonl'} lies in {store}, which is a Zarr store. Choose a place outside of "
        "it.\n"
    )
    assert not (store / "earlier.jsonl").exists()


def test_a_file_that_is_no_record_of_reports_is_left_alone(tmp_path):
    place = tmp_path / "list.txt"
    place.write_text("what was to be done\n")
    with pytest.raises(ReportError, match="is no record of earlier reports"):
        read_history(place)


def test_where_nothing_was_gained_it_says_what_to_try(results, stores):
    for path in (results / "reports" / "students").glob("*-?.json"):
        record = json.loads(path.read_text())
        plain = path.name.startswith("none")
        record["student"]["fused_logits"] = {"top1": 0.79 if plain else 0.7, "loss": 1.0, "ece": 0.1 if plain else 0.2}
        path.write_text(json.dumps(record))
    text = " ".join(f"{f.text} {f.remedy}" for f in findings(story(results, stores / "train.zarr")))
    for expected in (
        "The teacher names 80.0 % of the held-out pictures, the students without it 79.0 %: it has little to teach.",
        "Add pictures without a label (pack --unlabelled DIR)",
        "Try --tau 1 or 2: dvc exp run -S train.tau=…",
        "Probabilities mean less than without a teacher (calibration error 0.10): hard labels 0.20, surer than right; "
        "soft labels 0.20, surer than right.",
        "The students waited 25 % of their time for views.",
    ):
        assert expected in text, expected


def test_the_doctor_s_and_the_gauge_s_findings_are_told(results, stores):
    labels = json.loads((results / "reports" / "labels-train.json").read_text())
    labels["doctor"]["advice"] = ["This teacher is tired."]
    at = {"kl": 0.9, "signal": 0.4, "instead": {"keep": "lowrank:5+38", "bytes": 20.0, "signal": 0.93}}
    labels["gauge"] = {"keep": "topk:3", "views": 40, "temperatures": {"1": at}}
    (results / "reports" / "labels-train.json").write_text(json.dumps(labels))
    report(results, stores)
    text = said(results).partition("What stands out")[2].partition("Accuracy of each head A student")[0]
    assert "This teacher is tired." in text and "topk:3 loses 60 % of the signal at T = 1." in text
    assert (
        "<code>--keep</code> lowrank:5+38" in (results / "page" / "index.html").read_text()
    )  # is not parted at a line's end
    assert "Topk:3 keeps of the teacher's signal" in said(results).partition("The teacher’s labels The store")[2]


def test_a_commit_says_whether_files_differ_from_it(tmp_path):
    import subprocess

    def git(*words):
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True)

    assert commit_of(tmp_path) is None
    git("init", "-q")
    for name in ("code.py", "dvc.lock"):
        (tmp_path / name).write_text("1")
    git("add", "-A")
    git("commit", "-qm", "one")
    (tmp_path / "dvc.lock").write_text("2")
    clean = commit_of(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{12}", clean)
    (tmp_path / "code.py").write_text("2")
    assert commit_of(tmp_path) == f"{clean} with changes"
