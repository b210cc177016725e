"""A batch for anybody's trainer is made without waiting for the device."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from pipeline.store.reader import StoreReader
from student.dataset import StoredViews
from student.feed import view_batch
from student.feed.tensors import across
from tests.small_students import make_store


class Crossing(TorchFunctionMode):
    """Notes what is sent to a device by hand: on CUDA the host waits there until all that is queued is done."""

    def __init__(self) -> None:
        super().__init__()
        self.by_hand: list[str] = []
        self.by_across = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [*args, *(kwargs or {}).values()]
        if func in (torch.tensor, torch.as_tensor, torch.Tensor.to) and any(isinstance(x, torch.device) for x in given):
            self.by_hand.append(func.__name__)
        return func(*args, **(kwargs or {}))

    def across(self, array: np.ndarray, device: torch.device) -> torch.Tensor:
        self.by_across += 1
        before = len(self.by_hand)
        found = across(array, device)  # from pinned memory, on CUDA
        del self.by_hand[before:]
        return found


@pytest.mark.parametrize("answer", ["argmax", "soft", "dense"])
@pytest.mark.parametrize("pixels", ["float32", "uint8"])
def test_what_crosses_to_the_device_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, pixels: Any
) -> None:
    store = StoreReader.open(make_store(tmp_path, rows=20))
    crossing = Crossing()
    monkeypatch.setattr(view_batch, "across", crossing.across)
    with closing(StoredViews(store, batch=20, answer=answer, pixels=pixels)) as views:
        step = next(views.start().steps(0, 0, 1))
        with crossing:
            batch = views.shape.of(step)
    assert batch.row.tolist() == step.batch.row_B.tolist() and batch.view.tolist() == step.batch.view_B.tolist()
    assert crossing.by_hand == []
    assert crossing.by_across == 2 + 2 * (pixels == "float32")
