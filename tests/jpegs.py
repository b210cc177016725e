"""JPEGs of every kind that Pillow and simplejpeg can write, and a second look at their segments that trusts nothing of
ours."""

from __future__ import annotations

import numpy as np
import simplejpeg
from PIL import Image

from tests.pictures import encoded, scene

SUBSAMPLINGS = ("444", "422", "420", "440", "411", "Gray")


def grained(seed: int, width: int, height: int) -> np.ndarray:
    """A picture with much noise: many coefficients, and blocks whose last one is not zero."""
    noise = np.random.default_rng(seed).normal(0, 60, (height, width, 3))
    return np.clip(scene(seed, width, height) + noise, 0, 255).astype(np.uint8)


def sampled(subsampling: str, width: int, height: int, *, quality: int = 85, seed: int = 0) -> bytes:
    """A JPEG of this chroma subsampling, by simplejpeg."""
    pixels_HWC = grained(seed, width, height)
    if subsampling == "Gray":
        return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels_HWC[:, :, :1]), quality, "Gray", "Gray")
    return simplejpeg.encode_jpeg(pixels_HWC, quality, "RGB", subsampling)


def kinds() -> dict[str, bytes]:
    """One of each kind, by name."""
    plain, exif = scene(3, 150, 97), Image.Exif()
    exif[0x0112] = 6
    found = {
        f"{name} {w}×{h}": sampled(name, w, h) for name in SUBSAMPLINGS for w, h in ((150, 97), (128, 64), (97, 131))
    }
    found |= {f"{name} quality 100": sampled(name, 131, 75, quality=100) for name in SUBSAMPLINGS}
    found |= {f"{name} quality 5": sampled(name, 131, 75, quality=5) for name in SUBSAMPLINGS}
    found |= {
        "restart every 5": encoded(plain, restart_marker_blocks=5),
        "restart every row": encoded(plain, restart_marker_rows=1, subsampling="4:2:0"),
        "own tables": encoded(plain, optimize=True),
        "rotated": encoded(plain, exif=exif, icc_profile=bytes(range(256)) * 300, comment=b"a comment"),
        "CMYK": encoded(Image.fromarray(plain).convert("CMYK"), quality=80),
        "YCCK": adobe(encoded(Image.fromarray(plain).convert("CMYK"), quality=80), 2),
        "RGB": encoded(plain, keep_rgb=True),
        "RGB by Adobe": adobe(encoded(plain), 0),
        "behind the end": encoded(plain) + b"\xff\xd8 something else \xff\xd9",
        "one pixel": encoded(plain[:1, :1]),
        "one MCU": encoded(plain[:16, :16]),
        "one row": encoded(plain[:8]),
        "narrow": encoded(plain[:, :9], subsampling="4:2:0"),
    }
    return found


def adobe(payload: bytes, transform: int) -> bytes:
    """The payload with Adobe's word on its colours in place of others'."""
    head = b"".join(data for marker, data in segments_of(payload) if marker not in (0xE0, 0xEE))
    start = sum(len(data) for _, data in segments_of(payload)) + 2
    return b"\xff\xd8\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes((transform,)) + head + payload[start:]


def segments_of(payload: bytes) -> list[tuple[int, bytes]]:
    """Marker and bytes of each segment, as far as the start of the scan."""
    found, place = [], 2
    while not found or found[-1][0] != 0xDA:
        assert payload[place] == 0xFF
        stop = place + 2 + int.from_bytes(payload[place + 2 : place + 4], "big")
        found.append((payload[place + 1], payload[place:stop]))
        place = stop
    return found


def requantised(payload: bytes, step: int) -> bytes:
    """The same coefficients under quantisation tables of one step: another picture, of these coefficients alone."""
    out = bytearray(payload)
    for marker, data in segments_of(payload):
        if marker == 0xDB:
            place = payload.index(data) + 4
            for table in range(0, len(data) - 4, 65):
                assert data[4 + table] < 16, "8-bit tables"
                out[place + table + 1 : place + table + 65] = bytes([step]) * 64
    return bytes(out)
