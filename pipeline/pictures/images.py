"""Which pixels does a payload stand for, how large is it, and what is odd about it?

A payload is hostile until shown otherwise. Its format is told by its first bytes, never by a name, and only those of
`pipeline.pictures.formats` are let through; its size is read from the header and held to a cap before a decoder sees
it; whatever goes wrong in a decoder is an `ImageError`. What each odd kind becomes is written in ``docs/images.md``.

JPEGs of one or three components are decoded by libjpeg-turbo without its leniency (a warning is an error); what that
refuses, and everything else, Pillow decides, which raises for data that are cut. Both give the same pixels. EXIF
orientation and colour profiles are not applied: teachers were trained without them.

Shapes: H rows, W columns, C = 3 channels (red, green, blue).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from pipeline.errors import ImageError
from pipeline.pictures.formats import FORMATS, Format

MAX_PIXELS = 64_000_000
STRIP_PIXELS = 1 << 22
ORIENTATION_TAG = 0x0112

OTHERS = (
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (0, b"%!PS", "EPS or PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"%PDF", "PDF"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "XML, perhaps SVG"),
    (0, b"<!DOCTYPE", "HTML"),
    (0, b"<html", "HTML"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyp", "HEIC or a video"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"\x00\x00\x01\x00", "ICO"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"PK\x03\x04", "zip"),
)
# What decoders have been seen to raise for bytes that are not as they should be.
DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError),
    *(EOFError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What is known of a picture's file apart from its pixels: format, orientation, and what is odd about it."""

    format: Format
    orientation: int
    """EXIF orientation, 1 to 8; 1 is upright."""
    odd: tuple[str, ...]
    """Why other readers may show other pixels: rotated, CMYK, 16-bit, 1-bit, palette, alpha, animated."""


def format_of(payload: bytes) -> Format:
    """The format of a payload, by its first bytes; one that is not read is refused, by what it looks like."""
    if not payload:
        raise ImageError("is empty (0 bytes)")
    start = payload[:32].lstrip() if payload[:1].isspace() else payload[:32]
    for known in FORMATS:
        if start.startswith(known.magic, known.place):
            return known
    other = next((kind for place, magic, kind in OTHERS if start.startswith(magic, place)), None)
    found = f"looks like {other}" if other else f"is no image (its first bytes are {payload[:8].hex(' ')})"
    *names, last = (known.title for known in FORMATS)
    raise ImageError(f"{found}; only {', '.join(names)} and {last} are read")


def size_of(payload: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height of what `decode` returns, from the header alone."""
    return _size_of(format_of(payload), payload, max_pixels)


def decode(payload: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The pixels of an image file [H, W, 3] in RGB; refused if it cannot be read, or has more than `max_pixels`."""
    known = format_of(payload)
    width, height = _size_of(known, payload, max_pixels)
    pixels_HWC = None if known.decode_plain is None else known.decode_plain(payload)
    if pixels_HWC is None:
        with _as_image_error(known), known.opened(payload) as image:
            pixels_HWC = _flatten(image, known, payload)
    if pixels_HWC.shape != (height, width, 3):
        shape = pixels_HWC.shape
        raise ImageError(f"says {width} × {height} pixels in its header, and decodes to {shape[1]} × {shape[0]}")
    return pixels_HWC


def traits_of(payload: bytes) -> Traits:
    """What is odd about a payload that `decode` accepts."""
    known = format_of(payload)
    _size_of(known, payload, MAX_PIXELS)
    with _as_image_error(known), known.opened(payload) as image:
        orientation = _orientation(image)
        found = {
            "rotated": orientation != 1,
            "CMYK": image.mode == "CMYK",
            "16-bit": known.kind == "PNG" and payload[24] == 16,
            "1-bit": image.mode == "1",
            "palette": image.mode == "P",
            "alpha": "A" in image.mode or "transparency" in image.info,
            "animated": getattr(image, "n_frames", 1) > 1,
        }
    return Traits(format=known, orientation=orientation, odd=tuple(name for name, true in found.items() if true))


def _size_of(known: Format, payload: bytes, max_pixels: int) -> tuple[int, int]:
    with _as_image_error(known):
        width, height = known.size(payload)
    if width < 1 or height < 1:
        raise ImageError(f"has {width} × {height} pixels")
    allowed = max_pixels // known.canvases
    if width * height > allowed:
        raise ImageError(f"has {width} × {height} pixels, {width * height:,} in all; {allowed:,} are allowed")
    return width, height


@contextmanager
def _as_image_error(known: Format) -> Iterator[None]:
    """Turn what a decoder raises into one kind of error."""
    try:
        yield
    except DECODER_ERRORS as error:
        raise ImageError(f"cannot be decoded as {known.kind}: {str(error)[:200] or type(error).__name__}") from None


def _flatten(image: ImageFile.ImageFile, known: Format, payload: bytes) -> NDArray[np.uint8]:
    """Any mode that the three formats have, as RGB on white; in strips, so that a large picture is not held thrice."""
    image.load()
    if known.is_cut is not None and known.is_cut(payload):
        raise ValueError("its data end before its last row")  # Pillow leaves the rest black
    key = image.info.get("transparency")
    if image.mode == "L" and isinstance(key, int):
        image.info["transparency"] = key * 255 // ((1 << payload[24]) - 1)  # Pillow leaves it in units of the file
    if image.mode == "RGB" and key is not None and payload[24] == 16:
        raise ValueError("16-bit colour with one transparent colour is not read")
    pixels_HWC = np.empty((image.height, image.width, 3), np.uint8)
    step = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        strip = image.crop((0, top, image.width, bottom))
        pixels_HWC[top:bottom] = _flatten_deep(strip) if image.mode == "I;16" else _flatten_strip(strip)
    return pixels_HWC


def _flatten_strip(strip: Image.Image) -> NDArray[np.uint8]:
    if "A" in strip.mode or "transparency" in strip.info:
        layer = strip.convert("RGBA")
        strip = Image.new("RGB", layer.size, "white")
        strip.paste(layer, mask=layer)
    return np.asarray(strip.convert("RGB"))


def _flatten_deep(strip: Image.Image) -> NDArray[np.uint8]:
    """16-bit grey: the upper byte of each sample, as Pillow does for 16-bit colour."""
    samples_HW = np.asarray(strip)
    grey_HW = (samples_HW >> 8).astype(np.uint8)
    if isinstance(key := strip.info.get("transparency"), int):
        grey_HW[samples_HW == key] = 255
    return np.repeat(grey_HW[:, :, None], 3, axis=2)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation; what cannot be read, or is none of the eight, is upright."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except DECODER_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
