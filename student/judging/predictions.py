"""Which class did each answer name for each picture? A table for galleries and for one's own analysis.

An .npz file of one entry a picture: row, truth (-1 is unlabelled), teacher (with a label store), and the class that the
class head, the distillation head and both fused by logits name. Ranks judge consecutive parts of the rows, so their
tables in rank order are the whole.

Shapes: B pictures of a batch, R all of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor

from pipeline.durable.file import write_with
from student.network.model import Heads, fuse

Table = dict[str, NDArray[np.int64]]

COLUMNS = ("row", "truth", "class", "distillation", "fused_logits", "teacher")
"""In this order; those that the student has not, or nobody said, are left out."""


class Predictions:
    """The class that each head names for each picture, collected batch by batch."""

    def __init__(self) -> None:
        self._batches: list[Table] = []

    def add(self, heads: Heads, row_B: NDArray[np.int64], truth_B: Tensor, teacher_B: Tensor | None) -> None:
        """Note what the heads name for a batch, with its rows, true classes and the teacher's classes."""
        named = {"truth": truth_B, "class": heads.cls.argmax(-1)}
        if heads.dist is not None:
            named |= {"distillation": heads.dist.argmax(-1), "fused_logits": fuse(heads, "logits").argmax(-1)}
        if teacher_B is not None:
            named["teacher"] = teacher_B
        self._batches.append({"row": row_B.copy(), **{name: values.cpu().numpy() for name, values in named.items()}})

    def table(self) -> Table:
        """All answers, of all ranks, in the order of the rows."""
        known = [name for name in COLUMNS if self._batches and name in self._batches[0]]
        mine = {name: np.concatenate([batch[name] for batch in self._batches]) for name in known}
        return _gathered(mine) if torch.distributed.is_initialized() else mine


def _gathered(mine: Table) -> Table:
    """The tables of all ranks, one after the other; a rank without a picture has no columns."""
    rows = len(mine["row"]) if mine else 0
    sizes = _from_all(torch.tensor([rows, *(name in mine for name in COLUMNS)]))
    counts, present = [int(size[0]) for size in sizes], torch.stack(sizes)[:, 1:].any(0).tolist()
    padded = torch.zeros(len(COLUMNS), max(counts), dtype=torch.int64)  # all ranks must send as much
    for column, name in enumerate(COLUMNS):
        if name in mine:
            padded[column, :rows] = torch.from_numpy(mine[name])
    parts = [part[:, :count] for part, count in zip(_from_all(padded), counts, strict=True)]
    whole = torch.cat(parts, 1).numpy()
    return {name: whole[column] for column, name in enumerate(COLUMNS) if present[column]}


def _from_all(mine: Tensor) -> list[Tensor]:
    """The int64 tensors of all ranks: numbers, of which nothing is ever executed."""
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    mine = mine.to(device)
    found = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(found, mine)
    return [part.cpu() for part in found]


def write_predictions(path: Path, table: Table) -> Path:
    """The table as a file; the same answers leave the same bytes."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a name, NumPy may write under another one
            np.savez_compressed(file, **table)  # type: ignore[arg-type]

    return write_with(path, write)
