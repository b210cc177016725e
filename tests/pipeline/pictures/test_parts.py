"""A part has the pixels of the whole, its limits, and its verdict on whether the picture is bad."""

from __future__ import annotations

import google_crc32c
import numpy as np
import pytest

from pipeline.errors import ImageError
from pipeline.pictures.images import decode
from pipeline.pictures.jpeg_markers import MAX_SEGMENTS, NotPlainError, read_header
from pipeline.pictures.jpeg_tiling import SIGN, Sign, sign_of, tile
from pipeline.pictures.parts import decode_part
from tests.jpegs import kinds, sampled
from tests.pictures import zoo

KINDS = kinds()
BOX = (40, 70, 100, 120)


@pytest.mark.parametrize("name", KINDS)
def test_a_box_has_the_pixels_of_the_whole(name: str) -> None:
    for payload in (KINDS[name], tile(KINDS[name], span=16)):
        whole_HWC = decode(payload)
        height, width = whole_HWC.shape[:2]
        for box in ((0, 0, 1, 1), (height // 3, width // 3, height - height // 3, 1), (0, 0, height, width)):
            shown = decode_part(payload, box)
            assert (shown.height, shown.width) == (height, width) and shown.holds(box)
            assert np.array_equal(shown.cut(box), whole_HWC[box[0] : box[0] + box[2], box[1] : box[1] + box[3]])


@pytest.mark.parametrize("name", zoo())
def test_what_is_not_tiled_is_decoded_whole(name: str) -> None:
    shown = decode_part(zoo()[name], (1, 2, 3, 4))
    assert np.array_equal(shown.pixels_HWC, decode(zoo()[name]))
    assert shown.nbytes == shown.pixels_HWC.nbytes


def test_a_part_holds_its_box_alone_and_costs_less_memory() -> None:
    tiled = tile(sampled("420", 640, 480))
    shown = decode_part(tiled, BOX)
    assert shown.pixels_HWC.shape == (100, 120, 3) and shown.nbytes < 0.1 * 640 * 480 * 3
    assert shown.holds(BOX) and shown.holds((45, 70, 95, 120))
    for other in ((39, 70, 100, 120), (40, 69, 100, 120), (40, 70, 101, 120), (40, 70, 100, 121)):
        assert not shown.holds(other)
    assert np.array_equal(shown.cut((50, 80, 7, 9)), decode(tiled)[50:57, 80:89])
    assert decode_part(tiled, None).holds((0, 0, 480, 640))


def test_the_limit_is_that_of_the_whole() -> None:
    tiled = tile(sampled("420", 640, 480))
    with pytest.raises(ImageError, match="has 640 × 480 pixels, 307,200 in all; 307,199 are allowed"):
        decode_part(tiled, BOX, max_pixels=640 * 480 - 1)


def test_damage_is_found_wherever_one_looks() -> None:
    """Every box of a damaged file gets what the whole gets: its error, or its pixels."""
    tiled = tile(sampled("420", 320, 240))
    rng, refused, shown = np.random.default_rng(1), 0, 0
    for _ in range(150):
        damaged = bytearray(tiled)
        place, length = int(rng.integers(2, len(tiled) - 20)), int(rng.integers(1, 20))
        damaged[place : place + length] = rng.bytes(length)
        payload = bytes(damaged)
        try:
            whole_HWC = decode(payload)
        except ImageError as error:
            refused += 1
            with pytest.raises(ImageError) as found:
                decode_part(payload, (0, 0, 20, 20))
            assert str(found.value) == str(error)
            continue
        shown += 1
        if whole_HWC.shape[0] >= 20 and whole_HWC.shape[1] >= 20:
            assert np.array_equal(decode_part(payload, (0, 0, 20, 20)).cut((0, 0, 20, 20)), whole_HWC[:20, :20])
    assert refused > 5 and shown > 5


def test_a_tiled_picture_that_was_cut_is_refused_for_every_box() -> None:
    tiled = tile(sampled("420", 320, 240))
    for stop in range(700, len(tiled), len(tiled) // 9):
        with pytest.raises(ImageError):
            decode_part(tiled[:stop], (0, 0, 20, 20))


def test_millions_of_segments_are_not_taken_apart() -> None:
    tiled = tile(sampled("420", 320, 240))
    many = tiled[:2] + b"\xff\xfe\x00\x02" * (MAX_SEGMENTS + 1) + tiled[2:]
    assert SIGN in many
    with pytest.raises(NotPlainError):
        read_header(many)
    assert np.array_equal(decode_part(many, BOX).pixels_HWC, decode(tiled))


def forged(tiled: bytes, rng: np.random.Generator) -> bytes:
    """The picture with another list, or another header, under a sign that says that all is well."""
    sign = sign_of(tiled, read_header(tiled))
    assert sign is not None
    start, length_G = tiled.index(sign.to_bytes()), sign.length_G.copy()
    before, after = bytearray(tiled[:start]), bytearray(tiled[start + len(sign.to_bytes()) :])
    kind = int(rng.integers(0, 5))
    if kind == 0:
        rng.shuffle(length_G)
    elif kind == 1:
        cuts = np.sort(rng.choice(np.arange(1, int(length_G.sum())), len(length_G) - 1, replace=False))
        length_G = np.diff(cuts, prepend=0, append=length_G.sum())
    elif kind == 2:
        length_G[rng.integers(0, len(length_G))] = rng.choice([0, 1, 65_536, 2**32 - 1])
    elif kind == 3:
        place = read_header(tiled).frame.start + 5 + int(rng.integers(0, 4))
        before[place] ^= 1 << int(rng.integers(0, 8))
    else:
        after[5] ^= 1 << int(rng.integers(0, 8))  # the restart interval
    rest = google_crc32c.value(bytes(before + after))
    other = Sign(crc=sign.crc, length=sign.length, rest=rest, length_G=length_G)
    return bytes(before) + other.to_bytes() + bytes(after)


def test_forged_signs_show_what_the_whole_shows() -> None:
    tiled = tile(sampled("420", 320, 240), span=32)
    rng, shown = np.random.default_rng(2), 0
    for _ in range(200):
        payload = forged(tiled, rng)
        found = []
        for box in (None, (40, 50, 30, 60)):
            try:
                found.append(decode_part(payload, box))
            except ImageError:
                found.append(None)
        whole, part = found
        if whole is not None and part is not None and whole.holds((40, 50, 30, 60)):
            shown += 1
            assert np.array_equal(whole.cut((40, 50, 30, 60)), part.cut((40, 50, 30, 60)))
        assert (whole is None) == (part is None)
    assert shown > 100
