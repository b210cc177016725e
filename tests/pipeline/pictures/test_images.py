"""Every odd kind of image becomes what docs/images.md says, or is refused by name."""

from __future__ import annotations

import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from pipeline.errors import ImageError
from pipeline.packing.sources import READ_SUFFIXES
from pipeline.pictures.formats import FORMATS
from pipeline.pictures.images import MAX_PIXELS, decode, format_of, size_of, traits_of
from pipeline.shards.samples import IMAGE_FIELDS
from tests import pictures
from tests.pictures import encoded, jpeg, png_chunk, raw_png, scene

Pixels = NDArray[np.uint8]


def on_white(rgba: Pixels) -> Pixels:
    """The exact rule: each channel over white, to the nearest level."""
    colour, alpha = rgba[..., :3].astype(int), rgba[..., 3:].astype(int)
    return np.round((colour * alpha + 255 * (255 - alpha)) / 255).astype(np.uint8)


def see(payload: bytes) -> Pixels:
    """Decode, and hold the size from the header to the pixels."""
    pixels = decode(payload)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert size_of(payload) == (pixels.shape[1], pixels.shape[0])
    return pixels


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_plain_jpeg_is_what_pillow_sees(subsampling: int, progressive: bool) -> None:
    payload = encoded(scene(3, 65, 49), "JPEG", subsampling=subsampling, progressive=progressive)
    assert np.array_equal(see(payload), np.asarray(pictures.opened(payload)))
    assert traits_of(payload).odd == ()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grey_becomes_three_equal_channels(kind: str) -> None:
    payload = encoded(Image.fromarray(scene(1)).convert("L"), kind)
    pixels = see(payload)
    assert np.array_equal(pixels, np.asarray(pictures.opened(payload).convert("RGB")))
    assert np.array_equal(pixels[..., 0], pixels[..., 1])
    assert np.array_equal(pixels[..., 0], pixels[..., 2])
    assert traits_of(payload).odd == ()


@pytest.mark.parametrize("transform", [0, 2])
def test_cmyk_is_read_as_adobe_writes_it(transform: int) -> None:
    picture = Image.new("CMYK", (32, 24), (255, 0, 0, 0))  # full cyan ink
    picture.paste((0, 0, 255, 0), (16, 0, 32, 24))  # full yellow ink
    payload = encoded(picture, "JPEG", quality=95)
    if transform == 2:
        payload = ycck_of(payload)
    pixels = see(payload).astype(int)
    assert np.abs(pixels[:, 2:14] - (0, 255, 255)).max() < 8
    assert np.abs(pixels[:, 18:30] - (255, 255, 0)).max() < 8
    assert traits_of(payload).odd == ("CMYK",)


def ycck_of(payload: bytes) -> bytes:
    """The same inks, stored as YCCK (what Photoshop writes)."""
    inks = np.asarray(pictures.opened(payload))
    ycc = np.asarray(Image.fromarray(inks[..., :3]).convert("YCbCr"))
    stored = np.dstack([ycc, 255 - inks[..., 3:]])
    remade = encoded(Image.frombytes("CMYK", (32, 24), (255 - stored).tobytes()), "JPEG", quality=95)  # Pillow inverts
    place = remade.index(b"Adobe")
    return remade[: place + 11] + b"\x02" + remade[place + 12 :]


def test_deep_grey_keeps_its_upper_byte() -> None:
    payload, samples = pictures.deep_png(5)
    assert np.array_equal(see(payload), np.repeat((samples >> 8).astype(np.uint8)[..., None], 3, axis=2))
    assert traits_of(payload).odd == ("16-bit",)


def test_deep_grey_with_one_transparent_level() -> None:
    rows = b"\0" + struct.pack(">4H", 0, 1000, 1001, 65535)
    payload = raw_png(4, 1, 16, 0, rows, png_chunk(b"tRNS", struct.pack(">H", 1000)))
    assert see(payload)[0, :, 0].tolist() == [0, 255, 3, 255]
    assert traits_of(payload).odd == ("16-bit", "alpha")


def test_deep_colour_keeps_its_upper_bytes() -> None:
    rows = b"\0" + struct.pack(">6H", 0, 1000, 40000, 65535, 255, 256)
    assert see(raw_png(2, 1, 16, 2, rows))[0].tolist() == [[0, 3, 156], [255, 0, 1]]
    keyed = raw_png(2, 1, 16, 2, rows, png_chunk(b"tRNS", struct.pack(">3H", 0, 1000, 40000)))
    with pytest.raises(
        ImageError, match="cannot be decoded as PNG: 16-bit colour with one transparent colour is not read"
    ):
        decode(keyed)


@pytest.mark.parametrize(("mode", "kind"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP")])
def test_alpha_is_laid_on_white(mode: str, kind: str) -> None:
    rgba = np.dstack([scene(2), np.random.default_rng(2).integers(0, 256, (48, 64), dtype=np.uint8)])
    picture = Image.fromarray(rgba).convert(mode)
    payload = encoded(picture, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    assert np.array_equal(see(payload), on_white(np.asarray(picture.convert("RGBA"))))
    assert traits_of(payload).odd == ("alpha",)


@pytest.mark.parametrize("key", [None, 3, bytes(range(0, 160, 10))])
def test_palettes_are_looked_up_and_laid_on_white(key: int | bytes | None) -> None:
    picture = Image.fromarray(scene(1)).quantize(16)
    payload = encoded(picture, "PNG", **({} if key is None else {"transparency": key}))
    index = np.asarray(picture)
    table = np.array(picture.getpalette()[:48], np.uint8).reshape(16, 3)
    alpha = np.full(16, 255, np.uint8)
    if key is not None:
        alpha[:] = list(key) if isinstance(key, bytes) else [0 if entry == key else 255 for entry in range(16)]
    assert np.array_equal(see(payload), on_white(np.dstack([table[index], alpha[index]])))
    assert traits_of(payload).odd == (("palette",) if key is None else ("palette", "alpha"))


def test_one_transparent_colour_is_white() -> None:
    payload = raw_png(2, 1, 8, 2, b"\0\x01\x02\x03\xc8\x64\x32", png_chunk(b"tRNS", struct.pack(">3H", 1, 2, 3)))
    assert see(payload)[0].tolist() == [[255, 255, 255], [200, 100, 50]]
    four_levels = raw_png(4, 1, 2, 0, b"\0\x1b", png_chunk(b"tRNS", struct.pack(">H", 1)))
    assert see(four_levels)[0, :, 0].tolist() == [0, 255, 170, 255]


def test_one_bit_is_black_and_white() -> None:
    payload = raw_png(8, 1, 1, 0, b"\0\xa5")
    assert see(payload)[0, :, 0].tolist() == [255, 0, 255, 0, 0, 255, 0, 255]
    assert traits_of(payload).odd == ("1-bit",)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation_is_told_and_not_applied(kind: str, orientation: int) -> None:
    payload = pictures.with_orientation(4, orientation, kind)
    assert np.array_equal(see(payload), np.asarray(pictures.opened(payload).convert("RGB")))
    assert traits_of(payload).orientation == orientation
    assert traits_of(payload).odd == (() if orientation == 1 else ("rotated",))
    upright = ImageOps.exif_transpose(pictures.opened(payload))
    assert orientation in (1, 3) or upright.size != pictures.opened(payload).size


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_is_its_first_picture(kind: str) -> None:
    payload = pictures.animation(kind)
    assert np.array_equal(see(payload), scene(0, 40, 30))
    assert traits_of(payload).odd == ("animated",)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_cut_anywhere_is_refused_or_the_same_pixels(kind: str) -> None:
    payload = encoded(scene(7, 40, 30), kind)
    whole = decode(payload)
    for cut in [*range(0, len(payload), 29), *range(len(payload) - 16, len(payload))]:
        try:
            assert np.array_equal(decode(payload[:cut]), whole)
            assert cut >= len(payload) - 16  # only the end mark is absent
        except ImageError as error:
            assert str(error)


def test_settings_of_pillow_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = encoded(scene(7), "PNG")[:-200]
    cmyk = encoded(Image.fromarray(scene(7)).convert("CMYK"), "JPEG")[:-50]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for payload in (cut, cmyk):
        with pytest.raises(ImageError, match=r"cannot be decoded as|is truncated"):
            decode(payload)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    broken_animation = raw_png(2, 1, 8, 0, b"\0\x01\x02", png_chunk(b"acTL", struct.pack(">II", 0, 0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(encoded(scene(7), "PNG")).shape == (48, 64, 3)
        assert decode(broken_animation)[0, :, 0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "is empty (0 bytes)"),
        (b"\0" * 100, "is no image (its first bytes are 00 00 00 00 00 00 00 00); only JPEG, PNG and WebP are read"),
        (b"hi", "is no image (its first bytes are 68 69); only JPEG, PNG and WebP are read"),
        (pictures.animation("GIF"), "looks like GIF; only JPEG, PNG and WebP are read"),
        (encoded(scene(1), "BMP"), "looks like BMP; only JPEG, PNG and WebP are read"),
        (encoded(scene(1), "TIFF"), "looks like TIFF; only JPEG, PNG and WebP are read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "looks like EPS or PostScript; only JPEG, PNG and"),
        (b'\n  <svg xmlns="http://www.w3.org/2000/svg"/>', "looks like SVG; only JPEG, PNG and WebP are read"),
        (b"<!DOCTYPE html><title>404</title>", "looks like HTML; only JPEG, PNG and WebP are read"),
        (b"%PDF-1.4", "looks like PDF; only JPEG, PNG and WebP are read"),
        (b"\0\0\0 ftypavif", "looks like AVIF; only JPEG, PNG and WebP are read"),
        (pictures.bomb_png(), "has 12000 × 12000 pixels, 144,000,000 in all; 64,000,000 are allowed"),
        (raw_png(0, 5, 8, 0, b""), "has 0 × 5 pixels"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 30, "cannot be decoded as PNG: its header is damaged"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "cannot be decoded as WEBP: its header is damaged"),
        (b"\xff\xd8\xff\xe0" + b"x" * 50, "cannot be decoded as JPEG: "),
    ],
)  # fmt: skip
def test_refuses(payload: bytes, message: str) -> None:
    for function in (decode, size_of):
        with pytest.raises(ImageError) as error:
            function(payload)
        assert str(error.value).startswith(message)


def test_other_bombs_are_refused() -> None:
    text = raw_png(1, 1, 8, 0, b"\0\0", png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000), 9)))
    scans = encoded(scene(1), "JPEG", progressive=True)[:-2] + b"\xff\xda\x00\x02" * 600
    webp = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (8191).to_bytes(3, "little") * 2
    for payload, message in {
        text: "cannot be decoded as PNG",
        scans: "over 500 scans",
        webp: "32,000,000 are allowed",
    }.items():
        with pytest.raises(ImageError, match=message):
            decode(payload)


@pytest.mark.parametrize(("depth", "colour"), [(1, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 6)])
def test_a_png_that_ends_before_its_last_row_is_refused(depth: int, colour: int) -> None:
    row = b"\0" + bytes(-(-64 * depth * {0: 1, 2: 3, 6: 4}[colour] // 8))
    assert decode(raw_png(64, 20, depth, colour, row * 20)).shape == (20, 64, 3)
    with pytest.raises(ImageError, match="its data end before its last row"):
        decode(raw_png(64, 20, depth, colour, row * 19))


def test_an_interlaced_png_is_held_to_its_seven_passes() -> None:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 3, 8, 2, 0, 0, 1))
    for count, accepted in ((52, True), (51, False)):  # 1 × 1, 1 × 1, 1 × 1, 3 × 1, 2 × 2 and 5 × 1 pixels
        body = png_chunk(b"IDAT", zlib.compress(bytes(count))) + png_chunk(b"IEND", b"")
        payload = b"\x89PNG\r\n\x1a\n" + header + body
        if accepted:
            assert decode(payload).shape == (3, 5, 3)
        else:
            with pytest.raises(ImageError, match="cannot be decoded as PNG"):
                decode(payload)


def test_the_cap_is_an_argument() -> None:
    payload = pictures.jpeg(1, 64, 48)
    assert decode(payload, max_pixels=64 * 48).shape == (48, 64, 3)
    with pytest.raises(ImageError, match="has 64 × 48 pixels, 3,072 in all; 3,071 are allowed"):
        size_of(payload, max_pixels=64 * 48 - 1)
    assert MAX_PIXELS == 64_000_000


PAYLOADS = tuple(pictures.zoo(1, 24, 18).values())


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(PAYLOADS),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=5),
    st.one_of(st.none(), st.integers(0, 4000)),
)
def test_damaged_images_decode_or_are_refused(payload: bytes, changes: list[tuple[int, int]], cut: int | None) -> None:
    data = bytearray(payload)
    for place, value in changes:
        data[place % len(data)] = value
    hostile = bytes(data[:cut])
    try:
        width, height = size_of(hostile, max_pixels=1 << 20)
        assert decode(hostile, max_pixels=1 << 20).shape == (height, width, 3)
        traits_of(hostile)
    except ImageError as error:
        assert str(error)


def test_the_whole_zoo_is_read() -> None:
    for name, payload in pictures.zoo(2).items():
        assert see(payload).shape == (48, 64, 3), name


def test_a_format_is_one_row_that_all_who_ask_read() -> None:
    """Shards, packing and decoding: whoever adds a row adds it everywhere."""
    assert IMAGE_FIELDS == ("jpg", "jpeg", "png", "webp")
    assert READ_SUFFIXES == (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")
    for known in FORMATS:
        assert traits_of(encoded(scene(1), known.kind)).format is known
        assert known.fields[0] in IMAGE_FIELDS and known.size(encoded(scene(1, 30, 20), known.kind)) == (30, 20)


def test_kinds_are_told_by_content() -> None:
    assert [format_of(encoded(scene(1), kind)).kind for kind in ("JPEG", "PNG", "WEBP")] == ["JPEG", "PNG", "WEBP"]


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the most memory that a process had")
def test_a_large_picture_stays_under_a_gibibyte(tmp_path: Path) -> None:
    """64 megapixels of palette with transparency, in a fresh process: the picture, its strips, and little else."""
    rows = bytes((1 + 1000) * 8000)
    payload = raw_png(8000, 8000, 1, 3, rows, png_chunk(b"PLTE", bytes(6)), png_chunk(b"tRNS", b"\x80"))
    (tmp_path / "large.png").write_bytes(payload)
    code = (
        "import pathlib, sys; from pipeline.pictures.images import decode; "
        "assert decode(pathlib.Path(sys.argv[1]).read_bytes())[0, 0, 0] == 127; "
        "print(pathlib.Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "large.png")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) << 10 < 1 << 30  # what getrusage says begins with the parent's memory


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_jpeg_that_was_cut_and_closed_again_is_refused(share: float) -> None:
    whole = jpeg(1, 160, 120)
    with pytest.raises(ImageError, match="truncated"):
        decode(whole[: int(len(whole) * share)] + b"\xff\xd9")


def test_a_jpeg_that_promises_more_rows_than_it_has_is_refused() -> None:
    whole = bytearray(jpeg(1, 64, 48))
    height = whole.find(b"\xff\xc0") + 5
    whole[height : height + 2] = (96).to_bytes(2, "big")
    with pytest.raises(ImageError, match="truncated"):
        decode(bytes(whole))


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
@pytest.mark.parametrize("restarts", [0, 1])
def test_a_jpeg_that_ends_before_its_last_row_is_refused_however_it_is_closed(mode: str, restarts: int) -> None:
    """Cut and closed with an end mark, or whole under a header that promises twice the rows."""
    payload = encoded(Image.fromarray(scene(3, 96, 96)).convert(mode), "JPEG", quality=90, restart_marker_rows=restarts)
    header = payload.index(b"\xff\xc0") + 5
    taller = payload[:header] + (192).to_bytes(2, "big") + payload[header + 2 :]
    for ended in (payload[: len(payload) // 2] + b"\xff\xd9", taller):
        with pytest.raises(ImageError, match="is truncated"):
            decode(ended)


def test_a_png_is_inflated_no_further_than_its_rows_reach() -> None:
    payload = raw_png(8, 8, 8, 0, bytes(64 << 20))
    assert len(payload) < 100_000
    tracemalloc.start()
    try:
        assert not decode(payload).any()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
