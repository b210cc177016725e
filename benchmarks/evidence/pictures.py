"""Where do the pictures come from, and which of them have a label? CIFAR-10, or a folder of your own.

`prepare` gives folders per class as `stages.pack --images` reads them, and `subset` the table for its ``--csv``: so
many pictures with a label, so many whose label is withheld. CIFAR-10 is read from sprites: `train_N.webp` and
`test.webp`, 100 by 100 pictures of 32 pixels, with `*_labels.npy` and `classes.json`. Any other folder must have
`train/` and `val/` with a folder per class. Rows are taken in an order drawn once, class by class in turn, so that a
smaller subset is part of a larger one and has as many pictures of each class as can be.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import UserError

SPRITE, SIDE = 100, 32
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, slots=True)
class Pictures:
    """A folder per class, for learning and for judging."""

    train: Path
    val: Path

    def __len__(self) -> int:
        """Pictures to learn from."""
        return sum(map(len, _shuffled(self.train)))

    def subset(self, labelled: int, unlabelled: int = 0) -> str:
        """Lines of path,class: so many pictures with their class, and so many of the next without."""
        files = [file for turn in zip_longest(*_shuffled(self.train)) for file in turn if file is not None]
        if labelled + unlabelled > len(files):
            raise UserError(
                f"{labelled} labelled and {unlabelled} unlabelled pictures were asked for, {self.train} has "
                f"{len(files)}. Choose a smaller --scale, or give more pictures."
            )
        chosen = files[: labelled + unlabelled]
        return self._lines(chosen[:labelled], chosen[labelled:])

    def last(self, number: int) -> str:
        """Lines of path,class of so many, and no more than a quarter of all, from the end of every class in proportion:
        subsets have none of them, as long as no class is used up."""
        classes = _shuffled(self.train)
        share = min(number / max(1, sum(map(len, classes))), 0.25)
        return self._lines([file for files in classes for file in files[len(files) - round(share * len(files)) :]])

    def _lines(self, labelled: Sequence[Path], unlabelled: Sequence[Path] = ()) -> str:
        lines = [f"{file.relative_to(self.train)},{file.parent.name}" for file in labelled]
        lines += [f"{file.relative_to(self.train)}," for file in unlabelled]
        return "\n".join(["path,class", *lines, ""])


def prepare(data: Path, work: Path) -> Pictures:
    """The pictures of `data` as folders per class."""
    if (data / "classes.json").exists():
        return _from_sprites(data, work / "pictures")
    if (data / "train").is_dir() and (data / "val").is_dir():
        return Pictures(data / "train", data / "val")
    raise UserError(
        f"--data {data} holds neither CIFAR-10 as sprites (classes.json, train_1.webp, test.webp, *_labels.npy) nor "
        "train/ and val/ with a folder per class."
    )


def _from_sprites(data: Path, folder: Path) -> Pictures:
    names = json.loads((data / "classes.json").read_text(encoding="utf-8"))
    names = names["classes"] if isinstance(names, dict) else names
    done = folder / "complete"
    if not done.exists():
        for number, sprite in enumerate(sorted(data.glob("train_*.webp"))):
            _cut(sprite, folder / "train", names, number)
        _cut(data / "test.webp", folder / "val", names, 0)
        done.touch()
    return Pictures(folder / "train", folder / "val")


def _cut(sprite: Path, folder: Path, names: list[str], number: int) -> None:
    labels = np.load(sprite.with_name(f"{sprite.stem}_labels.npy"))
    for position, (pixels, label) in enumerate(zip(_tiles(sprite), labels, strict=True)):
        path = folder / names[int(label)] / f"{number}{position:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def _tiles(sprite: Path) -> Iterator[NDArray[np.uint8]]:
    with Image.open(sprite) as image:
        whole = np.asarray(image.convert("RGB"))
    yield from whole.reshape(SPRITE, SIDE, SPRITE, SIDE, 3).transpose(0, 2, 1, 3, 4).reshape(-1, SIDE, SIDE, 3)


def _shuffled(folder: Path) -> list[list[Path]]:
    """The pictures of every class, in an order that is always the same."""
    draw = np.random.default_rng(0)
    classes = []
    for below in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(path for path in below.iterdir() if path.suffix.lower() in SUFFIXES)
        classes.append([files[i] for i in draw.permutation(len(files))])
    return classes
