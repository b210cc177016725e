"""What is stored about the rows of a unit, and what do they take up?

Shapes: B rows of a unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.soft_labels import SoftLabels
from pipeline.store.arrays import ArraySpec
from pipeline.store.layout import Layout
from pipeline.store.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnitLabels:
    """What is stored about the rows of a unit: the teacher's answers, and the proofs of their views."""

    labels: SoftLabels
    crc_B: NDArray[np.uint32]
    """crc32c of each rendered view"""
    luma_B16: NDArray[np.uint8] | None
    """Its thumbnail, where the manifest keeps them"""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The parts that are there, under the names of the store's arrays."""
        luma = {} if self.luma_B16 is None else {"luma": self.luma_B16}
        return {**self.labels.arrays(), "crc": self.crc_B, **luma}


def require_fit(labels: UnitLabels, specs: Mapping[str, ArraySpec], *, rows: int, num_classes: int) -> None:
    """Refuse labels of other shape, type or range than the store has room for: that would be a mistake of ours."""
    arrays = labels.arrays()
    assert arrays.keys() == specs.keys(), f"{sorted(arrays)} given, the store keeps {sorted(specs)}"
    for name, spec in specs.items():
        shape = (rows, *spec.block[2:])
        assert arrays[name].shape == shape, f"{name} has shape {arrays[name].shape}, want {shape}"
        assert arrays[name].dtype == spec.dtype, f"{name} is {arrays[name].dtype}, want {spec.dtype}"
    top = int(arrays["argmax"].max())
    assert top < num_classes, f"argmax has class {top} of {num_classes}"


def encoded_sizes(manifest: Manifest, sample: UnitLabels) -> dict[str, float]:
    """Bytes a view of each array, if all labels were like these."""
    layout = Layout(manifest=manifest, views=1, environment={}, urls=(), class_names=None, key_bytes=0, witnesses=0)
    count, most = len(sample.crc_B), manifest.unit_rows
    arrays = sample.arrays()
    return {
        name: sum(len(spec.encode(arrays[name][None, at : at + most])) for at in range(0, count, most)) / count
        for name, spec in layout.unit_arrays().items()
    }
