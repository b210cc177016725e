"""Erased boxes hold the noise that timm would have written, and a view always the same."""

import numpy as np
from scipy import stats

from pipeline.rendering.noise import erase, levels
from pipeline.views.imagenet import MEAN, STD


def noise(box, key=1, view=0, seed=0, side=200):
    image = np.zeros((side, side, 3), np.uint8)
    erase(image, box, key, view, seed)
    return image


def test_only_the_box_changes():
    image = noise((3, 5, 40, 60))
    inside = image[3:43, 5:65].copy()
    image[3:43, 5:65] = 0
    assert not image.any()
    assert inside.any()


def test_each_channel_is_normal_around_the_imagenet_statistics_and_cut_to_bytes():
    image = noise((0, 0, 200, 200)).reshape(-1, 3)
    for channel in range(3):
        edges = np.arange(1, 256) - 0.5
        exact = stats.norm(255 * MEAN[channel], 255 * STD[channel]).cdf(edges)
        found = np.searchsorted(np.sort(image[:, channel]), edges) / len(image)
        assert np.abs(found - exact).max() < 0.012
    assert np.abs(np.corrcoef(image.T) - np.eye(3)).max() < 0.03


def test_key_view_and_seed_all_matter():
    box = (0, 0, 20, 20)
    cases = [noise(box), noise(box, key=2), noise(box, view=1), noise(box, seed=1), noise(box, key=1 << 63)]
    assert len({case.tobytes() for case in cases}) == len(cases)
    assert np.array_equal(noise(box), noise(box))


def test_words_fill_the_box_channel_by_channel():
    stream = np.random.Philox(key=7 | 3 << 64, counter=5 << 64 | 6 << 128).random_raw(5).astype("<u8").view("<u2")
    image = noise((0, 0, 2, 3), key=7, view=5, seed=3)
    assert image[:2, :3].transpose(2, 0, 1).ravel().tolist() == [
        levels()[place // 6, word] for place, word in enumerate(stream[:18])
    ]
