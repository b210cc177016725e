"""Does each odd kind of image become what docs/images.md says, everywhere in the same way?

Each kind names the line of that page that it stands for, and what must come of it: pixels that are worked out here by
other means, or a refusal with these words. The same payload goes through `decode`, the check of `pack`, a scan, and the
renderer (where one that is refused must be named by its key, or be drawn grey where the recipe says so).
"""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import ImageError, UserError
from pipeline.packing.payloads import check
from pipeline.pictures import images
from pipeline.pictures.images import decode, size_of
from pipeline.rendering.renderer import Renderer
from pipeline.shards.index import SampleIndex, scan
from pipeline.views.recipe import Recipe
from tests import pictures
from tests.campaign.tally import Scale, Tally
from tests.pictures import encoded, png_chunk, raw_png, scene, write_tar
from tests.pictures import sample as members_of

TITLE = "image zoo"
SHOWS = "each as its written policy says"
PAGE = Path(__file__).parents[2] / "docs" / "images.md"

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of image and its policy."""

    name: str
    line: str
    """How the line of docs/images.md begins that speaks of it."""
    payload: bytes
    pixels: Pixels | None = None
    """What it becomes; None where it is refused."""
    apart: int = 0
    """How many levels a lossy decoder may differ from the pixels above."""
    refusal: str = ""
    packed: str = "kept"
    """What pack does: kept, remade, refused."""


def kinds() -> Iterator[Kind]:
    """All of them."""
    yield from _plain()
    yield from _odd()
    yield from _refused()


def _shown(payload: bytes) -> Pixels:
    """What Pillow shows."""
    return np.asarray(Image.open(io.BytesIO(payload)).convert("RGB"))


def _on_white(rgba: Pixels) -> Pixels:
    colour, alpha = rgba[..., :3].astype(int), rgba[..., 3:].astype(int)
    return np.round((colour * alpha + 255 * (255 - alpha)) / 255).astype(np.uint8)


def _plain() -> Iterator[Kind]:
    plain = Image.fromarray(scene(1))
    jpeg, webp = "JPEG, 1 or 3 components", "PNG of 8 bits"
    for name, options in {"baseline": {}, "progressive": {"progressive": True}, "4:4:4": {"subsampling": 0}}.items():
        payload = encoded(plain, "JPEG", **options)
        yield Kind(name=f"JPEG, {name}", line=jpeg, payload=payload, pixels=_shown(payload))
    payload = encoded(plain.convert("L"), "JPEG")
    yield Kind(name="grey JPEG", line="greyscale", payload=payload, pixels=_shown(payload))
    yield Kind(name="PNG", line=webp, payload=encoded(plain, "PNG"), pixels=scene(1))
    payload = encoded(plain.convert("L"), "PNG")
    yield Kind(name="grey PNG", line="greyscale", payload=payload, pixels=_shown(payload))
    yield Kind(name="lossless WebP", line=webp, payload=encoded(plain, "WEBP", lossless=True), pixels=scene(1))
    payload = encoded(plain, "WEBP")
    yield Kind(name="WebP", line=webp, payload=payload, pixels=_shown(payload))
    payload = encoded(plain, "PNG", icc_profile=b"\0" * 128)
    yield Kind(name="colour profile", line="colour profile", payload=payload, pixels=scene(1))


def _odd() -> Iterator[Kind]:
    plain = Image.fromarray(scene(1))
    remade = {"packed": "remade"}
    inks = Image.new("CMYK", (32, 24), (255, 0, 0, 0))
    yield Kind(
        name="CMYK",
        line="CMYK",
        payload=encoded(inks, "JPEG", quality=95),
        pixels=_flat(0, 255, 255),
        apart=8,
        **remade,
    )
    deep, samples = pictures.deep_png(5)
    upper = np.repeat((samples >> 8).astype(np.uint8)[..., None], 3, axis=2)
    yield Kind(name="16-bit grey PNG", line="16-bit PNG", payload=deep, pixels=upper, **remade)
    colour = raw_png(2, 1, 16, 2, b"\0" + struct.pack(">6H", 0, 1000, 40000, 65535, 255, 256))
    yield Kind(
        name="16-bit colour PNG", line="16-bit PNG", payload=colour,
        pixels=np.array([[[0, 3, 156], [255, 0, 1]]], np.uint8), **remade,
    )  # fmt: skip
    yield Kind(
        name="1-bit PNG", line="1-bit PNG", payload=raw_png(8, 1, 1, 0, b"\0\xa5"),
        pixels=np.repeat(np.array([[255, 0, 255, 0, 0, 255, 0, 255]], np.uint8)[..., None], 3, axis=2), **remade,
    )  # fmt: skip
    palette = plain.quantize(16)
    payload = encoded(palette, "PNG")
    yield Kind(name="palette PNG", line="palette PNG", payload=payload, pixels=_shown(payload), **remade)
    payload = encoded(palette, "PNG", transparency=bytes(range(0, 160, 10)))
    rgba = np.asarray(Image.open(io.BytesIO(payload)).convert("RGBA"))
    yield Kind(name="palette with alpha", line="transparency", payload=payload, pixels=_on_white(rgba), **remade)
    see_through = Image.fromarray(np.dstack([scene(2), np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)]))
    for name, picture, options in (
        ("RGBA PNG", see_through, {}),
        ("LA PNG", see_through.convert("LA"), {}),
        ("WebP with alpha", see_through, {"lossless": True, "exact": True}),
    ):
        payload = encoded(picture, "WEBP" if options else "PNG", **options)
        white = _on_white(np.asarray(picture.convert("RGBA")))
        yield Kind(name=name, line="transparency", payload=payload, pixels=white, **remade)
    keyed = raw_png(2, 1, 8, 2, b"\0\x01\x02\x03\xc8\x64\x32", png_chunk(b"tRNS", struct.pack(">3H", 1, 2, 3)))
    yield Kind(
        name="one transparent colour", line="transparency", payload=keyed,
        pixels=np.array([[[255, 255, 255], [200, 100, 50]]], np.uint8), **remade,
    )  # fmt: skip
    for orientation in (3, 6):
        payload = pictures.with_orientation(4, orientation)
        yield Kind(
            name=f"EXIF orientation {orientation}",
            line="EXIF orientation",
            payload=payload,
            pixels=_shown(payload),
            **remade,
        )
    for kind in ("PNG", "WEBP"):
        payload = pictures.animation(kind)
        yield Kind(name=f"animated {kind}", line="animated PNG", payload=payload, pixels=scene(0, 40, 30), **remade)


def _flat(*colour: int) -> Pixels:
    return np.broadcast_to(np.array(colour, np.uint8), (24, 32, 3))


def _refused() -> Iterator[Kind]:
    plain = scene(1)
    undecodable, bombs = "cannot be decoded as", "over 64,000,000 pixels"
    keyed = raw_png(2, 1, 16, 2, b"\0" + bytes(12), png_chunk(b"tRNS", bytes(6)))
    text = raw_png(1, 1, 8, 0, b"\0\0", png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000), 9)))
    scans = encoded(plain, "JPEG", progressive=True)[:-2] + b"\xff\xda\x00\x02" * 600
    webp = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (8191).to_bytes(3, "little") * 2
    lying = bytearray(encoded(Image.fromarray(np.dstack([plain, plain[..., 0]])), "WEBP"))
    lying[24:27] = (99).to_bytes(3, "little")  # the canvas is wider than the picture in it
    other = "GIF, BMP, TIFF"
    cases: list[tuple[str, str, bytes, str]] = [
        ("16-bit colour with one transparent colour", "16-bit colour PNG", keyed, "16-bit colour with one transparent"),
        *((f"truncated {k}", "truncated", encoded(plain, k)[:-200], undecodable) for k in ("JPEG", "PNG", "WEBP")),
        ("zero bytes", "zero bytes", b"", "is empty (0 bytes)"),
        ("PNG bomb", bombs, pictures.bomb_png(), "144,000,000 in all; 64,000,000 are allowed"),
        ("WebP bomb", bombs, webp, "32,000,000 are allowed"),
        ("600 scans", "over 500 JPEG scans", scans, "over 500 scans"),
        ("inflating text", "over 500 JPEG scans", text, undecodable),
        ("PNG of fewer rows", "header and pixels", raw_png(64, 48, 8, 0, bytes(65 * 47)), "end before its last row"),
        ("header of another size", "header and pixels", bytes(lying), undecodable),
        *((k, other, encoded(plain, k), f"looks like {k}") for k in ("GIF", "BMP", "TIFF")),
        ("EPS named .jpg", other, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "looks like EPS"),
        ("SVG", other, b'<svg xmlns="http://www.w3.org/2000/svg"/>', "looks like SVG"),
        ("HTML", other, b"<!DOCTYPE html><title>404</title>", "looks like HTML"),
        ("AVIF", other, b"\0\0\0 ftypavif", "looks like AVIF"),
        ("noise", other, b"\0" * 100, "is no image"),
    ]
    for name, line, payload, refusal in cases:
        yield Kind(name=name, line=line, payload=payload, refusal=refusal, packed="refused")


def run(scale: Scale, place: Path) -> Tally:
    """Every kind, at every scale."""
    del scale
    tally, page = Tally(), PAGE.read_text(encoding="utf-8")
    every = list(kinds())
    for kind in every:
        _decoded(tally, kind)
        if f"| {kind.line}" not in page and kind.line not in page:
            tally.failures.append(f"{kind.name}: docs/images.md has no line about {kind.line!r}")
        _packed(tally, kind, place / "file")
    _rendered(tally, every, place)
    tally.note(f"{len(every)} kinds, each through decode, pack, scan and the renderer.")
    return tally


def _decoded(tally: Tally, kind: Kind) -> None:
    try:
        found = decode(kind.payload)
    except ImageError as error:
        good = kind.pixels is None and kind.refusal in str(error)
        tally.case(failure=None if good else f"{kind.name}: {error}")
        return
    if kind.pixels is None:
        tally.case(silent=f"{kind.name}: is read, and must be refused")
        return
    same = found.shape == kind.pixels.shape and size_of(kind.payload) == found.shape[1::-1]
    most = int(np.abs(found.astype(int) - kind.pixels).max()) if same else 255
    tally.case(silent=None if most <= kind.apart else f"{kind.name}: other pixels (by {most})")


def _packed(tally: Tally, kind: Kind, path: Path) -> None:
    path.write_bytes(kind.payload)
    checked = check(str(path), max_side=None)
    found = "refused" if checked.problem else "remade" if checked.remade else "kept"
    if found != kind.packed:
        tally.silent.append(f"{kind.name}: pack says {found}, the policy {kind.packed}")


def _rendered(tally: Tally, every: list[Kind], place: Path) -> None:
    """In a shard, under the name .jpg: drawn, or refused with its key, or grey."""
    members = [pair for row, kind in enumerate(every) for pair in members_of(f"z{row:03d}", kind.payload, 0)]
    index = scan([str(write_tar(place / "zoo.tar", members))])
    if len(index) != len(every):
        tally.silent.append(f"{len(every) - len(index)} rows were dropped by the scan")
    refuse = Recipe.preset("none", image_size=32)
    for row, kind in enumerate(every):
        _draw(tally, index, refuse, row, kind)


def _draw(tally: Tally, index: SampleIndex, refuse: Recipe, row: int, kind: Kind) -> None:
    out, at, view = np.zeros((1, 32, 32, 3), np.uint8), np.array([row]), np.array([0])
    try:
        Renderer(refuse, index, index.files()).render(at, view, out)
        if kind.pixels is None:
            tally.silent.append(f"{kind.name}: is drawn, and must be refused")
        return
    except UserError as error:
        if kind.pixels is not None or f"z{row:03d}" not in str(error):
            tally.failures.append(f"{kind.name}, drawn: {error}")
    grey = dataclasses.replace(refuse, on_bad_image="grey")
    drawn = Renderer(grey, index, index.files()).render(at, view, out)
    if drawn.bad_rows != (row,) or not (out == 128).all():
        tally.silent.append(f"{kind.name}: is not drawn grey, or not reported")


def sabotage(place: Path) -> Tally:
    """Transparency is dropped as `convert("RGB")` drops it: other pixels must be noticed."""
    del place
    tally = Tally()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "_flatten_strip", lambda strip: np.asarray(strip.convert("RGB")))
        for kind in kinds():
            if kind.name == "RGBA PNG":
                _decoded(tally, kind)
    return tally
