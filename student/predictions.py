"""Which class did each answer name for each picture? A table for galleries and for one's own analysis.

An .npz file of one entry a picture: row, truth (-1 is unlabelled), teacher (with a label store), and the class that the
class head, the distillation head and both fused by logits name. Ranks judge consecutive parts of the rows, so their
tables in rank order are the whole.

Shapes: B pictures of a batch, R all of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor

from student.files import write_with
from student.model import Heads, fuse

Table = dict[str, NDArray[np.int64]]


class Predictions:
    """Collects answers batch by batch."""

    def __init__(self) -> None:
        self._batches: list[Table] = []

    def add(self, heads: Heads, row_B: NDArray[np.int64], truth_B: Tensor, teacher_B: Tensor | None) -> None:
        """Take note of a batch."""
        named = {"truth": truth_B, "class": heads.cls.argmax(-1)}
        if heads.dist is not None:
            named |= {"distillation": heads.dist.argmax(-1), "fused_logits": fuse(heads, "logits").argmax(-1)}
        if teacher_B is not None:
            named["teacher"] = teacher_B
        self._batches.append({"row": row_B.copy(), **{name: values.cpu().numpy() for name, values in named.items()}})

    def table(self) -> Table:
        """All answers, of all ranks, in the order of the rows."""
        batches = self._batches
        if torch.distributed.is_initialized():
            parts: list[list[Table] | None] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, batches)
            batches = [batch for part in parts for batch in part or ()]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def write_predictions(path: Path, table: Table) -> Path:
    """The table as a file; the same answers leave the same bytes."""
    return write_with(path, lambda temporary: np.savez_compressed(temporary, **table))  # type: ignore[arg-type]
