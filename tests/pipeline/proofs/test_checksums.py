"""The thumbnail is what its description says, for any side; the checksum sees every byte."""

import google_crc32c
import numpy as np
import pytest

from pipeline.proofs.checksums import checksum, luma, samples, thumbnails
from tests.pictures import scene


def described(image_HWC):
    """The thumbnail by its description, one block at a time, in whole numbers."""
    step = -(-len(image_HWC) // 56)
    seen = image_HWC[::step, ::step].astype(int)
    grey, block = seen @ [77, 150, 29], np.arange(len(seen)) * 4 // len(seen)
    parts = [grey[np.ix_(block == i, block == j)] for i in range(4) for j in range(4)]
    return [(2 * int(part.sum()) + 256 * part.size) // (512 * part.size) for part in parts]


@pytest.mark.parametrize("side", [8, 9, 31, 32, 56, 57, 111, 112, 113, 224, 226, 384, 448, 512])
def test_luma_is_as_described(side):
    noise = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    for image in (scene(1, side, side), noise, np.full((side, side, 3), 255, np.uint8)):
        assert luma(image).tolist() == described(image)


def test_many_at_once_equal_one_at_a_time():
    images = [scene(seed, 32, 32) for seed in range(40)]
    together = thumbnails([samples(image) for image in images])
    assert together.tolist() == [luma(image).tolist() for image in images]
    assert thumbnails([]).shape == (0, 16)


def test_luma_tells_colour_order_shift_and_mirror():
    image = scene(1, 64, 64)
    for other in (image[..., ::-1], image[:, ::-1], image[::-1], np.roll(image, 16, axis=1)):
        assert np.abs(luma(np.ascontiguousarray(other)).astype(int) - luma(image)).max() > 2


def test_checksum_is_crc32c_of_the_bytes():
    image = scene(1, 32, 32)
    assert checksum(image) == google_crc32c.value(image.tobytes())
    changed = image.copy()
    changed[31, 31, 2] ^= 1
    assert checksum(changed) != checksum(image)
