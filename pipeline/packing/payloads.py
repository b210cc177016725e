"""Can this file be packed, and as which bytes?

A file is read and fully decoded once. It is kept byte for byte where every usual reader sees the same picture in it: an
upright JPEG of one or three components, or a still PNG or WebP of 8 bits without palette or transparency. Anything else
(`Checked.remade` says why) becomes a JPEG of the pixels that `pipeline.pictures.images` sees, turned upright, without
chroma subsampling; and so does a picture whose longest side is over the limit, which is shrunk to it.

Shapes: H rows, W columns, C = 3 channels.
"""

from __future__ import annotations

import errno
import stat
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import ImageError, ShardError
from pipeline.pictures.images import decode, traits_of
from pipeline.shards.samples import MAX_PAYLOAD


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What became known of an image file when it was read."""

    size: int
    """Bytes; -1 where it cannot be read."""
    crc: int
    """crc32c of the bytes."""
    extension: str = "jpg"
    """What its payload will be called."""
    remade: tuple[str, ...] = ()
    """Why the payload is made anew; empty where it is kept."""
    problem: str | None = None
    """Why it cannot be packed."""


def measure(path: str) -> Checked:
    """The size and crc32c of a file, without a look at what is in it."""
    try:
        data = _content(path)
    except OSError as error:
        return Checked(size=-1, crc=0, problem=f"cannot be read: {error.strerror}")
    return Checked(size=len(data), crc=google_crc32c.value(data))


def check(path: str, *, max_side: int | None) -> Checked:
    """Read and decode a file, and say what is to be done with it."""
    try:
        data = _content(path)
    except OSError as error:
        return Checked(size=-1, crc=0, problem=f"cannot be read: {error.strerror}")
    size, crc = len(data), google_crc32c.value(data)
    if size > MAX_PAYLOAD:
        return Checked(size=size, crc=crc, problem=f"has {size:,} bytes; {MAX_PAYLOAD:,} are allowed")
    try:
        pixels_HWC = decode(data)
        traits = traits_of(data)
    except ImageError as error:
        return Checked(size=size, crc=crc, problem=str(error))
    large = ("large",) if max_side is not None and max(pixels_HWC.shape[:2]) > max_side else ()
    remade = traits.odd + large
    return Checked(size=size, crc=crc, extension="jpg" if remade else traits.format.fields[0], remade=remade)


def payload_of(path: str, checked: Checked, *, max_side: int | None, quality: int) -> bytes:
    """The bytes that are packed for a file, which must be as it was when it was checked."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ShardError(f"{path} cannot be read any more: {error.strerror}. Pack again.") from None
    if (len(data), google_crc32c.value(data)) != (checked.size, checked.crc):
        raise ShardError(f"{path} changed while it was being packed. Let nothing write to the images, and pack again.")
    if not checked.remade:
        return data
    pixels_HWC = upright(decode(data), traits_of(data).orientation)
    encoded: bytes = simplejpeg.encode_jpeg(shrunk(pixels_HWC, max_side), quality, "RGB", "444", fastdct=False)
    return encoded


def upright(pixels_HWC: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The picture as its EXIF orientation asks for it to be shown."""
    turned = pixels_HWC.swapaxes(0, 1) if orientation > 4 else pixels_HWC
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    return np.ascontiguousarray(turned)


def shrunk(pixels_HWC: NDArray[np.uint8], max_side: int | None) -> NDArray[np.uint8]:
    """The picture with its longest side at most `max_side`, in the same proportions."""
    height, width = pixels_HWC.shape[:2]
    if max_side is None or max(height, width) <= max_side:
        return pixels_HWC
    scale = max_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.array(Image.fromarray(pixels_HWC).resize(size, Image.Resampling.LANCZOS))


def _content(path: str) -> bytes:
    """The bytes of a file; a pipe or a device would be waited for without end."""
    mode = Path(path).stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is no file, but a pipe or a device")
    return Path(path).read_bytes()
