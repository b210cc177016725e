from __future__ import annotations

import timm.data.auto_augment as timms

from benchmarks.device_operations import HOW, TABLES
from pipeline.rendering.operations import _OPERATIONS
from pipeline.views.operation_table import TABLE, Kind, Op, ops_of


def test_every_operation_has_one_row_and_both_executors_know_it() -> None:
    every = set(Op) - {Op.NONE}
    assert sorted(row.op for row in TABLE) == sorted(every)
    assert set(_OPERATIONS) == every
    assert set(HOW) == set(Kind) and set(TABLES) == set(ops_of(Kind.TABLE))
    assert {op for kind in Kind for op in ops_of(kind)} == every


def test_the_weighted_set_is_timms_in_its_order() -> None:
    ours = [(row.op.name.replace("_", ""), row.weight) for row in TABLE if row.weight]
    theirs = [
        (name.removesuffix("Rel").removesuffix("Increasing").upper(), weight)
        for name, weight in timms._RAND_WEIGHTED_0.items()
    ]
    assert ours == theirs
