"""Spread by two numbers alone: the literals are those by which stores keep their witnesses, and keeps are fitted."""

import pytest

from pipeline.spread import firsts, from_end_to_end


@pytest.mark.parametrize(
    ("many", "few", "first", "ends"),
    [
        (1000, 4, [0, 250, 500, 750], [0, 333, 666, 999]),
        (7, 3, [0, 2, 4], [0, 3, 6]),
        (3, 5, [0, 1, 2], [0, 1, 2]),
        (1, 1, [0], [0]),
        (0, 4, [], []),
    ],
)
def test_few_of_many(many, few, first, ends):
    assert firsts(many, few).tolist() == first
    assert from_end_to_end(many, few).tolist() == ends


def test_many_rows_are_counted_in_64_bits():
    assert firsts(10**9, 200)[-1] == 995_000_000
