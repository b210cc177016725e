"""Of a tiled picture only a part is decoded, and nobody can tell by the pixels."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ImageError, ShardError
from pipeline.picture_cache.kept import PictureCache
from pipeline.pictures.jpeg_tiling import tile
from pipeline.pictures.parts import decode_part
from pipeline.rendering import decoded
from pipeline.rendering.decoded import DecodedRows
from pipeline.rendering.renderer import Renderer
from pipeline.shards.index import scan
from pipeline.shards.same_pictures import moved_to
from pipeline.views.recipe import Recipe
from tests.drawing import CountingFiles, drawn
from tests.jpegs import kinds, sampled
from tests.pictures import write_tar

SIDE = 32
RECIPES = (
    Recipe(image_size=SIDE, mix_window=8, mix_prob=0.9),
    Recipe(image_size=SIDE, mix_prob=0.0, crop="center", crop_pct=0.9),
    Recipe(image_size=SIDE, crop="simple", interpolation="bilinear"),
)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same pictures of every kind, plain and tiled."""
    plain = [(name.replace(".", "_").replace(" ", "_"), payload) for name, payload in kinds().items()]
    plain += [(f"large{number}", sampled("420", 300, 200 + number, seed=number)) for number in range(8)]
    folder = tmp_path_factory.mktemp("both")
    return tuple(
        scan([str(write_tar(folder / name, ((f"{key}.jpg", change(payload)) for key, payload in plain)))])
        for name, change in (("plain.tar", bytes), ("tiled.tar", tile))
    )


@pytest.mark.parametrize(("recipe", "cache_bytes"), [*zip(RECIPES, (0, 150_000, 100 << 20), strict=True)])
def test_every_kind_has_the_same_checksums(both, recipe, cache_bytes):
    plain, tiled = both
    rows, views = np.tile(np.arange(len(plain)), 8), np.repeat(np.arange(8), len(plain))
    order = np.random.default_rng(0).permutation(len(rows))
    renderer = Renderer(recipe, tiled, tiled.files(), cache_bytes=cache_bytes)
    wanted = drawn(plain, recipe, rows, views)[1].crc_B
    for some in np.array_split(order, 40):
        out = np.empty((len(some), SIDE, SIDE, 3), np.uint8)
        assert np.array_equal(renderer.render(rows[some], views[some], out).crc_B, wanted[some])


@pytest.mark.parametrize("limit", [1 << 30, 400_000, 0], ids=["all", "some", "none"])
@pytest.mark.parametrize("which", [0, 1], ids=["plain", "tiled"])
def test_a_node_cache_changes_no_checksum(both, tmp_path, which, limit):
    """First while it fills, then from what is in it, by a renderer that has drawn nothing yet."""
    index, recipe = both[which], RECIPES[0]
    rows, views = np.tile(np.arange(len(index)), 3), np.repeat(np.arange(3), len(index))
    wanted = drawn(both[0], recipe, rows, views)[1].crc_B
    reads = []
    for _ in range(2):
        files = CountingFiles(index.urls)
        cache = PictureCache(tmp_path / "cache", limit).prepared()
        renderer = Renderer(recipe, index, files, cache_bytes=0, pictures=cache)
        for some in np.array_split(np.random.default_rng(1).permutation(len(rows)), 12):
            out = np.empty((len(some), SIDE, SIDE, 3), np.uint8)
            assert np.array_equal(renderer.render(rows[some], views[some], out).crc_B, wanted[some])
        reads.append(files.reads)
        assert cache.damaged == 0 and cache.used() <= limit and cache.takes == (limit > 400_000)
    assert reads[0] >= len(index) and (reads[1] == 0 if limit > 400_000 else reads[1] > len(index) // 2)


def test_of_a_kept_picture_only_the_rows_of_the_crop_are_read(both, tmp_path):
    plain, recipe = both[0], Recipe(image_size=SIDE, mix_prob=0.0, crop_scale=(0.05, 0.2))
    cache, row = PictureCache(tmp_path / "cache", 1 << 30).prepared(), len(plain) - 1
    drawn(plain, recipe, [row], [0], pictures=cache)
    rows = DecodedRows(recipe, plain, plain.files(), 0, cache)
    shown = rows.get(row, (40, 10, 30, 30))
    assert shown.pixels_HWC.shape == (48, 300, 3) and (shown.top, shown.left) == (32, 0)


def test_a_class_that_was_changed_is_noticed_though_the_picture_is_kept(tmp_path):
    members = [("a.jpg", sampled("420", 60, 50)), ("a.cls", b"1")]
    path = write_tar(tmp_path / "x.tar", members)
    index, cache = scan([str(path)]), PictureCache(tmp_path / "cache", 1 << 30).prepared()
    recipe = Recipe(image_size=SIDE, mix_prob=0.0)
    drawn(index, recipe, [0], [0], pictures=cache)
    write_tar(path, [members[0], ("a.cls", b"2")])
    with pytest.raises(ShardError, match="the shard was changed"):
        drawn(index, recipe, [0], [0], pictures=cache)


def test_one_view_is_drawn_from_its_part(both, monkeypatch):
    """As few pixels are decoded as promised, or the test above shows nothing."""
    tiled, held = both[1], []

    def spy(payload, box):
        held.append(decode_part(payload, box))
        return held[-1]

    monkeypatch.setattr(decoded, "decode_part", spy)
    rows = np.arange(len(tiled) - 8, len(tiled))
    drawn(tiled, Recipe(image_size=SIDE, mix_prob=0.0, crop_scale=(0.05, 0.2)), rows, np.zeros(8, np.int64))
    assert len(held) == 8
    for row, shown in zip(rows, held, strict=True):
        assert shown.nbytes < 0.75 * 3 * tiled.widths[row] * tiled.heights[row]


def test_a_row_that_comes_back_is_decoded_whole_and_kept(both):
    tiled = both[1]
    files = CountingFiles(tiled.urls)
    renderer = Renderer(Recipe(image_size=SIDE, mix_prob=0.0, crop_scale=(0.05, 0.2)), tiled, files)
    row, out = np.array([len(tiled) - 1]), np.empty((1, SIDE, SIDE, 3), np.uint8)
    reads = []
    for view in range(6):
        renderer.render(row, np.array([view]), out)
        reads.append(files.reads)
    assert reads == [1, 2, 2, 2, 2, 2]


def test_damage_since_the_scan_is_refused_as_of_plain_ones(both, tmp_path):
    for index in both:
        damaged = bytearray(Path(index.urls[0]).read_bytes())
        damaged[int(index.offsets[-1] + index.lengths[-1]) - 9] ^= 1
        path = tmp_path / Path(index.urls[0]).name
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match=r"the shard was changed or damaged\. Restore it"):
            drawn(moved_to(index, [str(path)]), Recipe(image_size=SIDE, mix_prob=0.0), [len(index) - 1], [0])


def test_another_size_than_was_indexed_is_refused(both):
    tiled = both[1]
    wrong = dataclasses.replace(tiled, widths=tiled.widths - (np.arange(len(tiled)) == len(tiled) - 1))
    with pytest.raises(ImageError, match="is 300 × 207 pixels, indexed as 299 × 207"):
        drawn(wrong, Recipe(image_size=SIDE, mix_prob=0.0, crop_scale=(0.05, 0.2)), [len(tiled) - 1], [0])
