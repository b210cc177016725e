"""What do all tables need to know? The photographs, a scratch folder, how long and how large."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch

from benchmarks.photographs import Photographs
from benchmarks.report import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One run of the suite."""

    photographs: Photographs
    folder: Path
    """Scratch; removed afterwards."""
    seconds: float = 20.0
    """For each contestant of a race."""
    workers: int = 2
    teacher: str = "regnety_160"
    weights: Path | None = None
    """Of a convnet whose logits are real (tf_efficientnet_lite0), where the size of labels matters."""
    logits: tuple[Path, ...] = ()
    """Dense stores or .npy files whose answers the codecs race over: to fit on, and to measure."""
    students: tuple[str, ...] = ("tiny", "small", "base")
    batch: int = 8
    """Views a step of a student with a teacher beside it."""
    precision: str = "bf16"
    with_litdata: bool = False
    tiny: bool = False
    """As small as it can be and still run: for the tests."""
    device: str | None = None
    """Of the receipt; None for CUDA."""
    small: bool = False
    """The receipt on small models and few pictures: does it run?"""
    minutes: float = 8.0
    """For the receipt."""
    picture_cache: Path | None = None
    """Where decoded pictures may be kept."""
    earlier: Path | None = None
    """Results of an earlier receipt, whose rows are not measured again."""
    told: Callable[[Table], None] = lambda _table: None
    """Told of a table whenever it has another row, by those that are measured row by row."""

    def rows(self, wanted: int) -> int:
        """So many rows, or the few of a tiny run."""
        return min(wanted, 16) if self.tiny else wanted

    @property
    def fewest(self) -> int:
        """Rounds of a race."""
        return 1 if self.tiny else 3

    def scratch(self, name: str) -> Path:
        """A new folder."""
        path = self.folder / name
        path.mkdir(parents=True)
        return path


@contextmanager
def one_core() -> Iterator[None]:
    """One thread in torch and OpenCV, as in a rendering worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(before)
