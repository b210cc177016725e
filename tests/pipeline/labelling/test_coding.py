"""What a device makes of logits is bit for bit what the host makes of them: ties, range and rounding included."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.labelling.coding import DeviceCoding, HostCoding, first_largest
from pipeline.labels.keeps import parse_keep
from tests.stores import same_labels

KEEPS = ("argmax", "dense", "topk:1", "topk:4", "topk:7")
ROUGH = st.sampled_from([-128.0, -0.0, 0.0, 0.001953125, 0.00390625, 1.0, 1.0019531, 127.9921875])
LOGITS = st.lists(
    st.lists(ROUGH | st.floats(-100, 100, width=32), min_size=7, max_size=7), min_size=1, max_size=5
)  # fmt: skip


def both(logits_BC, keep):
    kinds = [kind(parse_keep(keep), (1.0, 3.0), logits_BC.shape[1]) for kind in (HostCoding, DeviceCoding)]
    for coding in kinds:
        parts = [part.numpy() for part in coding.there(torch.from_numpy(logits_BC))]
        yield coding.labels(parts, lambda: logits_BC, str)


@given(LOGITS, st.sampled_from(KEEPS))
def test_labels_are_the_same_bits(rows, keep):
    here, there = both(np.array(rows, np.float32), keep)
    assert same_labels(there, here)


@pytest.mark.parametrize("classes", [300, 70_000])
def test_classes_of_any_number_are_ranked_alike(classes):
    logits_BC = np.random.default_rng(classes).integers(-40, 40, (3, classes)).astype(np.float32)
    for keep in ("argmax", "topk:10"):
        here, there = both(logits_BC, keep)
        assert same_labels(there, here)


def test_the_lowest_of_several_largest_classes_is_named():
    logits_BC = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [0.0, -0.0, -1.0], [-5.0, -6.0, -5.0]])
    assert first_largest(logits_BC).tolist() == [1, 0, 0, 0]
