"""What is measured on? A folder of JPEGs, as payloads, as shards, and as an index.

    photographs = load(Path("photos"))
    index = photographs.indexed(folder, rows=2048)

Where more rows are asked for than there are photographs, they come again under other keys, and so in other views. Where
there is no folder, pictures are painted as for the demonstration (`stages.demo.digit_scene`), and every table says so.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import webdataset

from pipeline.errors import ImageError, UserError
from pipeline.pictures.images import size_of
from pipeline.shards.index import SampleIndex, scan
from stages.demo.digit_scene import SceneStyle, paint
from stages.demo_images import load_digits

CLASSES = 1000
PER_SHARD = 64
DEFAULT = Path(__file__).parents[2] / "shared/data/photos"


@dataclass(frozen=True, slots=True, kw_only=True)
class Photographs:
    """JPEG payloads."""

    payloads: tuple[bytes, ...]
    source: str

    def __post_init__(self) -> None:
        if not self.payloads:
            raise UserError("there is nothing to measure on: no JPEG in --photos. Name a folder of photographs.")

    def __len__(self) -> int:
        return len(self.payloads)

    @property
    def about(self) -> str:
        """How many, how large."""
        sizes = [size_of(payload) for payload in self.payloads]
        width, height = (statistics.median(side) for side in zip(*sizes, strict=True))
        size = statistics.median(map(len, self.payloads))
        return f"{len(self)} {self.source}, median {width:.0f} × {height:.0f} pixels, {size / 1000:.0f} kB"

    def first(self, count: int) -> Photographs:
        """Some of them."""
        return Photographs(payloads=self.payloads[:count], source=self.source)

    def whole_windows(self, rows: int) -> Photographs:
        """As many of them as make whole stretches of so many rows; where there are too few, some twice."""
        count = max(rows, len(self) // rows * rows)
        return Photographs(payloads=tuple(itertools.islice(itertools.cycle(self.payloads), count)), source=self.source)

    def indexed(self, folder: Path, rows: int, per_shard: int = PER_SHARD) -> SampleIndex:
        """Shards of so many rows, and their index."""
        return scan(write_shards(folder, list(itertools.islice(itertools.cycle(self.payloads), rows)), per_shard))


def write_shards(folder: Path, payloads: Sequence[bytes], per_shard: int = PER_SHARD) -> list[str]:
    """Shards as WebDataset writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    urls = []
    for number, start in enumerate(range(0, len(payloads), per_shard)):
        path = folder / f"{number:06d}.tar"
        with webdataset.TarWriter(str(path), mtime=0.0) as tar:
            for row, payload in enumerate(payloads[start : start + per_shard], start):
                tar.write({"__key__": f"{row:08d}", "jpg": payload, "cls": row * 389 % CLASSES})
        urls.append(str(path))
    return urls


def load(folder: Path | None, *, most: int | None = None) -> Photographs:
    """The JPEGs of a folder and of those below it; painted ones where there is none."""
    if folder is None and not DEFAULT.is_dir():
        return painted(most or 64)
    found: list[bytes] = []
    for path in sorted((folder or DEFAULT).rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg") and len(found) != most and _is_readable(payload := _read(path)):
            found.append(payload)
    return Photographs(payloads=tuple(found), source="photographs")


def painted(count: int, width: int = 500, height: int = 375) -> Photographs:
    """Pictures of no one's, alike on every machine."""
    glyph_NHW = load_digits().glyph_NHW
    style = SceneStyle(side=max(width, height))
    payloads = []
    for number in range(count):
        picture_HWC = paint(style, glyph_NHW[number], glyph_NHW[number + 1 : number + 3], np.random.default_rng(number))
        done, data = cv2.imencode(".jpg", picture_HWC[:height, :width], [cv2.IMWRITE_JPEG_QUALITY, 90])
        assert done
        payloads.append(data.tobytes())
    return Photographs(payloads=tuple(payloads), source="painted scenes (no photographs here)")


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _is_readable(payload: bytes) -> bool:
    try:
        size_of(payload)
    except ImageError:
        return False
    return True
