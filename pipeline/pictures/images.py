"""Which pixels does a payload stand for, how large is it, and what is odd about it?

A payload is hostile until shown otherwise. Its format is told by its first bytes, never by a name, and only JPEG, PNG
and WebP are let through; its size is read from the header and held to a cap before a decoder sees it; whatever goes
wrong in a decoder is an `ImageError`. What each odd kind becomes is written in ``docs/images.md``.

JPEGs of one or three components are decoded by libjpeg-turbo without its leniency (a warning is an error); what that
refuses, and everything else, Pillow decides, which raises for data that are cut. Both give the same pixels. EXIF
orientation and colour profiles are not applied: teachers were trained without them.

Shapes: H rows, W columns, C = 3 channels (red, green, blue).
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from pipeline.errors import ImageError

MAX_PIXELS = 64_000_000
MAX_SCANS = 500
START_OF_SCAN, SEQUENTIAL = b"\xda", (b"\xc0", b"\xc1")  # JPEG markers, after their 0xff
ENDS_EARLY = ("premature end", "found marker 0xd9 instead of RST")
"""What libjpeg says of a JPEG whose end mark comes before its last row"""
STRIP_PIXELS = 1 << 22
PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by colour type
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
ORIENTATION_TAG = 0x0112

SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WEBP"),
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
READERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}
# What decoders have been seen to raise for bytes that are not as they should be.
DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError),
    *(EOFError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a file is, beyond its pixels."""

    kind: str
    """JPEG, PNG or WEBP."""
    orientation: int
    """EXIF orientation, 1 to 8; 1 is upright."""
    odd: tuple[str, ...]
    """Why other readers may show other pixels: rotated, CMYK, 16-bit, 1-bit, palette, alpha, animated."""


def kind_of(payload: bytes) -> str:
    """JPEG, PNG or WEBP, by the first bytes."""
    if not payload:
        raise ImageError("is empty (0 bytes)")
    start = payload[:32].lstrip() if payload[:1].isspace() else payload[:32]
    kind = next((kind for place, magic, kind in SIGNATURES if start.startswith(magic, place)), None)
    if kind in READERS:
        return kind
    found = f"looks like {kind}" if kind else f"is no image (its first bytes are {payload[:8].hex(' ')})"
    raise ImageError(f"{found}; only JPEG, PNG and WebP are read")


def size_of(payload: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height of what `decode` returns, from the header alone."""
    return _size_of(kind_of(payload), payload, max_pixels)


def decode(payload: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The pixels [H, W, 3]."""
    kind = kind_of(payload)
    width, height = _size_of(kind, payload, max_pixels)
    pixels_HWC = _decode_turbo(payload) if kind == "JPEG" else None
    if pixels_HWC is None:
        with _as_image_error(kind), _open(kind, payload) as image:
            pixels_HWC = _flatten(image, payload)
    if pixels_HWC.shape != (height, width, 3):
        shape = pixels_HWC.shape
        raise ImageError(f"says {width} × {height} pixels in its header, and decodes to {shape[1]} × {shape[0]}")
    return pixels_HWC


def traits_of(payload: bytes) -> Traits:
    """What is odd about a payload that `decode` accepts."""
    kind = kind_of(payload)
    _size_of(kind, payload, MAX_PIXELS)
    with _as_image_error(kind), _open(kind, payload) as image:
        orientation = _orientation(image)
        found = {
            "rotated": orientation != 1,
            "CMYK": image.mode == "CMYK",
            "16-bit": kind == "PNG" and payload[24] == 16,
            "1-bit": image.mode == "1",
            "palette": image.mode == "P",
            "alpha": "A" in image.mode or "transparency" in image.info,
            "animated": getattr(image, "n_frames", 1) > 1,
        }
    return Traits(kind=kind, orientation=orientation, odd=tuple(name for name, true in found.items() if true))


def _size_of(kind: str, payload: bytes, max_pixels: int) -> tuple[int, int]:
    with _as_image_error(kind):
        width, height = {"JPEG": _jpeg_size, "PNG": _png_size, "WEBP": _webp_size}[kind](payload)
    if width < 1 or height < 1:
        raise ImageError(f"has {width} × {height} pixels")
    allowed = max_pixels // 2 if kind == "WEBP" else max_pixels  # its decoder holds two canvases beside the picture
    if width * height > allowed:
        raise ImageError(f"has {width} × {height} pixels, {width * height:,} in all; {allowed:,} are allowed")
    return width, height


def _jpeg_size(payload: bytes) -> tuple[int, int]:
    if not _is_one_scan(payload) and payload.count(b"\xff\xda") > MAX_SCANS:
        raise ValueError(f"over {MAX_SCANS} scans")
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(payload)
    except ValueError:
        with _open("JPEG", payload) as image:
            return image.size
    return int(width), int(height)


def _is_one_scan(payload: bytes) -> bool:
    """Whether the first scan of a JPEG is its only one: sequential, of all components. Saves the search for more."""
    place, components = 2, b""
    while payload[place : place + 1] == b"\xff":
        marker = payload[place + 1 : place + 2]
        if not b"\xc0" <= marker <= b"\xfe" or b"\xd0" <= marker <= b"\xd9":
            return False  # fill bytes, or a marker without a length: not worth following
        if marker in SEQUENTIAL:
            components = payload[place + 9 : place + 10]
        if marker == START_OF_SCAN:
            return bool(components) and payload[place + 4 : place + 5] == components
        place += 2 + int.from_bytes(payload[place + 2 : place + 4], "big")
    return False


def _png_size(payload: bytes) -> tuple[int, int]:
    if payload[8:16] != b"\x00\x00\x00\rIHDR":
        raise ValueError("its header is damaged")
    width, height = struct.unpack(">II", payload[16:24])
    return width, height


def _png_bytes(payload: bytes) -> int:
    """Bytes of all rows of a PNG, each with its filter, before compression."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", payload[16:29])
    total = 0
    for left, top, right, down in ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        total += rows * (1 + -(-columns * depth * PNG_SAMPLES[colour] // 8)) if columns > 0 and rows > 0 else 0
    return total


def _inflated(payload: bytes, most: int) -> int:
    """How many bytes the data of a PNG inflate to, as far as `most`; never more than a megabyte at once."""
    inflate, count, place = zlib.decompressobj(), 0, 8
    while count < most and place + 8 <= len(payload):
        stop = place + 8 + int.from_bytes(payload[place : place + 4], "big")
        data = payload[place + 8 : stop] if payload[place + 4 : place + 8] == b"IDAT" else b""
        while data and count < most:
            count += len(inflate.decompress(data, 1 << 20))
            data = inflate.unconsumed_tail
        place = stop + 4
    return count if count >= most else count + len(inflate.flush())  # flush would inflate all that is left


def _webp_size(payload: bytes) -> tuple[int, int]:
    chunk, body = payload[12:16], payload[20:30]
    if len(body) < 10 or chunk not in (b"VP8X", b"VP8L", b"VP8 "):
        raise ValueError("its header is damaged")
    if chunk == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF


def _decode_turbo(payload: bytes) -> NDArray[np.uint8] | None:
    """The pixels of a JPEG without anything odd about it; None leaves it to Pillow."""
    try:
        _, _, space, _ = simplejpeg.decode_jpeg_header(payload)
        if space not in ("YCbCr", "RGB", "Gray"):
            simplejpeg.decode_jpeg(payload, "CMYK", strict=True)  # to see whether it is whole; Pillow knows its inks
            return None
        pixels_HWC: NDArray[np.uint8] = simplejpeg.decode_jpeg(payload, "RGB", strict=True)
    except ValueError as error:
        if any(sign in str(error) for sign in ENDS_EARLY):  # Pillow would take it, and fill what is missing with grey
            raise ImageError("is truncated: its data end before its picture does") from None
        return None
    except MemoryError:
        raise ImageError("needs more memory than there is") from None
    return pixels_HWC


@contextmanager
def _as_image_error(kind: str) -> Iterator[None]:
    """Turn what a decoder raises into one kind of error."""
    try:
        yield
    except DECODER_ERRORS as error:
        raise ImageError(f"cannot be decoded as {kind}: {str(error)[:200] or type(error).__name__}") from None


@contextmanager
def _open(kind: str, payload: bytes) -> Iterator[ImageFile.ImageFile]:
    """The payload as Pillow's reader of that one format sees it: no other format is tried, and no setting matters."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # a teacher's module may have set it, and grey pixels would pass as data
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # the size is known, and held to our own cap
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with READERS[kind](io.BytesIO(payload)) as image:
                yield image
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _flatten(image: ImageFile.ImageFile, payload: bytes) -> NDArray[np.uint8]:
    """Any mode that the three formats have, as RGB on white; in strips, so that a large picture is not held thrice."""
    image.load()
    if image.format == "PNG" and _inflated(payload, (wanted := _png_bytes(payload))) < wanted:
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
