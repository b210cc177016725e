"""A tiled JPEG is the same picture, with the same coefficients and the same other segments, in parts."""

from __future__ import annotations

import itertools
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from pipeline.errors import ImageError
from pipeline.pictures.images import decode
from pipeline.pictures.jpeg_huffman import MAX_LENGTH, best_table, codes_of
from pipeline.pictures.jpeg_markers import APP9, DHT, DRI, NotPlainError, read_header
from pipeline.pictures.jpeg_tiling import SIGN, Sign, interval_of, sign_of, tile
from tests.jpegs import kinds, requantised, sampled, segments_of
from tests.pictures import encoded, opened, scene

KINDS = kinds()
PHOTOS = Path(__file__).parents[4] / "shared" / "data" / "photos"


@pytest.mark.parametrize("name", KINDS)
def test_shows_the_same_picture(name: str) -> None:
    payload = KINDS[name]
    tiled = tile(payload)
    assert np.array_equal(decode(tiled), decode(payload))
    assert np.array_equal(np.asarray(opened(tiled)), np.asarray(opened(payload)))


@pytest.mark.parametrize("step", [3, 9, 40])
@pytest.mark.parametrize("name", KINDS)
def test_has_the_same_coefficients(name: str, step: int) -> None:
    payload = KINDS[name]
    pixels = [np.asarray(opened(requantised(each, step))) for each in (payload, tile(payload))]
    assert np.array_equal(*pixels)
    assert not np.array_equal(pixels[0], np.asarray(opened(payload))) or pixels[0].size < 1000


@pytest.mark.parametrize("name", KINDS)
def test_keeps_every_other_segment_and_what_is_behind_the_end(name: str) -> None:
    payload = KINDS[name]
    tiled = tile(payload)
    ours = [data for marker, data in segments_of(tiled) if marker == APP9 and data[4:].startswith(SIGN)]
    assert len(ours) == 1
    kept = [data for marker, data in segments_of(tiled) if marker not in (DHT, DRI) and data not in ours]
    assert kept == [data for marker, data in segments_of(payload) if marker not in (DHT, DRI)]
    end = payload.index(b"\xff\xd9", payload.index(b"\xff\xda"))
    assert tiled.endswith(payload[end:])


@pytest.mark.parametrize("name", KINDS)
def test_says_what_it_was_made_from_and_where_its_parts_are(name: str) -> None:
    payload = KINDS[name]
    tiled = tile(payload)
    header = read_header(tiled)
    sign = sign_of(tiled, header)
    assert sign is not None
    assert (sign.crc, sign.length) == (google_crc32c.value(payload), len(payload))
    assert tiled.count(sign.to_bytes()) == 1
    assert sign.rest == google_crc32c.value(tiled.replace(sign.to_bytes(), b""))
    ends = header.scan_start + np.cumsum(sign.length_G)
    marks = [tiled[end - 2 : end] for end in ends.tolist()]
    assert marks == [bytes((0xFF, 0xD0 | number & 7)) for number in range(len(marks) - 1)] + [b"\xff\xd9"]
    assert sign_of(payload, read_header(payload)) is None


def test_is_the_same_bytes_every_time_and_not_done_twice() -> None:
    payload = sampled("420", 200, 150)
    assert tile(payload) == tile(payload)
    with pytest.raises(NotPlainError) as caught:
        tile(tile(payload))
    assert caught.value.reason == "tiled already"


def test_costs_about_no_bytes() -> None:
    payload = sampled("420", 600, 400, quality=90)  # simplejpeg takes the tables of the standard
    assert len(tile(payload)) < 1.01 * len(payload)


def test_parts_are_about_as_wide_as_they_should_and_divide_the_row() -> None:
    assert [interval_of(columns, 8, span=64) for columns in (63, 47, 40, 1, 8)] == [9, 47, 8, 1, 8]
    assert [interval_of(columns, 16, span=64) for columns in (32, 24, 31, 5)] == [4, 4, 1, 5]
    assert [interval_of(columns, 8) for columns in (63, 47, 40, 1, 8)] == [3, 1, 4, 1, 4]
    assert [interval_of(columns, 16) for columns in (32, 24, 31, 5)] == [2, 2, 1, 1]


def with_byte(payload: bytes, marker: int, place: int, value: int) -> bytes:
    """The payload with another byte at this place of its first segment of that marker."""
    data = next(data for found, data in segments_of(payload) if found == marker)
    start = payload.index(data)
    return payload[: start + place] + bytes((value,)) + payload[start + place + 1 :]


PLAIN = encoded(scene(3, 150, 97))
SCAN = next(data for marker, data in segments_of(PLAIN) if marker == 0xDA)
ODD = {
    "progressive": encoded(scene(3, 150, 97), progressive=True),
    "arithmetic": with_byte(PLAIN, 0xC0, 1, 0xC9),
    "lossless": with_byte(PLAIN, 0xC0, 1, 0xC3),
    "hierarchical": with_byte(PLAIN, 0xC0, 1, 0xC5),
    "12-bit": with_byte(PLAIN, 0xC0, 4, 12),
    "several scans": PLAIN.replace(SCAN, b"\xff\xda\x00\x08\x01" + SCAN[5:7] + SCAN[-3:]),
}


@pytest.mark.parametrize("reason", ODD)
def test_leaves_whole_what_is_not_plain(reason: str) -> None:
    with pytest.raises(NotPlainError) as caught:
        tile(ODD[reason])
    assert caught.value.reason == reason


def test_sees_a_second_scan_behind_the_first() -> None:
    end = PLAIN.rindex(b"\xff\xd9")
    with pytest.raises(NotPlainError) as caught:
        tile(PLAIN[:end] + SCAN + PLAIN[end:])
    assert caught.value.reason == "several scans"


@pytest.mark.parametrize("payload", [PLAIN, sampled("420", 90, 70), KINDS["restart every 5"]])
def test_refuses_every_cut(payload: bytes) -> None:
    for length in range(0, len(payload) - 2, 13):
        for cut in (payload[:length], payload[:length] + b"\xff\xd9"):
            with pytest.raises(NotPlainError):
                tile(cut)


@pytest.mark.parametrize("payload", [PLAIN, sampled("420", 90, 70), KINDS["restart every 5"], KINDS["Gray 150×97"]])
def test_damage_is_refused_or_stays_what_it_was(payload: bytes) -> None:
    """A flipped bit makes another file; if that is tiled, it must show what the file shows, or both are bad."""
    rng, tiled = np.random.default_rng(0), 0
    for place in rng.integers(0, 8 * len(payload), 400):
        damaged = bytearray(payload)
        damaged[place >> 3] ^= 1 << (place & 7)
        try:
            result = tile(bytes(damaged))
        except NotPlainError:
            continue
        tiled += 1
        try:
            pixels_HWC = decode(bytes(damaged))
        except ImageError:
            continue
        assert np.array_equal(decode(result), pixels_HWC)
    assert tiled > 20


def test_a_long_sign_goes_on_in_another_segment() -> None:
    length_G = np.arange(2, 90_002)
    sign = Sign(crc=7, length=1 << 31, rest=9, length_G=length_G)
    data, body = sign.to_bytes(), b""
    while data:
        stop = 2 + int.from_bytes(data[2:4], "big")
        assert data[:2] == b"\xff\xe9" and data[4:].startswith(SIGN)
        body, data = body + data[4 + len(SIGN) : stop], data[stop:]
    found = Sign.from_bytes(body, len(length_G))
    assert found is not None
    assert (found.crc, found.length) == (7, 1 << 31) and np.array_equal(found.length_G, length_G)
    assert Sign.from_bytes(body, len(length_G) - 1) is None


@pytest.mark.parametrize("seed", range(20))
def test_huffman_tables_are_valid_and_near_the_entropy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frequency = np.zeros(256, np.int64)
    some = rng.choice(256, rng.integers(1, 257), replace=False)
    frequency[some] = np.ceil(np.exp(rng.uniform(0, rng.uniform(1, 25), len(some)))).astype(np.int64)
    codes, bits = codes_of(*best_table(frequency))
    used = frequency > 0
    assert np.array_equal(bits > 0, used) and bits.max() <= MAX_LENGTH
    assert np.sum(0.5 ** bits[used]) < 1, "the code of ones alone is free"
    words = [f"{code:0{length}b}" for code, length in zip(codes[used].tolist(), bits[used].tolist(), strict=True)]
    ordered = sorted(words)
    assert not any(second.startswith(first) for first, second in itertools.pairwise(ordered))
    share = frequency[used] / frequency.sum()
    assert np.sum(share * bits[used]) < max(1.0, -np.sum(share * np.log2(share))) + 1.001


def test_huffman_codes_of_steep_frequencies_are_cut_to_16_bits() -> None:
    frequency = np.zeros(256, np.int64)
    frequency[:40] = [1, 1, *np.cumprod(np.full(38, 2))]
    _, bits = codes_of(*best_table(frequency))
    assert bits.max() == MAX_LENGTH and bits[39] == 1


@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no photographs in {PHOTOS}")
def test_photographs() -> None:
    for path in sorted(PHOTOS.iterdir())[::12]:
        payload = path.read_bytes()
        assert np.array_equal(decode(tile(payload)), decode(payload)), path.name
