"""What was drawn before is read, and nobody can tell by the pixels, the checksums or the errors."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import PictureCacheError
from pipeline.pictures.jpeg_tiling import tile
from pipeline.rendering import view_cache
from pipeline.rendering.loader import Loader
from pipeline.rendering.renderer import Rendered, Renderer
from pipeline.rendering.view_cache import CachedRenderer, ViewCache, drawer, views_in
from pipeline.shards.index import SampleIndex, scan
from pipeline.shards.rows import ChangedRowError
from pipeline.shards.same_pictures import moved_to
from pipeline.views.recipe import Recipe
from tests.drawing import drawn
from tests.jpegs import sampled
from tests.pictures import tiny_shards, write_tar

ROWS, VIEWS, SIDE = 22, 3, 32
RECIPE = Recipe(image_size=SIDE, mix_window=8, mix_prob=0.9)
ALL = np.tile(np.arange(ROWS), VIEWS), np.repeat(np.arange(VIEWS), ROWS)
FILE_BYTES = 4096


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SampleIndex:
    return scan(tiny_shards(tmp_path_factory.mktemp("shards"), rows=ROWS))


def open_cache(folder: Path, index: SampleIndex, recipe: Recipe = RECIPE, *, limit: int = 1 << 30) -> ViewCache:
    return views_in(folder, limit, recipe, index, VIEWS)


def brought(
    index: SampleIndex, cache: ViewCache, rows: np.ndarray, views: np.ndarray, recipe: Recipe = RECIPE
) -> tuple[np.ndarray, Rendered, CachedRenderer]:
    out_BHWC = np.empty((len(rows), SIDE, SIDE, 3), np.uint8)
    renderer = CachedRenderer(Renderer(recipe, index, index.files()), cache)
    return out_BHWC, renderer.render(np.asarray(rows), np.asarray(views), out_BHWC), renderer


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("views-*/??/*"))


@pytest.mark.parametrize(("room", "holds"), [(1 << 30, ROWS * VIEWS), (20 * FILE_BYTES, 20), (0, 0)])
def test_the_same_pixels_and_proofs(index: SampleIndex, tmp_path: Path, room: int, holds: int) -> None:
    """In batches of which all, some or none are kept, with repeats and partners in them or not; and the bound holds."""
    wanted_BHWC, wanted = drawn(index, RECIPE, *ALL)
    generator, found = np.random.default_rng(0), 0
    order = np.concatenate([generator.integers(0, len(wanted_BHWC), 234), generator.permutation(len(wanted_BHWC))])
    for number, some in enumerate(np.array_split(order, 24)):
        cache = open_cache(tmp_path, index, limit=room)
        got_BHWC, got, renderer = brought(index, cache, ALL[0][some], ALL[1][some])
        assert np.array_equal(got_BHWC, wanted_BHWC[some]) and np.array_equal(got.crc_B, wanted.crc_B[some])
        assert np.array_equal(got.luma_B16, wanted.luma_B16[some])
        spent = renderer.take_effort()
        assert spent.views == len(some) and spent.seconds >= spent.finding + spent.saving and not cache.kept.damaged
        assert (number > 0 or not spent.found) and renderer.take_effort().views == 0
        found += spent.found
    assert len(files_in(tmp_path)) == holds and cache.kept.used() == holds * FILE_BYTES
    assert found > 150 if holds > 20 else found > 40 if holds else found == 0


def test_one_that_is_removed_while_it_is_in_use_takes_no_more(
    index: SampleIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By hand, or by another version."""
    cache = open_cache(tmp_path, index)
    assert cache.fills
    for place in tmp_path.glob("views-*"):
        shutil.rmtree(place)
    assert not cache.fills and not cache.fills and not cache.kept.takes
    assert caplog.text.count("no more views are kept") == 1


def test_nothing_is_drawn_of_what_is_kept(index: SampleIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted_BHWC, wanted = drawn(index, RECIPE, *ALL)
    brought(index, open_cache(tmp_path, index), *ALL)
    monkeypatch.setattr(Renderer, "render", lambda *_: pytest.fail("it was drawn"))
    got_BHWC, got, renderer = brought(index, pickle.loads(pickle.dumps(open_cache(tmp_path, index))), *ALL)
    assert np.array_equal(got_BHWC, wanted_BHWC) and np.array_equal(got.crc_B, wanted.crc_B)
    assert renderer.take_effort().found == len(ALL[0])


def test_who_labels_leaves_views_and_believes_none(index: SampleIndex, tmp_path: Path) -> None:
    """Entries that are whole and of other pixels: nobody could tell, if what is labelled were read."""
    wanted = drawn(index, RECIPE, *ALL)[1].crc_B
    wrong = open_cache(tmp_path, index)
    for row, view in zip(*ALL, strict=True):
        wrong.keep(int(row), int(view), np.full((SIDE, SIDE, 3), row, np.uint8))
    assert not np.array_equal(brought(index, open_cache(tmp_path, index), *ALL)[1].crc_B, wanted)
    for folder in (tmp_path, tmp_path / "empty"):
        cache = views_in(folder, 1 << 30, RECIPE, index, VIEWS, reads=False)
        assert np.array_equal(brought(index, cache, *ALL)[1].crc_B, wanted)
    assert brought(index, open_cache(tmp_path / "empty", index), *ALL)[2].take_effort().found == len(wanted)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_share_it(index: SampleIndex, tmp_path: Path, workers: int) -> None:
    wanted = drawn(index, RECIPE, *ALL)[1].crc_B
    for epoch in range(2):
        cache = open_cache(tmp_path, index)
        with Loader(RECIPE, index, batch=10, workers=workers, view_cache=cache) as loader:
            requests = [(ALL[0][start : start + 10], ALL[1][start : start + 10]) for start in range(0, len(wanted), 10)]
            got = np.concatenate([slot.crc_B.copy() for slot in loader.render(requests)])
        assert np.array_equal(got, wanted)
        assert loader.effort.found == epoch * len(wanted) and loader.effort.views == len(wanted)


def test_damage_is_drawn_anew(index: SampleIndex, tmp_path: Path) -> None:
    """A bit in each file, in turn in its head and in its pixels, and one view under another's name."""
    wanted = drawn(index, RECIPE, *ALL)[1].crc_B
    brought(index, open_cache(tmp_path, index), *ALL)
    files = files_in(tmp_path)
    for number, path in enumerate(files[1:]):
        data = bytearray(path.read_bytes())
        data[[20, len(data) // 2, -1][number % 3]] ^= 4
        path.write_bytes(data)
    files[0].write_bytes(sorted(tmp_path.glob("views-*/??/*"))[-1].read_bytes())
    cache = open_cache(tmp_path, index)
    _, got, renderer = brought(index, cache, *ALL)
    assert np.array_equal(got.crc_B, wanted) and cache.kept.damaged == len(files)
    assert renderer.take_effort().found == 0 and files_in(tmp_path) == files
    assert brought(index, open_cache(tmp_path, index), *ALL)[2].take_effort().found == len(files)


def test_views_of_other_recipes_and_pictures_lie_side_by_side(index: SampleIndex, tmp_path: Path) -> None:
    """A folder is shared by stores: none takes another's view, and none drives another's out."""
    other = scan(tiny_shards(tmp_path / "other", rows=ROWS, seed=5))
    seeded = dataclasses.replace(RECIPE, seed=1)
    cases = [(index, RECIPE), (index, seeded), (other, RECIPE)]
    for known in (False, True):
        for data, recipe in cases:
            cache = open_cache(tmp_path / "cache", data, recipe)
            _, got, renderer = brought(data, cache, *ALL, recipe)
            assert np.array_equal(got.crc_B, drawn(data, recipe, *ALL)[1].crc_B)
            assert renderer.take_effort().found == known * len(ALL[0])
    assert len(files_in(tmp_path / "cache")) == 3 * len(ALL[0])


def test_tiled_shards_have_the_views_of_the_plain_ones(tmp_path: Path) -> None:
    plain, tiled = (
        scan([str(write_tar(tmp_path / name, [("a.jpg", change(sampled("420", 300, 200, seed=1)))]))])
        for name, change in (("plain.tar", bytes), ("tiled.tar", tile))
    )
    row, view = np.zeros(3, np.int64), np.arange(3)
    brought(plain, open_cache(tmp_path / "cache", plain), row, view)
    moved = moved_to(plain, tiled.urls)
    assert brought(moved, open_cache(tmp_path / "cache", moved), row, view)[2].take_effort().found == 3


def test_of_another_version_nothing_is_left(
    index: SampleIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a folder of pictures beside it, or of somebody else, stays."""
    before = drawer()
    brought(index, open_cache(tmp_path, index), *ALL)
    (tmp_path / "pictures-0123456789abcdef").mkdir()
    (tmp_path / "pictures-0123456789abcdef" / "ledger").write_bytes(b"")
    for module in (view_cache.torch, view_cache.cv2):
        drawer.cache_clear()
        with monkeypatch.context() as patched:
            patched.setattr(module, "__version__", "another")
            assert drawer() != before
            assert brought(index, open_cache(tmp_path, index), *ALL)[2].take_effort().found == 0
    drawer.cache_clear()
    assert drawer() == before
    assert brought(index, open_cache(tmp_path, index), *ALL)[2].take_effort().found == 0
    assert len(list(tmp_path.glob("views-*"))) == 1 and (tmp_path / "pictures-0123456789abcdef" / "ledger").exists()


def test_whatever_decides_a_pixel_is_in_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A letter in any module that draws or plans, or another decoder; and none in those that only hand views on."""
    known, same = {drawer()}, set()
    for name, room in (("HERE", view_cache.HERE), ("VIEWS", view_cache.VIEWS)):
        copy = shutil.copytree(room, tmp_path / name)
        with monkeypatch.context() as patched:
            patched.setattr(view_cache, name, copy)
            for path in sorted(copy.glob("*.py")):
                path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
                drawer.cache_clear()
                same |= {path.stem} if drawer() in known else set()
                known.add(drawer())
    with monkeypatch.context() as patched:
        patched.setattr(view_cache, "decoder", lambda: bytes(8))
        drawer.cache_clear()
        assert drawer() not in known
    drawer.cache_clear()
    assert same == set(view_cache.NO_PIXELS) and len(known) > 12
    drawing = {path.stem for path in view_cache.HERE.glob("*.py")} - same
    assert drawing == {"decoded", "noise", "operations", "renderer"}, "a new module draws, or is one of NO_PIXELS"


def test_a_grey_picture_is_reported_each_time(tmp_path: Path) -> None:
    """What it was mixed with is not kept either, the others are."""
    members = [(f"{row}.jpg", sampled("420", 60, 50, seed=row) if row != 3 else b"\xff\xd8broken") for row in range(8)]
    index = scan([str(write_tar(tmp_path / "x.tar", members))])
    recipe = Recipe(image_size=SIDE, mix_window=8, mix_prob=1.0, on_bad_image="grey")
    row, view = np.arange(8), np.zeros(8, np.int64)
    wanted = drawn(index, recipe, row, view)[1]
    for known in (0, 6):
        _, got, renderer = brought(index, open_cache(tmp_path / "cache", index, recipe), row, view, recipe)
        assert np.array_equal(got.crc_B, wanted.crc_B) and got.bad_rows == (3,)
        assert renderer.take_effort().found == known


def test_a_class_that_was_changed_is_noticed_though_the_view_is_kept(tmp_path: Path) -> None:
    members = [("a.jpg", sampled("420", 60, 50)), ("a.cls", b"1")]
    path = write_tar(tmp_path / "x.tar", members)
    index = scan([str(path)])
    row = view = np.zeros(1, np.int64)
    brought(index, open_cache(tmp_path / "cache", index), row, view)
    write_tar(path, [members[0], ("a.cls", b"2")])
    with pytest.raises(ChangedRowError, match="the shard was changed"):
        brought(index, open_cache(tmp_path / "cache", index), row, view)


def test_what_fits_is_told(index: SampleIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    open_cache(tmp_path, index)
    open_cache(tmp_path, index, limit=ROWS * VIEWS * FILE_BYTES // 2)
    told, warned = caplog.messages
    assert told == f"view cache {tmp_path}: 66 views take 0.3 MB drawn; it holds 0.0 MB"
    caplog.clear()
    brought(index, open_cache(tmp_path, index), *ALL)
    size = 66 * FILE_BYTES
    for recipe, limit, level in (
        (RECIPE, size, "INFO"), (RECIPE, size // 2, "INFO"), (dataclasses.replace(RECIPE, seed=1), size, "WARNING")
    ):  # fmt: skip
        caplog.clear()
        open_cache(tmp_path, index, recipe, limit=limit)
        assert [record.levelname for record in caplog.records] == [level]
    assert "it holds 0.3 MB, and 0.0 MB more --view-cache-size allows: about 0 % of the views" in caplog.messages[0]
    assert warned.endswith(
        "and 0.1 MB more --view-cache-size allows: about 50 % of the views will be kept, the others are drawn each time"
    )
    caplog.clear()
    some = dataclasses.replace(index, classes=np.where(np.arange(ROWS) % 2, -1, index.classes))
    views_in(tmp_path, size, RECIPE, some, VIEWS, labelled_only=True)
    assert "33 views take 0.1 MB drawn" in caplog.messages[0]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        PictureCacheError, match=r"^the view cache .* cannot be used: .*\. Give another --view-cache\.$"
    ):
        open_cache(tmp_path / "file", index)
