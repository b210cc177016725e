"""What is drawn depends on (row, view) alone, follows the plan exactly, and is what timm would have drawn."""

import dataclasses
import gc
import io
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform

from pipeline.errors import ImageError
from pipeline.proofs.checksums import checksum, luma
from pipeline.rendering.noise import erase
from pipeline.rendering.operations import apply
from pipeline.rendering.renderer import Renderer, resize
from pipeline.shards.index import scan
from pipeline.shards.rows import payload_of
from pipeline.views.mixing import Kind
from pipeline.views.plan import plan_views
from pipeline.views.recipe import Recipe
from tests.drawing import ROWS, SIDE, VIEWS, CountingFiles, drawn
from tests.pictures import encoded, jpeg, scene, tiny_shards

DEIT = Recipe(image_size=SIDE, mix_window=8, mix_prob=0.9)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return scan(tiny_shards(tmp_path_factory.mktemp("shards"), rows=ROWS))


def table(index, recipe):
    rows, views = np.repeat(np.arange(ROWS), VIEWS), np.tile(np.arange(VIEWS), ROWS)
    out, rendered = drawn(index, recipe, rows, views)
    return out.reshape(ROWS, VIEWS, SIDE, SIDE, 3), rendered.crc_B.reshape(ROWS, VIEWS), rendered.luma_B16


@pytest.fixture(scope="module")
def known(index):
    return table(index, DEIT)


@given(picked=st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(0, VIEWS - 1)), max_size=12))
@settings(max_examples=25, deadline=None)
def test_a_view_does_not_depend_on_the_call(index, known, picked):
    """Any rows and views, in any order, some twice, partners there or not."""
    rows, views = [row for row, _ in picked], [view for _, view in picked]
    out, rendered = drawn(index, DEIT, rows, views, cache_bytes=20_000)
    pixels, crcs, lumas = known
    assert np.array_equal(out, pixels[rows, views])
    assert np.array_equal(rendered.crc_B, crcs[rows, views])
    assert np.array_equal(rendered.luma_B16, lumas.reshape(ROWS, VIEWS, 16)[rows, views])


def test_a_renderer_may_be_used_again_and_again(index, known):
    renderer = Renderer(DEIT, index, index.files(), cache_bytes=30_000)
    for start in (0, 7, 3, 0):
        rows, views = np.arange(start, start + 9), np.arange(9) % VIEWS
        out = np.empty((9, SIDE, SIDE, 3), np.uint8)
        renderer.render(rows, views, out)
        assert np.array_equal(out, known[0][rows, views])


def test_threads_change_nothing(index, known):
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        assert np.array_equal(table(index, DEIT)[0], known[0])
    finally:
        torch.set_num_threads(threads)


def test_checksum_and_thumbnail_are_those_of_the_pixels(known):
    pixels, crcs, lumas = known
    views = pixels.reshape(-1, SIDE, SIDE, 3)
    assert crcs.ravel().tolist() == [checksum(view) for view in views]
    assert lumas.tolist() == [luma(view).tolist() for view in views]


def test_a_row_is_read_once_a_call_and_again_only_when_it_left_the_cache(index):
    files = CountingFiles(index.urls)
    renderer = Renderer(DEIT, index, files, cache_bytes=0)
    rows, views = np.tile(np.arange(8), 4), np.repeat(np.arange(4), 8)
    out = np.empty((32, SIDE, SIDE, 3), np.uint8)
    renderer.render(rows, views, out)
    assert files.reads == 8
    renderer.render(rows[:8], views[:8], out[:8])
    assert files.reads == 8 + 8
    roomy = Renderer(DEIT, index, files)
    for _ in range(2):
        roomy.render(rows, views, out)
    assert files.reads == 8 + 8 + 8


def base_of(index, plan, i):
    """A view before mixing, by its plan, step by step, without the renderer."""
    top, left, height, width = plan.crop_B4[i]
    picture = np.array(Image.open(io.BytesIO(payload_of(index, index.files(), int(plan.row_B[i])))).convert("RGB"))
    image = np.empty((SIDE, SIDE, 3), np.uint8)
    resize(picture[top : top + height, left : left + width], image, cubic=bool(plan.cubic_B[i]))
    image = np.ascontiguousarray(image[:, ::-1]) if plan.flip_B[i] else image
    for op, argument, cubic in zip(plan.op_BL[i], plan.argument_BL[i], plan.op_cubic_BL[i], strict=True):
        if op:
            apply(int(op), int(argument), image, cubic=bool(cubic))
    if plan.erase_B4[i, 2]:
        erase(image, plan.erase_B4[i].tolist(), int(plan.key_B[i]), int(plan.view_B[i]), DEIT.seed)
    return image


def test_the_plan_is_executed_to_the_letter(index, known):
    rows = np.arange(ROWS)
    plan = plan_views(DEIT, index, rows, np.zeros(ROWS, int))
    base = np.stack([base_of(index, plan, row) for row in rows])
    mixing = plan.mixing
    assert set(mixing.kind_B.tolist()) == set(Kind)
    for row in rows:
        expected, partner = base[row].copy(), base[mixing.partner_B[row]]
        if mixing.kind_B[row] == Kind.MIXUP:
            share = round(mixing.lam_B[row] * 256)
            exact = share * base[row].astype(int) + (256 - share) * partner.astype(int)
            whole, rest = np.divmod(exact, 256)
            expected = whole + ((rest > 128) | ((rest == 128) & (whole % 2 == 1)))
        elif mixing.kind_B[row] == Kind.CUTMIX:
            top, left, height, width = mixing.box_B4[row]
            box = slice(top, top + height), slice(left, left + width)
            expected[box] = partner[box]
        assert np.array_equal(known[0][row, 0], expected), row


def test_mixing_does_not_change_the_other_draws(index):
    plain = Recipe(image_size=SIDE, mix_window=8, mixup=0, cutmix=0)
    mixed, base = (plan_views(recipe, index, np.arange(ROWS), np.zeros(ROWS, int)) for recipe in (DEIT, plain))
    assert np.array_equal(mixed.crop_B4, base.crop_B4)
    assert np.array_equal(mixed.argument_BL, base.argument_BL)


@pytest.mark.parametrize("cubic", [True, False])
def test_resize_is_pillows_within_two_levels(cubic):
    filters = {True: Image.Resampling.BICUBIC, False: Image.Resampling.BILINEAR}
    rng = np.random.default_rng(0)
    for height, width, side in [(375, 500, 64), (20, 30, 224), (1, 1, 32), (3, 200, 32), (64, 64, 64), (300, 7, 64)]:
        for picture in (scene(1, width, height) if min(height, width) > 2 else None, None):
            image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8) if picture is None else picture
            ours = np.empty((side, side, 3), np.uint8)
            resize(image, ours, cubic=cubic)
            theirs = np.asarray(Image.fromarray(image).resize((side, side), filters[cubic]))
            difference = np.abs(ours.astype(int) - theirs)
            assert difference.max() <= (2 if cubic else 1)
            assert (difference > 0).mean() < 0.03


@pytest.mark.parametrize("size", [(64, 48), (20, 30), (33, 33), (500, 120)])
@pytest.mark.parametrize("pct", [0.875, 1.0])
def test_centre_crops_are_timms_evaluation_within_two_levels(tmp_path, size, pct):
    index = scan(tiny_shards(tmp_path, rows=3, shards=1, size=size))
    recipe = Recipe.preset("none", image_size=SIDE, crop_pct=pct)
    transform = create_transform(SIDE, is_training=False, interpolation="bicubic", crop_pct=pct, normalize=False)
    out, _ = drawn(index, recipe, range(3), [0] * 3)
    for row in range(3):
        image = Image.open(io.BytesIO(payload_of(index, index.files(), row))).convert("RGB")
        theirs = transform(image).permute(1, 2, 0).numpy()
        assert np.abs(out[row].astype(int) - theirs).max() <= 2


def test_simple_crops_show_the_reflected_border(tmp_path):
    index = scan(tiny_shards(tmp_path, rows=40, shards=1, size=(SIDE, SIDE)))
    recipe = Recipe.preset("none", image_size=SIDE, crop="simple")
    out, _ = drawn(index, recipe, range(40), [0] * 40)
    plan = plan_views(recipe, index, np.arange(40), np.zeros(40, int))
    for row in range(40):
        image = np.asarray(Image.open(io.BytesIO(payload_of(index, index.files(), row))).convert("RGB"))
        top, left = plan.offset_B2[row]
        padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
        assert np.array_equal(out[row], padded[top : top + SIDE, left : left + SIDE])


@pytest.mark.parametrize("version", [1, 2])
def test_a_simple_crop_of_the_corner_shows_the_corner_since_version_2(tmp_path, version):
    index = scan(tiny_shards(tmp_path, rows=1, shards=1, size=(SIDE, SIDE)))
    recipe = Recipe.preset("none", image_size=SIDE, crop="simple")
    corner = (plan_views(recipe, index, np.zeros(400, int), np.arange(400)).offset_B2 == 0).all(1)
    assert 0 < corner.sum() < 20
    out, _ = drawn(index, dataclasses.replace(recipe, version=version), [0], [int(corner.argmax())])
    image = np.asarray(Image.open(io.BytesIO(payload_of(index, index.files(), 0))).convert("RGB"))
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    assert np.array_equal(out[0], image if version == 1 else padded[:SIDE, :SIDE])


@pytest.mark.parametrize("name", ["deit", "light", "three", "none"])
def test_every_preset_draws(index, name):
    for interpolation in ("bicubic", "bilinear", "random"):
        recipe = Recipe.preset(name, image_size=SIDE, mix_window=8, interpolation=interpolation)
        out, rendered = drawn(index, recipe, range(ROWS), [1] * ROWS)
        assert len(set(rendered.crc_B.tolist())) == ROWS
        assert out.std() > 20


def test_one_pixel_pictures(tmp_path):
    dot = encoded(np.full((1, 1, 3), 90, np.uint8), "PNG")
    index = scan(tiny_shards(tmp_path, rows=4, shards=1, replace={0: dot}))
    for crop in ("random", "center", "simple"):
        out, _ = drawn(index, Recipe.preset("none", image_size=SIDE, crop=crop), [0], [0])
        assert (out == 90).all()


BAD = {3: jpeg(3)[:-300], 5: b"\xff\xd8\xff\xe0 not a picture"}


@pytest.mark.parametrize("row", sorted(BAD))
def test_a_bad_picture_is_refused_with_its_key(tmp_path, row):
    index = scan(tiny_shards(tmp_path, rows=8, shards=1, replace=BAD))
    with pytest.raises(ImageError) as error:
        drawn(index, Recipe.preset("light", image_size=SIDE), [0, row], [0, 0])
    start = f"{index.urls[0]}: the image of row {row} ('s0/{row:06d}') cannot be decoded as JPEG: "
    assert str(error.value).startswith(start)
    assert str(error.value).endswith(
        "Remove it from the shards, or give --on-bad-image grey to draw a plain grey picture in its place."
    )


def test_a_bad_picture_may_be_grey_and_is_reported(tmp_path):
    index = scan(tiny_shards(tmp_path, rows=8, shards=1, replace=BAD))
    recipe = Recipe.preset("light", image_size=SIDE, on_bad_image="grey")
    out, rendered = drawn(index, recipe, range(8), [0] * 8)
    assert rendered.bad_rows == (3, 5)
    assert (out[[3, 5]] == 128).all()
    clean = scan(tiny_shards(tmp_path / "clean", rows=8, shards=1))
    good = [0, 1, 2, 4, 6, 7]
    assert np.array_equal(out[good], drawn(clean, recipe, range(8), [0] * 8)[0][good])


def test_a_bad_partner_outside_the_call_is_reported_too(tmp_path):
    index = scan(tiny_shards(tmp_path, rows=2, shards=1, replace={1: BAD[5]}))
    recipe = Recipe(image_size=SIDE, mix_window=2, on_bad_image="grey", mixup=100.0, cutmix=0.0)
    _, rendered = drawn(index, recipe, [0], [0])
    assert rendered.bad_rows == (1,)


def test_an_empty_call(index):
    _, rendered = drawn(index, DEIT, [], [])
    assert rendered.crc_B.shape == (0,)
    assert rendered.luma_B16.shape == (0, 16)


def test_nothing_of_a_call_stays_behind(index):
    """Mates know each other while they are drawn; a cycle left over would hold their pixels until a collection."""
    gc.collect()
    gc.disable()
    try:
        out = np.empty((6, SIDE, SIDE, 3), np.uint8)
        renderer = Renderer(DEIT, index, index.files())
        renderer.render(np.array([0, 1, 2, 3, 3, 9]), np.zeros(6, np.int64), out)
        held = sys.getrefcount(out)
        renderer.render(np.array([0, 1, 2, 3, 3, 9]), np.zeros(6, np.int64), out)
        assert sys.getrefcount(out) == held == 2
    finally:
        gc.enable()
