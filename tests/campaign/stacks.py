"""Does another image library, instruction set or version show, and is what it draws differently refused?

A store is labelled here. Then the witness views are drawn again in fresh processes under another stack: OpenCV without
its vector code, torch with its plainest kernels, another Pillow. What a process finds by comparing all pixels itself
must be what the witnesses say (identical, drifted by at most N levels, different); and the student, started under that
stack, must train when they are identical, and refuse when they are not, unless a drift is accepted. Two stacks are made
up, so that drift and difference are certain to occur: one draws a level brighter, one forty.

Another Pillow is taken from the folder that CAMPAIGN_PILLOW names, where there is one; for example

    python -m uv pip install --target /some/folder --no-deps pillow==13.0.0
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.proofs.proof import SKETCH
from tests.campaign.tally import Scale, Tally
from tests.small_students import arguments, make_store, train

TITLE = "another stack: Pillow / OpenCV / torch CPU capability changed"
SHOWS = "witness views say identical / drift N / different; drift refused unless accepted"
ROOT = Path(__file__).parents[2]
SAID = {"identical": "witness views are identical", "drifted": "drifted by at most", "different": "are different"}

STACKS: dict[str, Mapping[str, str]] = {
    "the same": {},
    "torch without vector code": {"ATEN_CPU_CAPABILITY": "default"},
    "OpenCV without vector code": {
        "OPENCV_CPU_DISABLE": "SSE4_1,SSE4_2,AVX,AVX2,FP16,AVX512_SKX",
        "CAMPAIGN_PLAIN_CV": "1",
    },
}

PROBE = """
import json, os, sys
import cv2, numpy as np, PIL, torch
torch.set_num_threads(1)
if os.environ.get("CAMPAIGN_PLAIN_CV"):
    cv2.setUseOptimized(False)
from pipeline.store.reader import StoreReader
from pipeline.rendering.renderer import Renderer
from pipeline.rendering.drift import check_witnesses
store = StoreReader.open(sys.argv[1])
index = store.index
drift = check_witnesses(store.witness(), Renderer(store.manifest.recipe, index, index.files()))
witness = store.witness()
out = np.empty_like(witness.pixels_WHWC)
Renderer(store.manifest.recipe, index, index.files()).render(witness.row_W, witness.view_W, out)
step = np.abs(out.astype(int) - witness.pixels_WHWC)
print(json.dumps({
    "kind": drift.kind, "said": str(drift), "levels": int(step.max()),
    "changed": int((step.reshape(len(step), -1).max(1) > 0).sum()), "said_levels": drift.levels,
    "said_changed": drift.changed, "pillow": PIL.__version__, "torch": torch.backends.cpu.get_cpu_capability(),
    "cv2": cv2.useOptimized(),
}))
"""


def run(scale: Scale, place: Path) -> Tally:
    """Each stack in a process of its own; the reduced campaign takes one of them and those that are made up."""
    tally = Tally()
    store = make_store(place)
    stacks = dict(STACKS) if scale.share else {"torch without vector code": STACKS["torch without vector code"]}
    pillow = os.environ.get("CAMPAIGN_PILLOW")
    if pillow and scale.share:
        stacks["another Pillow"] = {"PYTHONPATH": pillow}
    elif scale.share:
        tally.note("another Pillow was not tried: CAMPAIGN_PILLOW names no folder with one.")
    for name, changes in stacks.items():
        _judge(tally, store, name, changes, run_student=bool(scale.share))
    for kind, levels in (("drifted", 1), ("different", 40)):
        _made_up(tally, place / kind, kind, levels)
    return tally


def _judge(tally: Tally, store: Path, name: str, changes: Mapping[str, str], *, run_student: bool) -> None:
    environment = {**os.environ, **changes, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [changes.get("PYTHONPATH"), str(ROOT)]))
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(store)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        tally.case(failure=f"{name}: {done.stderr[-300:]}")
        return
    found = json.loads(done.stdout.splitlines()[-1])
    right = (found["said_changed"], found["said_levels"]) == (found["changed"], found["levels"])
    right = right and (found["kind"] == "identical") == (found["changed"] == 0)
    tally.case(silent=None if right else f"{name}: witnesses say {found['said']}, {found['changed']} changed")
    tally.note(
        f"{name} (Pillow {found['pillow']}, torch {found['torch']}, cv2 optimised {found['cv2']}): {found['said']}"
    )
    if run_student:
        line = arguments(store, store.parent / f"run {name}", "--epochs", "1")
        said = subprocess.run(
            [sys.executable, "-m", "student.train", *line], capture_output=True, text=True, env=environment, cwd=ROOT,
            check=False,
        )  # fmt: skip
        _student(tally, name, found["kind"], said.returncode, said.stdout + said.stderr)


def _student(tally: Tally, name: str, kind: str, code: int, said: str) -> None:
    """It trains on identical views alone, and says what it found."""
    if kind != "identical" and code == 0:
        tally.silent.append(f"{name}: the student trains on views that are {kind}")
    if (kind == "identical") != (code == 0) or SAID[kind] not in said:
        tally.failures.append(f"{name}: the student ended with {code}: {said[-300:]}")


def _made_up(tally: Tally, place: Path, kind: str, levels: int) -> None:
    """A store from a machine that draws brighter: refused, and under --accept-drift trained on if it is mere drift."""
    place.mkdir()
    store = make_store(place, brighten=levels, luma=SKETCH)
    code, said = train(arguments(store, place / "run", "--epochs", "1"), place / "refused.txt")
    tally.case(silent=f"{kind}: the student trains on it" if code == 0 else None)
    if SAID[kind] not in said:
        tally.failures.append(f"{kind}: {said[-300:]}")
    code, said = train(arguments(store, place / "run", "--epochs", "1", "--accept-drift"), place / "accepted.txt")
    tally.case(silent=f"{kind}: accepted although it is no drift" if code == 0 and kind == "different" else None)
    if kind == "drifted" and code:
        tally.failures.append(f"{kind}: not accepted by --accept-drift: {said[-300:]}")


def sabotage(place: Path) -> Tally:
    """The student does not look at the witnesses, nor at the checksums: drift must come through."""
    tally = Tally()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("student.dataset.StoredViews.require_same_views", lambda *_: None)
        patch.setattr("student.feed.feed.require_labelled_views", lambda *_, **__: None)
        _made_up(tally, place / "drifted", "drifted", 1)
    return tally
