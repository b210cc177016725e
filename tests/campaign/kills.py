"""Is a run of the teacher that is killed anywhere, any number of times, ended by the same command, byte-identical?

A real run (a network, rendering workers, a store on a file system) in a process of its own gets SIGKILL at a random
time. Then every file that no receipt vouches for is left, emptied, cut in half, zeroed or removed: what a crash of the
machine may do to what was never flushed. The same command is given again, and again, until a store is finished; it is
compared with that of an undisturbed run, and the next one is begun, of another keep.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from pipeline.errors import StoreError
from pipeline.store import recovery
from stages.teacher_logits import main as teacher_logits
from tests.campaign.tally import Scale, Tally
from tests.damaged_stores import INDEX, MANIFEST, VIEWS, lose_the_rest, whole_run
from tests.faults import in_child, wait_for
from tests.pictures import tiny_shards
from tests.stores import fill, open_writing, tree

TITLE = "SIGKILL during precompute, files without receipt emptied / cut / zeroed / removed in between"
SHOWS = "byte-identical store, 0 manual steps"
FULL, REDUCED = 200, 6
NET, SIDE = "test_resnet", 32
KEEPS = ("dense", "lowrank:2+2")  # the second fits components before the first label


def arguments(folder: Path, out: Path, workers: int, keep: str = "dense") -> list[str]:
    """The command, as a user would type it."""
    fixed = (
        f"--model {NET} --image-size {SIDE} --teacher-size view --mix-window 8 --device cpu --views 3 --batch-size 16"
    )
    shown = "--unit-rows 32 --log-level error --weights"
    return [
        *("--shards", f"{folder}/shards/*.tar", "--out", str(out), *fixed.split(), *shown.split()),
        *(str(folder / "teacher.safetensors"), "--workers", str(workers), "--keep", keep),
    ]


def make_world(folder: Path, rows: int = 90) -> None:
    """Shards of small photographs, and a teacher."""
    tiny_shards(folder / "shards", rows=rows, shards=2, classes=3, class_names=["ant", "bee", "cat"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = timm.create_model(NET, num_classes=3).state_dict()
    safetensors.torch.save_file(state, folder / "teacher.safetensors")


def begin(folder: Path, out: Path, workers: int, keep: str = "dense") -> int:
    """The command in a process of its own (forked, so that a kill need not wait for imports); its process id."""

    def work() -> None:
        with (folder / "said.txt").open("w") as file:
            sys.stdout = sys.stderr = file
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            teacher_logits.main(arguments(folder, out, workers, keep), standalone_mode=False)

    return in_child(work)


def run(scale: Scale, place: Path) -> Tally:
    """Kill, damage, run again."""
    tally, generator = Tally(), np.random.default_rng(scale.seed)
    make_world(place)
    references, out = [place / "dense.zarr", place / "lowrank.zarr"], place / "store.zarr"
    for keep, reference in zip(KEEPS, references, strict=True):
        begun = time.monotonic()
        assert wait_for(begin(place, reference, 1, keep)) == 0, (place / "said.txt").read_text()
    duration, finished, attempts = time.monotonic() - begun, 0, 0
    while tally.count < scale.count(FULL, REDUCED) or (out / "COMPLETE").exists() or attempts:
        enough = tally.count >= scale.count(FULL, REDUCED)
        turn = finished % len(KEEPS)
        child = begin(place, out, attempts % 2, KEEPS[turn])
        attempts += 1
        if not enough:
            time.sleep(duration * generator.uniform(0, 0.9))
            os.kill(child, signal.SIGKILL)
        status = wait_for(child)
        if status == -signal.SIGKILL:
            tally.case()
            lose_the_rest(out, generator)
        elif status:
            tally.case(failure=f"attempt {attempts} ended with {status}: {(place / 'said.txt').read_text()[-300:]}")
        if not status:  # one that was killed after COMPLETE is run again, too: it finds what was lost beside the labels
            finished += 1
            if tree(out) != tree(references[turn]):
                tally.case(silent=f"store {finished}, after {attempts} attempts, is another")
            shutil.rmtree(out)
            attempts = 0
        if enough and not attempts:
            break
    tally.note(f"{tally.count} kills; {finished} stores were finished under them, each compared file by file.")
    return tally


def sabotage(place: Path) -> Tally:
    """Recovery takes every object that has a receipt to be there: the next run must end otherwise than promised."""
    tally, path = Tally(), place / "store.zarr"
    with open_writing(path, MANIFEST, INDEX, VIEWS) as store:
        fill(store, store.layout.units()[:2])
    (path / "argmax/c.0.0").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery, "listed", lambda _sizes, items: [True] * len(items))
        try:
            whole_run(path)
        except StoreError as error:
            tally.case(failure=f"a run does not end: {error}")
    return tally
