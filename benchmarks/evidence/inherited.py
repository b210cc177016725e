"""What does a student have from its teacher beyond the truth? Its mistakes, and how far its blocks look.

    python -m benchmarks.evidence.inherited --checkpoint runs/student --shards 'data/val/*.tar' --logits val.zarr

The store holds a teacher's answers about those very pictures (one view, recipe none). Among the pictures that the
teacher gets wrong, how many does the student get wrong in the same way? And block by block: how far from a patch, in
pixels, lies what it attends to (the distance of every other patch, weighted by attention; tokens left out).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import click
import torch
from torch import Tensor, nn

from pipeline.commands.command import command
from pipeline.durable.file import write_json
from student.checkpoints.trained import open_saved
from student.judging.scoring import Judge, open_evaluation_set
from student.ranks.ranks import joined


@command()
@click.option("--checkpoint", required=True, type=click.Path(path_type=Path), help="A run of student.train.")
@click.option("--shards", required=True, multiple=True, help="Pictures to look at.")
@click.option("--logits", required=True, type=click.Path(path_type=Path), help="The teacher's answers about them.")
@click.option("--workers", type=int, default=0, help="Processes that draw.")
@click.option("--batch", type=click.IntRange(min=1), default=250, help="Pictures at a time.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSON file for the figures.")
def main(checkpoint: Path, shards: tuple[str, ...], logits: Path, workers: int, batch: int, out: Path) -> None:
    """Measure agreement with a teacher where it is wrong, and attention distance."""
    saved = open_saved(checkpoint, "last")
    with joined("cpu", 60) as ranks:
        pictures = open_evaluation_set(shards, saved, ranks, logits=logits, workers=workers)
        judge = Judge({"student": saved.weights(False)}, saved, ranks)
        found = Inherited(judge.students["student"])
        for seen in pictures.batches(ranks, name="inherited", batch=batch, workers=workers):
            assert seen.teacher_B is not None
            found.add(judge.prepare(seen.pixels_BHWC), seen.truth_B, seen.teacher_B)
    click.echo(f"wrote {write_json(out, found.summary())}")


class Inherited:
    """Sums over pictures for one student."""

    def __init__(self, student: Any) -> None:
        self.student = student
        net = cast(Any, student.net)
        self.attentions: list[nn.Module] = [block.attn for block in net.blocks]
        self.distance_NN = distances(*net.patch_embed.grid_size, net.patch_embed.patch_size[0])
        self.prefix: int = net.num_prefix_tokens
        self.sums = [0.0] * len(self.attentions)
        self.pictures = self.wrong = self.alike = 0

    def add(self, x_BCHW: Tensor, truth_B: Tensor, teacher_B: Tensor) -> None:
        """Look at a batch."""
        with torch.inference_mode(), self._watching() as seen:
            heads = self.student(x_BCHW)
        chosen_B = (heads.cls if heads.dist is None else heads.cls + heads.dist).argmax(-1).cpu()
        wrong_B = teacher_B != truth_B
        self.wrong += int(wrong_B.sum())
        self.alike += int((wrong_B & (chosen_B == teacher_B)).sum())
        self.pictures += len(truth_B)
        for number, (attention, qkv_BTX) in enumerate(zip(self.attentions, seen, strict=True)):
            self.sums[number] += float(self._reach(cast(Any, attention), qkv_BTX).sum())

    def _reach(self, attention: Any, qkv_BTX: Tensor) -> Tensor:
        """The mean distance for every picture."""
        count, tokens, _ = qkv_BTX.shape
        q, k, _ = qkv_BTX.float().reshape(count, tokens, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        weight = (attention.q_norm(q) @ attention.k_norm(k).transpose(-1, -2) * attention.scale).softmax(-1)
        return reach(weight[:, :, self.prefix :, self.prefix :], self.distance_NN)

    @contextlib.contextmanager
    def _watching(self) -> Iterator[list[Tensor]]:
        """Queries, keys and values of every block while the context lasts."""
        seen: list[Tensor] = []
        hooks = [
            cast(Any, attention).qkv.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
            for attention in self.attentions
        ]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()

    def summary(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "images": self.pictures,
            "teacher_wrong": self.wrong,
            "alike_where_wrong": round(self.alike / max(1, self.wrong), 6),
            "distance": [round(total / max(1, self.pictures), 4) for total in self.sums],
        }


def distances(rows: int, columns: int, side: int) -> Tensor:
    """From the middle of every patch to that of every other, in pixels."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    place_N2 = torch.stack([y.flatten(), x.flatten()], 1).float() * side
    return torch.cdist(place_N2, place_N2)


def reach(weight_BHNN: Tensor, distance_NN: Tensor) -> Tensor:
    """How far the patches of each picture look, over heads and patches; weights are taken as shares of the patches'."""
    share = weight_BHNN / weight_BHNN.sum(-1, keepdim=True)
    return (share * distance_NN).sum(-1).mean((1, 2))


if __name__ == "__main__":
    main()
