"""How large are the runs of the tables? A scale is what all tables of it share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Flags = tuple[str, ...]

STRONG: Flags = (
    *("--crop-scale", "0.5,1", "--randaugment", "rand-m5-n1-mstd0.5-inc1", "--erase", "0.1", "--mix-prob", "0.5"),
)
"""All parts of the recipe, as strong as pictures of 32 pixels bear: at ImageNet's strength the teacher recognises a
third of the views, with these three quarters of those that are not mixed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large a table's runs are."""

    labelled: int
    """Rows that most tables learn from, all with a label; 0: as many as there are (`over`)."""
    efficiency: tuple[int, int, int]
    """Labelled rows of the table on data efficiency; the last is all that there are."""
    side: int
    """Of a view, in pixels."""
    smaller_side: int
    """Of the views that the table on resolution begins with."""
    patch: int
    width: int
    depth: int
    heads: int
    batch: int
    lr: float
    epochs: int
    """Passes over `labelled` rows; other numbers of rows get as many updates."""
    warmup: int
    views: int
    view_counts: tuple[int, ...]
    """Of the table on how many are enough; the epochs are the last."""
    fit_rows: int
    """Labelled rows that teachers are fitted on, where they are fitted here."""
    fit_epochs: int
    fit_alike: tuple[int, int] = (0, 0)
    """Epochs in which a small convnet and a small transformer become about equally good under the students' recipe;
    0: `fit_epochs`."""
    fit_precision: str = "fp32"
    strong: Flags = STRONG
    """What is changed in the DeiT recipe."""
    precision: str = "bf16"
    """Of the students."""
    speed: Flags = ("--workers", "0")
    """Of teachers and students. Where they compute on the processor, one process does it all."""
    kept: Flags = ()
    """Where views that were drawn are left to those who learn from them later."""
    lengths: tuple[int, ...] = ()
    """Epochs of the table on how long to train."""
    imagenet: bool = False
    """Whether the pictures are of ImageNet's classes, and the teacher a convnet that knows them."""
    teacher: Literal["given", "tuned", "fitted"] = "given"
    """Of most tables: with published weights; the same after it went on learning under the students' recipe; or a
    small convnet that learned under nothing else."""

    def over(self, pictures: int) -> Scale:
        """The same for so many pictures: with them all, where it has no number of its own."""
        if self.labelled:
            return self
        few, some = (max(1, pictures // part) for part in (30, 6))
        return replace(self, labelled=pictures, efficiency=(few, some, pictures), fit_rows=pictures)


SCALES = {
    "tiny": Scale(
        labelled=192, efficiency=(64, 192, 384), lengths=(2, 4), side=32, smaller_side=24, patch=8, width=32, depth=2,
        heads=2, batch=32,
        lr=0.008, epochs=4, warmup=1, views=4, view_counts=(1, 4), fit_rows=192, fit_epochs=1,
    ),
    "small": Scale(
        labelled=5000, efficiency=(1000, 5000, 30000), lengths=(10, 20, 60), side=32, smaller_side=24, patch=8,
        width=96, depth=4, heads=3,
        batch=128, lr=0.006, epochs=20, warmup=2, views=10, view_counts=(1, 2, 5, 10, 20), fit_rows=10000, fit_epochs=8,
    ),
    "longer": Scale(
        labelled=5000, efficiency=(1000, 5000, 30000), lengths=(20, 60, 180), side=32, smaller_side=24, patch=8,
        width=96, depth=4, heads=3,
        batch=128, lr=0.006, epochs=60, warmup=3, views=30, view_counts=(1, 5, 10, 20, 30, 60), fit_rows=10000,
        fit_epochs=8, teacher="tuned",
    ),
    "epochs": Scale(
        labelled=500, efficiency=(100, 500, 2500), lengths=(30, 100, 300, 600), side=32, smaller_side=24, patch=8,
        width=64, depth=3, heads=2, batch=64, lr=0.012, epochs=100, warmup=5, views=20,
        view_counts=(1, 3, 10, 30, 100), fit_rows=5000, fit_epochs=4, fit_alike=(20, 15), fit_precision="bf16",
        teacher="tuned", precision="fp32",
    ),
    "photographs": Scale(
        labelled=2000, efficiency=(50, 200, 2000), lengths=(80, 160), side=128, smaller_side=96, patch=16, width=128,
        depth=4, heads=4,
        batch=128, lr=0.004, epochs=80, warmup=5, views=10, view_counts=(1, 10), fit_rows=2000, fit_epochs=30,
        strong=("--crop-scale", "0.08,1", "--mix-prob", "0.5"), imagenet=True,
    ),
    "photographs-short": Scale(
        labelled=2000, efficiency=(50, 200, 2000), lengths=(32, 64), side=112, smaller_side=96, patch=16, width=128,
        depth=4, heads=4,
        batch=64, lr=0.008, epochs=32, warmup=2, views=8, view_counts=(1, 8), fit_rows=2000, fit_epochs=60,
        fit_precision="bf16",
        strong=("--crop-scale", "0.08,1", "--mix-prob", "0.5"), imagenet=True,
    ),
    "large": Scale(
        labelled=0, efficiency=(0, 0, 0), lengths=(30, 100, 300), side=32, smaller_side=24, patch=4,
        width=192, depth=9, heads=3, batch=512, lr=0.001, epochs=300, warmup=10, views=50,
        view_counts=(1, 3, 10, 30, 100, 300), fit_rows=0, fit_epochs=60, teacher="tuned",
        speed=(), kept=("--view-cache", "views"),
    ),
}  # fmt: skip
SCALES["epochs-fitted"] = replace(SCALES["epochs"], teacher="fitted")
SCALES["epochs-300"] = replace(
    SCALES["epochs-fitted"], epochs=300, warmup=15, view_counts=(1, 3, 10, 30, 100, 300)
)  # fmt: skip
