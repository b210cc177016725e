"""What is tiled shows the same pixels, and what cannot be is kept and counted by reason."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.packing import tiled as room
from pipeline.packing.tiled import tiled, tiled_text
from pipeline.pictures.images import decode
from pipeline.pictures.jpeg_tiling import SIGN
from tests.jpegs import kinds
from tests.pictures import encoded, jpeg, scene


@pytest.mark.parametrize("name", kinds())
def test_the_pixels_are_those_of_the_original(name: str) -> None:
    payload = kinds()[name]
    made = tiled(payload)
    assert made.whole is None and SIGN in made.payload
    assert np.array_equal(decode(made.payload), decode(payload))


WHOLE = {
    "PNG": encoded(scene(1), "PNG"),
    "WEBP": encoded(scene(1), "WEBP"),
    "progressive": encoded(scene(1), progressive=True),
    "tiled already": tiled(jpeg(1)).payload,
    "cannot be decoded": b"GIF89a",
    "not understood": jpeg(1)[:900],
    "large": jpeg(1) + bytes(room.MOST_BYTES),
}


@pytest.mark.parametrize("reason", WHOLE)
def test_what_stays_whole_says_why(reason: str) -> None:
    made = tiled(WHOLE[reason])
    assert (made.payload, made.whole) == (WHOLE[reason], reason)


def test_other_pixels_are_never_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "tile", lambda payload: jpeg(2))
    assert tiled(jpeg(1)).whole == "other pixels"


def test_a_result_that_cannot_be_decoded_is_never_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "tile", lambda payload: payload[:900])
    assert tiled(jpeg(1)).whole == "cannot be decoded"


def test_the_text_says_what_was_tiled() -> None:
    assert tiled_text(1500, {}) == "1,500 tiled"
    assert tiled_text(1500, {"progressive": 20, "PNG": 3}) == "1,477 tiled, whole: 3 PNG, 20 progressive"
