"""A device without memory ends in one line that says which flag helps."""

import pytest
import torch

from pipeline.errors import UserError
from pipeline.models.out_of_memory import within_memory

CPU = torch.device("cpu")


def test_what_torch_says_comes_with_advice():
    said = "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has …"
    with pytest.raises(UserError) as error, within_memory(CPU, "Give less."):
        raise torch.OutOfMemoryError(said)
    assert str(error.value) == (
        "The memory of cpu is too small: CUDA out of memory. Tried to allocate 2.00 GiB. Give less."
    )
    told = pytest.raises(UserError, match=r"is too small: MPS backend out of memory \(.* Give less")
    with told, within_memory(CPU, "Give less."):
        raise RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)")


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"), within_memory(CPU, "Give less."):
        raise RuntimeError("shapes differ")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU whose memory could be full")
def test_a_full_gpu():
    told = pytest.raises(UserError, match=r"The memory of cuda is too small: CUDA out of memory.* Give less\.")
    with told, within_memory(torch.device("cuda"), "Give less."):
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
