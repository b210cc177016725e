"""Is anything that took long gone after a command, whatever two of its flags say?

A small world is made by the commands themselves: photographs, shards, a teacher, a store, a smaller one, a student, an
export, demonstration pictures. Each case runs one command over a copy of it, with two of its flags set to other values;
flags and values are taken from click's own parameters, so that a new flag is attacked without a word here. Afterwards
every file of every one of these must be there byte by byte: in its place, or in the folder that was set aside beside
it (of a store, each label: it may have grown by views). Then commands that set something aside are killed at the calls
that change the disk, and run again.
"""

from __future__ import annotations

import importlib
import itertools
import os
import shutil
import signal
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pytest

from pipeline.durable import aside
from tests.campaign.tally import Scale, Tally
from tests.faults import WRITING_CALLS, Calls, in_child, wait_for
from tests.pictures import encoded, scene

TITLE = "loss: every command, pairs of its flags, over finished work; killed while it sets work aside"
SHOWS = "all of it is there, in its place or set aside"
OTHER_PAIRS, REDUCED, KILLS = 400, 14, 25
CALLS = (*WRITING_CALLS, "rename", "unlink", "rmdir")

HERE = "--workers 0 --device cpu"
VIEWS = "--recipe light --image-size 32"
FIT = f"--shards data/train/*.tar --model test_resnet --epochs 1 --batch 8 --out runs/teacher {VIEWS} {HERE}"
LABEL = f"--shards data/train/*.tar --views 2 --out store.zarr --mix-window 2 --unit-rows 8 {VIEWS} {HERE}"
SMALL = "--patch-size 16 --width 32 --depth 1 --heads 1 --epochs 1 --batch 8 --warmup-epochs 0 --no-dvclive"
WORLD = {
    "stages.pack": "--images photos/train --out data/train --samples-per-shard 8 --workers 0",
    "stages.fit_teacher": FIT,
    "stages.teacher_logits": f"{LABEL} --model local-dir:runs/teacher",
    "stages.compact_logits": "--logits store.zarr --keep argmax --out small.zarr",
    "student.train": f"--logits store.zarr --out runs/student {SMALL} {HERE}",
    "student.export": "--checkpoint runs/student --out export",
    "stages.demo_images": "--out demo --labelled 10 --unlabelled 5 --val 10 --side 16",
}
"""The commands that make something, in the order in which the world is made"""
JUDGES = {
    "student.evaluate": f"--checkpoint runs/student --shards data/val/*.tar {HERE}",
    "student.tokens": f"--checkpoint runs/student --shards data/val/*.tar {HERE}",
    "stages.verify_logits": f"--logits store.zarr --sample 4 {HERE}",
    "stages.inspect_views": f"--shards data/train/*.tar --rows 0:2 --views 1 --out views.png {VIEWS}",
}
"""Commands that only look; their results must not take the place of work"""
WORK = (
    "photos",
    "data/train",
    "data/val",
    "runs/teacher",
    "store.zarr",
    "small.zarr",
    "runs/student",
    "export",
    "demo",
)
DECIDING = ("if_changed", "resume", "recheck")
"""Flags whose purpose is what becomes of earlier work: they meet every other flag at full scale"""
PLACES = [*WORK, "runs", ".", *("data/train/000000.tar", "runs/student/last.pt", "runs/teacher/model.safetensors")]
PLACES += ["photos/train/a/0.jpg", "store.zarr/COMPLETE", "new"]
TEXTS = {
    "resume": ["none", "auto", "runs/student/previous.pt", "runs/student"],
    "keep": ["argmax", "topk:1", "dense"],
    "temperatures": ["2", "1,3"],
    "shards": ["data/val/*.tar"],
    "val_shards": ["data/val/*.tar"],
    "images": ["photos/val", "photos"],
    "unlabelled": ["photos/val"],
    "classes": ["data/train/classes.json"],
    "logits": ["small.zarr", "store.zarr"],
    "checkpoint": ["runs/student/last.pt"],
    "weights": ["runs/teacher/model.safetensors"],
    "init": ["runs/student", "export"],
    "model_args": ["in_chans=3"],
    "mean": ["0.4,0.4,0.4"],
    "std": ["0.2,0.2,0.2"],
    "crop_scale": ["0.5,1"],
    "crop_ratio": ["1,1"],
    "randaugment": [""],
    "rows": ["1:3"],
    "teacher_size": ["view", "32"],
    "opt": ["sgd"],
}
"""Values of flags that take a text; of those that name a place, see `PLACES`"""
RESULTS = ("out", "summary", "report", "plot", "plot_dir", "per_class", "answers", "metrics", "history")
SLOW = ("compile", "model")
"""A compiler takes a minute; models of other names must be fetched"""


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag with a value."""

    name: str
    words: tuple[str, ...]


def flags_of(command: click.Command) -> list[Flag]:
    """Every flag of a command in a few values; those that the environment sets too change speed alone."""
    chosen = [p for p in command.params if isinstance(p, click.Option) and not p.envvar and p.name not in SLOW]
    return [Flag(str(p.name), words) for p in chosen for words in _words(p)]


def _words(option: click.Option) -> Iterator[tuple[str, ...]]:
    name, flag = str(option.name), max(option.opts, key=len)
    if option.is_flag:
        yield from ((opt,) for opt in (*option.opts, *option.secondary_opts))
    elif isinstance(option.type, click.Choice):
        yield from ((flag, str(choice)) for choice in option.type.choices)
    elif isinstance(option.type, click.types.IntParamType):
        least = getattr(option.type, "min", None) or 0
        yield from ((flag, str(least + more)) for more in (1, 0, 3))
    elif isinstance(option.type, click.types.FloatParamType):
        yield from ((flag, text) for text in ("0.5", "0.1"))
    else:
        known = PLACES if name in RESULTS else TEXTS.get(name, ["none.such"])
        yield from ((flag, text) for text in known)


def pairs(module: str) -> tuple[list[Sequence[Flag]], list[Sequence[Flag]]]:
    """Those in which a flag decides what becomes of earlier work, with each other flag once; and all others."""
    flags = flags_of(importlib.import_module(module).main)
    both = [pair for pair in itertools.combinations(flags, 2) if pair[0].name != pair[1].name]
    first = {flag.name: flag for flag in reversed(flags)}
    must, others = [], []
    for pair in both:
        one, two = sorted(pair, key=lambda flag: flag.name not in DECIDING)
        is_must = one.name in DECIDING and (two.name in DECIDING or two == first[two.name])
        (must if is_must else others).append(pair)
    return must, others


def run(scale: Scale, place: Path) -> Tally:
    """Pairs of flags, then kills."""
    tally, world, ended = Tally(), make_world(place / "world"), Counter[str]()
    generator = np.random.default_rng(scale.seed)
    must: list[tuple[str, Sequence[Flag]]] = []
    others: list[tuple[str, Sequence[Flag]]] = []
    for module in (*WORLD, *JUDGES):
        decisive, rest = pairs(module)
        must += [(module, pair) for pair in decisive]
        others += [(module, rest[at]) for at in generator.permutation(len(rest))[: OTHER_PAIRS // len(WORLD | JUDGES)]]
    cases = [*scale.some(must, REDUCED), *scale.some(others, REDUCED)]
    for module, pair in cases:
        line = [*(WORLD | JUDGES)[module].split(), *itertools.chain.from_iterable(flag.words for flag in pair)]
        ended[_status(attack(tally, world, place / "copy", module, line))] += 1
    for name, count in sorted(ended.items()):
        tally.note(f"{count} of {len(cases)} commands {name}")
    tally.require(ended["ended well"] * 5 > len(cases), "hardly any command was run to its end")
    tally.note(f"{_kills(tally, scale, world, place)} kills of commands that set work aside")
    return tally


def _status(code: int) -> str:
    return {0: "ended well", 1: "were refused", 2: "were refused"}.get(code, f"ended with {code}")


def make_world(place: Path) -> Path:
    """Everything that takes long, small."""
    for part, name, number in itertools.product(("train", "val"), ("a", "b"), range(6)):
        folder = place / "photos" / part / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(encoded(scene(ord(name) * 10 + number, 40, 36)))
    for module, line in WORLD.items():
        assert perform(place, module, line.split()) == 0, (place / "said.txt").read_text()
        if module == "stages.pack":
            val = "--images photos/val --out data/val --classes data/train/classes.json --workers 0"
            assert perform(place, module, val.split()) == 0, (place / "said.txt").read_text()
    return place


def perform(folder: Path, module: str, line: Sequence[str], calls: Calls | None = None) -> int:
    """The command in a process of its own, in that folder; its exit status, 70 where it ended in a traceback."""
    command, calls = importlib.import_module(module).main, calls or Calls(names=CALLS)

    def work() -> None:
        os.chdir(folder)
        status = 70
        with Path("said.txt").open("w") as file, redirect_stdout(file), redirect_stderr(file):
            try:
                with calls.active():
                    command.main([*line, "--log-level", "error"])
            except SystemExit as ended:
                status = ended.code if isinstance(ended.code, int) else 0
            except BaseException:
                traceback.print_exc(file=file)
        Path("calls").write_text(str(len(calls.made)))
        os._exit(status)

    return wait_for(in_child(work))


def attack(tally: Tally, world: Path, copy: Path, module: str, line: Sequence[str]) -> int:
    """One case: the command over a copy of the world, which is then looked through."""
    shutil.copytree(world, copy)
    status = perform(copy, module, line)
    what = f"{module} {' '.join(line[len((WORLD | JUDGES)[module].split()) :])}"
    lost = missing(world, copy)
    said = (copy / "said.txt").read_text() if (copy / "said.txt").exists() else ""
    known = status in (0, 1, 2)
    tally.case(silent=f"{what}: {lost}" if lost else None, failure=None if known else f"{what}: {status} {said[-300:]}")
    shutil.rmtree(copy)
    return status


def missing(world: Path, copy: Path) -> str | None:
    """What of the work is no longer there."""
    for name in WORK:
        before = tree(world / name)
        labels = name.endswith(".zarr")
        wanted = {key: data for key, data in before.items() if not labels or _is_label(key)}
        wanted.pop("README.md", None)  # an export's card is written anew when the other format joins it
        found = [tree(place) for place in (copy / name, *aside.asides(copy / name))]
        if not any(wanted.items() <= there.items() for there in found):
            gone = next(key for key, data in wanted.items() if not found or found[0].get(key) != data)
            return f"{name}/{gone} is not there, nor set aside"
    return None


def _is_label(key: str) -> bool:
    """Whether an object stays when the store grows."""
    return key not in ("COMPLETE", "receipts/base.json") and not key.endswith("zarr.json")


def tree(root: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != ".lock"}


def setting_aside() -> list[tuple[str, list[str]]]:
    """Commands that make room for other work."""
    more = {
        "stages.pack": "--samples-per-shard 3 --if-changed rebuild",
        "stages.fit_teacher": "--lr 0.01 --if-changed restart",
        "stages.teacher_logits": "--seed 7 --if-changed rebuild",
        "student.train": "--alpha 0.3 --if-changed restart",
        "student.export": "--head class",
        "stages.demo_images": "--seed 1",
    }
    again = ("student.train", [*WORLD["student.train"].split(), "--resume", "none"])
    return [*((module, [*WORLD[module].split(), *words.split()]) for module, words in more.items()), again]


def _kills(tally: Tally, scale: Scale, world: Path, place: Path) -> int:
    """Each of these at calls that are spread over all of it; then it goes on, to its end."""
    count, copy = 0, place / "copy"
    for module, line in setting_aside():
        made = _calls_of(world, copy, module, line)
        for at in _spread(made, scale.count(KILLS, 1)):
            shutil.copytree(world, copy)
            status = perform(copy, module, line, Calls(at, kill=True, names=CALLS))
            lost = missing(world, copy)
            killed = status == -signal.SIGKILL
            again = perform(copy, module, [word for word in line if word not in ("--resume", "none")])
            lost = lost or missing(world, copy)
            what = f"{module} killed at call {at} of {made}"
            tally.case(
                silent=f"{what}: {lost}" if lost else None,
                failure=None if killed and again == 0 else f"{what}: statuses {status}, {again}: {_said(copy)}",
            )
            shutil.rmtree(copy)
            count += 1
    return count


def _said(copy: Path) -> str:
    return (copy / "said.txt").read_text()[-300:]


def _spread(count: int, wanted: int) -> list[int]:
    return sorted({(2 * number + 1) * count // (2 * wanted) for number in range(wanted)})


def _calls_of(world: Path, copy: Path, module: str, line: Sequence[str]) -> int:
    """How many calls that change the disk the command makes."""
    shutil.copytree(world, copy)
    assert perform(copy, module, line) == 0, _said(copy)
    made = int((copy / "calls").read_text())
    shutil.rmtree(copy)
    return made


def sabotage(place: Path) -> Tally:
    """Where what is to be set aside is removed at once, the row must see it gone."""
    tally, world = Tally(), make_world(place / "world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aside, "put_aside", lambda path, *_, **__: shutil.rmtree(path))
        for module, line in setting_aside():
            before = len(tally.silent)
            attack(tally, world, place / "copy", module, line)
            if len(tally.silent) == before:
                return Tally(count=1)  # one of them was not seen
    return tally
