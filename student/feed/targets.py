"""What does a batch teach: the true classes and their mixture, and what the teacher answered?

Shapes: B items, C classes, K kept classes, T stored temperatures.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class Truth:
    """What the data set says about each item: ``lam * own + (1 - lam) * partner``."""

    own_B: Tensor
    """int64; -1 is unlabelled."""
    partner_B: Tensor
    """int64; the class of the row that was mixed in, -1 where that is unlabelled."""
    lam_B: Tensor
    """float32 share of the item's own row."""

    def masses(self) -> tuple[Tensor, Tensor]:
        """The share [B] of each view that has a label: that of its own part, and that of its partner's."""
        return self.lam_B * (self.own_B >= 0), (1 - self.lam_B) * (self.partner_B >= 0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TeacherLabels:
    """What the store says about each item: its argmax, and logits or top-K where they were kept."""

    argmax_B: Tensor
    logits_BC: Tensor | None = None
    topk_index_BK: Tensor | None = None
    topk_logit_BK: Tensor | None = None
    lse_BT: Tensor | None = None
    temperatures: tuple[float, ...] = ()
