"""Which image formats are read? One row of a table is all that there is to one: a new one is a row more.

A row says by which first bytes a format is told, under which names its files go, how large the picture of a header is,
and who decodes it. What becomes of odd pictures is the same for all (`pipeline.pictures.images`).
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from pipeline.errors import ImageError

MAX_SCANS = 500
START_OF_SCAN, SEQUENTIAL = b"\xda", (b"\xc0", b"\xc1")  # JPEG markers, after their 0xff
ENDS_EARLY = ("premature end", "found marker 0xd9 instead of RST")
"""What libjpeg says of a JPEG whose end mark comes before its last row"""
PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by colour type
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One image format: how a file of it is recognised, named, decoded and bounded."""

    kind: str
    """As Pillow calls it."""
    title: str
    """As people call it."""
    magic: bytes
    place: int = 0
    """Where in a file the magic bytes stand."""
    fields: tuple[str, ...]
    """Suffixes under which WebDataset shards have it; the first is the one that is written."""
    suffixes: tuple[str, ...] = ()
    """Suffixes that only files in folders have."""
    reader: type[ImageFile.ImageFile]
    size: Callable[[bytes], tuple[int, int]]
    """Width and height that a header says; raises what a decoder raises."""
    decode_plain: Callable[[bytes], NDArray[np.uint8] | None] | None = None
    """A quicker decoder for what has nothing odd about it, with the same pixels; None leaves it to Pillow."""
    is_cut: Callable[[bytes], bool] | None = None
    """Whether data end early, where Pillow would not say so."""
    canvases: int = 1
    """Pictures of the whole size that its decoder holds."""

    @contextmanager
    def opened(self, payload: bytes) -> Iterator[ImageFile.ImageFile]:
        """The payload as Pillow's reader of this one format sees it: no other is tried, and no setting matters."""
        ImageFile.LOAD_TRUNCATED_IMAGES = (
            False  # a teacher's module may have set it, and grey pixels would pass as data
        )
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # the size is known, and held to our own cap
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with self.reader(io.BytesIO(payload)) as image:
                    yield image
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _jpeg_size(payload: bytes) -> tuple[int, int]:
    if not _is_one_scan(payload) and payload.count(b"\xff\xda") > MAX_SCANS:
        raise ValueError(f"over {MAX_SCANS} scans")
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(payload)
    except ValueError:
        with JPEG.opened(payload) as image:
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


def _png_is_cut(payload: bytes) -> bool:
    wanted = _png_bytes(payload)
    return _inflated(payload, wanted) < wanted


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


def decode_plain_jpeg(payload: bytes | bytearray) -> NDArray[np.uint8] | None:
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


JPEG = Format(
    kind="JPEG",
    title="JPEG",
    magic=b"\xff\xd8\xff",
    fields=("jpg", "jpeg"),
    suffixes=("jpe", "jfif"),
    reader=JpegImagePlugin.JpegImageFile,
    size=_jpeg_size,
    decode_plain=decode_plain_jpeg,
)
PNG = Format(
    kind="PNG",
    title="PNG",
    magic=b"\x89PNG\r\n\x1a\n",
    fields=("png",),
    reader=PngImagePlugin.PngImageFile,
    size=_png_size,
    is_cut=_png_is_cut,
)
WEBP = Format(
    kind="WEBP",
    title="WebP",
    magic=b"WEBP",
    place=8,
    fields=("webp",),
    reader=WebPImagePlugin.WebPImageFile,
    size=_webp_size,
    canvases=2,
)
FORMATS = (JPEG, PNG, WEBP)
"""All that are read."""
