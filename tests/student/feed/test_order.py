"""The order of training: every row once, partners together, the same for any number of ranks."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StudentError
from pipeline.views.mixing import plan_mixing
from pipeline.views.recipe import Recipe
from student.feed.order import Batch, Order


def small(rows: int = 700, views: int = 3, **changes: int) -> Order:
    recipe = Recipe(mix_window=16, mix_prob=0.8)
    options = {"run_rows": 64, "batch": 48, "seed": 7, "spread": 2, **changes}
    return Order(recipe, rows=rows, views=tuple(range(views)), **options)


def epoch(order: Order, number: int) -> list[Batch]:
    return [order.batch(number, step) for step in range(order.steps)]


def seen(batches: list[Batch]) -> Counter[tuple[int, int]]:
    return Counter(pair for b in batches for pair in zip(b.row_B.tolist(), b.view_B.tolist(), strict=True))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 900),
    views=st.integers(1, 4),
    batch=st.integers(4, 200),
    run_rows=st.sampled_from([16, 20, 64, 512]),
    spread=st.integers(1, 9),
    number=st.integers(0, 9),
)
def test_every_row_once_an_epoch(rows: int, views: int, batch: int, run_rows: int, spread: int, number: int) -> None:
    order = small(rows, views, batch=batch, run_rows=run_rows, spread=spread)
    assert seen(epoch(order, number)) == {(row, number % views): 1 for row in range(rows)}
    sizes = [len(b) for b in epoch(order, number)]
    assert order.steps == -(-rows // batch)
    assert order.smallest <= min(sizes) and max(sizes) <= order.largest <= batch + 1


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 900), share=st.floats(0.001, 1), batch=st.integers(4, 200), number=st.integers(0, 5))
def test_of_chosen_rows_every_one_once_an_epoch(rows: int, share: float, batch: int, number: int) -> None:
    chosen = np.random.default_rng(rows).random(rows) < share
    chosen[rows // 2] = True
    recipe = Recipe(mix_window=16, mix_prob=0.8)
    order = Order(recipe, rows=rows, views=(0, 1), run_rows=64, batch=batch, spread=2, classes=np.where(chosen, 7, -1))
    batches = epoch(order, number)
    assert seen(batches) == {(row, number % 2): 1 for row in np.flatnonzero(chosen).tolist()}
    sizes = [len(b) for b in batches]
    assert order.count == sum(sizes) and order.smallest <= min(sizes) and max(sizes) <= order.largest
    for one in batches:
        mixing = plan_mixing(recipe, rows, one.row_B, one.view_B)
        assert np.array_equal(one.partner_B, mixing.partner_B) and np.array_equal(one.lam_B, mixing.lam_B)


def test_all_rows_chosen_is_no_choice() -> None:
    recipe = Recipe(mix_window=16)
    one, other = (
        Order(recipe, rows=300, views=(0,), run_rows=64, batch=40, classes=c) for c in (None, np.ones(300, np.int32))
    )
    for mine, theirs in zip(epoch(one, 3), epoch(other, 3), strict=True):
        assert mine.digest() == theirs.digest()


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(64, 900), repeats=st.integers(1, 4), more=st.integers(0, 3), round_=st.integers(0, 4))
def test_a_round_of_repeats_sees_every_row_in_each_of_its_views(
    rows: int, repeats: int, more: int, round_: int
) -> None:
    order = small(rows, repeats + more, repeats=repeats)
    batches = [b for turn in range(repeats) for b in epoch(order, round_ * repeats + turn)]
    views = [(round_ * repeats + turn) % (repeats + more) for turn in range(repeats)]
    assert seen(batches) == {(row, view): 1 for row in range(rows) for view in views}
    sizes = [len(b) for b in batches]
    assert order.smallest <= min(sizes) and max(sizes) <= order.largest


def test_the_views_of_a_window_come_together() -> None:
    order = small(1600, 3, repeats=3, batch=480)
    windows = np.concatenate([b.row_B for b in epoch(order, 4)]) // 16
    assert np.count_nonzero(np.diff(windows)) + 1 == len(set(windows.tolist()))


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(40, 900), world=st.integers(1, 7), step=st.integers(0, 100), repeats=st.integers(1, 2))
def test_shares_are_the_batch(rows: int, world: int, step: int, repeats: int) -> None:
    order = small(rows, repeats=repeats)
    batch = order.batch(5, step % order.steps)
    shares = [batch.share(rank, world) for rank in range(world)]
    for name in ("row_B", "view_B", "partner_B", "lam_B", "opens_B"):
        assert np.array_equal(np.concatenate([getattr(share, name) for share in shares]), getattr(batch, name))
    assert max(map(len, shares)) - min(map(len, shares)) <= 3
    assert all(bool(share.opens_B[0]) for share in shares if len(share))


@pytest.mark.parametrize("repeats", [1, 2])
def test_partners_are_neighbours_and_the_truth_about_them_is_there(repeats: int) -> None:
    order = small(700, repeats=repeats)
    for batch in epoch(order, 3):
        plan = plan_mixing(order.recipe, 700, batch.row_B, batch.view_B)
        assert np.array_equal(plan.partner_B, batch.partner_B) and np.array_equal(plan.lam_B, batch.lam_B)
        for share in (batch.share(rank, 3) for rank in range(3)):
            place = {(row, view): at for at, (row, view) in enumerate(zip(share.row_B, share.view_B, strict=True))}
            for at, (partner, view) in enumerate(zip(share.partner_B, share.view_B, strict=True)):
                assert abs(place[partner, view] - at) <= 1


def test_any_step_can_be_drawn_alone() -> None:
    whole = [epoch(small(), number) for number in range(3)]
    for number, step in [(2, 3), (0, 14), (1, 0), (2, 4)]:
        assert np.array_equal(small().batch(number, step).row_B, whole[number][step].row_B)


def test_epochs_and_seeds_differ_and_pools_are_local() -> None:
    order = small(6400, run_rows=64, spread=2, batch=128)
    rows = [np.concatenate([b.row_B for b in epoch(order, number)]) for number in (0, 1)]
    other = np.concatenate([b.row_B for b in epoch(small(6400, run_rows=64, batch=128, seed=8), 0)])
    for left, right in ((rows[0], rows[1]), (rows[0], other)):
        assert np.count_nonzero(left == right) < 20
    assert all(len(set((b.row_B // 64).tolist())) <= 4 for b in epoch(order, 0))


def test_pinned() -> None:
    """The order decides which run a checkpoint belongs to: if this changes, no run can be resumed across versions."""
    order = small()
    assert order.batch(0, 0).row_B[:8].tolist() == PINNED[0]
    assert order.batch(1, 5).row_B[:8].tolist() == PINNED[1]
    assert small(repeats=2).batch(1, 2).row_B[:8].tolist() == PINNED[2]


PINNED = [
    [533, 527, 514, 518, 544, 547, 548, 556],
    [488, 492, 497, 503, 474, 506, 505, 406],
    [672, 684, 678, 681, 686, 662, 668, 663],
]


def test_a_batch_of_a_large_data_set_costs_what_its_pool_costs() -> None:
    begun = time.process_time()  # which others who are at work do not lengthen
    order = Order(Recipe(), rows=14_000_000, views=tuple(range(90)), run_rows=8192, batch=1024)
    assert len(order.batch(17, 12_345)) in range(1022, 1026)
    assert time.process_time() - begun < 2.0


def test_refusals() -> None:
    with pytest.raises(StudentError) as error:
        small(views=2, repeats=3)
    assert str(error.value) == (
        "--repeats 3 asks for 3 different views of a row, and the store has 2. Label more views "
        "(stages.teacher_logits --views 3), or use --repeats 2."
    )
    with pytest.raises(StudentError, match=r"there are 2 windows of 16 rows. Use --repeats 2 or less"):
        small(rows=20, repeats=3)
    with pytest.raises(StudentError) as error:
        small(rows=100, batch=8).require_shares(4)
    assert str(error.value) == (
        "100 rows in 13 steps make batches as small as 6, and 4 process(es) need at least 8: mixing partners stay "
        "together. Use a larger --batch, or fewer processes."
    )
    small(rows=100, batch=8).require_shares(3)


def test_one_batch_of_all_is_not_cut_and_so_needs_no_more_than_it_holds() -> None:
    small(rows=1).require_shares(1)
    four = small(rows=4)
    four.require_shares(2)
    assert [four.batch(0, 0).share(rank, 2).row_B.size > 0 for rank in (0, 1)] == [True, True]
    small(rows=64, views=2, repeats=2, batch=4000).require_shares(1)
    with pytest.raises(StudentError) as error:
        small(rows=3).require_shares(2)
    assert str(error.value) == (
        "3 rows in 1 steps make batches as small as 3, and 2 process(es) need at least 4: mixing partners stay "
        "together. Use fewer processes."
    )
    with pytest.raises(StudentError, match=r"and 1 process\(es\) need at least 1: .* Use a larger --batch.$"):
        small(rows=4, batch=1).require_shares(1)


def test_what_can_be_cut_is_not_refused() -> None:
    alone = Order(Recipe(mix_window=16, mix_prob=0.0), rows=162, views=(0,), run_rows=64, batch=1)
    alone.require_shares(1)
    assert {len(b) for b in epoch(alone, 0)} == {1}
    repeated = Order(Recipe(mix_window=64), rows=162, views=(0, 1), run_rows=64, batch=64, repeats=2)
    repeated.require_shares(2)
    assert repeated.smallest == 34 * 2 // 4 - 1
    assert min(len(b) for number in range(9) for b in epoch(repeated, number)) >= repeated.smallest
    assert str(repeated) == "162 views an epoch in 4 steps of 40, 2 of a row together"


@pytest.mark.parametrize("batch", [1, 2])
def test_batches_smaller_than_a_pair_are_empty_now_and_then(batch: int) -> None:
    order = small(rows=100, batch=batch)
    for number in range(3):
        batches = epoch(order, number)
        assert seen(batches) == {(row, number % 3): 1 for row in range(100)}
    assert batch == 2 or min(map(len, batches)) == 0
