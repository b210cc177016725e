"""What 'auto' means on which card, and which devices are refused."""

from __future__ import annotations

import pytest
import torch

from pipeline.errors import DeviceError
from pipeline.models.device import autocast, choose_device, settle_precision


@pytest.mark.parametrize("name", ["meta", "toaster", "cuda:99"])
def test_a_device_that_cannot_compute_is_refused(name: str) -> None:
    with pytest.raises(DeviceError, match=rf"--device {name} cannot be used here \(.+\); use cpu, or auto."):
        choose_device(name, local_rank=1)


def test_a_name_that_tells_its_device_is_taken_at_its_word() -> None:
    assert choose_device("cpu", local_rank=3) == torch.device("cpu")


@pytest.mark.parametrize(
    ("capability", "meant", "of_a_fit"),
    [((7, 0), "fp16", "bf16"), ((7, 5), "fp16", "bf16"), ((8, 0), "bf16", "bf16"), ((9, 0), "bf16", "bf16")],
)
def test_auto_is_fp16_where_the_card_emulates_bf16(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], meant: str, of_a_fit: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)  # no such card is here
    card = torch.device("cuda", 0)
    assert settle_precision("auto", card) == meant
    assert settle_precision("auto", card, ("fp32", "bf16")) == of_a_fit
    assert settle_precision("fp32", card) == "fp32" and settle_precision("bf16", card) == "bf16"


def test_auto_is_fp32_on_a_processor_and_fp32_is_not_cast() -> None:
    cpu = torch.device("cpu")
    assert settle_precision("auto", cpu) == "fp32"
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(cpu, precision):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
