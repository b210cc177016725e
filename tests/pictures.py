"""Small real images and shards for all tests: made from a seed, written as real files, nothing mocked.

`tiny_shards` writes tars with Python's own `tarfile` and nothing of ours, so that it can be trusted to disagree.
"""

from __future__ import annotations

import io
import itertools
import json
import struct
import tarfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
SIZES = ((64, 48), (48, 64), (56, 56), (90, 40), (33, 71))


def scene(seed: int, width: int = 64, height: int = 48) -> Pixels:
    """A picture [H, W, 3] with a gradient, flat shapes and a little grain: no two seeds look alike."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1, width)[None, :, None]
    y = np.linspace(0, 1, height)[:, None, None]
    picture = rng.uniform(0, 255, 3) * x + rng.uniform(0, 255, 3) * y * (1 - x) + rng.uniform(0, 60, 3)
    for _ in range(4):
        top, left = rng.integers(0, height), rng.integers(0, width)
        bottom, right = top + rng.integers(1, height // 2 + 2), left + rng.integers(1, width // 2 + 2)
        picture[top:bottom, left:right] = rng.uniform(0, 255, 3)
    return np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def encoded(image: Image.Image | Pixels, kind: str = "JPEG", **options: object) -> bytes:
    """The bytes of a file of that kind (JPEG, PNG, WEBP, GIF, …)."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def opened(payload: bytes) -> Image.Image:
    """The payload as Pillow sees it."""
    return Image.open(io.BytesIO(payload))


def jpeg(seed: int, width: int = 64, height: int = 48, quality: int = 90) -> bytes:
    """A plain JPEG of `scene(seed)`."""
    return encoded(scene(seed, width, height), "JPEG", quality=quality)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file, with a valid checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG from its parts: `rows` holds filter bytes and samples; `extra` chunks go before the data."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = b"".join(extra) + png_chunk(b"IDAT", zlib.compress(rows, 9)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def bomb_png(width: int = 12_000, height: int = 12_000) -> bytes:
    """A few kilobytes that ask for 144 megapixels."""
    return raw_png(width, height, 1, 0, bytes((1 + (width + 7) // 8) * height))


def with_orientation(seed: int, orientation: int, kind: str = "JPEG", width: int = 64, height: int = 48) -> bytes:
    """A picture whose EXIF tag asks the viewer to turn or mirror it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(scene(seed, width, height), kind, exif=exif, **({"quality": 90} if kind != "PNG" else {}))


def deep_png(seed: int, width: int = 64, height: int = 48) -> tuple[bytes, NDArray[np.uint16]]:
    """A greyscale PNG of 16 bits, and its samples."""
    samples = np.random.default_rng(seed).integers(0, 1 << 16, (height, width), dtype=np.uint16)
    return encoded(Image.fromarray(samples), "PNG"), samples


def animation(kind: str, frames: int = 3, width: int = 40, height: int = 30) -> bytes:
    """An animated PNG, WEBP or GIF of scenes 0, 1, 2 …"""
    pictures = [Image.fromarray(scene(number, width, height)) for number in range(frames)]
    options = {"lossless": True} if kind == "WEBP" else {}
    return encoded(pictures[0], kind, save_all=True, append_images=pictures[1:], duration=100, **options)


def zoo(seed: int = 0, width: int = 64, height: int = 48) -> dict[str, bytes]:
    """One of each kind of image that is accepted, by name; all show `scene(seed)` in one way or another."""
    plain = Image.fromarray(scene(seed, width, height))
    see_through = Image.merge("RGBA", (*plain.split(), plain.convert("L")))
    return {
        "jpeg": encoded(plain, "JPEG"),
        "progressive": encoded(plain, "JPEG", progressive=True),
        "grey jpeg": encoded(plain.convert("L"), "JPEG"),
        "cmyk": encoded(plain.convert("CMYK"), "JPEG"),
        "rotated": with_orientation(seed, 6, "JPEG", width, height),
        "png": encoded(plain, "PNG"),
        "grey png": encoded(plain.convert("L"), "PNG"),
        "1-bit": encoded(plain.convert("1"), "PNG"),
        "16-bit": deep_png(seed, width, height)[0],
        "palette": encoded(plain.quantize(16), "PNG"),
        "palette with transparency": encoded(plain.quantize(16), "PNG", transparency=3),
        "rgba": encoded(see_through, "PNG"),
        "la": encoded(see_through.convert("LA"), "PNG"),
        "animated png": animation("PNG", 2, width, height),
        "webp": encoded(plain, "WEBP"),
        "lossless webp": encoded(plain, "WEBP", lossless=True),
        "webp with alpha": encoded(see_through, "WEBP"),
        "animated webp": animation("WEBP", 2, width, height),
    }


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], tar_format: int = tarfile.GNU_FORMAT) -> Path:
    """A tar of regular files, by Python's tarfile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def in_place(path: Path, member: str, data: bytes) -> None:
    """Put other bytes, as many, into one member of a tar."""
    with tarfile.open(path) as tar:
        info = tar.getmember(member)
        assert info.size == len(data)
        at = info.offset_data
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def sample(key: str, image: bytes, label: int | None, extension: str = "jpg") -> list[tuple[str, bytes]]:
    """The members of one WebDataset sample."""
    label_member = [] if label is None else [(f"{key}.cls", str(label).encode())]
    return [(f"{key}.{extension}", image), *label_member]


def tiny_shards(
    folder: Path,
    rows: int = 24,
    *,
    shards: int = 2,
    classes: int = 3,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    class_names: Sequence[str] | None = None,
    replace: Mapping[int, bytes] | None = None,
) -> tuple[str, ...]:
    """Real tars of `rows` JPEGs in all (about equal shares), classes 0, 1, 2, 0 …; returns their paths in order.

    Row i shows `scene(1000·seed + i)` in one of `SIZES` (or `size`); `replace` puts other bytes into single rows.
    """
    bounds = [rows * number // shards for number in range(shards + 1)]
    paths = []
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        members: list[tuple[str, bytes]] = []
        for row in range(start, stop):
            width, height = size or SIZES[row % len(SIZES)]
            image = (replace or {}).get(row, jpeg(1000 * seed + row, width, height))
            members += sample(f"s{seed}/{row:06d}", image, row % classes)
        paths.append(str(write_tar(folder / f"{number:06d}.tar", members)))
    if class_names is not None:
        (folder / "classes.json").write_text(json.dumps({"classes": list(class_names)}), encoding="utf-8")
    return tuple(paths)


def class_folders(root: Path, counts: Mapping[str, int], *, seed: int = 0, size: tuple[int, int] | None = None) -> Path:
    """A folder per class with that many JPEGs each."""
    number = 1000 * seed
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for item in range(count):
            width, height = size or SIZES[number % len(SIZES)]
            (root / name / f"{item:04d}.jpg").write_bytes(jpeg(number, width, height))
            number += 1
    return root
