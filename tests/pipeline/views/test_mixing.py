"""Partners are an involution inside their window, whoever asks; λ and boxes are distributed as timm's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from timm.data import mixup as timm_mixup

from pipeline.views.mixing import LAMBDA_ONE, Kind, plan_mixing
from pipeline.views.recipe import Recipe

ROWS = 8192


def whole(recipe, rows, view=0):
    return plan_mixing(recipe, rows, np.arange(rows), np.full(rows, view))


@given(
    rows=st.integers(1, 200),
    window=st.sampled_from([2, 4, 16, 64]),
    view=st.integers(0, 2**32 - 1),
    seed=st.integers(0, 2**64 - 1),
    prob=st.sampled_from([1.0, 0.5]),
)
@settings(max_examples=60, deadline=None)
def test_partners_are_an_involution_inside_the_window(rows, window, view, seed, prob):
    mixing = whole(Recipe(seed=seed, mix_window=window, mix_prob=prob), rows, view)
    partner, row = mixing.partner_B, np.arange(rows)
    assert (partner[partner] == row).all()
    assert (partner // window == row // window).all()
    assert ((partner == row) == (mixing.kind_B == Kind.NONE)).all()
    assert ((mixing.lam_B == 1.0) == (partner == row)).all()
    for both in (mixing.kind_B, mixing.lam_B, mixing.box_B4):
        assert (both[partner] == both).all()
    last = mixing.kind_B[rows // window * window :]
    assert (last == Kind.NONE).sum() % 2 == len(last) % 2


@given(data=st.data(), rows=st.integers(1, 150), window=st.sampled_from([2, 8, 64]))
@settings(max_examples=40, deadline=None)
def test_any_request_gets_what_the_whole_would_get(data, rows, window):
    recipe = Recipe(mix_window=window, mix_prob=0.8)
    row_B = np.array(data.draw(st.lists(st.integers(0, rows - 1), max_size=30)), np.int64)
    view_B = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(row_B), max_size=len(row_B))), np.int64)
    asked = plan_mixing(recipe, rows, row_B, view_B)
    tables = [whole(recipe, rows, view) for view in range(3)]
    for field in ("partner_B", "kind_B", "lam_B", "box_B4"):
        known = np.stack([getattr(table, field) for table in tables])[view_B, row_B]
        assert np.array_equal(getattr(asked, field), known)


def test_a_lone_odd_row_is_not_mixed():
    mixing = whole(Recipe(mix_window=4, mixup=1.0, cutmix=0.0), 7)
    assert (mixing.kind_B[4:] == Kind.NONE).sum() == 1
    assert whole(Recipe(mix_window=2), 1).partner_B.tolist() == [0]


@pytest.mark.parametrize("off", [{"mixup": 0, "cutmix": 0}, {"mix_prob": 0}])
def test_mixing_can_be_off(off):
    mixing = whole(Recipe(**off), 10)
    assert mixing.partner_B.tolist() == list(range(10))
    assert not mixing.kind_B.any()
    assert (mixing.lam_B == 1).all()


def test_views_windows_and_seeds_are_paired_differently():
    partner = {
        (seed, view): whole(Recipe(seed=seed), 128, view).partner_B % 64 for seed, view in [(0, 0), (0, 1), (1, 0)]
    }
    assert len({values.tobytes() for values in partner.values()}) == 3
    assert (partner[0, 0][:64] != partner[0, 0][64:]).any()


def test_every_pairing_of_a_small_window_is_as_likely():
    partner = whole(Recipe(mix_window=4, mixup=0.0, mix_switch=1.0, cutmix=100.0), ROWS).partner_B[::4] % 4
    counts = np.bincount(partner, minlength=4)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-4


@pytest.mark.parametrize("switch", [0.0, 0.3, 1.0])
def test_kinds_follow_their_probabilities(switch):
    mixing = whole(Recipe(mix_switch=switch, mix_prob=0.75, mixup=1.0), ROWS)
    mixed = mixing.kind_B != Kind.NONE
    assert abs(mixed.mean() - 0.75) < 0.03
    assert abs((mixing.kind_B[mixed] == Kind.CUTMIX).mean() - switch) < 0.04


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 4.0])
def test_mixup_strength_is_distributed_as_timms(alpha):
    mixing = whole(Recipe(mixup=alpha, cutmix=0.0, mix_window=2), 4 * ROWS)
    lam_P = mixing.lam_B[::2]
    assert np.array_equal(lam_P * LAMBDA_ONE, np.rint(lam_P * LAMBDA_ONE))
    timm_mixup.np.random.seed(0)
    theirs, _ = timm_mixup.Mixup(mixup_alpha=alpha, mode="pair")._params_per_elem(len(lam_P))
    rounded = np.rint(theirs.astype(np.float64) * LAMBDA_ONE) / LAMBDA_ONE
    assert stats.ks_2samp(lam_P, rounded).pvalue > 1e-4
    share_K = np.cumsum(np.bincount(np.rint(lam_P * LAMBDA_ONE).astype(int), minlength=257)) / len(lam_P)
    assert np.abs(share_K - stats.beta(alpha, alpha).cdf((np.arange(257) + 0.5) / 256)).max() < 0.015


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_cutmix_boxes_are_distributed_as_timms(alpha):
    size = 64
    mixing = whole(Recipe(mixup=0.0, cutmix=alpha, mix_window=2, image_size=size), 2 * ROWS)
    ours = np.concatenate((mixing.box_B4, mixing.lam_B[:, None]), axis=1)[::2]
    timm_mixup.np.random.seed(0)
    lam, _ = timm_mixup.Mixup(0.0, alpha, mode="pair")._params_per_elem(len(ours))
    theirs = []
    for value in lam:
        (top, bottom, left, right), share = timm_mixup.cutmix_bbox_and_lam((3, size, size), value)
        theirs.append((top, left, bottom - top, right - left, share) if share < 1 else (0, 0, 0, 0, 1))
    for column, name in enumerate(("top", "left", "height", "width", "lambda")):
        assert stats.ks_2samp(ours[:, column], np.array(theirs)[:, column]).pvalue > 1e-4, name
    assert np.allclose(ours[:, 4], 1 - ours[:, 2] * ours[:, 3] / size**2, rtol=0, atol=1e-15)
    assert (ours[:, :2] + ours[:, 2:4] <= size).all()


def test_nothing_asked_nothing_planned():
    assert plan_mixing(Recipe(), 10, np.zeros(0, np.int64), np.zeros(0, np.int64)).partner_B.shape == (0,)
