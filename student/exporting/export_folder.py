"""How does an export take its place, so that neither another export nor anybody's file is lost?

It is written in a hidden folder beside it. Into a folder of the same student's other format its files are moved; an
export of another student, or of another head or average of it, is set aside first; a folder in which anything else
lies is refused.
"""

from __future__ import annotations

import filecmp
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.durable import aside
from pipeline.durable.file import telling
from pipeline.durable.folder import claimed
from pipeline.errors import StudentError
from student.checkpoints.trained import Saved
from student.exporting.model_card import CARD, is_ours, tells_of_another
from student.exporting.onnx_graph import FILE
from student.exporting.timm_folder import CONFIG, WEIGHTS

PREPROCESSING = "preprocessing.json"
OWN = (PREPROCESSING, WEIGHTS, FILE, CONFIG)
"""In this order they are moved: the first one tells whose they are, and a config is there only with its weights."""


@contextmanager
def placed(out: Path, saved: Saved, *, head: str, ema: bool) -> Iterator[Path]:
    """A folder to write an export of this student to, which is in its place afterwards."""
    _require_ours(out)
    with telling(out), claimed(out) as staging:
        yield staging.path
        made = [name for name in OWN if (staging.path / name).exists()]
        there = [name for name in made if (out / name).exists()]
        others = [name for name in there if not filecmp.cmp(staging.path / name, out / name, shallow=False)]
        if tells_of_another(out, saved, head=head, ema=ema):
            others.append(CARD)
        if others:
            aside.put_aside(out, f"{out} holds another export (its {others[0]} differs).", folders=())
        if out.is_dir() and any(out.iterdir()):
            for name in made:
                (staging.path / name).replace(out / name)
        else:
            staging.finish()
    aside.keep_one(out, finished=lambda at: (at / PREPROCESSING).exists(), remove=_remove)


def _remove(at: Path) -> None:
    """What exports wrote; a card that somebody has edited stays."""
    card = at / CARD
    aside.remove_files(at, (*OWN, CARD) if card.is_file() and is_ours(card) else OWN)


def _require_ours(out: Path) -> None:
    """Refuse a folder that holds what no export has written."""
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) if out.is_dir() else []
    foreign = [name for name in names if name not in (*OWN, CARD)]
    if not foreign and names and PREPROCESSING not in names:
        foreign = names
    if foreign:
        raise StudentError(
            f"--out {out} holds files that no export wrote ({', '.join(foreign[:3])}). Name a new folder."
        )
