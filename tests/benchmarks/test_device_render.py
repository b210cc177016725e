"""A plan executed on a device against the processor's renderer: equal, in every value of every view.

The device is the processor here: what is compared are two programs. `benchmarks device_plans` compares them on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks import device_operations, device_plans, device_render
from benchmarks.bench import Bench
from benchmarks.device_noise import words
from benchmarks.device_operations import operate
from benchmarks.photographs import Photographs
from pipeline.errors import UserError
from pipeline.pictures.images import decode
from pipeline.rendering.renderer import Renderer
from pipeline.shards.index import SampleIndex, scan
from pipeline.shards.rows import payload_of
from pipeline.views.mixing import Kind
from pipeline.views.operation_table import Op
from pipeline.views.philox import Purpose
from pipeline.views.plan import ViewPlan, plan_views
from pipeline.views.recipe import Recipe
from tests.operation_cases import ARGUMENTS, cases, ours, pictures
from tests.pictures import jpeg, sample, write_tar

SIZES = ((160, 120), (120, 160), (97, 211), (640, 480), (70, 64), (300, 90))
ROWS, VIEWS, SIDE = 24, 3, 64
DEIT = Recipe(image_size=SIDE, mix_window=8)
PLAIN = Recipe(image_size=SIDE, mix_window=8, randaugment="", color_jitter=0, erase=0, mixup=0, cutmix=0)
Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SampleIndex:
    members = [
        member for row in range(ROWS) for member in sample(f"{row:04d}", jpeg(row, *SIZES[row % len(SIZES)]), row % 3)
    ]
    return scan((str(write_tar(tmp_path_factory.mktemp("shards") / "0.tar", members)),))


@pytest.fixture(scope="module")
def decoded(index: SampleIndex) -> dict[int, torch.Tensor]:
    files = index.files()
    return {row: torch.from_numpy(decode(payload_of(index, files, row))).permute(2, 0, 1) for row in range(ROWS)}


def everything(recipe: Recipe, index: SampleIndex) -> ViewPlan:
    return plan_views(recipe, index, np.tile(np.arange(ROWS), VIEWS), np.repeat(np.arange(VIEWS), ROWS))


def by_processor(recipe: Recipe, index: SampleIndex, plan: ViewPlan) -> Pixels:
    out_BHWC = np.empty((len(plan), recipe.image_size, recipe.image_size, 3), np.uint8)
    Renderer(recipe, index, index.files()).render(plan.row_B, plan.view_B, out_BHWC)
    return out_BHWC


def by_device(recipe: Recipe, plan: ViewPlan, decoded: dict[int, torch.Tensor]) -> Pixels:
    found: Pixels = device_render.draw(recipe, plan, decoded).permute(0, 2, 3, 1).numpy()
    return found


def apart(mine: Pixels, theirs: Pixels) -> NDArray[np.int64]:
    return np.abs(mine.astype(np.int64) - theirs)


def in_boxes(plan: ViewPlan, side: int) -> NDArray[np.bool_]:
    """Where a view or its mate was erased."""
    erased = np.zeros((len(plan), side, side), bool)
    for mask, (top, left, height, width) in zip(erased, plan.erase_B4.tolist(), strict=True):
        mask[top : top + height, left : left + width] = True
    return erased | erased[device_render.mates(plan)]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("interpolation", ["bicubic", "random"])
def test_whole_views_are_the_processors(index, decoded, seed: int, interpolation: str) -> None:
    recipe = replace(DEIT, seed=seed, interpolation=interpolation)
    plan = everything(recipe, index)
    assert np.array_equal(by_device(recipe, plan, decoded), by_processor(recipe, index, plan))
    rotated_B = (plan.op_BL == Op.ROTATE).any(axis=1)
    assert set(np.unique(plan.mixing.kind_B)) >= {Kind.MIXUP, Kind.CUTMIX} and rotated_B.any()
    assert in_boxes(plan, SIDE).any() and (plan.crop_B4[:, 2:] > 3 * SIDE).any()


@pytest.mark.parametrize(
    "changes",
    [
        {"crop": "center", "interpolation": "random"},
        {"crop": "simple"},
        {"randaugment": "", "three_augment": True, "erase": 0.0},
        {"randaugment": "rand-m10-n4-tweights", "erase": 0.0, "image_size": 57},
    ],
    ids=lambda changes: str(next(iter(changes.values()))),
)
def test_other_recipes_too(index, decoded, changes: dict[str, object]) -> None:
    recipe = replace(DEIT, **changes)
    plan = everything(recipe, index)
    assert np.array_equal(by_device(recipe, plan, decoded), by_processor(recipe, index, plan))


def test_a_view_at_full_size(index, decoded) -> None:
    recipe = Recipe(erase=1.0, mix_window=8)
    plan = plan_views(recipe, index, np.arange(8), np.zeros(8))
    assert np.array_equal(by_device(recipe, plan, decoded), by_processor(recipe, index, plan))


def elsewhere(plan: ViewPlan) -> ViewPlan:
    """Pairs as in the next view but one: the partners of others."""
    partner_B = np.roll(plan.mixing.partner_B.reshape(VIEWS, ROWS), 1, axis=0).ravel()
    return replace(plan, mixing=replace(plan.mixing, partner_B=partner_B))


WRONG: dict[str, Callable[[ViewPlan], ViewPlan]] = {
    "mirrored": lambda plan: replace(plan, flip_B=~plan.flip_B),
    "a row further": lambda plan: replace(plan, crop_B4=np.maximum(plan.crop_B4 - [1, 0, 0, 0], 0).astype(np.int32)),
    "other filter": lambda plan: replace(plan, cubic_B=~plan.cubic_B),
    "other order": lambda plan: replace(plan, op_BL=plan.op_BL[:, ::-1], argument_BL=plan.argument_BL[:, ::-1]),
    "no operation": lambda plan: replace(plan, op_BL=np.zeros_like(plan.op_BL)),
    "stronger": lambda plan: replace(plan, argument_BL=plan.argument_BL + 409),
    "other partner": elsewhere,
    "other strength": lambda plan: replace(plan, mixing=replace(plan.mixing, lam_B=1.0 - plan.mixing.lam_B)),
    "other box": lambda plan: replace(plan, mixing=replace(plan.mixing, box_B4=np.roll(plan.mixing.box_B4, 1, axis=1))),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_comparison_sees_a_wrong_plan(index, decoded, wrong: str) -> None:
    recipe = replace(DEIT, erase=0.0)
    plan = everything(recipe, index)
    gap_BHWC = apart(by_device(recipe, WRONG[wrong](plan), decoded), by_processor(recipe, index, plan))
    assert (gap_BHWC > 0).mean() > 0.05


@pytest.mark.parametrize("cubic", [True, False])
@pytest.mark.parametrize("op", ARGUMENTS, ids=lambda op: op.name)
def test_operations(op: Op, cubic: bool) -> None:
    """All pictures and arguments at once: each view has its own."""
    pairs = [(picture, argument) for picture in pictures().values() for argument in cases(op)]
    image_BCSS = torch.from_numpy(np.stack([picture for picture, _ in pairs])).permute(0, 3, 1, 2).contiguous()
    argument_BL = np.array([[argument] for _, argument in pairs], np.int32)
    operate(image_BCSS, np.full_like(argument_BL, op, np.uint8), argument_BL, np.full_like(argument_BL, cubic, bool))
    wanted = np.stack([ours(op, argument, picture, cubic=cubic) for picture, argument in pairs])
    assert np.array_equal(image_BCSS.permute(0, 2, 3, 1).numpy(), wanted)


def test_crops_of_any_size(index, decoded) -> None:
    """From a quarter of the view to ten times the view: sums beyond 24 bits."""
    recipe = replace(PLAIN, crop_scale=(0.001, 1.0), interpolation="random")
    plan = everything(recipe, index)
    assert plan.crop_B4[:, 2:].min() < SIDE / 3 and plan.crop_B4[:, 2:].max() > 7 * SIDE
    assert np.array_equal(by_device(recipe, plan, decoded), by_processor(recipe, index, plan))


def test_mixing_is_exact(index) -> None:
    plan = everything(replace(DEIT, mix_prob=0.9), index)
    base = np.random.default_rng(0).integers(0, 256, (len(plan), 3, SIDE, SIDE), dtype=np.uint8)
    mates = device_render.mates(plan)
    mixed = device_render.mix(torch.from_numpy(base), plan, mates).numpy()
    mixing = plan.mixing
    assert np.array_equal(mates[mates], np.arange(len(plan))) and set(mixing.kind_B.tolist()) == set(Kind)
    for place, (own, other) in enumerate(zip(base, base[mates], strict=True)):
        wanted = np.rint(mixing.lam_B[place] * own + (1 - mixing.lam_B[place]) * other)
        if mixing.kind_B[place] == Kind.CUTMIX:
            top, left, height, width = mixing.box_B4[place]
            box = (slice(None), slice(top, top + height), slice(left, left + width))
            wanted = own.copy()
            wanted[box] = other[box]
        assert np.array_equal(mixed[place], wanted)


@pytest.mark.parametrize("count", [1, 16, 17, 1000])
@pytest.mark.parametrize("seed", [0, 7, (1 << 63) + 5])
def test_the_words_are_those_of_numpys_philox(count: int, seed: int) -> None:
    key_N = np.array([0, 1, (1 << 64) - 1, 0x9E3779B97F4A7C15], np.uint64)
    view_N = np.array([0, 3, 1 << 31, 9])
    found_NW = words(key_N, view_N, seed, count, torch.device("cpu")).numpy()
    for key, view, found_W in zip(key_N.tolist(), view_N.tolist(), found_NW, strict=True):
        stream = np.random.Philox(key=key | seed << 64, counter=view << 64 | Purpose.NOISE << 128)
        assert np.array_equal(found_W, stream.random_raw(-(-count // 4)).astype("<u8").view("<u2")[:count])


@pytest.mark.parametrize("changes", [{}, {"interpolation": "random"}, {"randaugment": "", "three_augment": True}])
def test_all_is_on_the_device_and_nothing_waits_for_it(index, decoded, changes, monkeypatch) -> None:
    """Tensors without values: a step on another device, or one that needs a value on the host, raises.

    All but the cubic rotations, which are the processor's.
    """
    monkeypatch.setattr(device_operations, "by_the_processor", lambda image_NCSS, _steps: image_NCSS)
    recipe = replace(DEIT, **changes)
    hollow = {row: picture.to("meta") for row, picture in decoded.items()}
    drawn = device_render.draw(recipe, everything(recipe, index), hollow)
    assert drawn.device.type == "meta" and drawn.shape == (ROWS * VIEWS, 3, SIDE, SIDE) and drawn.dtype == torch.uint8


def test_a_partner_that_is_not_there_is_a_users_error(index, decoded) -> None:
    plan = plan_views(DEIT, index, np.array([0]), np.array([0]))
    partner = int(plan.mixing.partner_B[0])
    with pytest.raises(UserError) as error:
        device_render.draw(DEIT, plan, decoded)
    assert str(error.value) == (
        f"row 0 is mixed with row {partner} in view 0, which is not in the call, as 1 of 1 are not. "
        "Draw whole mix windows."
    )


def test_its_rows_of_the_gpu_table(tmp_path: Path) -> None:
    photographs = Photographs(payloads=tuple(jpeg(seed, 90, 70) for seed in range(8)), source="small scenes")
    bench = Bench(photographs=photographs, folder=tmp_path, seconds=0, workers=1, tiny=True)
    rows = device_plans.plan_rows(
        bench, photographs.indexed(tmp_path / "index", 16), torch.device("cpu"), device_plans.turbo
    )
    names = [name for name, _, _ in rows]
    assert len(set(names)) == len(names) == 8
    assert all(figure and (not share or float(share) > 0) for _, figure, share in rows)
    assert rows[-1][1].startswith("100.0000 %") and rows[-1][1].endswith("0 off")
