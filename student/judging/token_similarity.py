"""How much does the distillation token differ from the class token, and where in the network?

The paper's question: two class tokens trained on the same labels become one and the same vector (cosine 0.999), while a
distillation token starts near right angles to the class token (0.06), comes closer block by block, and stays a little
apart in the end (0.93), as its target is alike but not the same.

    input    cosine of the two learned tokens, as they are and with their position embeddings
    blocks   cosine of the two tokens after each block, and after the final norm: mean and deviation over pictures
    heads    cosine of the two classifiers' weight rows, class by class; how often the two heads name the same class

Shapes: B pictures, L places (after each block, after the norm), D width, K classes, X any others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from pipeline.errors import StudentError
from student.judging.metrics import add_over_ranks, share
from student.network.model import Heads, Student


class Similarity:
    """How alike the class and the distillation token of a student are, summed over pictures."""

    def __init__(self, student: Student) -> None:
        require_tokens(student)
        self.student = student
        net = cast(Any, student.net)
        self.places: list[nn.Module] = [*net.blocks, net.norm]
        self.sum_L = torch.zeros(len(self.places), dtype=torch.float64)
        self.square_L = torch.zeros_like(self.sum_L)
        self.images, self.agree = (torch.zeros((), dtype=torch.int64) for _ in range(2))

    def add(self, x_BCHW: Tensor) -> None:
        """Run the student over a batch, and add the cosine of its two tokens after each block."""
        with torch.inference_mode(), self._watching() as seen:
            heads: Heads = self.student(x_BCHW)
        assert heads.dist is not None and len(seen) == len(self.places)
        cosine_LB = torch.stack([_cosine(_exact(place)) for place in seen])
        self.sum_L += cosine_LB.sum(1)
        self.square_L += cosine_LB.square().sum(1)
        self.images += len(x_BCHW)
        self.agree += (heads.cls.argmax(-1) == heads.dist.argmax(-1)).sum().cpu()

    def reduce(self) -> None:
        """Add the sums of all ranks up, so that every rank holds the whole."""
        add_over_ranks([self.sum_L, self.square_L, self.images, self.agree])

    @contextlib.contextmanager
    def _watching(self) -> Iterator[list[Tensor]]:
        """Collects both tokens [B, 2, D] at every place while the context lasts."""
        seen: list[Tensor] = []
        hooks = [
            place.register_forward_hook(lambda _module, _inputs, out: seen.append(out[:, :2])) for place in self.places
        ]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()

    def summary(self) -> dict[str, Any]:
        """Means and deviations after each block as plain values for a JSON file."""
        means = [share(total, self.images) for total in self.sum_L]
        squares = self.square_L / self.images.clamp(min=1)
        deviations = (squares - (self.sum_L / self.images.clamp(min=1)).square()).clamp(min=0).sqrt()
        places = [
            {"mean": mean, "deviation": round(float(deviation), 6)}
            for mean, deviation in zip(means, deviations, strict=True)
        ]
        return {
            "images": int(self.images),
            "input": _inputs(self.student),
            "blocks": places[:-1],
            "norm": places[-1],
            "weight_rows": _weight_rows(self.student),
            "heads_agree": share(self.agree, self.images),
        }


def _exact(tensor: Tensor) -> Tensor:
    """In float64, which not every device has: on the CPU."""
    return tensor.detach().cpu().double()


def _cosine(tokens_X2D: Tensor) -> Tensor:
    """Between the two tokens, whatever comes before them."""
    return cosine_similarity(tokens_X2D[..., 0, :], tokens_X2D[..., 1, :], dim=-1)


def require_tokens(student: Student) -> None:
    """Refuse a student without a class and a distillation token among its blocks' tokens."""
    net = student.net
    if not all(hasattr(net, name) for name in ("cls_token", "dist_token", "blocks", "norm", "head_dist")):
        raise StudentError(
            f"{student.spec.model} has no distillation token to look at. "
            "Train a distilled DeiT, deit_tiny_distilled_patch16_224 for example."
        )


def _inputs(student: Student) -> dict[str, float]:
    net = cast(Any, student.net)
    learned_2D = _exact(torch.stack([net.cls_token[0, 0], net.dist_token[0, 0]]))
    placed_2D = learned_2D + (0 if net.no_embed_class else _exact(net.pos_embed[0, :2]))
    pairs = {"tokens": learned_2D, "tokens_with_position": placed_2D}
    return {name: round(float(_cosine(pair_2D)), 6) for name, pair_2D in pairs.items()}


def _weight_rows(student: Student) -> dict[str, float]:
    net = cast(Any, student.net)
    cosine_K = cosine_similarity(_exact(net.head.weight), _exact(net.head_dist.weight), dim=-1)
    return {
        "mean": round(float(cosine_K.mean()), 6),
        "least": round(float(cosine_K.min()), 6),
        "most": round(float(cosine_K.max()), 6),
    }
