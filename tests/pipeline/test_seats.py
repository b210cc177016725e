"""Who may write, and who waits? On a disk; leases are tested with the store in S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import StoreError
from pipeline.objects import LocalObjects
from pipeline.seats import seated

ALONE, WITH_OTHERS = {"alone": True}, {"alone": False}


@pytest.mark.parametrize(("first", "then"), [(ALONE, ALONE), (ALONE, WITH_OTHERS), (WITH_OTHERS, ALONE)])
@pytest.mark.parametrize("shared_before", [False, True])
def test_one_that_is_alone_keeps_all_others_out(
    tmp_path: Path, first: dict[str, bool], then: dict[str, bool], shared_before: bool
) -> None:
    objects = LocalObjects(tmp_path / "store.zarr")
    if shared_before:
        with seated(objects, alone=False, follows=False, wait_s=0):
            pass
    with seated(objects, **first, follows=False, wait_s=0) as seat:
        assert seat.first
        with (
            pytest.raises(StoreError, match="is being written by other processes"),
            seated(objects, **then, follows=False, wait_s=0),
        ):
            pass
    with seated(objects, **then, follows=False, wait_s=0) as seat:
        assert seat.first
