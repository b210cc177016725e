"""A part of a tiled JPEG shows the very pixels that the whole shows there."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.pictures import jpeg_tiling
from pipeline.pictures.images import decode
from pipeline.pictures.jpeg_markers import read_header
from pipeline.pictures.jpeg_segments import Part, part_of
from pipeline.pictures.jpeg_tiling import SIGN, sign_of, tile
from tests.jpegs import SUBSAMPLINGS, grained, kinds, sampled
from tests.pictures import encoded, scene

KINDS = kinds()
PHOTOS = Path(__file__).parents[4] / "shared" / "data" / "photos"


def cut(part: Part, height: int, width: int) -> np.ndarray:
    return decode(part.payload)[part.top : part.top + height, part.left : part.left + width]


def boxes(height: int, width: int, count: int, seed: int = 0) -> list[tuple[int, int, int, int]]:
    """Rectangles of all sizes, and those that touch the borders of MCUs and of the picture."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        tall, wide = rng.integers(1, height + 1), rng.integers(1, width + 1)
        if rng.random() < 0.3:
            tall, wide = min(tall, 8), min(wide, 8)
        top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
        if rng.random() < 0.4:
            top, left = min(top // 8 * 8, height - tall), min(left // 8 * 8, width - wide)
        if rng.random() < 0.3:
            left = width - wide
        if rng.random() < 0.3:
            top = height - tall
        found.append((int(top), int(left), int(tall), int(wide)))
    return found


def count_equal(tiled: bytes, count: int, seed: int = 0) -> int:
    """How many parts were shown, each with the pixels of the whole."""
    whole_HWC, shown = decode(tiled), 0
    for top, left, height, width in boxes(*whole_HWC.shape[:2], count, seed):
        part = part_of(tiled, top, left, height, width)
        if part is not None:
            shown += 1
            wanted = whole_HWC[top : top + height, left : left + width]
            assert np.array_equal(cut(part, height, width), wanted), (top, left, height, width)
    return shown


@pytest.mark.parametrize("name", KINDS)
def test_parts_of_every_kind(name: str) -> None:
    shown = count_equal(tile(KINDS[name], span=32), 60)
    assert shown > 20 or name in ("one pixel", "one MCU", "one row", "narrow")


@pytest.mark.parametrize("span", [8, 16, 64, 1000])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_parts_of_every_subsampling_and_width(subsampling: str, span: int) -> None:
    for seed, width in enumerate((257, 258, 260, 264, 272, 240)):
        assert count_equal(tile(sampled(subsampling, width, 121 + seed, seed=seed), span=span), 40, seed) > 10


@pytest.mark.parametrize("width", [258, 259, 260, 261])
def test_the_last_samples_of_a_row_are_interpolated_as_in_the_whole(width: int) -> None:
    """A decoder does not interpolate a picture that is two samples of chroma wide."""
    tiled = tile(sampled("420", width, 100), span=16)
    part = part_of(tiled, 0, 257, 100, width - 257)
    assert part is not None
    assert np.array_equal(cut(part, 100, width - 257), decode(tiled)[:, 257:])


def test_a_part_costs_what_it_covers() -> None:
    tiled = tile(sampled("420", 640, 480))
    part = part_of(tiled, 200, 200, 100, 100)
    assert part is not None
    assert decode(part.payload).shape[:2] == (112, 128)
    assert len(part.payload) < 0.07 * len(tiled)


def calls(payload: bytes, box: tuple[int, int, int, int]) -> int:
    """Functions that are called, of Python's and others, to assemble a part of a picture whose size was met before."""
    part_of(payload, *box)
    count = 0

    def note(_frame: FrameType, event: str, _what: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        assert part_of(payload, *box) is not None
    finally:
        sys.setprofile(None)
    return count


def test_assembling_takes_few_steps_and_none_for_a_segment() -> None:
    """Each step is a fraction of a microsecond where all of decoding is a thousand; a row of segments takes two."""
    small, large = tile(sampled("420", 640, 480), span=128), tile(sampled("420", 640, 480), span=16)
    box = (200, 200, 100, 200)
    assert read_header(large).mcu_columns // read_header(large).restart_interval == 40
    assert calls(small, box) == calls(large, box) < 110


def test_segments_of_many_bytes() -> None:
    """Their lengths take four bytes in the list."""
    tiled = tile(sampled("444", 5000, 24, quality=100), span=10_000)
    sign = sign_of(tiled, read_header(tiled))
    assert sign is not None and sign.length_G.max() > 1 << 16
    part = part_of(tiled, 8, 0, 8, 5000)
    assert part is not None and np.array_equal(cut(part, 8, 5000), decode(tiled)[8:16])


@pytest.mark.parametrize("pieces", [40, 1])
def test_a_sign_of_several_segments(pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg_tiling, "MAX_BODY", pieces)
    tiled = tile(sampled("420", 160, 120), span=16)
    assert tiled.count(SIGN) > 3
    assert count_equal(tiled, 40) > 10


def test_a_whole_picture_is_no_part() -> None:
    tiled = tile(sampled("420", 640, 480))
    assert part_of(tiled, 0, 0, 480, 640) is None
    assert part_of(tiled, 0, 0, 470, 640) is None
    assert part_of(tiled, 0, 0, 420, 640) is not None


@pytest.mark.parametrize("box", [(0, 0, 481, 10), (0, 631, 10, 10), (-1, 0, 10, 10), (5, 5, 0, 10), (5, 5, 10, -1)])
def test_a_rectangle_outside_the_picture_is_no_part(box: tuple[int, int, int, int]) -> None:
    assert part_of(tile(sampled("444", 640, 480)), *box) is None


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xd8\xff",
        encoded(scene(1), "PNG"),
        encoded(scene(1, 200, 100), progressive=True),
        encoded(scene(1, 200, 100)),
        encoded(scene(1, 200, 100), restart_marker_blocks=5),
    ],
)
def test_other_payloads_are_decoded_whole(payload: bytes) -> None:
    assert part_of(payload, 0, 0, 8, 8) is None


def test_a_list_that_does_not_fit_is_passed_over() -> None:
    tiled = tile(sampled("420", 320, 240))
    start = tiled.index(SIGN) + len(SIGN) + 12
    count = (read_header(tiled).segments[-4].stop - start) // 2
    rng, refused = np.random.default_rng(0), 0
    for _ in range(200):
        damaged = bytearray(tiled)
        place = start + int(rng.integers(0, 2 * count))
        damaged[place] ^= 1 << int(rng.integers(0, 8))
        assert part_of(bytes(damaged), 0, 0, 100, 100) is None
        refused += 1
    assert refused == 200
    assert part_of(tiled, 0, 0, 100, 100) is not None


def test_a_missing_marker_is_passed_over() -> None:
    tiled = tile(sampled("420", 320, 240))
    place = tiled.index(b"\xff\xd3", read_header(tiled).scan_start)
    assert part_of(tiled[:place] + b"\xff\xd4" + tiled[place + 2 :], 0, 0, 100, 100) is None
    assert part_of(tiled[:place] + tiled[place + 1 :], 0, 0, 100, 100) is None


@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no photographs in {PHOTOS}")
def test_parts_of_photographs() -> None:
    for path in sorted(PHOTOS.iterdir())[::20]:
        assert count_equal(tile(path.read_bytes()), 20) > 3


@given(
    width=st.integers(1, 200),
    height=st.integers(1, 140),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
    quality=st.integers(1, 100),
    restart=st.integers(0, 9),
    optimised=st.booleans(),
    span=st.sampled_from([8, 32, 64]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_parts_of_any_jpeg_that_pillow_writes(
    width: int,
    height: int,
    subsampling: str,
    mode: str,
    quality: int,
    restart: int,
    optimised: bool,
    span: int,
    seed: int,
) -> None:
    """Odd sizes, inks, own tables and restart markers that are there already, all at once."""
    more = {"restart_marker_blocks": restart} if restart else {}
    picture = Image.fromarray(grained(seed, width, height)).convert(mode)
    payload = encoded(picture, quality=quality, optimize=optimised, subsampling=subsampling, **more)
    tiled = tile(payload, span=span)
    assert np.array_equal(decode(tiled), decode(payload))
    count_equal(tiled, 12, seed)
