"""Plans are functions of (key, view, seed) alone, and their boxes and factors are distributed as timm's."""

from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from timm.data import random_erasing as timm_erasing
from timm.data import transforms as timm_transforms
from torchvision import transforms

from pipeline.shards.key_hash import key_hashes
from pipeline.views.operation_table import ARGUMENT_ONE, Op
from pipeline.views.plan import plan_views
from pipeline.views.recipe import Recipe

VIEWS = 4000


class Sizes(SimpleNamespace):
    """What a plan reads of an index: keys and sizes."""

    def __len__(self):
        return len(self.key_hash)


def index_of(sizes, prefix=b""):
    width, height = np.array(sizes, np.int32).T
    keys = key_hashes(prefix + b"%d" % row for row in range(len(sizes)))
    return Sizes(key_hash=keys, widths=width, heights=height)


def many(recipe, width=500, height=375, count=VIEWS):
    return plan_views(recipe, index_of([(width, height)] * count), np.arange(count), np.zeros(count, np.int64))


def columns(plan):
    """Every array of a plan, those of its mixing too, by name."""
    flat = {
        field.name: getattr(plan, field.name)
        for field in fields(plan)
        if field.name not in ("mixing", "pad", "image_size")
    }
    return {**flat, **{field.name: getattr(plan.mixing, field.name) for field in fields(plan.mixing)}}


RECIPES = [
    Recipe(),
    Recipe(randaugment="", interpolation="random", crop="simple"),
    Recipe.preset("three"),
    Recipe.preset("none"),
    Recipe(randaugment="rand-n3-t3a", mix_window=2),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.fingerprint()[:6])
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_a_view_does_not_depend_on_what_else_is_planned(recipe, data):
    index = index_of([(30 + 7 * row % 50, 20 + 5 * row % 90) for row in range(23)])
    row_B, view_B = np.repeat(np.arange(23), 3), np.tile(np.arange(3), 23)
    table = columns(plan_views(recipe, index, row_B, view_B))
    pick = np.array(data.draw(st.lists(st.integers(0, 68), max_size=20)), np.int64)
    part = columns(plan_views(recipe, index, row_B[pick], view_B[pick]))
    for name, values in part.items():
        assert np.array_equal(values, table[name][pick]), name


def test_key_view_and_seed_all_matter_and_the_row_number_does_not():
    sizes = [(100, 80)] * 4
    base = plan_views(Recipe(), index_of(sizes), np.arange(4), np.zeros(4, int))
    moved = plan_views(Recipe(), index_of([(1, 1), *sizes]), np.arange(1, 5), np.zeros(4, int))
    moved_keys = index_of([(1, 1), *sizes])
    moved_keys.key_hash[1:] = index_of(sizes).key_hash
    again = plan_views(Recipe(), moved_keys, np.arange(1, 5), np.zeros(4, int))
    assert np.array_equal(again.crop_B4, base.crop_B4)
    for other in (
        moved,
        plan_views(Recipe(), index_of(sizes), np.arange(4), np.ones(4, int)),
        plan_views(Recipe(seed=1), index_of(sizes), np.arange(4), np.zeros(4, int)),
    ):
        assert (other.crop_B4 != base.crop_B4).any(axis=1).all()


@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    scale=st.sampled_from([(0.08, 1.0), (0.9, 1.0), (0.01, 0.02)]),
    ratio=st.sampled_from([(3 / 4, 4 / 3), (0.1, 10.0), (1.0, 1.0)]),
)
@settings(max_examples=40, deadline=None)
def test_random_crops_lie_inside_the_picture(width, height, scale, ratio):
    plan = many(Recipe(crop_scale=scale, crop_ratio=ratio), width, height, 40)
    top, left, tall, wide = plan.crop_B4.T
    assert (top >= 0).all() and (left >= 0).all() and (tall >= 1).all() and (wide >= 1).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()


@pytest.mark.parametrize(("width", "height"), [(500, 375), (90, 400), (33, 20)])
def test_random_crops_are_distributed_as_timms(width, height):
    crop_B4 = many(Recipe(), width, height).crop_B4
    image = Image.new("RGB", (width, height))
    timm_transforms.random.seed(0)
    get = timm_transforms.RandomResizedCropAndInterpolation.get_params
    theirs = np.array([get(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(VIEWS)])
    for column, name in enumerate(("top", "left", "height", "width")):
        assert stats.ks_2samp(crop_B4[:, column], theirs[:, column]).pvalue > 1e-4, name
    for measure in (lambda box: box[:, 2] * box[:, 3], lambda box: box[:, 3] / box[:, 2]):
        assert stats.ks_2samp(measure(crop_B4), measure(theirs)).pvalue > 1e-4


@pytest.mark.parametrize(("width", "height"), [(1000, 10), (10, 1000), (10, 10), (7, 11)])
def test_the_fallback_is_timms(width, height):
    """With a scale above what the ratio allows nothing ever fits, and the box is the central one."""
    plan = many(Recipe(crop_scale=(1.0, 1.0), crop_ratio=(2.0, 3.0)), width, height, 5)
    get = timm_transforms.RandomResizedCropAndInterpolation.get_params
    theirs = get(Image.new("RGB", (width, height)), (1.0, 1.0), (2.0, 3.0))
    assert (plan.crop_B4 == theirs).all()


@given(
    width=st.integers(1, 600), height=st.integers(1, 600), side=st.integers(8, 64), pct=st.sampled_from([0.875, 0.9, 1])
)
@settings(max_examples=60, deadline=None)
def test_centre_crops_have_torchvisions_geometry(width, height, side, pct):
    width, height = min(width, 8 * height), min(height, 8 * width)
    plan = many(Recipe.preset("none", image_size=side, crop_pct=pct), width, height, 1)
    resized = transforms.Resize(int(side / pct))(Image.new("L", (width, height)))
    assert plan.crop_B4[0].tolist() == [0, 0, height, width]
    assert plan.resize_B2[0].tolist() == [resized.height, resized.width]
    assert plan.offset_B2[0].tolist() == [round((resized.height - side) / 2), round((resized.width - side) / 2)]


def test_a_very_long_picture_is_cut_before_it_is_resized():
    plan = many(Recipe.preset("none", image_size=32), 10_000, 10, 1)
    assert plan.crop_B4[0].tolist() == [0, 4960, 10, 80]
    assert plan.resize_B2[0].tolist() == [36, 288]


def test_simple_crops_shift_by_up_to_four_pixels():
    plan = many(Recipe(crop="simple", image_size=32), 100, 50)
    assert plan.pad == 4
    assert plan.resize_B2[0].tolist() == [32, 64]
    assert np.bincount(plan.offset_B2[:, 0]).tolist() == pytest.approx([VIEWS / 9] * 9, abs=100)
    assert plan.offset_B2[:, 1].max() == 40


def test_an_unreadable_picture_has_a_plan():
    plan = plan_views(Recipe(), index_of([(0, 0), (10, 10)]), np.arange(2), np.zeros(2, int))
    assert (plan.crop_B4[:, 2:] >= 1).all()


def test_flips_and_filters_follow_their_probabilities():
    plan = many(Recipe(flip=0.3, interpolation="random"))
    assert abs(plan.flip_B.mean() - 0.3) < 0.03
    assert abs(plan.cubic_B.mean() - 0.5) < 0.03
    assert abs(plan.op_cubic_BL.mean() - 0.5) < 0.03
    assert many(Recipe(), count=5).cubic_B.all()
    assert not many(Recipe(interpolation="bilinear"), count=5).op_cubic_BL.any()


def test_erased_boxes_are_distributed_as_timms():
    side = 48
    plan = many(Recipe(erase=0.5, image_size=side))
    ours = plan.erase_B4[plan.erase_B4[:, 2] > 0]
    timm_erasing.random.seed(0)
    erasing, theirs = timm_erasing.RandomErasing(0.5, mode="const", device="cpu"), []
    for _ in range(VIEWS):
        rows, cols = torch.where(erasing(torch.ones(1, side, side))[0] == 0)
        if len(rows):
            top, left = int(rows.min()), int(cols.min())
            theirs.append((top, left, int(rows.max()) + 1 - top, int(cols.max()) + 1 - left))
    assert abs(len(ours) - len(theirs)) < 5 * np.sqrt(VIEWS / 2)
    for column, name in enumerate(("top", "left", "height", "width")):
        assert stats.ks_2samp(ours[:, column], np.array(theirs)[:, column]).pvalue > 1e-4, name
    assert (ours[:, :2] + ours[:, 2:] <= side).all()


def test_colour_jitter_is_distributed_as_torchvisions():
    plan = many(Recipe(randaugment="", color_jitter=0.3))
    torch.manual_seed(0)
    theirs = [transforms.ColorJitter.get_params((0.7, 1.3), (0.7, 1.3), (0.7, 1.3), None) for _ in range(VIEWS)]
    order = np.array([[step for step in item[0].tolist() if step < 3] for item in theirs])
    ours = np.searchsorted([Op.COLOR, Op.CONTRAST, Op.BRIGHTNESS], plan.op_BL)  # saturation, contrast, brightness
    code = (2 - ours) @ [9, 3, 1]
    tables = [np.bincount(values, minlength=27) for values in (code, order @ [9, 3, 1])]
    used = tables[0] > 0
    assert used.sum() == 6
    assert stats.chi2_contingency(np.stack([table[used] for table in tables])).pvalue > 1e-4
    for op, place in ((Op.BRIGHTNESS, 1), (Op.CONTRAST, 2), (Op.COLOR, 3)):
        factor = plan.argument_BL[plan.op_BL == op] / ARGUMENT_ONE
        assert stats.ks_2samp(factor, [item[place] for item in theirs]).pvalue > 1e-4


def test_three_augment_picks_one_of_three_and_then_jitters():
    plan = many(Recipe.preset("three"))
    first = plan.op_BL[:, 0]
    counts = {op: (first == op).mean() for op in (Op.COLOR, Op.SOLARIZE, Op.BLUR)}
    assert all(abs(share - 1 / 3) < 0.03 for share in counts.values())
    argument = plan.argument_BL[:, 0] / ARGUMENT_ONE
    assert (argument[first == Op.COLOR] == 0).all()
    assert (argument[first == Op.SOLARIZE] == 128).all()
    assert stats.kstest(argument[first == Op.BLUR], stats.uniform(0.1, 1.9).cdf).pvalue > 1e-4
    assert sorted(set(plan.op_BL[:, 1:].ravel().tolist())) == [Op.COLOR, Op.CONTRAST, Op.BRIGHTNESS]


def test_a_plan_reads_as_a_table():
    index = index_of([(500, 375)] * 64)
    header, *lines = plan_views(Recipe(erase=1.0), index, np.arange(64), np.zeros(64, int)).table().splitlines()
    assert header.split() == ["row", "view", "crop", "operations", "erased", "mixed"]
    assert [line.split()[0] for line in lines] == [str(row) for row in range(64)]
    assert {line.index(line.split()[2]) for line in lines} == {header.index("crop")}
    text = "\n".join(lines)
    for words in (" flipped", "own, rest mixup of row ", "own, rest cutmix of row ", "rotate ", "°", "equalize", "px"):
        assert words in text


def test_a_plain_plan_reads_as_a_plain_table():
    plan = plan_views(Recipe.preset("none"), index_of([(500, 375)] * 4), np.array([3]), np.array([9]))
    assert plan.table() == "row  view  crop\n3    9     500x375+0+0 to 341x256+58+16"
    simple = plan_views(Recipe.preset("none", crop="simple"), index_of([(300, 300)] * 4), np.array([3]), np.array([9]))
    assert simple.table().splitlines()[1] == "3    9     300x300+0+0 to 224x224-1-2"
    center = plan_views(Recipe.preset("none", image_size=8), index_of([(30, 30)]), np.array([0]), np.array([0]))
    assert center.table().splitlines()[1] == "0    0     30x30+0+0 to 9x9+0+0"
